"""How much of the vocabulary is sorted. Which tokens come out is tested with the op."""

import importlib
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pieria.ops import Draws

kernel = importlib.import_module("pieria.kernels.torch.sample")


class Sorted(TorchDispatchMode):
    """Shapes of everything that is sorted."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func.overloadpacket is torch.ops.aten.sort:
            self.shapes.append(tuple(args[0].shape))
        return func(*args, **(kwargs or {}))


def widths_sorted(logits_RV: Tensor, **options: Tensor) -> set[int]:
    rows = len(logits_RV)
    with Sorted() as mode:
        kernel.sample(logits_RV, Draws(torch.arange(rows), torch.ones(rows), **options))
    return {shape[-1] for shape in mode.shapes}


def test_rows_whose_candidates_suffice_sort_no_more_than_those() -> None:
    steep_RV = torch.linspace(0, 400, 4000).expand(3, -1)
    flat_RV = torch.zeros(3, 4000)
    half, few = torch.full((3,), 0.5), torch.full((3,), 9)
    assert widths_sorted(steep_RV) == set()
    assert widths_sorted(steep_RV, top_p_R=half) == {128}
    assert widths_sorted(flat_RV, top_k_R=few) == {128}
    assert widths_sorted(flat_RV, top_k_R=few, top_p_R=half) == {128}
    assert widths_sorted(flat_RV, top_k_R=100 * few) == {128, 2048}
    assert widths_sorted(flat_RV, top_p_R=half + 0.4) == {128, 2048, 4000}
