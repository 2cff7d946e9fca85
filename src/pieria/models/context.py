"""What a forward pass needs beyond tokens and weights: positions, and where keys and values are.

`Context` is the contract; `Packed` is the one for whole sequences without a cache (training, golden
logits). The paged one is the engine's.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from pieria import ops
from pieria.models.cache_spec import Array
from pieria.models.config import AttentionConfig, LatentConfig


class Context(Protocol):
    """One batch of packed tokens (T in all), possibly of many requests."""

    @property
    def positions_T(self) -> Tensor:
        """int64, each token's place in its own sequence."""

    def attend(
        self,
        layer: int,
        q_THK: Tensor,
        k_TGK: Tensor,
        v_TGK: Tensor,
        config: AttentionConfig,
        sinks_H: Tensor | None = None,
    ) -> Tensor:
        """Remember k and v, then attend; returns [T, H, K]."""

    def attend_latents(
        self,
        layer: int,
        q_THC: Tensor,
        q_THK: Tensor,
        value_TC: Tensor,
        key_TK: Tensor,
        config: LatentConfig,
    ) -> Tensor:
        """Remember the latents, value beside key, then attend causally; returns [T, H, C]."""

    def states(self, layer: int, state: tuple[Array, ...]) -> tuple[tuple[Tensor, ...], ops.Slots]:
        """An array [slots, *shape] for each of what a request's state is, and the requests' slots.

        The caller leaves in them what is to be remembered.
        """


@dataclass(frozen=True)
class Packed:
    """Whole sequences side by side; nothing is remembered between calls.

    lengths: tokens of each sequence.
    """

    positions_T: Tensor
    lengths: tuple[int, ...]

    @staticmethod
    def of(lengths: tuple[int, ...], device: torch.device | str = "cpu") -> "Packed":
        positions = torch.cat([torch.arange(n, device=device) for n in lengths])
        return Packed(positions, lengths)

    def attend(
        self,
        layer: int,
        q_THK: Tensor,
        k_TGK: Tensor,
        v_TGK: Tensor,
        config: AttentionConfig,
        sinks_H: Tensor | None = None,
    ) -> Tensor:
        return ops.attention(
            q_THK,
            k_TGK,
            v_TGK,
            self.lengths,
            scale=config.scale,
            window=config.window,
            soft_cap=config.soft_cap,
            causal=config.causal,
            sinks_H=sinks_H,
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
        q_THL, latent_TL = torch.cat([q_THC, q_THK], -1), torch.cat([value_TC, key_TK], -1)
        return ops.latent_attention(
            q_THL, latent_TL, self.lengths, rank=config.kv_rank, scale=config.scale
        )

    def states(self, layer: int, state: tuple[Array, ...]) -> tuple[tuple[Tensor, ...], ops.Slots]:
        device, count = self.positions_T.device, len(self.lengths)
        arrays = tuple(torch.zeros(count, *a.shape, dtype=a.dtype, device=device) for a in state)
        return arrays, ops.Slots.fresh(self.lengths, device)
