"""What broke other servers, each under the name it is known by.

Those of model files are in tests/models/test_advisories.py. Rules that a whole class of them breaks
are held elsewhere too: nothing is unpickled or evaluated (tests/test_imports.py), damaged model
files (tests/models), template sandboxes (same).
"""

import ast
import builtins
import json
import logging
import os
import socket
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from pieria.engine.black_box import BlackBox
from pieria.engine.prefix_cache import PrefixCache
from pieria.models.chat_template import ChatTemplate
from pieria.server import chat as chat_module
from pieria.server import keys, listen
from pieria.server.api import ROUTES
from pieria.server.schema import ChatRequest, CompletionRequest
from tests.server.fakes import LiveServer, Toy, chat
from tests.server.test_edge import Caller, echo
from tests.server.test_serve import raw

SOURCE = Path(__file__).parents[2] / "src" / "pieria"
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


async def answer(path: str, body: Any, **options: Any) -> httpx.Response:
    async with Toy(**options).http() as http:
        return await http.post(path, json=body)


def imported(folder: Path) -> set[str]:
    """Top names of all modules that the files there import."""
    names = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names |= {node.module, *(f"{node.module}.{a.name}" for a in node.names)}
    return names


def test_shadow_mq_cve_2024_50050_cve_2025_30165_cve_2026_3059_pickle_between_processes() -> None:
    """And CVE-2026-3060, CVE-2026-3989, CVE-2026-7301, CVE-2025-10164 with its bypass (SGLang),
    CVE-2025-32444, CVE-2025-29783, CVE-2025-47277 (vLLM), issue 4698 (LMDeploy)."""
    found = imported(SOURCE)
    assert not {
        name for name in found if name.split(".")[0] in {"pickle", "zmq", "dill", "cloudpickle"}
    }
    # Processes of one server talk over a socket pair, which has no address.
    listening = {
        path.relative_to(SOURCE).as_posix()
        for path in SOURCE.rglob("*.py")
        if {"bind", "create_server", "listen"}
        & {
            node.func.attr
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        }
    }
    assert {name for name in listening if name.startswith(("server/", "engine/"))} <= {
        "server/listen.py",
        "engine/ranks.py",
    }


@pytest.mark.parametrize("path", [CHAT, TEXT])
@pytest.mark.parametrize("name", ["prompt_embeds", "input_embeds", "image_data", "lora_path"])
async def test_cve_2025_62164_no_tensor_comes_from_a_request(path: str, name: str) -> None:
    body = chat() if path == CHAT else {"model": "toy", "prompt": "x"}
    got = await answer(path, {**body, name: "gASVAAAAAAAAAAAu"})
    assert (got.status_code, got.json()["error"]["param"]) == (400, name)


def test_cve_2025_30202_listening_on_all_interfaces() -> None:
    toy = Toy()
    assert toy.config.host == "127.0.0.1"
    with LiveServer(toy) as live:
        assert live.server._socket.getsockname()[0] == "127.0.0.1"
    with listen.on_address("127.0.0.1", 0) as made:
        assert made.getsockname()[0] == "127.0.0.1"


@pytest.mark.parametrize("media", ["image_url", "input_audio", "video_url", "file"])
@pytest.mark.parametrize("place", ["http://169.254.169.254/", "file:///etc/passwd", "data:,x"])
async def test_cve_2026_24779_cve_2026_22778_cve_2026_5497_media_is_neither_fetched_nor_decoded(
    media: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also CVE-2025-6242, CVE-2026-22773: what is not there cannot be pointed at other hosts."""
    monkeypatch.setattr(socket, "getaddrinfo", _refuse)
    part = {"type": media, media: {"url": place}}
    got = await answer(CHAT, chat() | {"messages": [{"role": "user", "content": [part]}]})
    assert got.status_code == 400
    assert f"{media} is not supported; only text is" in got.json()["error"]["message"]
    reach = {
        "requests",
        "httpx",
        "urllib.request",
        "urllib3",
        "http.client",
        "aiohttp",
        "PIL",
        "cv2",
    }
    assert not reach & imported(SOURCE / "server")


async def test_cve_2026_0599_text_is_never_fetched_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", _refuse)
    got = await answer(CHAT, chat("![](http://169.254.169.254/latest) <img src=//x>"))
    assert got.status_code == 200


def _refuse(*_: Any, **__: Any) -> Any:
    raise AssertionError("an address was looked up")


@pytest.mark.parametrize("name", ["chat_template", "tokenize", "truncate_prompt_tokens"])
async def test_cve_2025_61620_cve_2026_5760_no_template_comes_from_a_request(name: str) -> None:
    got = await answer(CHAT, chat(**{name: "{{ 7 * 7 }}"}))
    assert (got.status_code, got.json()["error"]["param"]) == (400, name)
    for hidden in ("self", "messages", "tools", "__class__", "a.b"):
        got = await answer(CHAT, chat(chat_template_kwargs={hidden: 1}))
        assert (got.status_code, got.json()["error"]["param"]) == (400, "chat_template_kwargs")


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{% for x in range(10**9) %}{% endfor %}",
        "{{ 'x' * 10**12 }}",
    ],
)
async def test_cve_2026_5760_a_models_template_ends_its_own_request_alone(source: str) -> None:
    toy = Toy()
    toy.served = chat_module.Served(toy.served.engine, ChatTemplate(source, None, None), {})
    async with toy.http() as http:
        got = await http.post(CHAT, json=chat())
        assert (await http.get("/health")).status_code == 200
    assert got.status_code == 400
    assert "uid=" not in got.text


async def test_cve_2025_62426_a_slow_template_is_ended_and_holds_up_nobody() -> None:
    toy = Toy(prepare_timeout_seconds=0.2)
    slow = "{% for a in range(100000) %}{% for b in range(3) %}{% endfor %}{% endfor %}"
    made = ChatTemplate(slow * 20, None, None, seconds=0.2)
    toy.served = chat_module.Served(toy.served.engine, made, {})
    async with toy.http() as http:
        got = await http.post(CHAT, json=chat())
        assert got.status_code in (400, 503)
        assert "takes too long" in got.text or "were not done" in got.text
        assert (await http.post(TEXT, json={"model": "toy", "prompt": "x"})).status_code == 200


HUGE = (2**31, 2**63, 10**30, -1, -(2**63))


@pytest.mark.parametrize("value", HUGE)
@pytest.mark.parametrize("model", [ChatRequest, CompletionRequest])
async def test_cve_2026_34756_cve_2026_21869_no_number_is_without_bounds(
    model: type[Any], value: int
) -> None:
    path, body = (CHAT, chat()) if model is ChatRequest else (TEXT, {"model": "toy", "prompt": "x"})
    for name in model.model_fields:
        toy = Toy()
        async with toy.http() as http:
            got = await http.post(path, json={**body, name: value})
        assert got.status_code in (200, 400, 404), (name, value, got.text)
        assert sum(add.max_tokens for add in toy.client.adds) <= 128 * 4096
        if name in ("n", "best_of", "max_tokens", "min_tokens", "logprobs", "stop_token_ids"):
            assert got.status_code == 400, (name, value)


def test_cve_2025_48956_a_huge_header_is_not_kept() -> None:
    with LiveServer(Toy()) as live, httpx.Client(base_url=live.url) as http:
        for headers in ({"x": "y" * 2**20}, {f"x{i}": "y" for i in range(10**4)}):
            try:
                assert http.get("/health", headers=headers).status_code in (400, 431)
            except httpx.TransportError:
                continue
        assert http.get("/health").status_code == 200


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "json_schema", "json_schema": {"pattern": "(a+)+$"}}},
        {"guided_regex": "(a+)+$"},
        {"guided_json": {"type": "nonsense"}},
        {"structured_outputs": {"grammar": "(" * 10**4}},
        {"structural_tag": {"structures": [{"schema": {"$ref": "#"}}]}},
    ],
)
async def test_cve_2025_48942_cve_2025_48943_cve_2025_48944_grammars_are_refused_by_name(
    fields: dict[str, Any],
) -> None:
    """And xgrammar's GHSA-9q5r-wfvf-rr7f."""
    got = await answer(CHAT, chat(**fields))
    assert (got.status_code, got.json()["error"]["param"]) == (400, next(iter(fields)))


async def test_cve_2025_48887_nesting_and_patterns_end_in_time() -> None:
    for body in (b"[" * 10**6, b'{"a":' * 10**5, b'{"model":"toy","prompt":"' + b"\\ud800" * 10**5):
        async with Toy().http() as http:
            headers = {"content-type": "application/json"}
            got = await http.post(TEXT, content=body, headers=headers)
        assert got.status_code == 400
        assert len(got.content) < 2000


@pytest.mark.parametrize(
    "path",
    [
        *("/invocations", "/pooling", "/classify", "/score", "/pause", "/update_weights"),
        *("/load_lora_adapter_from_tensors", "/collective_rpc", "/v1/load_lora_adapter", "/ping"),
        *(
            "/v1/chat/completions/",
            "//v1/chat/completions",
            "/v1/chat/completions;x",
            "/v1%2fmodels",
        ),
        *("/health/../metrics", "/health%2f..%2fmetrics", "/health?/metrics", "/static/../metrics"),
        *("/.well-known/../v1/models", "/V1/models", "/v1/models%00", "/health\\..\\metrics"),
    ],
)
async def test_cve_2026_48746_cve_2026_24207_no_path_gets_round_the_key(path: str) -> None:
    """And vLLM's issue 58144: routes outside the prefixes that ask for it."""
    async with Toy(api_key=("k",)).http() as http:
        for method in ("GET", "POST"):
            got = await http.request(method, "http://toy" + path)
            public = got.status_code == 200 and got.json() == {"status": "ok"}
            assert got.status_code == 401 or (public and path.startswith("/health?"))


def test_cve_2026_48746_the_matched_route_decides_and_each_has_its_scope() -> None:
    assert {route.path for route in ROUTES if route.access == "public"} == {"/health", "/ready"}


@pytest.mark.parametrize(("sent", "status"), [("k", 200), ("k" * 10**4, 401), ("", 401)])
async def test_cve_2025_59425_keys_are_compared_as_digests(
    sent: str, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[tuple[int, int]] = []
    compare = keys.hmac.compare_digest

    def watched(given: bytes, known: bytes) -> bool:
        compared.append((len(given), len(known)))
        return compare(given, known)

    monkeypatch.setattr(keys.hmac, "compare_digest", watched)
    caller = Caller(echo, b"{}", api_key=("other", "k", "third"))
    await caller.call({"authorization": f"Bearer {sent}"})
    assert caller.status == status
    # Every one in full, also after the right one was found.
    assert compared and set(compared) == {(32, 32)} and len(compared) % 3 == 0


async def test_cve_2025_46570_prefix_hits_are_each_keys_own() -> None:
    toy = Toy(api_key=("one", "two"))
    async with toy.http() as http:
        for key in ("one", "two"):
            await http.post(CHAT, json=chat(), headers={"authorization": f"Bearer {key}"})
    first, second = toy.client.adds
    assert first.tokens == second.tokens
    assert first.salt != second.salt


@pytest.mark.parametrize("apart", [2**61 - 1, 2**62 - 2])
def test_cve_2025_25183_tokens_of_one_hash_are_told_apart(apart: int) -> None:
    cache = PrefixCache(8, 2)
    tokens = (1, 2, 3, 4, 5)
    others = tuple(token + apart for token in tokens)
    assert hash(tokens) == hash(others)
    (table,) = cache.match(("", ""), tokens).tables
    cache.extend([table], 2)
    cache.publish(("", ""), tokens, [table], 0, 2)
    assert cache.matched_tokens(("", ""), tokens) == 4
    assert cache.matched_tokens(("", ""), others) == 0


def test_cve_2025_23310_cve_2025_23311_many_small_chunks() -> None:
    """What came in a chunk must take no more than that, however many there are."""
    body = json.dumps({"model": "toy", "prompt": " " * 3000}).encode()
    head = f"POST {TEXT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    head += "transfer-encoding: chunked\r\n\r\n"
    with LiveServer(Toy()) as live, httpx.Client(base_url=live.url) as http:
        pieces = (body[at : at + 1] for at in range(len(body)))
        got = http.post(TEXT, content=pieces, headers={"content-type": "application/json"})
        assert got.status_code == 200
        for sizes in (b"7fffffffffffffff\r\n{", b"-1\r\n{", b"1" * 10**5):
            refused = raw(live, head.encode() + sizes)
            assert refused == b"" or refused.startswith(b"HTTP/1.1 400 ")
        assert http.get("/health").status_code == 200


@pytest.mark.parametrize(
    "name", ["../../../../etc/passwd", "/etc/passwd", "file:///etc/passwd", "..\\..\\x", "toy/../x"]
)
async def test_cve_2026_24208_no_name_in_a_request_is_a_path(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Toy().http() as http:
        for function in ("open", "stat", "scandir", "listdir"):
            monkeypatch.setattr(os, function, _refuse)
        monkeypatch.setattr(builtins, "open", _refuse)
        found = [
            await http.post(CHAT, json=chat(model=name)),
            await http.post("/tokenize", json={"model": name, "prompt": "x"}),
            await http.get("/v1/models/" + quote(name, safe="")),
        ]
        kept = await http.post(CHAT, json=chat(cache_salt=name))
        monkeypatch.undo()
    assert [got.status_code for got in found] == [404] * 3
    assert {got.json()["error"]["code"] for got in found} == {"model_not_found"}
    assert kept.status_code == 200


def test_cve_2025_23320_cve_2025_23334_what_processes_share_has_no_name() -> None:
    """And CVE-2025-33201."""
    before = sorted(os.listdir("/dev/shm"))
    _, descriptor = BlackBox.shared()
    try:
        assert os.readlink(f"/proc/self/fd/{descriptor}").startswith("/memfd:")
        assert sorted(os.listdir("/dev/shm")) == before
    finally:
        os.close(descriptor)
    assert not {name for name in imported(SOURCE) if name.endswith("shared_memory")}


async def test_cve_2025_23319_cve_2026_22778_errors_tell_nothing_of_the_inside() -> None:
    toy = Toy()
    toy.client.break_after = 1
    async with toy.http() as http:
        for stream in (False, True):
            got = await http.post(CHAT, json=chat(stream=stream))
            assert "layer 7" not in got.text
            assert "Traceback" not in got.text
            assert "0x" not in got.text


async def test_cors_with_credentials_as_in_sglang() -> None:
    page = {"origin": "https://evil.example"}
    async with Toy().http(headers=page) as http:
        assert (await http.get("/v1/models")).status_code == 403
    async with Toy(allowed_origins=("*",)).http(headers=page) as http:
        got = await http.get("/v1/models")
    assert "access-control-allow-credentials" not in got.headers


def test_cve_2026_22807_cve_2025_66448_cve_2026_7669_no_code_of_a_model_is_run() -> None:
    for path in SOURCE.rglob("*.py"):
        text = path.read_text()
        assert "trust_remote_code" not in text, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
                assert (
                    path.relative_to(SOURCE)
                    .as_posix()
                    .startswith(("engine/", "ops/", "models/registry", "hardware/", "kernels/"))
                ), path


SECRET = "xyzzy-plugh"


async def test_logs_have_no_prompts(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    toy = Toy(SECRET)
    toy.client.hold_after = None
    bodies: list[tuple[str, Any]] = [
        (CHAT, chat(SECRET)),
        (CHAT, chat(SECRET, stream=True)),
        (CHAT, chat("refuse me " + SECRET)),
        (CHAT, chat(SECRET, temperature=SECRET)),
        (CHAT, chat(**{SECRET: 1})),
        (TEXT, {"model": SECRET, "prompt": SECRET}),
        ("/tokenize", {"prompt": SECRET}),
        ("/" + SECRET, {}),
    ]
    async with toy.http(headers={"authorization": f"Bearer {SECRET}"}) as http:
        for path, body in bodies:
            await http.post(path, json=body)
        toy.client.refuse = KeyError(SECRET)
        got = await http.post(CHAT, json=chat(SECRET))
        assert got.status_code == 500
    assert "KeyError at " in caplog.text
    assert len(caplog.records) > len(bodies)
    ours = [vars(record) for record in caplog.records if record.name != "httpx"]
    assert SECRET not in json.dumps(ours, default=str)
