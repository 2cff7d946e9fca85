"""How much of a decode step is not native code: Python's share, at batch 1 and 32.

    python -m benchmarks.host_share MODEL [--dtype bfloat16] [--cpu-time]

Runs the engine in this process, a step at a time, and after each step makes its kernel calls and
its draws once more, alone: what the step took longer is the host's. Medians of all steps. Messages
to a front and its work are in other threads or processes and are not counted there; what the front
of `LLM.generate` takes of a processor for a token is measured after it, at batch 1.
"""

import argparse
import time
from dataclasses import asdict
from statistics import median

import torch

from pieria import LLM, ops
from pieria.clock import Clock, RealTime
from pieria.engine.device_runner import DeviceRunner
from pieria.engine.engine import Engine
from pieria.engine.messages import Add
from pieria.engine.place import place
from pieria.engine.prefix_cache import PrefixCache
from pieria.engine.runner_config import RunnerConfig
from pieria.engine.sampling_params import SamplingParams
from pieria.engine.scheduler import Scheduler, SchedulerConfig
from pieria.models.pull import pull
from pieria.parallel.mesh import Mesh

BATCHES = (1, 32)
STEPS = 100
CACHE_BYTES = 2 << 30


class CpuTime(RealTime):
    """This thread's time on the processor, which other work on the machine hardly lengthens."""

    def now(self) -> float:
        return time.thread_time()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument(
        "--cpu-time", action="store_true", help="what one thread spends, for a machine in use"
    )
    options = parser.parse_args()
    runner = RunnerConfig(
        str(pull(options.model)),
        dtype=options.dtype,
        kv_cache_memory_bytes=CACHE_BYTES,
        threads=1 if options.cpu_time else None,
    )
    clock = CpuTime() if options.cpu_time else RealTime()
    limits = SchedulerConfig(enable_prefix_caching=False)
    prepared = place({"runner": asdict(runner), "scheduler": asdict(limits)}, Mesh())
    assert isinstance(prepared.runner, DeviceRunner)
    for batch in BATCHES:
        cache = PrefixCache(
            prepared.pages, prepared.page_tokens, False, prepared.windows, prepared.states
        )
        scheduler = Scheduler(limits, cache, frozenset(), prepared.max_model_len)
        whole, native = measure(Engine(scheduler, prepared.runner), prepared.runner, batch, clock)
        print(
            f"batch {batch}: a step {whole * 1e3:.2f} ms, native code {native * 1e3:.2f} ms,"
            f" the host's share {(whole - native) / whole:.1%}"
        )

    del prepared, scheduler, cache
    print(f"batch 1: the front of `LLM.generate` takes {front(options) * 1e3:.3f} ms a token")


def front(options: argparse.Namespace) -> float:
    """Seconds of a processor that the thread takes which the engine tells of tokens."""
    params = SamplingParams(temperature=0, ignore_eos=True, max_tokens=STEPS)
    taken = []
    with LLM(options.model, dtype=options.dtype, kv_cache_memory_bytes=CACHE_BYTES) as llm:
        assert llm._thread.ident is not None
        clock = time.pthread_getcpuclockid(llm._thread.ident)
        for i in range(5):
            begin = time.clock_gettime(clock)
            llm.generate(list(range(1000 + i, 1016 + i)), params, progress=False)
            taken.append((time.clock_gettime(clock) - begin) / STEPS)
    return median(taken)


def measure(engine: Engine, runner: DeviceRunner, batch: int, clock: Clock) -> tuple[float, float]:
    """Seconds of a step, and of its native code alone."""
    params = SamplingParams(temperature=0, ignore_eos=True)
    for i in range(batch):
        engine.add(Add(f"r{i}", tuple(range(1000 + i, 1016 + i)), params, i, STEPS + 20))
    for _ in range(10):
        engine.step()
    assert runner.captured is not None, "the device records no steps"
    rows = next(n for n in runner.captured.steps if n >= batch)
    step = runner.captured.steps[rows]
    logits_RV, recording = step.made, step.recording
    assert logits_RV is not None and recording is not None, runner.captured.obstacle
    draws = ops.Draws(torch.zeros(batch, dtype=torch.int64))
    whole, native = [], []
    for _ in range(STEPS):
        begin = clock.now()
        engine.step()
        between = clock.now()
        with torch.inference_mode():
            recording.replay()
            ops.sample(logits_RV[:batch], draws)
        end = clock.now()
        whole.append(between - begin)
        native.append(end - between)
    while not engine.idle:
        engine.step()
    return median(whole), median(native)


if __name__ == "__main__":
    main()
