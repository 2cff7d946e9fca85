"""A short convolution over the last tokens of each channel, then SiLU (arXiv:2312.00752).

T tokens of R requests side by side, C channels, W tokens that one sees, P = W - 1 of them before
itself, S slots; L tokens of one request.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pieria.ops.op import Backward, Case, Cost, Inputs, nbytes, op, wide_bytes, widen
from pieria.ops.slots import Slots, some_slots


@op
def causal_conv(x_TC: Tensor, weight_CW: Tensor, state_SPC: Tensor, slots: Slots) -> Tensor:
    """y_TC = silu(sum_W weight_CW x_(T-P+W)C) in float32 or wider.

    What x was before a request's first token is in its state; its last P tokens are left there.
    """
    wide_CW = widen(weight_CW)
    made, left = [], []
    requests = zip(torch.split(x_TC, list(slots.lengths)), slots.before(state_SPC), strict=True)
    for x_LC, before_PC in requests:
        seen = torch.cat([before_PC.to(x_LC.dtype), x_LC])
        made.append((widen(seen).unfold(0, wide_CW.shape[1], 1) * wide_CW).sum(-1))
        left.append(seen[len(x_LC) :])
    state_SPC[slots.writes_R] = torch.stack(left).detach().to(state_SPC.dtype)
    return F.silu(torch.cat(made)).to(x_TC.dtype)


causal_conv.writes = ("state_SPC",)


@causal_conv.shapes
def _(x_TC: Tensor, weight_CW: Tensor, state_SPC: Tensor, slots: Slots) -> Tensor:
    return torch.empty_like(x_TC)


@causal_conv.cost
def _(out: Tensor, x_TC: Tensor, weight_CW: Tensor, state_SPC: Tensor, slots: Slots) -> Cost:
    return Cost(
        flops=(2 * weight_CW.shape[1] + 4) * x_TC.numel(),
        bytes=nbytes(x_TC, weight_CW, out) + slots.nbytes(state_SPC),
    )


@causal_conv.backward
def _(out: Tensor, x_TC: Tensor, weight_CW: Tensor, state_SPC: Tensor, slots: Slots) -> Backward:
    wide = wide_bytes(x_TC)
    is_wide = x_TC.element_size() == wide
    tokens, channels = x_TC.shape
    seen = tokens + len(slots.lengths) * state_SPC.shape[1]
    return Backward(
        Cost(
            flops=(4 * weight_CW.shape[1] + 8) * x_TC.numel(),
            bytes=2 * nbytes(x_TC, weight_CW) + nbytes(out),
        ),
        saved=(weight_CW,) if is_wide else (),
        # What the convolution and the SiLU were given, and a copy of the weight if it was widened.
        extra_bytes=wide * ((seen + tokens) * channels + (0 if is_wide else weight_CW.numel())),
    )


@causal_conv.row
def _(i: int, x_TC: Tensor, weight_CW: Tensor, state_SPC: Tensor, slots: Slots) -> tuple[Any, ...]:
    tokens, slots = slots.token(i)
    return x_TC[tokens], weight_CW, state_SPC, slots


@causal_conv.cases
def _(make: Inputs) -> Iterator[Case]:
    def case(
        name: str,
        lengths: tuple[int, ...],
        sizes: tuple[int, int],
        fresh: tuple[int, ...] = (),
        bench: bool = False,
    ) -> Case:
        channels, width = sizes
        slots = some_slots(make, lengths, fresh)
        arguments = (
            make.normal(sum(lengths), channels),
            make.normal(channels, width, scale=width**-0.5),
            make.normal(2 * len(lengths), width - 1, channels),
            slots,
        )
        return Case(name, arguments, reduction=width, bench=bench)

    yield case("tiny", (2, 1), (3, 3), fresh=(0, 1))
    yield case("tiny, one token wide", (3,), (2, 1))
    yield case("single tokens", (1, 1, 1), (40, 4), fresh=(1,))
    yield case("chunks", (7, 2, 30), (24, 4), fresh=(0,))
    yield case("shorter than what is kept", (3, 1, 2, 5), (16, 6), fresh=(2, 3))
    for tokens in (1, 32):
        yield case(f"{tokens} single tokens", (1,) * tokens, (8192, 4), bench=True)
    yield case("512", (512,), (8192, 4), fresh=(0,), bench=True)
