"""The angles of rotary position embedding (Su et al. 2021, arXiv:2104.09864), for all heads.

T tokens, R dimension pairs.
"""

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from pieria.ops.op import Case, Cost, Inputs, nbytes, op, widen


@op
def rotary(
    positions_T: Tensor, frequencies_R: Tensor, magnitude: float = 1.0
) -> tuple[Tensor, Tensor]:
    """(cos_TR, sin_TR) of positions_T * frequencies_R, times `magnitude`, in float32 or wider.

    positions_T: int64.
    """
    frequencies_R = widen(frequencies_R)
    angle_TR = positions_T.to(frequencies_R.dtype)[:, None] * frequencies_R
    return angle_TR.cos() * magnitude, angle_TR.sin() * magnitude


@rotary.shapes
def _(positions_T: Tensor, frequencies_R: Tensor, magnitude: float = 1.0) -> tuple[Tensor, Tensor]:
    shape = (positions_T.shape[0], frequencies_R.shape[0])
    wide = widen(frequencies_R)
    return wide.new_empty(shape), wide.new_empty(shape)


@rotary.cost
def _(
    out: tuple[Tensor, Tensor], positions_T: Tensor, frequencies_R: Tensor, magnitude: float = 1.0
) -> Cost:
    return Cost(flops=5 * out[0].numel(), bytes=nbytes(positions_T, frequencies_R, *out))


@rotary.row
def _(i: int, positions_T: Tensor, *rest: Any) -> tuple[Any, ...]:
    return positions_T[i : i + 1], *rest


@rotary.cases
def _(make: Inputs) -> Iterator[Case]:
    # The rounding error of an angle grows with the position, as that of a sum of so many terms.
    yield Case("start", (make.integers(0, 8, 3), _frequencies(make, 2)), reduction=8)
    yield Case("far", (make.integers(0, 4096, 33), _frequencies(make, 32)), reduction=4096)
    yield Case("magnitude", (make.integers(0, 64, 5), _frequencies(make, 16), 1.25), reduction=64)
    for tokens in (1, 32, 512):
        arguments = (make.integers(0, 4096, tokens), _frequencies(make, 32))
        yield Case(f"{tokens}x32", arguments, reduction=4096, bench=True)


def _frequencies(make: Inputs, pairs: int) -> Tensor:
    return make.tensor([10_000.0 ** (-i / pairs) for i in range(pairs)])
