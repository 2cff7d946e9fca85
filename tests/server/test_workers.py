"""Work in threads: a deadline, turns, and no more of what cannot be ended than is allowed."""

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from pieria.models.chat_template import ChatTemplate
from pieria.server import chat as chat_module
from pieria.server.workers import AT_ONCE, MOST_OVERDUE, Crowded, Workers
from tests.server.fakes import Toy, ToyTemplate, chat
from tests.server.test_metrics import samples

SOON, LATE = 0.05, 20.0


class Stuck:
    """Works that go on until they are let go."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.begun = 0

    def __call__(self) -> str:
        self.begun += 1
        assert self.go.wait(timeout=60)
        return "done"


@pytest.fixture
async def stuck() -> AsyncIterator[Stuck]:
    made = Stuck()
    yield made
    made.go.set()


async def overdue(workers: Workers, stuck: Stuck, count: int) -> None:
    late = [workers.run(stuck, SOON) for _ in range(count)]
    ends = await asyncio.gather(*late, return_exceptions=True)
    assert all(isinstance(end, asyncio.TimeoutError) for end in ends)
    assert workers.overdue == stuck.begun == count


async def all_turns(workers: Workers, stuck: Stuck) -> list["asyncio.Task[str]"]:
    tasks = [asyncio.ensure_future(workers.run(stuck, LATE)) for _ in range(AT_ONCE)]
    while stuck.begun < AT_ONCE:
        await asyncio.sleep(0.002)
    return tasks


async def test_all_threads_are_there_from_the_beginning() -> None:
    before = set(threading.enumerate())
    workers = Workers()
    begun = set(threading.enumerate()) - before
    assert len(begun) == AT_ONCE + MOST_OVERDUE
    await asyncio.gather(*(workers.run(lambda: None, LATE) for _ in range(3 * AT_ONCE)))
    assert set(threading.enumerate()) - before == begun


async def test_what_is_overdue_takes_nobodys_turn(stuck: Stuck) -> None:
    workers = Workers()
    await overdue(workers, stuck, MOST_OVERDUE - 1)
    barrier = threading.Barrier(AT_ONCE)
    met = [workers.run(lambda: barrier.wait(timeout=20), LATE) for _ in range(AT_ONCE)]
    assert len(set(await asyncio.gather(*met))) == AT_ONCE


async def test_too_much_that_is_overdue_ends_all_until_some_is_done(stuck: Stuck) -> None:
    workers = Workers()
    await overdue(workers, stuck, MOST_OVERDUE)
    with pytest.raises(Crowded):
        await workers.run(lambda: "never", LATE)
    stuck.go.set()
    while workers.overdue:
        await asyncio.sleep(0.002)
    assert await workers.run(lambda: "now", LATE) == "now"


async def test_waiting_for_a_turn_counts(stuck: Stuck) -> None:
    workers = Workers()
    begun = await all_turns(workers, stuck)
    with pytest.raises(asyncio.TimeoutError):
        await workers.run(lambda: "late", SOON)
    assert workers.overdue == 0
    stuck.go.set()
    assert await asyncio.gather(*begun) == ["done"] * AT_ONCE


async def test_who_leaves_makes_no_room_before_the_time_is_up(stuck: Stuck) -> None:
    workers = Workers()
    leaving = await all_turns(workers, stuck)
    for task in leaving:
        task.cancel()
    with pytest.raises(asyncio.TimeoutError):
        await workers.run(lambda: "late", SOON)
    assert workers.overdue == 0  # nobody waits for them, but they are in time
    stuck.go.set()
    assert await workers.run(lambda: "now", LATE) == "now"


async def test_errors_are_those_of_the_work() -> None:
    with pytest.raises(ZeroDivisionError):
        await Workers().run(lambda: 1 / 0, LATE)


async def test_requests_are_refused_while_templates_go_on(
    stuck: Stuck, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the metrics say so."""
    toy = Toy(prepare_timeout_seconds=0.1)
    render = ToyTemplate.render

    def slow(self: ToyTemplate, messages: Any, **options: Any) -> str:
        if messages[0]["content"] == "slow":
            stuck()
        return render(self, messages, **options)

    monkeypatch.setattr(ToyTemplate, "render", slow)
    async with toy.http() as http:
        body = chat("slow")
        asked = [http.post("/v1/chat/completions", json=body) for _ in range(MOST_OVERDUE)]
        for answer in await asyncio.gather(*asked):
            assert answer.status_code == 503 and "were not done" in answer.text
        refused = await http.post("/v1/chat/completions", json=chat())
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        assert f"busy with {MOST_OVERDUE} earlier requests" in refused.text
        found = samples(toy.state.metrics)
        assert found["pieria:prepare_overdue"] == MOST_OVERDUE
        assert found["pieria:prepare_timeouts_total"] == MOST_OVERDUE
        assert found["pieria:prepare_refused_total"] == 1
        stuck.go.set()
        while toy.state.workers.overdue:
            await asyncio.sleep(0.002)
        assert (await http.post("/v1/chat/completions", json=chat())).status_code == 200


async def test_a_template_that_loops_long_gives_its_thread_back() -> None:
    toy = Toy(prepare_timeout_seconds=0.1)
    loops = "{% for a in range(100000) %}{% for b in range(3) %}{% endfor %}{% endfor %}" * 20
    template = ChatTemplate(loops, None, None, seconds=0.1)
    toy.served = chat_module.Served(toy.served.engine, template, {})
    async with toy.http() as http:
        asked = [http.post("/v1/chat/completions", json=chat()) for _ in range(2 * MOST_OVERDUE)]
        statuses = {answer.status_code for answer in await asyncio.gather(*asked)}
        assert statuses <= {400, 503}
        while toy.state.workers.overdue:
            await asyncio.sleep(0.002)
        body = {"model": "toy", "prompt": "x"}
        assert (await http.post("/v1/completions", json=body)).status_code == 200
