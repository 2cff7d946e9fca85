"""Routes for admins: on their own listener alone, with their own key, and in the audit log."""

import json
import stat
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from pieria.clock import RealTime
from pieria.engine.text import EngineDead
from pieria.server import keys
from pieria.server.config import ServerConfig
from pieria.server.serve import Server
from tests.server.fakes import LiveServer, Toy, chat, until

JSON = {"content-type": "application/json"}


def key_of(path: Path, name: str, *scopes: Any) -> dict[str, str]:
    return {"authorization": f"Bearer {keys.add(path, name, scopes, {}, RealTime())}"}


@pytest.mark.parametrize("where", ["path", "port"])
def test_admins_have_a_listener_of_their_own(where: str, tmp_path: Path) -> None:
    path, log, sock = (tmp_path / name for name in ("keys.json", "audit.log", "admin.sock"))
    admin, user = key_of(path, "root", "admin"), key_of(path, "alice", "inference")
    toy = Toy(
        api_key_file=path,
        audit_log=log,
        profile_dir=tmp_path,
        admin_listen=f"unix:{sock}" if where == "path" else "127.0.0.1:0",
    )
    with LiveServer(toy) as live:
        url = live.server.admin_url
        assert url is not None
        if where == "path":
            assert stat.S_IMODE(sock.stat().st_mode) & 0o007 == 0
            transport = httpx.HTTPTransport(uds=str(sock))
            client = httpx.Client(transport=transport, base_url="http://localhost")
        else:
            client = httpx.Client(base_url=url)
        with client:
            assert httpx.post(live.url + "/v1/chat/completions", json=chat(), headers=user)
            answer = client.get("/usage", headers=admin)
            used = {one["name"]: one for one in answer.json()["keys"]}
            assert used["alice"]["generated_tokens"] == len("Hello, world!") + 1
            assert used["alice"]["cached_tokens"] == 3
            assert client.get("/usage").status_code == 401
            assert client.get("/usage", headers=user).status_code == 403
            flushed = client.post("/flush_cache", headers=admin | JSON)
            assert flushed.json() == {"pages": 7}
            assert client.post("/start_profile", headers=admin | JSON).status_code == 200
            trace = client.post("/stop_profile", headers=admin | JSON).json()["path"]
            assert Path(trace).parent == tmp_path
            assert client.get("/v1/models", headers=admin).status_code == 404
        for method, place in (("GET", "/usage"), ("POST", "/flush_cache")):
            answer = httpx.request(method, live.url + place, headers=admin | JSON)
            assert answer.status_code == 404
    assert [name for name, _ in toy.client.commands] == [
        "flush_cache",
        "start_profile",
        "stop_profile",
    ]
    assert not sock.exists()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    told = Counter((line.get("key"), line["route"], line["status"]) for line in lines)
    assert told == Counter(
        [
            ("root", "/usage", "200"),
            (None, "/usage", "401"),
            (None, "/usage", "403"),
            ("root", "/flush_cache", "200"),
            ("root", "/start_profile", "200"),
            ("root", "/stop_profile", "200"),
        ]
    )


def test_a_revoked_key_is_refused_within_seconds(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    alice, bob = key_of(path, "alice", "inference"), key_of(path, "bob", "inference")
    with LiveServer(Toy(api_key_file=path)) as live:
        url = live.url + "/v1/models"
        assert httpx.get(url, headers=alice).status_code == 200
        keys.revoke(path, "alice")
        until(lambda: httpx.get(url, headers=alice).status_code == 401)
        assert httpx.get(url, headers=bob).status_code == 200


async def test_what_admins_ask_for_and_does_not_work(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    admin = key_of(path, "root", "admin") | JSON
    toy = Toy(api_key_file=path)
    async with toy.http(admin=True, headers=admin) as http:
        answer = await http.post("/start_profile")
        assert answer.json()["error"]["message"] == "the server was started without --profile-dir"
        answer = await http.post("/flush_cache", json={"all": True})
        assert (answer.status_code, toy.client.commands) == (400, [])
        toy.client.refuse = ValueError("no profile is being taken")
        answer = await http.post("/flush_cache")
        assert (answer.status_code, answer.json()["error"]["message"]) == (
            400,
            str(toy.client.refuse),
        )
        toy.client.refuse = EngineDead("no engine is up")
        assert (await http.post("/flush_cache")).status_code == 503


def test_admin_listeners_that_cannot_be(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    key_of(path, "alice", "inference")
    for address in ("0.0.0.0:1", "example.org:1", "127.0.0.1", "127.0.0.1:99999", "unix:", "8001"):
        with pytest.raises(ValueError, match="must be unix:PATH, or a loopback address"):
            ServerConfig(admin_listen=address, api_key_file=path)
    with pytest.raises(ValueError, match="needs a key of scope admin in api_key_file"):
        ServerConfig(admin_listen="127.0.0.1:0")
    toy = Toy(admin_listen="127.0.0.1:0", api_key_file=path)
    with pytest.raises(ValueError, match=r"no key in .*keys\.json has the scope admin; do: pieria"):
        Server(toy.state, toy.config, toy.clock)
