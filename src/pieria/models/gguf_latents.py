"""The matrix that expands latents, which newer GGUF files keep in two tensors, as the one that it
is elsewhere. Knows their names and layout; reads through another `TensorFile`.

H heads, N dimensions of a key without its rotary ones, V of a value, C of a latent.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from pieria.models.checkpoint import TensorFile
from pieria.models.stored_tensor import NumberFormat
from pieria.ops import Weight

KEYS, VALUES, BOTH = ".attn_k_b.weight", ".attn_v_b.weight", ".attn_kv_b.weight"


class JoinedLatents:
    """A file's tensors, with attn_kv_b [H (N + V), C] in place of attn_k_b and attn_v_b.

    attn_k_b is [H, C, N], turned as absorbing it wants it; attn_v_b is [H, V, C]. Both as
    llama.cpp's converter writes them.
    """

    def __init__(self, file: TensorFile) -> None:
        self._file = file
        there = set(file.names())
        starts = (name.removesuffix(KEYS) for name in there if name.endswith(KEYS))
        self._starts = {start + BOTH: start for start in starts if start + VALUES in there}

    def names(self) -> list[str]:
        parts = {start + part for start in self._starts.values() for part in (KEYS, VALUES)}
        return [n for n in self._file.names() if n not in parts] + list(self._starts)

    def shape(self, name: str) -> tuple[int, ...]:
        """ValueError for an unknown name, or for two parts that do not fit."""
        if name not in self._starts:
            return self._file.shape(name)
        heads, keys, values, rank = self._sizes(self._starts[name])
        return heads * (keys + values), rank

    def blocks(self, name: str) -> NumberFormat | None:
        return None if name in self._starts else self._file.blocks(name)

    def read_into(self, name: str, out: Tensor, first: Sequence[int] = ()) -> None:
        """As of any `TensorFile`; of a joined tensor, whole heads. A head is held at a time."""
        if name not in self._starts:
            self._file.read_into(name, out, first)
            return
        start = self._starts[name]
        _, keys, values, rank = self._sizes(start)
        size = keys + values
        row, column = first or (0, 0)
        whole = out.shape[1] == rank and not column
        assert whole and row % size == 0 and len(out) % size == 0, "heads are not cut"
        key_1CN = out.new_empty(1, rank, keys)
        for head, part_XC in enumerate(torch.split(out, size), row // size):
            self._file.read_into(start + KEYS, key_1CN, (head, 0, 0))
            part_XC[:keys] = key_1CN[0].T
            self._file.read_into(start + VALUES, part_XC[None, keys:], (head, 0, 0))

    def held(
        self,
        name: str,
        shape: Sequence[int],
        first: Sequence[int],
        dtype: torch.dtype,
        turned: bool = False,
    ) -> Weight | None:
        """As of any `TensorFile`; of a joined tensor, None."""
        if name in self._starts:
            return None
        return self._file.held(name, shape, first, dtype, turned)

    def _sizes(self, start: str) -> tuple[int, int, int, int]:
        k, v = self._file.shape(start + KEYS), self._file.shape(start + VALUES)
        if len(k) != 3 or len(v) != 3 or (k[0], k[1]) != (v[0], v[2]):
            raise ValueError(
                f"tensors {start}{KEYS} of shape {k} and {start}{VALUES} of shape {v} do not fit;"
                " wanted are [heads, rank, key] and [heads, value, rank]"
            )
        return k[0], k[2], v[1], k[1]
