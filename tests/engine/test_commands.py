"""Commands through a real engine process: the cache flushed, a profile taken, errors told."""

import json
from pathlib import Path

import pytest
from msgspec.structs import replace

from pieria.clock import RealTime
from pieria.engine.cause import EngineDead
from pieria.engine.client import EngineClient
from pieria.engine.messages import Add
from pieria.engine.prefix_cache import PrefixCache, Table
from pieria.engine.sampling_params import SamplingParams
from tests.engine.toy_factory import settings

FACTORY = "tests.engine.toy_factory:prepare"


def test_flushing_forgets_what_nobody_holds() -> None:
    cache = PrefixCache(8, 2, states=4)
    tokens = list(range(6))
    tables = [Table()]
    cache.extend(tables, 3)
    (state,) = cache.states.take(1)
    cache.publish(("", ""), tokens, tables, 0, 3, state)
    cache.states.release([state])
    held = [Table(tables[0].pages[:1])]
    for page in held[0].pages:
        cache.pages.hold(page)
    cache.release(tables)
    assert cache.pages.cached == 2
    assert cache.flush() == 2
    cache.check()
    assert (cache.pages.cached, cache.states.cached, cache.pages.held) == (0, 0, 1)
    assert cache.matched_tokens(("", ""), tokens) == 0
    cache.release(held)
    assert cache.flush() == 1
    assert len(cache.pages._free) == 8


async def test_in_an_engine_process(tmp_path: Path) -> None:
    client = await EngineClient.start_process(FACTORY, settings(), RealTime())
    try:
        await client.wait_ready()
        add = Add("a", tuple(range(1, 10)), SamplingParams(max_tokens=4), 0, 4)
        first = [output async for output in client.stream([add])]
        assert first[0].queued_seconds is not None
        assert first[0].queued_seconds >= 0
        assert all(output.queued_seconds is None for output in first[1:])
        cached = client.stats.pages_cached
        assert cached > 0
        assert int(await client.command("flush_cache")) == cached
        assert await client.command("flush_cache") == "0"
        with pytest.raises(ValueError, match="no profile is being taken"):
            await client.command("stop_profile", str(tmp_path / "trace.json"))
        await client.command("start_profile")
        with pytest.raises(ValueError, match="a profile is being taken already"):
            await client.command("start_profile")
        again = [output async for output in client.stream([replace(add, id="b")])]
        assert [o.tokens for o in again] == [o.tokens for o in first]
        await client.command("stop_profile", str(tmp_path / "trace.json"))
        with pytest.raises(ValueError, match="failed with KeyError"):
            await client.command("dance")
    finally:
        await client.close()
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    steps = [event["name"] for event in events if event["name"].startswith("step: ")]
    assert len(steps) == len(again)
    assert steps[0] == "step: 1 requests, 9 tokens"
    with pytest.raises(EngineDead):
        await client.command("flush_cache")
