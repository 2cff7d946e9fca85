"""Two tensors of a file as the one that a model wants."""

import re
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from pieria.models.gguf_latents import JoinedLatents

HEADS, KEYS, VALUES, RANK = 4, 3, 5, 7
NAME = "blk.1.attn_kv_b.weight"


class Memory:
    """A `TensorFile` of tensors that are there."""

    def __init__(self, **tensors: Tensor) -> None:
        self.tensors = tensors

    def names(self) -> list[str]:
        return list(self.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.tensors[name].shape)

    def read_into(self, name: str, out: Tensor, first: Sequence[int] = ()) -> None:
        box = self.tensors[name]
        for dim, start in enumerate(first):
            box = box.narrow(dim, start, out.shape[dim])
        out.copy_(box)

    def held(self, name: str, *box: Any) -> None:
        """There is nothing in fewer bits."""


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))


def split(whole: Tensor) -> dict[str, Tensor]:
    """As llama.cpp's converter does it."""
    keys, values = whole.view(HEADS, KEYS + VALUES, RANK).split([KEYS, VALUES], 1)
    return {"blk.1.attn_k_b.weight": keys.transpose(1, 2), "blk.1.attn_v_b.weight": values}


def test_parts_are_put_together() -> None:
    whole = random(HEADS * (KEYS + VALUES), RANK)
    file = JoinedLatents(Memory(**split(whole), other=random(3, 4)))
    assert sorted(file.names()) == [NAME, "other"]
    assert file.shape(NAME) == whole.shape and file.shape("other") == (3, 4)
    for first, heads in [(0, HEADS), (0, 2), (2, 2), (3, 1)]:
        size = KEYS + VALUES
        out = torch.empty(heads * size, RANK, dtype=torch.float64)
        file.read_into(NAME, out, (first * size, 0))
        assert torch.equal(out, whole[first * size : (first + heads) * size].double())
    out = torch.empty_like(whole)
    file.read_into(NAME, out)
    assert torch.equal(out, whole)
    out = torch.empty(3, 2)
    file.read_into("other", out, (0, 1))
    assert torch.equal(out, random(3, 4)[:, 1:3])


def test_an_older_file_has_it_whole() -> None:
    whole = random(HEADS * (KEYS + VALUES), RANK)
    file = JoinedLatents(Memory(**{NAME: whole}))
    out = torch.empty_like(whole)
    file.read_into(NAME, out)
    assert file.names() == [NAME] and torch.equal(out, whole)


def test_a_part_without_the_other_stays_what_it_is() -> None:
    file = JoinedLatents(Memory(**{"blk.1.attn_k_b.weight": random(4, 7, 3)}))
    assert file.names() == ["blk.1.attn_k_b.weight"]


def test_parts_that_do_not_fit_are_named() -> None:
    parts = split(random(HEADS * (KEYS + VALUES), RANK))
    parts["blk.1.attn_k_b.weight"] = random(HEADS, RANK + 1, KEYS)
    message = (
        "blk.1.attn_k_b.weight of shape (4, 8, 3) and blk.1.attn_v_b.weight of shape (4, 5, 7)"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        JoinedLatents(Memory(**parts)).shape(NAME)
