"""Attention over several blocks of keys, for every instruction set: against the definition in
float64, and bit for bit however a prompt is divided."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from pieria import ops
from pieria.kernels.cpu import native
from pieria.ops import Paging, map_tensors
from pieria.ops.kv_write import LARGEST, rounded
from pieria.ops.paged_attention import falling_pages
from tests.ops.harness import tolerance

ops.load("cpu")
IMPL = ops.paged_attention.implementations["cpu"][-1]
TOKENS = 620
"""Of a prompt: two whole blocks of keys, and a third that ends inside a vector."""

pytestmark = pytest.mark.usefixtures("isa")


class Prompt:
    """Queries of TOKENS tokens, and pages that hold their keys and values between stale NaNs."""

    def __init__(
        self,
        dtype: torch.dtype = torch.bfloat16,
        sizes: tuple[int, int, int, int] = (6, 2, 64, 64),
        page_tokens: int = 16,
        held: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        heads, groups, k_size, v_size = sizes
        generator = torch.Generator().manual_seed(0)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator).to(dtype)

        self.q_THK = normal(TOKENS, heads, k_size)
        self.page_tokens = page_tokens
        (self.pages,) = falling_pages([TOKENS], page_tokens)
        self.caches = []
        scales = []
        for size in (k_size, v_size):
            places = [divmod(t, page_tokens) for t in range(TOKENS)]
            slots = [self.pages[page] * page_tokens + slot for page, slot in places]
            shape = len(self.pages) + 1, page_tokens, groups, size
            cache = torch.full(shape, math.nan).to(dtype)
            cache.flatten(0, 1)[slots] = normal(TOKENS, groups, size)
            if held is not None:
                cache, scale = rounded(cache, held)
                assert scale.isnan().any()
                scales.append(scale)
            self.caches.append(cache)
        self.options = {"scale": k_size**-0.5, "scales": tuple(scales), **options}

    def attend(self, *spans: tuple[int, int]) -> Sequence[Tensor]:
        """Of each [first, last) of the queries, as requests of one call."""
        paging = Paging.of(
            [self.pages[: -(-last // self.page_tokens)] for _, last in spans],
            [last - first for first, last in spans],
            [last for _, last in spans],
        )
        q_THK = torch.cat([self.q_THK[first:last] for first, last in spans])
        assert IMPL.supports(q_THK, *self.caches, paging, **self.options)
        out = IMPL.function(q_THK, *self.caches, paging, **self.options)
        return out.split([last - first for first, last in spans])

    def wanted(self, first: int, last: int) -> Tensor:
        paging = Paging.of([self.pages], [last - first], [last])
        arguments, options = map_tensors(
            Tensor.double, ((self.q_THK[first:last], *self.caches), self.options)
        )
        return ops.paged_attention.reference(*arguments, paging, **options)


@pytest.mark.parametrize("dtype", list(native.DTYPES), ids=lambda d: str(d)[6:])
@pytest.mark.parametrize(
    "sizes", [(9, 3, 64, 64), (4, 2, 128, 128), (8, 1, 80, 48), (3, 3, 33, 17)], ids=str
)
@pytest.mark.parametrize("held", [None, *LARGEST], ids=str)
def test_values(
    dtype: torch.dtype, sizes: tuple[int, int, int, int], held: torch.dtype | None
) -> None:
    """Rounded keys and values are the definition's too: nothing more may be lost."""
    prompt = Prompt(dtype, sizes, held=held)
    spans = [(0, 40), (590, TOKENS), (511, 512), (619, TOKENS)]
    for got, span in zip(prompt.attend(*spans), spans, strict=True):
        wanted = prompt.wanted(*span)
        allowed = tolerance(dtype, TOKENS) * (wanted.abs() + wanted.square().mean().sqrt())
        assert ((got.double() - wanted).abs() <= allowed).all()


@pytest.mark.parametrize(
    ("page_tokens", "options"),
    [
        (16, {}),
        (7, {"window": 300}),
        (64, {"soft_cap": 2.0}),
        (16, {"sinks_H": True}),
        (16, {"held": torch.int8}),
        (7, {"held": torch.float8_e4m3fn, "window": 300}),
    ],
    ids=lambda x: str(x),
)
def test_one_row_has_one_result(page_tokens: int, options: dict[str, Any]) -> None:
    """Alone, beside others, in chunks small and large, on one thread and on two."""
    if options.get("sinks_H"):
        options = {"sinks_H": torch.linspace(-2, 2, 6).bfloat16()}
    prompt = Prompt(page_tokens=page_tokens, **options)
    whole = prompt.attend((0, TOKENS))[0].view(torch.int16)
    divisions = [
        [(0, 1), (1, 9), (9, 300), (300, TOKENS)],
        [(600, 601), (0, 64), (255, 257), (64, 255), (619, TOKENS)],
        *([(t, t + 1)] for t in (0, 31, 255, 256, 511, 619)),
    ]
    try:
        for count, some in ((1, divisions), (2, divisions[:2])):
            native.use_threads(count)
            for spans in some:
                for got, (first, last) in zip(prompt.attend(*spans), spans, strict=True):
                    assert torch.equal(got.view(torch.int16), whole[first:last])
    finally:
        native.use_threads(1)


def test_a_request_without_keys_is_zero() -> None:
    """Spare rows of a recorded step: they have a query and no context."""
    prompt = Prompt()
    paging = Paging.of([prompt.pages, [0]], [1, 1], [TOKENS, 0])
    q_THK = prompt.q_THK[[TOKENS - 1, 0]]
    out = IMPL.function(q_THK, *prompt.caches, paging, **prompt.options)
    assert torch.equal(out[:1], prompt.attend((TOKENS - 1, TOKENS))[0])
    assert (out[1] == 0).all()
