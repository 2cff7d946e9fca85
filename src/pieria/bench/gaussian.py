"""The error of one product by format, with Gaussian weights of the shapes that a model has.

For models of which only sizes are known. A format's error does not depend on how many outputs
there are, so some of each matrix's are enough. Does not know files.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from pieria.engine.runner_config import DTYPES
from pieria.models.decoder import Decoder
from pieria.models.jiutian_35b import CONFIGS
from pieria.models.keys import Keys
from pieria.models.registry import model_config
from pieria.ops import Weight
from pieria.ops.formats import QUANTIZED
from pieria.ops.weight import product
from pieria.parallel.mesh import Mesh

OUTPUTS, TOKENS = 256, 64


@dataclass(frozen=True)
class Errors:
    """One format's |y - y'| / |y| of each kind of layer; None where it does not fit the inputs."""

    format: str
    layers: dict[str, float | None]


def inputs(name: str) -> dict[str, int]:
    """Weights of the model `name` that can be in fewer bits, by kind -> their inputs."""
    config = model_config(Keys(CONFIGS[name], name))
    model = Decoder(config, Mesh(), torch.bfloat16)
    found: dict[str, int] = {}
    for module in model.declaring():
        if module.quantizable:
            path = ".".join(part for part in module.path.split(".") if not part.isdecimal())
            found[path.removeprefix("layers.")] = module.logical["weight"].shape[-1]
    return found


def measure(
    name: str, formats: Sequence[str], advance: Callable[[], None] = lambda: None
) -> list[Errors]:
    """Of each format; `advance()` is called after each. Weights N(0, 1 / I), inputs N(0, 1)."""
    shapes = inputs(name)
    exact = {size: _drawn(size) for size in set(shapes.values())}
    found = []
    for format in formats:
        errors = {size: _error(format, *matrices) for size, matrices in exact.items()}
        found.append(Errors(format, {kind: errors[size] for kind, size in shapes.items()}))
        advance()
    return found


def table(found: Sequence[Errors], title: str) -> Table:
    """A row for each format, a column for each kind of layer."""
    made = Table(title=title, title_justify="left")
    made.add_column("format")
    kinds = list(found[0].layers)
    for kind in kinds:
        made.add_column(kind, justify="right")
    for one in found:
        values: list[Any] = [one.layers[kind] for kind in kinds]
        made.add_row(one.format, *("-" if v is None else f"{v:.2e}" for v in values))
    return made


def _drawn(size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Weights [O, I] and inputs [T, I], float64 numbers that float32 has, and their product."""
    chance = torch.Generator().manual_seed(size)
    weight_OI = torch.randn(OUTPUTS, size, generator=chance) * size**-0.5
    x_TI = torch.randn(TOKENS, size, generator=chance)
    return weight_OI, x_TI, x_TI.double() @ weight_OI.double().T


def _error(format: str, weight_OI: Tensor, x_TI: Tensor, y_TO: Tensor) -> float | None:
    held: Tensor | Weight
    if format in DTYPES:
        dtype = getattr(torch, format)
        held, x_TI = weight_OI.to(dtype), x_TI.to(dtype)
    else:
        chosen = QUANTIZED[format]
        if weight_OI.shape[1] % chosen.unit:
            return None
        held = chosen.quantize(weight_OI)
    return float((product(x_TI, held).double() - y_TO).norm() / y_TO.norm())
