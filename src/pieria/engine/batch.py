"""A step plan as tensors: packed tokens, and the paged `Context` that attention reads and writes.

Knows plans and pages. Does not know models beyond what `Context` asks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pieria import ops
from pieria.engine.plan import Chunk
from pieria.models.config import AttentionConfig, LatentConfig

LayerCache = tuple[Tensor, ...]
"""What one layer remembers: an array [pages, page_tokens, ...] for each `token` of its CacheSpec."""


@dataclass(frozen=True)
class Paged:
    """The `Context` of serving: keys and values go to their pages first and are read from there."""

    positions_T: Tensor
    slots_T: Tensor
    paging: ops.Paging
    caches: Sequence[LayerCache]

    def attend(
        self, layer: int, q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor, config: AttentionConfig
    ) -> Tensor:
        k_PNGK, v_PNGK = self.caches[layer]
        ops.kv_write(k_PNGK, v_PNGK, k_TGK, v_TGK, self.slots_T)
        return ops.paged_attention(
            q_THK,
            k_PNGK,
            v_PNGK,
            self.paging,
            scale=config.scale,
            window=config.window,
            soft_cap=config.soft_cap,
        )

    def attend_latents(
        self, layer: int, q_THL: Tensor, latent_TL: Tensor, config: LatentConfig
    ) -> Tensor:
        (cache_PNL,) = self.caches[layer]
        ops.latent_write(cache_PNL, latent_TL, self.slots_T)
        return ops.paged_latent_attention(
            q_THL, cache_PNL, self.paging, rank=config.kv_rank, scale=config.scale
        )


def pack(
    chunks: Sequence[Chunk], page_tokens: int, caches: Sequence[LayerCache], device: str
) -> tuple[Tensor, Paged]:
    """tokens_T int64 of all chunks side by side, and their context, on `device`."""
    tokens = [t for c in chunks for t in c.tokens]
    positions = [p for c in chunks for p in range(c.start, c.end)]
    slots = [
        c.pages[p // page_tokens] * page_tokens + p % page_tokens
        for c in chunks
        for p in range(c.start, c.end)
    ]
    used = [-(-c.end // page_tokens) for c in chunks]
    paging = ops.Paging.of(
        [c.pages[:n] for c, n in zip(chunks, used, strict=True)],
        [len(c.tokens) for c in chunks],
        [c.end for c in chunks],
        device,
    )

    def tensor(values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=device)

    return tensor(tokens), Paged(tensor(positions), tensor(slots), paging, caches)
