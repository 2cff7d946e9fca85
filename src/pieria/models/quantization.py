"""Which format each weight of a model is held in. Knows names, shapes and cuts; reads no numbers.

The embedding and the output layer, whose errors reach every token, are held in 8 bits where others
are held in 4.
"""

from collections.abc import Mapping

from pieria.models.decoder import Decoder
from pieria.models.parts import Logical
from pieria.models.stored_tensor import NumberFormat
from pieria.ops.formats import QUANTIZED, Blocks, Float8, Integer

NONE, STORED = "none", "stored"
"""Numbers in the model's dtype; in fewer bits where files have them so."""

SHORT = {"int4": "int4-g32"}
"""Other names of formats."""

NAMES = (NONE, STORED, *QUANTIZED, *SHORT)

AnyFormat = Integer | Float8 | Blocks


def formats(
    name: str,
    model: Decoder,
    logical: Mapping[str, Logical],
    stored: Mapping[str, NumberFormat],
) -> dict[str, AnyFormat]:
    """The format of each weight of this rank that is not held in its dtype.

    stored: what a file has in blocks that can be kept. ValueError for an unknown name, and, naming
    the weight and the rule, where groups would be cut.
    """
    if name not in NAMES:
        raise ValueError(f"quantize={name!r}; there are: auto, {', '.join(NAMES)}")
    name = SHORT.get(name, name)
    found: dict[str, AnyFormat] = {}
    for module in model.declaring():
        weight = f"{module.path}.weight"
        if name == NONE or not module.quantizable or (name == STORED and weight not in stored):
            continue
        if name == STORED:
            numbers = stored[weight]
            format: AnyFormat = Blocks(numbers.name, numbers.block, numbers.block_bytes)
        else:
            outer = module.path in ("embed", "head")
            format = Integer(8) if outer and name.startswith("int4") else QUANTIZED[name]
        _check(weight, format, logical[weight], model)
        found[weight] = format
    return found


def _check(weight: str, format: AnyFormat, logical: Logical, model: Decoder) -> None:
    spans = logical.shard.spans(logical.shape, model.mesh)
    cut = {c.dim for c in logical.shard.cuts if model.mesh.group(c.axis).size > 1}
    last = len(spans) - 1
    dims = {last: format.unit}
    if isinstance(format, Float8) and format.blocks and last - 1 in cut:
        dims[last - 1] = format.unit
    for dim, unit in dims.items():
        exact = dim in cut or not isinstance(format, Float8)
        if exact and any(edge % unit for edge in spans[dim]):
            of = f"{logical.shape[dim]} {'inputs' if dim == last else 'outputs'}"
            over = f", of which this rank has {spans[dim]}," if dim in cut else ""
            raise ValueError(
                f"{weight}: {of}{over} do not divide into groups of {unit}, which {format.name}"
                " keeps together; quantize=none or another format would do"
            )
