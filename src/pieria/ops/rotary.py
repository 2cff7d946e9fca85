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
def _(i: int, positions_T: Tensor, *rest: Any, **options: Any) -> tuple[Any, ...]:
    return positions_T[i : i + 1], *rest


@rotary.cases
def _(make: Inputs) -> Iterator[Case]:
    def case(name: str, tokens: int, pairs: int, last: int, bench: bool = False, **k: Any) -> Case:
        # An angle is off by a rounding of the position, as a sum of position^2 terms is.
        arguments = (make.integers(0, last, tokens), _frequencies(make, pairs))
        return Case(name, arguments, k, last**2, bench)

    yield case("start", 3, 2, 8)
    yield case("far", 33, 32, 4096)
    yield case("magnitude", 5, 16, 64, magnitude=1.25)
    for tokens in (1, 32, 512):
        yield case(f"{tokens}x32", tokens, 32, 4096, bench=True)


def _frequencies(make: Inputs, pairs: int) -> Tensor:
    return make.tensor([10_000.0 ** (-i / pairs) for i in range(pairs)])
