"""Calls as the numbers that their time depends on, so that a step's time is a formula.

Knows ops by name and what their arguments mean. Knows no device and no seconds: `timing` does.

A number that grows with a step is given as it is in one step; `coefficients` finds out how it
grows. All bytes are those of the traced dtype; `Precision` says what formats change.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from pieria import ops
from pieria.plan.trace import Glue

Place = Literal["layer", "head", "wide"]
"""Of a matrix: inside a layer, where formats apply; the vocabulary's; computed in float32."""


@dataclass(frozen=True)
class Product:
    """Rows times a matrix [outer, inner]; with `parts` above 1, each part of a row times its own.

    gated: half of the outputs, activated, are multiplied by the other half.
    """

    op: str
    rows: float
    inner: int
    outer: int
    parts: int
    place: Place
    gated: bool = False


@dataclass(frozen=True)
class Stream:
    """Whatever moves bytes: norms, activations, writes to caches."""

    op: str
    flops: float
    bytes: float


@dataclass(frozen=True)
class Exchange:
    """A collective over `ranks` ranks, `stride` ranks apart.

    bytes: what one rank has before it, or after an all-gather. copies: in how many of them a token
    is sent to experts or comes back from them.
    """

    op: str
    bytes: float
    ranks: int
    stride: int
    copies: int = 1


@dataclass(frozen=True)
class Experts:
    """Gated networks of `here` of `total` experts for `tokens` tokens, `top` of them each."""

    op: str
    tokens: float
    top: int
    here: int
    total: int
    hidden: int
    size: int


@dataclass(frozen=True)
class Attention:
    """Queries and contexts of each request over keys of `groups` heads that are remembered.

    token_bytes: of what is remembered of a token, with scales if it has any.
    """

    op: str
    heads: int
    groups: int
    k_size: int
    v_size: int
    window: int | None
    token_bytes: int
    queries: tuple[int, ...]
    contexts: tuple[int, ...]


@dataclass(frozen=True)
class Latents:
    """The same over latents of `size` numbers, the first `rank` of which are the value.

    nope_dim, v_dim: of a head's keys and values if they are expanded. token_bytes: as above.
    """

    op: str
    heads: int
    size: int
    rank: int
    nope_dim: int
    v_dim: int
    token_bytes: int
    queries: tuple[int, ...]
    contexts: tuple[int, ...]


Work = Product | Stream | Exchange | Experts | Attention | Latents
Spans = Attention | Latents


def works(
    calls: Sequence[ops.Call | Glue], dtype: torch.dtype, in_layers: bool
) -> list[tuple[Work, object]]:
    """Each call with what tells its siblings: products of the same rows have equal second parts.

    dtype: the model's. in_layers: whether these are of the forward pass, not of its logits.
    """
    place: Place = "layer" if in_layers else "head"
    return [(_work(call, dtype, place), _rows_of(call)) for call in calls]


def fused(found: Sequence[tuple[Work, object]]) -> list[Work]:
    """As engines for GPUs run it: products of the same rows are one, a residual is added where it
    is normed, and neighbours of one name that only move bytes are one kernel.
    """
    made: list[Work] = []
    place: dict[tuple[object, str, int], int] = {}
    for work, rows in found:
        last = made[-1] if made else None
        if isinstance(work, Product):
            key = (rows, work.place, work.parts)
            if rows is not None and key in place and not work.gated:
                before = made[place[key]]
                assert isinstance(before, Product)
                made[place[key]] = replace(before, outer=before.outer + work.outer)
                continue
            place[key] = len(made)
        elif isinstance(work, Stream):
            if work.op in GLUE_FUSED:
                continue
            if isinstance(last, Stream) and last.op == work.op:
                made[-1] = replace(
                    last, flops=last.flops + work.flops, bytes=last.bytes + work.bytes
                )
                continue
        made.append(work)
    return made


GLUE_FUSED = frozenset({"add", "cast"})


def _rows_of(call: ops.Call | Glue) -> object:
    """What two products of the same rows share."""
    if isinstance(call, Glue) or call.op.name not in PRODUCTS:
        return None
    return id(call.arguments[0])


def _work(call: ops.Call | Glue, dtype: torch.dtype, place: Place) -> Work:
    if isinstance(call, Glue):
        return Stream(call.name, 0, call.bytes)
    if call.op.name in PRODUCTS:
        return _product(call, "wide" if call.arguments[0].dtype != dtype else place)
    make = MAKERS.get(call.op.name)
    if make is not None:
        return make(call)
    cost = call.cost
    return Stream(call.op.name, cost.flops, cost.bytes)


def _product(call: ops.Call, place: Place) -> Work:
    x = call.arguments[0]
    weights = PRODUCTS[call.op.name](call)
    inner = x.shape[-1]
    outer = sum(weight.shape[0] for weight in weights)
    is_gated = call.op.name == "gated_linear"
    return Product(call.op.name, x.numel() // inner, inner, outer, 1, place, is_gated)


PRODUCTS: dict[str, Callable[[ops.Call], Sequence[Any]]] = {
    "linear": lambda call: call.arguments[1:2],
    "linears": lambda call: call.arguments[1],
    "gated_linear": lambda call: call.arguments[1:3],
}
"""Ops whose matrices [outer, inner] all meet the same rows, and where those matrices are."""


def _head_linear(call: ops.Call) -> Work:
    x_THI, weight_HOI = call.arguments[:2]
    heads, outer, inner = weight_HOI.shape
    return Product(call.op.name, len(x_THI), inner, outer, heads, "head")


def _experts(call: ops.Call) -> Work:
    x_TD, _, experts_TA, gate_EFD = call.arguments[:4]
    here, size, hidden = gate_EFD.shape
    total = call.keywords.get("total") or here
    return Experts(call.op.name, len(x_TD), experts_TA.shape[1], here, total, hidden, size)


def _attention(call: ops.Call) -> Work:
    q_THK, k_PNGK, v_PNGV, paging = call.arguments[:4]
    return Attention(
        call.op.name,
        q_THK.shape[1],
        k_PNGK.shape[2],
        q_THK.shape[2],
        v_PNGV.shape[3],
        call.keywords.get("window"),
        _token_bytes(call, k_PNGK, v_PNGV),
        paging.queries,
        paging.contexts,
    )


def _latents(call: ops.Call) -> Work:
    q_THC, _, cache_PNL, paging = call.arguments[:4]
    _, heads, rank = q_THC.shape
    return Latents(
        call.op.name,
        heads,
        cache_PNL.shape[2],
        rank,
        0,
        0,
        _token_bytes(call, cache_PNL),
        paging.queries,
        paging.contexts,
    )


def _token_bytes(call: ops.Call, *caches: Tensor) -> int:
    held = *caches, *call.keywords.get("scales", ())
    return ops.nbytes(*(cache[0, 0] for cache in held))


def _exchange(call: ops.Call) -> Work:
    x, group = call.arguments[:2]
    stride = group.ranks[1] - group.ranks[0] if group.size > 1 else 1
    size = ops.nbytes(call.out if call.op.name == "all_gather" else x)
    if call.op.name in ("send", "receive"):
        # One message between neighbours; the receiving side waits for it and pays nothing else.
        silent = group.index == (group.size - 1 if call.op.name == "send" else group.index)
        return Exchange(call.op.name, 0 if silent else size, min(group.size, 2), stride)
    return Exchange(call.op.name, size, group.size, stride)


MAKERS: dict[str, Callable[[ops.Call], Work]] = {
    "head_linear": _head_linear,
    "experts": _experts,
    "paged_attention": _attention,
    "paged_latent_attention": _latents,
    **dict.fromkeys(("all_reduce", "all_gather", "broadcast", "send", "receive"), _exchange),
}
"""What is timed by its shape; any other op is what it costs."""
