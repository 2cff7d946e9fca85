"""What a layer remembers of a request. The engine allocates from it, the planner counts it."""

from dataclasses import dataclass
from math import prod

import torch

from pieria.ops.kv_write import LARGEST


@dataclass(frozen=True)
class Array:
    """One remembered tensor; `shape` is what one token, or one request, adds."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


def held(names: tuple[str, ...], shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Array, ...]:
    """Tensors of one shape; where they are held in bytes, after them the scales of the last
    dimension's rows, in the same order.
    """
    arrays = tuple(Array(name, shape, dtype) for name in names)
    if dtype not in LARGEST:
        return arrays
    scales = tuple(Array(f"{name}_scale", shape[:-1], torch.float32) for name in names)
    return arrays + scales


@dataclass(frozen=True)
class CacheSpec:
    """One of three forms.

    Per token: `token` arrays grow with the request. Windowed: the same with `window`, of which only
    the last `window` tokens are needed. Per request: `state` arrays of constant size.
    """

    token: tuple[Array, ...] = ()
    window: int | None = None
    state: tuple[Array, ...] = ()

    def nbytes(self, tokens: int) -> int:
        """Bytes that a request of `tokens` tokens needs in this layer."""
        kept = tokens if self.window is None else min(tokens, self.window)
        return kept * sum(a.nbytes for a in self.token) + sum(a.nbytes for a in self.state)
