"""The bound on what a step takes: what it grows with, and that a real step stays below it."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pieria import ops
from pieria.engine.plan import Chunk, Draw, StepPlan
from pieria.engine.step_memory import step_bytes
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
    chunk = Chunk("a", 0, tokens, tables, draw=Draw(64, 0), targets=tokens[1:], prompt_logprobs=5)
    with Largest() as made:
        runner.run(StepPlan((chunk,)))
    assert 0 < made.most <= step_bytes(model, 64, 16)


def test_it_grows_with_tokens_draws_and_vocabulary() -> None:
    model = real.tiny_model()
    assert step_bytes(model, 4096, 1) > step_bytes(model, 2048, 1)
    assert step_bytes(model, 1, 1000) - step_bytes(model, 1, 500) == 500 * real.VOCABULARY * 16
