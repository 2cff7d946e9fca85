"""The bound on what a step takes: what it grows with, and that a real step stays below it."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pieria import ops
from pieria.engine.plan import Chunk, Draw, StepPlan
from pieria.engine.step_memory import (
    LOGITS_BYTES,
    logits_rows,
    one_of_each_kind,
    step_bytes,
    worst_step,
)
from pieria.hardware import devices
from pieria.models.decoder import Decoder
from pieria.parallel.mesh import Mesh
from tests.engine import real


class Largest(TorchDispatchMode):
    """most: bytes of the largest tensor that any call made."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0

    def __torch_dispatch__(self, call, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        made = call(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, torch.Tensor):
                self.most = max(self.most, tensor.numel() * tensor.element_size())
        return made


def test_no_tensor_of_a_step_is_larger() -> None:
    """With kernels: references of attention hold every pair of tokens."""
    ops.use(*devices.find("cpu").backends)
    model = real.fill(Decoder(real.tiny_config(), Mesh(), torch.float32))
    runner = real.engine(model).runner
    tokens = tuple(range(64))
    tables = tuple(tuple(range(i * 16, i * 16 + 16)) for i in range(2))
    chunk = Chunk("a", 0, tokens, tables, draw=Draw(0), targets=tokens[1:], prompt_logprobs=5)
    with Largest() as made:
        runner.run(StepPlan((chunk,)))
    assert 0 < made.most <= step_bytes(model, 64, 16)


def test_it_grows_with_tokens_draws_and_vocabulary() -> None:
    model = real.tiny_model()
    assert step_bytes(model, 4096, 1) > step_bytes(model, 2048, 1)
    assert step_bytes(model, 1, 1000) - step_bytes(model, 1, 500) == 500 * real.VOCABULARY * 16


def test_what_recorded_steps_keep_counts_once_more() -> None:
    model = real.tiny_model()
    of_layers, of_logits = (step_bytes(model, *sizes) for sizes in ((4096, 1), (1, 1000)))
    assert step_bytes(model, 4096, 1, recorded=True) == 2 * of_layers
    more = step_bytes(model, 1, 1000, recorded=True) - of_logits
    assert 1000 * real.VOCABULARY * 8 <= more < of_logits


def test_logits_of_a_prompt_take_no_more_with_a_larger_vocabulary() -> None:
    """As they did in vLLM's issues 5907 and 14239."""
    for vocabulary in (1000, 32_000, 152_000, 262_144, 1_000_000):
        for size in (2, 4):
            rows = logits_rows(vocabulary, size)
            assert 1 <= rows * vocabulary * (size + 8) <= LOGITS_BYTES or rows == 1
    assert logits_rows(1000, 4) == 128


@pytest.mark.parametrize("states", [0, 3])
def test_the_largest_step_is_as_large_as_may_be(states: int) -> None:
    plan = worst_step(512, 100, 128, 1000, 16, 2, states)
    first, *others = plan.chunks
    assert sum(len(chunk.tokens) for chunk in plan.chunks) == 512
    assert len(plan.chunks) == 100 and all(chunk.draw is not None for chunk in plan.chunks)
    assert len(first.targets) == 128 and not any(chunk.targets for chunk in others)
    assert all(len(table) * 16 >= chunk.end for chunk in plan.chunks for table in chunk.tables)
    assert {chunk.writes for chunk in plan.chunks} == (set(range(states)) or {-1})
    # Neither more tokens than the cache holds, nor more requests than tokens.
    assert len(worst_step(512, 4, 10, 6, 16, 1, 0).chunks[0].tokens) == 96
    assert len(worst_step(4, 100, 3, 6, 16, 1, 0).chunks) == 4


def test_it_runs_through_one_layer_of_each_kind() -> None:
    model = real.tiny_model()
    runner = real.engine(model, pages=4, page_tokens=4).runner
    before = list(model.layers)
    with one_of_each_kind(model):
        kinds = {(type(c.mixer), type(c.mlp)) for c in model.config.layers}
        assert len(model.layers) == len(kinds) < len(before)
        result = runner.run(worst_step(12, 3, 5, 8, 4, len(set(runner.tables)), 0))
    assert list(model.layers) == before
    assert len(result.chunks) == 3 and all(c.token is not None for c in result.chunks)
    assert len(result.chunks[0].prompt_logprobs) == 5
