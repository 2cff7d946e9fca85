"""The planner plans what the engine plans: a real model's run, and the same requests simulated.

Given when requests came, by step, and which tokens the real run drew, every chunk of every step is
the same: its request, tokens, pages in every table, states, and draw.
"""

from dataclasses import dataclass
from random import Random

import pytest

from pieria.engine.engine import Engine
from pieria.engine.messages import Add
from pieria.engine.plan import Runner, StepPlan, StepResult
from pieria.engine.scheduler import Scheduler
from pieria.plan.replica import Replica
from pieria.plan.simulate import replay
from tests.engine import real
from tests.engine.toy import ToyRunner

SEATS, BUDGET, PAGE_TOKENS = 6, 24, 4


class Recording:
    """A runner that keeps its plans."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.plans: list[StepPlan] = []

    def run(self, plan: StepPlan) -> StepResult:
        self.plans.append(plan)
        return self.runner.run(plan)

    def close(self) -> None:
        self.runner.close()


@dataclass
class Run:
    """What was seen of a real run. arrivals: before which step each request came."""

    engine: Engine
    plans: list[StepPlan]
    arrivals: list[tuple[int, Add]]
    tokens: dict[str, list[int]]


def arrive(random: Random, number: int, vocabulary: int) -> Add:
    """A request that begins as some others do, and may end early."""
    stems = [[i + 1] * 9 + list(range(2, 9)) for i in range(3)]
    prompt = [
        *random.choice(stems)[: random.randrange(17)],
        *(random.randrange(1, vocabulary) for _ in range(random.randrange(1, 14))),
    ]
    return real.add(
        f"r{number}",
        prompt,
        max_tokens=random.randrange(1, 30),
        seed=number,
        temperature=random.choice([0.0, 1.0]),
        ignore_eos=random.random() < 0.5,
        salt=random.choice(["", "", "other"]),
        frequency_penalty=random.choice([0.0, 0.0, 0.5]),
        min_tokens=random.choice([0, 0, 1]),
    )


def run(engine: Engine, steps: int, vocabulary: int) -> Run:
    """`steps` steps of random traffic, and those after it until all is done."""
    recording = Recording(engine.runner)
    engine.runner = recording
    random = Random(0)
    found = Run(engine, recording.plans, [], {})
    step = 0
    while step < steps or not engine.idle:
        if step < steps and random.random() < 0.14:
            for _ in range(random.choice([1, 1, 2, 5])):
                add = arrive(random, len(found.arrivals), vocabulary)
                engine.add(add)
                found.arrivals.append((step, add))
        if engine.idle:
            recording.plans.append(StepPlan(()))
        else:
            for output in engine.step():
                found.tokens.setdefault(output.id, []).extend(output.tokens)
        step += 1
    return found


def check_same(found: Run, replica: Replica, stop_ids: frozenset[int]) -> None:
    stats = found.engine.stats
    assert stats.preemptions > len(found.plans) / 100
    assert stats.prefix_hits > len(found.plans) / 40
    simulated = list(replay(replica, lambda plan: 0.25, found.arrivals, found.tokens, stop_ids))
    assert len(simulated) >= len(found.plans)
    for step, (ours, (plan, seconds)) in enumerate(zip(found.plans, simulated, strict=False)):
        assert plan == ours, f"step {step}"
        assert seconds == (0.25 if plan.chunks else 0)
    assert not any(plan.chunks for plan, _ in simulated[len(found.plans) :])


def toy_engine(windows: tuple[int | None, ...], states: int) -> tuple[Engine, Replica]:
    config = real.SchedulerConfig(SEATS, BUDGET)
    replica = Replica(config, 20 * len(windows), PAGE_TOKENS, 80, windows, states)
    scheduler: Scheduler = replica.start(frozenset({real.STOP}))
    return Engine(scheduler, ToyRunner(replica.pages, PAGE_TOKENS, None, windows, states)), replica


def real_engine() -> tuple[Engine, Replica]:
    """A model of three layers, one of which looks six tokens back, in float32."""
    model = real.tiny_model().float()
    model.dtype = real.torch.float32
    pages = 12
    engine = real.engine(
        model,
        pages=pages,
        page_tokens=PAGE_TOKENS,
        max_num_seqs=SEATS,
        max_num_batched_tokens=BUDGET,
    )
    cache = engine.scheduler.cache
    assert len(cache.windows) > 1
    config = engine.scheduler.config
    context = engine.scheduler.max_model_len
    return engine, Replica(config, cache.pages.count, PAGE_TOKENS, context, cache.windows)


def test_plans_of_a_real_model_are_those_of_the_simulation() -> None:
    engine, replica = real_engine()
    check_same(run(engine, 300, real.VOCABULARY), replica, frozenset({real.STOP}))


@pytest.mark.slow
def test_plans_of_a_real_model_over_ten_thousand_steps() -> None:
    engine, replica = real_engine()
    found = run(engine, 10_000, real.VOCABULARY)
    assert len(found.plans) >= 10_000
    check_same(found, replica, frozenset({real.STOP}))


@pytest.mark.parametrize(
    ("windows", "states"), [((None,), 0), ((None, 6), 0), ((None,), 14), ((3, None), 14)]
)
def test_plans_of_a_toy_model(windows: tuple[int | None, ...], states: int) -> None:
    engine, replica = toy_engine(windows, states)
    check_same(run(engine, 1000, 12), replica, frozenset({real.STOP}))


def test_other_tokens_are_other_plans() -> None:
    engine, replica = toy_engine((None,), 0)
    found = run(engine, 300, 12)
    longest = max(found.tokens, key=lambda id: len(found.tokens[id]))
    found.tokens[longest][1] = real.STOP + 1 if found.tokens[longest][1] == real.STOP else real.STOP
    with pytest.raises((AssertionError, IndexError)):
        check_same(found, replica, frozenset({real.STOP}))


def test_other_pages_are_other_plans() -> None:
    engine, replica = toy_engine((None,), 0)
    found = run(engine, 300, 12)
    other = Replica(replica.scheduler, replica.pages - 1, PAGE_TOKENS, replica.max_model_len)
    with pytest.raises((AssertionError, IndexError)):
        check_same(found, other, frozenset({real.STOP}))
