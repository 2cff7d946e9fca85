"""The table of routes: it is all there is, and each needs the key unless the table says not."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.routing import Route as StarletteRoute

from pieria.clock import RealTime
from pieria.server import keys
from pieria.server.api import ROUTES
from pieria.server.edge import Endpoint
from pieria.server.exchange import Route
from pieria.server.keys import SCOPES
from pieria.server.schema import ChatRequest, CompletionRequest
from tests.server.fakes import Toy, chat

KEY = {"authorization": "Bearer k"}


def path_of(path: str) -> str:
    return path.replace("{id:path}", "toy")


def test_the_table() -> None:
    assert {(route.method, route.path, route.access) for route in ROUTES} == {
        ("POST", "/v1/chat/completions", "inference"),
        ("POST", "/v1/completions", "inference"),
        ("GET", "/v1/models", "inference"),
        ("GET", "/v1/models/{id:path}", "inference"),
        ("POST", "/tokenize", "inference"),
        ("POST", "/detokenize", "inference"),
        ("GET", "/health", "public"),
        ("GET", "/ready", "public"),
        ("GET", "/metrics", "metrics"),
        ("GET", "/version", "inference"),
        ("GET", "/openapi.json", "inference"),
        ("GET", "/load", "metrics"),
        ("GET", "/usage", "admin"),
        ("POST", "/flush_cache", "admin"),
        ("POST", "/start_profile", "admin"),
        ("POST", "/stop_profile", "admin"),
    }


@pytest.mark.parametrize("admin", [False, True])
def test_the_application_is_made_of_the_table_alone(admin: bool) -> None:
    app = Toy().app(admin)
    routes = [route for route in ROUTES if (route.access == "admin") == admin]
    assert len(app.routes) == len(routes)
    for made, route in zip(app.routes, routes, strict=True):
        assert isinstance(made, StarletteRoute)
        assert isinstance(made.endpoint, Endpoint)
        assert made.endpoint.route is route
        assert made.path == route.path
        assert (made.methods or set()) - {"HEAD"} == {route.method}
    assert not app.router.redirect_slashes


async def every_answer(http: httpx.AsyncClient, **options: object) -> dict[Route, int]:
    return {
        route: (await http.request(route.method, path_of(route.path), **options)).status_code
        for route in ROUTES
    }


def with_keys(tmp_path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Options of a server with a key of each scope, and those keys."""
    path = tmp_path / "keys.json"
    secrets = {scope: keys.add(path, scope, (scope,), {}, RealTime()) for scope in SCOPES}
    return {"api_key_file": path}, secrets


@pytest.mark.parametrize("admin", [False, True])
@pytest.mark.parametrize("scope", [None, *SCOPES])
async def test_every_route_asks_for_its_scope(
    scope: str | None, admin: bool, tmp_path: Path
) -> None:
    options, secrets = with_keys(tmp_path)
    headers = {} if scope is None else {"authorization": f"Bearer {secrets[scope]}"}
    async with Toy(**options).http(admin=admin, headers=headers) as http:
        answers = await every_answer(http, json={})
    for route, status in answers.items():
        if (route.access == "admin") != admin:
            expected = {401} if scope is None else {404}
        elif route.access == "public":
            expected = {200}
        elif scope is None:
            expected = {401}
        elif scope != route.access:
            expected = {403}
        else:
            expected = {200} if route.method == "GET" or route.path == "/flush_cache" else {400}
        assert status in expected, (route.path, status)


async def test_without_keys_all_are_open_but_those_for_admins() -> None:
    async with Toy().http() as http:
        assert not {401, 403} & set((await every_answer(http)).values())
    async with Toy().http(admin=True) as http:
        answers = await every_answer(http)
    assert {status for route, status in answers.items() if route.access == "admin"} <= {401}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/docs"),
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
