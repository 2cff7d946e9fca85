"""Clients that leave, at every phase of their requests, and what the server still holds then.

    python -m benchmarks.robust.aborts --aborts 10000

The engine counts those that it still had, and for how many of them more than one step ended between
an abort's arrival and the moment at which the pages were free. Exits with 1 if there was one, if it
had none to give up, if pages were leaked, a count was found wrong, or an engine ended.
"""

import argparse
import asyncio
import random
import sys
from collections import Counter
from contextlib import aclosing
from dataclasses import asdict

from pieria.clock import RealTime
from pieria.engine.client import EngineClient
from pieria.engine.messages import Add
from pieria.engine.runner_config import FACTORY, RunnerConfig
from pieria.engine.sampling_params import SamplingParams
from pieria.engine.scheduler import SchedulerConfig
from pieria.models.pull import pull

STREAMS = 48
IDLE_SECONDS = 3.0
"""After which an engine has counted everything."""


async def run(model: str, aborts: int, seed: int) -> int:
    settings = {
        "runner": asdict(
            RunnerConfig(model=model, kv_cache_memory_bytes=64 << 20, max_model_len=512)
        ),
        "scheduler": asdict(SchedulerConfig(max_num_seqs=32, max_num_batched_tokens=256)),
        "stop_ids": [],
    }
    client = await EngineClient.start_process(FACTORY, settings, RealTime())
    await client.wait_ready()
    chance = random.Random(seed)
    phases: Counter[str] = Counter()
    left = iter(range(aborts))

    async def stream() -> None:
        for number in left:
            length = chance.choice((3, 40, 200, 400))
            # Some share beginnings, so that pages are held by several.
            prompt = [(i * 7 + number % 5) % 200 for i in range(length)]
            add = Add(f"r{number}", tuple(prompt), SamplingParams(ignore_eos=True), number, 100)
            phase = chance.choice(("at once", "queued", "in its prompt", "in its answer"))
            async with aclosing(client.stream([add])) as news:
                reading = asyncio.ensure_future(anext(news))
                if phase == "in its answer":
                    for _ in range(chance.randrange(1, 20)):
                        await reading
                        reading = asyncio.ensure_future(anext(news))
                elif phase == "in its prompt":
                    await asyncio.wait([reading], timeout=chance.uniform(0, 0.2))
                elif phase == "queued":
                    await asyncio.sleep(0)
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)
            phases[phase] += 1

    await asyncio.gather(*(stream() for _ in range(STREAMS)))
    await asyncio.sleep(IDLE_SECONDS)
    stats, restarts = client.stats, client.restarts
    await client.close()
    print(f"{aborts} clients left: {dict(phases)}")
    print(
        f"the engine had {stats.aborts} of them; more than one step until their pages were free:"
        f" {stats.late_aborts}"
    )
    print(
        f"held in the end: {stats.pages_held} pages, {stats.running + stats.waiting} requests;"
        f" counts found wrong: {stats.repairs}; engines replaced: {restarts}"
    )
    wrong = stats.pages_held + stats.running + stats.waiting + stats.repairs + restarts
    return 1 if wrong or stats.late_aborts or not stats.aborts else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--aborts", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    return asyncio.run(run(str(pull(options.model)), options.aborts, options.seed))


if __name__ == "__main__":
    sys.exit(main())
