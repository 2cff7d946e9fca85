"""The table of routes: it is all there is, and each needs the key unless the table says not."""

import asyncio
import json
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.routing import Route as StarletteRoute

from pieria.server.api import ROUTES, create_app
from pieria.server.edge import Endpoint
from pieria.server.schema import ChatRequest, CompletionRequest
from tests.server.fakes import Toy, chat

KEY = {"authorization": "Bearer k"}


def path_of(path: str) -> str:
    return path.replace("{id:path}", "toy")


def test_the_table() -> None:
    assert {(route.method, route.path, route.access) for route in ROUTES} == {
        ("POST", "/v1/chat/completions", "key"),
        ("POST", "/v1/completions", "key"),
        ("GET", "/v1/models", "key"),
        ("GET", "/v1/models/{id:path}", "key"),
        ("POST", "/tokenize", "key"),
        ("POST", "/detokenize", "key"),
        ("GET", "/health", "public"),
        ("GET", "/ready", "public"),
        ("GET", "/metrics", "key"),
        ("GET", "/version", "key"),
    }


def test_the_application_is_made_of_the_table_alone() -> None:
    toy = Toy()
    app = create_app(toy.state, toy.config, toy.clock)
    assert len(app.routes) == len(ROUTES)
    for made, route in zip(app.routes, ROUTES, strict=True):
        assert isinstance(made, StarletteRoute)
        assert isinstance(made.endpoint, Endpoint)
        assert made.endpoint.route is route
        assert made.path == route.path
        assert (made.methods or set()) - {"HEAD"} == {route.method}
    assert not app.router.redirect_slashes


async def every_answer(http: httpx.AsyncClient, **options: object) -> dict[str, int]:
    return {
        f"{route.method} {route.path}": (
            await http.request(route.method, path_of(route.path), **options)
        ).status_code
        for route in ROUTES
    }


async def test_without_the_key_only_health_and_readiness_answer() -> None:
    async with Toy(api_key=("k",)).http() as http:
        answers = await every_answer(http)
    assert {route for route, status in answers.items() if status != 401} == {
        "GET /health",
        "GET /ready",
    }


async def test_with_the_key_every_route_answers() -> None:
    async with Toy(api_key=("k",)).http(headers=KEY) as http:
        answers = await every_answer(http, json={})
    assert set(answers.values()) == {200, 400}
    assert {route for route, status in answers.items() if status == 400} == {
        f"POST {route.path}" for route in ROUTES if route.method == "POST"
    }


async def test_without_keys_all_are_open() -> None:
    async with Toy().http() as http:
        assert 401 not in (await every_answer(http)).values()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/docs"),
        ("GET", "/openapi.json"),
        ("GET", "/health/"),
        ("GET", "//health"),
        ("GET", "/HEALTH"),
        ("GET", "/health/../v1/models"),
        ("GET", "/ready/v1/models"),
        ("GET", "/v1/models/"),
        ("POST", "/health"),
        ("DELETE", "/v1/models"),
        ("OPTIONS", "/v1/chat/completions"),
        ("HEAD", "/v1/models"),
        ("GET", "/v1/chat/completions"),
    ],
)
async def test_neither_other_paths_nor_other_methods_get_round_the_key(
    method: str, path: str
) -> None:
    async with Toy(api_key=("k",)).http() as http:
        answer = await http.request(method, f"http://toy{path}")
    assert answer.status_code == 401
    if method != "HEAD":
        assert answer.json()["error"]["code"] == "invalid_api_key"


async def test_what_is_not_there_says_so() -> None:
    async with Toy(api_key=("k",)).http(headers=KEY) as http:
        answer = await http.get("/nothing")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_url")
        answer = await http.get("/v1/models/")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
        answer = await http.delete("/v1/completions")
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
        assert answer.json()["error"]["message"] == "DELETE is not allowed on '/v1/completions'"
        answer = await http.get("/" + "x" * 5000)
        assert len(answer.text) < 400


async def test_no_page_of_another_site_may_read_or_send() -> None:
    async with Toy().http(headers={"origin": "https://evil.example"}) as http:
        answer = await http.get("/v1/models")
        assert not [name for name in answer.headers if name.startswith("access-control")]
        answer = await http.request("OPTIONS", "/v1/completions")
        assert answer.status_code == 405
        answer = await http.post("/v1/completions", content=b"{}")
        assert answer.status_code == 415


anything = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 300) | st.floats(-2, 3) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
names = st.sampled_from(
    sorted({*ChatRequest.model_fields, *CompletionRequest.model_fields, "tools", "x"})
)
VALID: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": chat(),
    "/v1/completions": {"model": "toy", "prompt": "ab"},
    "/tokenize": {"prompt": "ab"},
    "/detokenize": {"tokens": [97]},
}


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(VALID)), st.dictionaries(names, anything, max_size=3), st.booleans())
def test_no_request_is_the_servers_fault(path: str, fields: dict[str, Any], stream: bool) -> None:
    body = {**VALID[path], **({"stream": True} if stream else {}), **fields}

    async def ask() -> None:
        async with Toy(max_model_len=48).http() as http:
            headers = {"content-type": "application/json"}
            answer = await http.post(path, content=json.dumps(body), headers=headers)
        assert answer.status_code in (200, 400, 404)
        if answer.status_code != 200:
            assert answer.json()["error"]["message"]
        elif answer.headers["content-type"].startswith("text/event-stream"):
            assert answer.text.endswith("data: [DONE]\n\n")

    asyncio.run(ask())
