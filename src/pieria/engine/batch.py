"""A step plan as tensors: packed tokens, and the paged `Context` that attention reads and writes.

Knows plans and pages. Does not know models beyond what `Context` asks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pieria import ops
from pieria.engine.plan import Chunk
from pieria.models.cache_spec import Array
from pieria.models.config import AttentionConfig, LatentConfig

LayerCache = tuple[Tensor, ...]
"""What one layer remembers: an array [pages, page_tokens, ...] for each `token` of its CacheSpec,
an array [slots, ...] for each `state`.
"""


@dataclass(frozen=True)
class Paged:
    """The `Context` of serving: what layers remember goes to their pages, and is read from there.

    slots: of each page table, where each token goes, int64 [T]. pagings: of each page table.
    tables: of each layer, its page table; None where it keeps a state. state_slots: of all layers
    that keep one.
    """

    positions_T: Tensor
    slots: tuple[Tensor, ...]
    pagings: tuple[ops.Paging, ...]
    tables: Sequence[int | None]
    caches: Sequence[LayerCache]
    state_slots: ops.Slots

    @property
    def query_starts_R1(self) -> Tensor:
        """Where each request's tokens start in the batch, and T."""
        return self.pagings[0].query_starts_R1

    def attend(
        self,
        layer: int,
        q_THK: Tensor,
        k_TGK: Tensor,
        v_TGK: Tensor,
        config: AttentionConfig,
        sinks_H: Tensor | None = None,
    ) -> Tensor:
        assert config.causal, "what a token sees of later ones cannot be remembered"
        slots_T, paging = self._table(layer)
        k_PNGK, v_PNGK, *of_numbers = self.caches[layer]
        scales = tuple(of_numbers)
        ops.kv_write(k_PNGK, v_PNGK, k_TGK, v_TGK, slots_T, scales)
        return ops.paged_attention(
            q_THK,
            k_PNGK,
            v_PNGK,
            paging,
            scale=config.scale,
            window=config.window,
            soft_cap=config.soft_cap,
            sinks_H=sinks_H,
            scales=scales,
        )

    def attend_latents(
        self,
        layer: int,
        q_THC: Tensor,
        q_THK: Tensor,
        value_TC: Tensor,
        key_TK: Tensor,
        config: LatentConfig,
    ) -> Tensor:
        slots_T, paging = self._table(layer)
        cache_PNL, *of_numbers = self.caches[layer]
        scales = tuple(of_numbers)
        ops.latent_write(cache_PNL, value_TC, key_TK, slots_T, scales)
        return ops.paged_latent_attention(
            q_THC, q_THK, cache_PNL, paging, scale=config.scale, scales=scales
        )

    def states(self, layer: int, state: tuple[Array, ...]) -> tuple[tuple[Tensor, ...], ops.Slots]:
        assert self.tables[layer] is None, f"layer {layer} keeps pages, not a state"
        return self.caches[layer], self.state_slots

    def _table(self, layer: int) -> tuple[Tensor, ops.Paging]:
        table = self.tables[layer]
        assert table is not None, f"layer {layer} keeps a state, not pages"
        return self.slots[table], self.pagings[table]


def pack(
    chunks: Sequence[Chunk],
    page_tokens: int,
    caches: Sequence[LayerCache],
    tables: Sequence[int | None],
    device: str,
) -> tuple[Tensor, Paged]:
    """tokens_T int64 of all chunks side by side, and their context, on `device`."""

    def tensor(values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=device)

    queries, contexts = [len(c.tokens) for c in chunks], [c.end for c in chunks]
    request_T = tensor([r for r, count in enumerate(queries) for _ in range(count)])
    positions_T = tensor([p for c in chunks for p in range(c.start, c.end)])
    page_T, offset_T = positions_T // page_tokens, positions_T % page_tokens
    pagings = []
    for table in range(len(chunks[0].tables)):
        pages = [c.tables[table][: -(-c.end // page_tokens)] for c in chunks]
        pagings.append(ops.Paging.of(pages, queries, contexts, device))
    context = Paged(
        positions_T=positions_T,
        slots=tuple(p.table_RP[request_T, page_T] * page_tokens + offset_T for p in pagings),
        pagings=tuple(pagings),
        tables=tables,
        caches=caches,
        state_slots=ops.Slots.of(
            queries, [c.reads for c in chunks], [c.writes for c in chunks], device
        ),
    )
    return tensor([t for c in chunks for t in c.tokens]), context
