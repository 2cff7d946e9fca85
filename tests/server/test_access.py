"""Hosts, origins and scopes: what the gate lets through."""

import logging
from pathlib import Path
from typing import Any

import pytest

from pieria.clock import RealTime
from pieria.server import keys
from pieria.server.access import Gate
from pieria.server.config import ServerConfig
from pieria.server.errors import ApiError
from tests.server.fakes import Toy, chat


def gate(**options: Any) -> Gate:
    return Gate(ServerConfig(**options), RealTime())


def place(of: Gate, host: str | None, *origins: str) -> int:
    """The status that it refuses with; 0 if it does not."""
    headers = [] if host is None else [(b"host", host.encode())]
    try:
        of.check_place([*headers, *((b"origin", origin.encode()) for origin in origins)])
    except ApiError as error:
        return error.status
    return 0


@pytest.mark.parametrize(
    "host",
    ["localhost", "localhost:8000", "LOCALHOST:1", "127.0.0.1:8000", "10.1.2.3", "[::1]:8000"],
)
def test_this_machine_and_addresses_are_known(host: str) -> None:
    assert place(gate(), host) == 0


@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "", "localhost:x", "a:b"],
)
def test_no_other_name_is(host: str) -> None:
    """What a page of evil.example reaches by pointing that name at 127.0.0.1."""
    assert place(gate(), host) == 421


def test_one_host_is_needed() -> None:
    assert place(gate(), None) == 400
    with pytest.raises(ApiError, match="exactly one Host"):
        gate().check_place([(b"host", b"localhost")] * 2)


def test_names_that_are_allowed() -> None:
    named = gate(allowed_hosts=("llm.example.org", "*.svc"))
    for host, status in (
        ("llm.example.org:8000", 0),
        ("LLM.example.org", 0),
        ("x.llm.example.org", 421),
        ("pieria.svc:80", 0),
        ("a.b.svc", 421),
        ("svc", 421),
    ):
        assert place(named, host) == status, host
    assert place(gate(allowed_hosts=("*",)), "anything") == 0
    assert place(gate(host="llm.example.org", api_key=("k",)), "llm.example.org") == 0


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost:8000", 0),
        ("https://evil.example", 403),
        ("http://localhost:9000", 403),
        ("null", 403),
        ("http://[", 403),
        ("", 403),
    ],
)
def test_pages_of_others_are_refused(origin: str, status: int) -> None:
    assert place(gate(), "localhost:8000", origin) == status


def test_pages_that_are_allowed() -> None:
    named = gate(allowed_origins=("https://chat.example.org",))
    assert place(named, "localhost", "https://chat.example.org") == 0
    assert place(named, "localhost", "https://chat.example.org", "https://evil.example") == 403
    assert place(gate(allowed_origins=("*",)), "localhost", "https://evil.example") == 0


async def test_by_default_no_page_is_told_anything() -> None:
    async with Toy().http(headers={"origin": "https://evil.example"}) as http:
        for method, path in (("GET", "/v1/models"), ("OPTIONS", "/v1/completions")):
            answer = await http.request(method, path)
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "invalid_origin")
            assert not [name for name in answer.headers if name.startswith("access-control")]
    async with Toy().http() as http:
        answer = await http.post("/v1/completions", content=b"{}")
        assert answer.status_code == 415


async def test_allowed_pages_may_read_answers_and_errors_without_a_browsers_credentials() -> None:
    page = {"origin": "https://chat.example.org"}
    async with Toy(allowed_origins=tuple(page.values())).http(headers=page) as http:
        asked = {
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization,content-type",
        }
        flight = await http.options("/v1/chat/completions", headers=asked)
        answers = [flight, await http.post("/v1/chat/completions", json=chat())]
        answers.append(await http.post("/v1/chat/completions", json={}))
    assert [answer.status_code for answer in answers] == [200, 200, 400]
    for answer in answers:
        assert answer.headers["access-control-allow-origin"] == page["origin"]
        assert "access-control-allow-credentials" not in answer.headers


def test_keys_are_read_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    path = tmp_path / "keys.json"

    def add(name: str) -> list[tuple[bytes, bytes]]:
        secret = keys.add(path, name, ("inference",), {}, RealTime())
        return [(b"authorization", f"Bearer {secret}".encode())]

    alice = add("alice")
    of = gate(api_key_file=path)
    first = of.admit(alice, "inference")
    bob = add("bob")
    with pytest.raises(ApiError):
        of.admit(bob, "inference")
    of.reload()
    assert of.admit(bob, "inference").name == "bob"
    assert of.admit(alice, "inference") is first
    keys.revoke(path, "alice")
    of.reload()
    with pytest.raises(ApiError):
        of.admit(alice, "inference")
    assert [record.message for record in caplog.records] == [
        "keys read anew: 2; added: bob; revoked: none",
        "keys read anew: 1; added: none; revoked: alice",
    ]
    path.write_text("[]")
    with pytest.raises(ValueError, match="holds 0 keys"):
        of.reload()
    assert of.admit(bob, "inference").name == "bob"


async def test_no_key_finds_what_another_left_in_the_cache() -> None:
    toy = Toy(api_key=("one", "two"))
    async with toy.http() as http:
        for key, salt in (("one", "s"), ("two", "s"), ("one", "s"), ("one", None)):
            headers = {"authorization": f"Bearer {key}"}
            body = chat() if salt is None else chat(cache_salt=salt)
            answer = await http.post("/v1/chat/completions", json=body, headers=headers)
            assert answer.status_code == 200
    first, second, again, bare = [add.salt for add in toy.client.adds]
    assert first == again
    assert len({first, second, bare}) == 3
    assert "" not in {first, second, bare}
