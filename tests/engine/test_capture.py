"""Recorded steps against the same steps run anew, bit for bit."""

import random

import pytest
import torch

from pieria.engine.capture import Captured, sizes
from pieria.engine.device_runner import DeviceRunner
from pieria.engine.engine import Engine
from pieria.engine.messages import Add, Output
from pieria.kernels.cpu.recording import Arena, record
from pieria.models.decoder import Decoder
from pieria.parallel.mesh import Mesh
from tests.engine.real import VOCABULARY, add, engine, fill, tiny_config
from tests.ops.harness import only


def prompt(length: int, seed: int) -> list[int]:
    return random.Random(seed).choices(range(VOCABULARY), k=length)


def requests() -> list[Add]:
    """Some greedy, some drawn, of different lengths, all with logprobs."""
    return [
        add(
            str(i),
            prompt(1 + 9 * i, i),
            6 + 3 * i,
            temperature=0.8 * (i % 2),
            seed=i,
            logprobs=2,
            ignore_eos=True,
        )
        for i in range(7)
    ]


def served(made: Engine, adds: list[Add]) -> dict[str, list[tuple[int, object]]]:
    """Each request's tokens with their logprobs.

    Added one after the other while others run, so that steps have every number of requests.
    """
    news: dict[str, list[Output]] = {}
    waiting = list(adds)
    while waiting or not made.idle:
        if waiting:
            made.add(waiting.pop(0))
        for output in made.step():
            news.setdefault(output.id, []).append(output)
    assert all(outputs[-1].finish_reason == "length" for outputs in news.values())
    return {
        id: [pair for o in outputs for pair in zip(o.tokens, o.logprobs, strict=True)]
        for id, outputs in news.items()
    }


def model(dtype: torch.dtype, **config: object) -> Decoder:
    made = fill(Decoder(tiny_config(**config), Mesh(), dtype))  # type: ignore[arg-type]
    made.pack()
    return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "config", [{}, {"windows": (3, 9)}, {"qkv_bias": False, "soft_cap": 5.0, "sinks": True}]
)
def test_replayed_steps_give_the_same_bits(dtype: torch.dtype, config: dict[str, object]) -> None:
    with only("cpu", "torch"):
        decoder = model(dtype, **config)
        recorded = engine(decoder, records=True)
        assert isinstance(recorded.runner, DeviceRunner)
        captured = recorded.runner.captured
        assert captured is not None
        found = served(recorded, requests())
        assert captured.obstacle is None
        assert captured.recorded[:5] == [1, 2, 3, 4, 5]
        assert found == served(engine(decoder), requests())
        # Once more, now that all sizes are recorded and page tables hold what others left.
        again = engine(decoder, records=True)
        for _ in range(3):
            assert served(again, requests()) == found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tokens_do_not_depend_on_what_else_runs(dtype: torch.dtype) -> None:
    """Alone, together, split, after preemption, on cached beginnings: the same logprobs' bits."""
    with only("cpu", "torch"):
        decoder = model(dtype)
        alone = {}
        for message in requests():
            alone |= served(engine(decoder, enable_prefix_caching=False), [message])
        for options in (
            {},
            {"records": True},
            {"max_num_batched_tokens": 5, "max_num_seqs": 4},
        ):
            made = engine(decoder, **options)  # type: ignore[arg-type]
            for _ in range(2):  # the second time on cached beginnings
                assert served(made, requests()) == alone, options
            assert made.stats.prefix_hits


def test_tokens_do_not_depend_on_preemption() -> None:
    with only("cpu", "torch"):
        decoder = model(torch.bfloat16)
        adds = [add(str(i), prompt(10 + i, i), 40, ignore_eos=True, logprobs=0) for i in range(8)]
        alone = {}
        for message in adds:
            alone |= served(engine(decoder), [message])
        made = engine(decoder, records=True, pages=18)
        for message in adds:
            made.add(message)
        assert served(made, []) == alone
        assert made.stats.preemptions >= 5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("config", [{}, {"windows": (3, 9)}])
def test_replayed_steps_of_prompts_give_the_same_bits(
    dtype: torch.dtype, config: dict[str, object]
) -> None:
    adds = [
        add(str(i), prompt(length, i), 3, logprobs=2, prompt_logprobs=1 if i == 2 else None)
        for i, length in enumerate((7, 16, 17, 33, 8, 40))
    ]
    with only("cpu", "torch"):
        decoder = model(dtype, **config)
        made = engine(decoder, records=True, max_num_seqs=4, max_num_batched_tokens=8)
        plain = engine(decoder, max_num_seqs=4, max_num_batched_tokens=8)
        assert isinstance(made.runner, DeviceRunner) and made.runner.captured is not None
        for message in adds:
            assert served(made, [message]) == served(plain, [message])
        assert made.runner.captured.prompt is not None
        # Among others, and on cached beginnings.
        assert served(made, adds) == served(plain, adds)


def test_what_cannot_be_recorded_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "pieria.engine.capture")
    with only("torch", "cpu"):
        decoder = fill(Decoder(tiny_config(), Mesh(), torch.float64))
        made = engine(decoder, records=False)
        assert isinstance(made.runner, DeviceRunner)
        runner = made.runner
        runner.captured = Captured(
            decoder, runner.caches, runner.tables, runner.page_tokens, 128, 8, 64, record, Arena()
        )
        expected = served(engine(decoder), requests())
        assert served(made, requests()) == expected
    [line] = [r.message for r in caplog.records]
    assert line.startswith("steps are not recorded, because of aten.")
    assert " at op embedding" in line


def test_sizes_waste_little() -> None:
    for most in (1, 5, 32, 128):
        found = sizes(most)
        assert found[-1] == most
        for rows in range(1, most + 1):
            size = next(s for s in found if s >= rows)
            assert size <= rows * 1.2
