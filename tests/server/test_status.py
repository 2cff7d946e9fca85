"""The GET routes: models, health, readiness, metrics, version."""

import asyncio
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from pieria.engine.messages import Stats
from tests.server.fakes import Toy, chat


async def get(toy: Toy, path: str, ready: bool = True) -> httpx.Response:
    async with toy.http(ready) as http:
        return await http.get(path)


async def test_models() -> None:
    toy = Toy(served_model_name=("a", "b/c"))
    answer = (await get(toy, "/v1/models")).json()
    assert answer["object"] == "list"
    assert answer["data"] == [
        {
            "id": name,
            "created": toy.state.created,
            "object": "model",
            "owned_by": "pieria",
            "max_model_len": 4096,
        }
        for name in ("a", "b/c")
    ]
    assert (await get(toy, "/v1/models/b/c")).json() == answer["data"][1]
    assert (await get(toy, "/v1/models/b%2Fc")).json() == answer["data"][1]
    missing = await get(toy, "/v1/models/b")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")


async def test_models_are_known_before_they_are_loaded() -> None:
    answer = (await get(Toy(), "/v1/models", ready=False)).json()
    assert "max_model_len" not in answer["data"][0]


def toy_that(**changes: Any) -> Toy:
    toy = Toy()
    for name, value in changes.items():
        setattr(toy.state if name == "draining" else toy.client, name, value)
    return toy


@pytest.mark.parametrize(
    ("changes", "loaded", "health", "ready"),
    [
        ({}, False, (200, "starting"), (503, "starting")),
        ({}, True, (200, "ok"), (200, "ready")),
        ({"restarting": True}, True, (200, "restarting"), (503, "restarting")),
        ({"draining": True}, True, (200, "ok"), (503, "draining")),
        ({"stuck": True}, True, (503, "stuck"), (200, "ready")),
        ({"failure": "secret path"}, True, (503, "dead"), (503, "dead")),
        ({"failure": "secret path"}, False, (503, "dead"), (503, "dead")),
    ],
)
async def test_health_and_readiness(
    changes: dict[str, Any], loaded: bool, health: tuple[int, str], ready: tuple[int, str]
) -> None:
    toy = toy_that(**changes)
    for path, (status, word) in (("/health", health), ("/ready", ready)):
        answer = await get(toy, path, loaded)
        assert (answer.status_code, answer.json()["status"]) == (status, word)
        assert "secret" not in answer.text
    if ready[0] == 503:
        assert int(answer.headers["retry-after"]) > 0


async def test_health_gives_its_reason() -> None:
    answer = await get(toy_that(stuck=True), "/health")
    assert answer.json()["reason"] == "the engine has made no progress for more than 30 s"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize(
    ("changes", "loaded", "message"),
    [
        ({}, False, "starting"),
        ({"draining": True}, True, "shutting down"),
        ({"failure": "secret path"}, True, "the engine has failed"),
    ],
)
async def test_no_work_is_taken_then(
    path: str, changes: dict[str, Any], loaded: bool, message: str
) -> None:
    async with toy_that(**changes).http(loaded) as http:
        answer = await http.post(path, json=chat())
    assert answer.status_code == 503
    assert message in answer.json()["error"]["message"]
    assert "secret" not in answer.text
    assert int(answer.headers["retry-after"]) > 0


async def test_metrics_count_routes_and_not_paths() -> None:
    toy = Toy()
    for path in ("/v1/models/toy", "/v1/models/x", "/nothing", "/nothing/else"):
        await get(toy, path)
    answer = await get(toy, "/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    counted = {
        (sample.labels["route"], sample.labels["status"]): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
        if sample.name == "pieria:http_requests_total"
    }
    assert counted == {
        ("/v1/models/{id:path}", "200"): 1,
        ("/v1/models/{id:path}", "404"): 1,
        ("unmatched", "404"): 2,
    }


async def test_load_is_that_of_others_and_of_the_engine() -> None:
    toy = Toy("x" * 9)
    toy.client.hold_after = 1
    toy.client.stats = Stats(running=2, waiting=3, pages=8, pages_held=6)
    async with toy.http() as http:
        slow = asyncio.create_task(http.post("/v1/chat/completions", json=chat()))
        while not toy.client.live:
            await asyncio.sleep(0.001)
        busy = await http.get("/load")
        toy.client.hold_after = None
        await slow
        idle = await http.get("/load")
    engine = {"running": 2, "waiting": 3, "kv_cache_usage": 0.75}
    assert busy.json() == {"server_load": 1, **engine}
    assert idle.json() == {"server_load": 0, **engine}


async def test_version() -> None:
    assert (await get(Toy(), "/version")).json() == {"version": "1.2.3"}
