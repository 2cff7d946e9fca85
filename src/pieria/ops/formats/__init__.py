"""The formats that weights are stored in with fewer bits, and their names."""

from pieria.ops.formats.float8 import Float8
from pieria.ops.formats.ggml import Blocks
from pieria.ops.formats.integer import Integer
from pieria.ops.formats.parts import Parts, Scales

_ALL: tuple[Integer | Float8, ...] = (
    Integer(8),
    Integer(8, 32),
    *(Integer(4, group, zero) for zero in (False, True) for group in (32, 64, 128)),
    Float8(),
    Float8("e5m2"),
    Float8("e4m3", blocks=True),
)

QUANTIZED = {format.name: format for format in _ALL}
"""Those that a tensor can be brought into, by name."""

__all__ = ["QUANTIZED", "Blocks", "Float8", "Integer", "Parts", "Scales"]
