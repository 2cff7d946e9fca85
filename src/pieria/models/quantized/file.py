"""A file's tensors with the matrices that it keeps in fewer bits in place of what they are kept as.

Reads a matrix's part as a `Weight` where there is a format of ours for it, and any part of it as
numbers.
"""

import logging
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from pieria.models.quantized import compressed_tensors, config, fp8, gptq
from pieria.models.quantized.stored import Span, Stored
from pieria.models.stored_tensor import NumberFormat
from pieria.models.tensor_reader import TensorReader
from pieria.ops import Weight
from pieria.ops.weight import dense

log = logging.getLogger(__name__)

AT_ONCE = 1 << 20
"""Numbers of a matrix that are made of their parts together."""

BESIDE = (
    *(".input_scale", ".input_zero_point", ".output_scale", ".activation_scale"),
    *(".k_scale", ".v_scale", ".q_scale", ".kv_cache_scaling_factor"),
)
"""Ends of the names of tensors about activations, whose scales are found while computing."""


class QuantizedFile:
    """X.weight for what the file has as X.weight_packed, X.qweight and so on; a `TensorFile`.

    ValueError for numbers in few bits without what they are to be multiplied with.
    """

    def __init__(self, file: TensorReader, said: config.Quantization) -> None:
        self._file = file
        self._matrices = {f"{s.names[0].rpartition('.')[0]}.weight": s for s in _stored(file, said)}
        why = Counter(s.why_dense for s in self._matrices.values() if s.why_dense)
        for reason, count in why.items():
            log.warning("%d matrices are held dequantized: %s", count, reason)

    def names(self) -> list[str]:
        parts = {name for s in self._matrices.values() for name in s.names} | self._matrices.keys()
        others = (n for n in self._file.names() if n not in parts and not n.endswith(BESIDE))
        return [*others, *self._matrices]

    def shape(self, name: str) -> tuple[int, ...]:
        """ValueError for an unknown name, or for parts that do not fit."""
        found = self._matrices.get(name)
        return self._file.shape(name) if found is None else found.shape()

    def blocks(self, name: str) -> NumberFormat | None:
        """None: what is packed here is in tensors of its own."""
        return None

    def read_into(self, name: str, out: Tensor, first: Sequence[int] = ()) -> None:
        """As of any `TensorFile`."""
        found = self._matrices.get(name)
        if found is None:
            self._file.read_into(name, out, first)
            return
        row, column = first or (0, 0)
        unit_O, unit_I = found.unit
        outputs, inputs = found.shape()
        wide = _around((column, column + out.shape[1]), unit_I, inputs)
        rows = max(1, AT_ONCE // (wide[1] - wide[0]) // unit_O) * unit_O
        for begin in range(row // unit_O * unit_O, row + len(out), rows):
            span = begin, min(begin + rows, outputs)
            part = found.read(span, wide, torch.float32)
            numbers = dense(part)
            low, high = max(row, span[0]), min(row + len(out), span[1])
            within = numbers[low - span[0] : high - span[0]]
            out[low - row : high - row] = within.narrow(1, column - wide[0], out.shape[1])

    def held(
        self,
        name: str,
        shape: Sequence[int],
        first: Sequence[int],
        dtype: torch.dtype,
        turned: bool = False,
    ) -> Weight | None:
        """As of any `TensorFile`; not turned."""
        found = self._matrices.get(name)
        if found is None or found.why_dense is not None or turned:
            return None
        spans = [(low, low + size) for low, size in zip(first, shape, strict=True)]
        for span, unit, whole, kind in zip(
            spans, found.unit, found.shape(), ("outputs", "inputs"), strict=True
        ):
            if _around(span, unit, whole) != span:
                raise ValueError(
                    f"tensor {found.names[0]}: {kind} {span[0]} to {span[1]} are wanted here, and"
                    f" each {unit} share a scale; another number of ranks may divide them"
                )
        part = found.read(spans[0], spans[1], dtype)
        assert isinstance(part, Weight)
        return part


def _around(span: Span, unit: int, whole: int) -> Span:
    """The least whole units that the span is in."""
    return span[0] // unit * unit, min(-(-span[1] // unit) * unit, whole)


def _stored(file: TensorReader, said: config.Quantization) -> list[Stored]:
    ends = {
        config.CompressedTensors: (".weight_packed", ".weight_scale"),
        config.Float8: (".weight_scale_inv", ".weight_scale"),
        config.Gptq: (".qweight",),
        config.Awq: (".qweight",),
        config.Mxfp4: (),
    }[type(said)]
    modules = {n.removesuffix(end) for n in file.names() for end in ends if n.endswith(end)}
    bare = {n.removesuffix(".weight") for n in file.names() if n.endswith(".weight")}
    few = (*fp8.KINDS, "I8")
    modules |= {module for module in bare if file.kind(f"{module}.weight") in few}
    found: list[Stored] = []
    for module in sorted(modules):
        match said:
            case config.CompressedTensors(groups):
                found.append(_compressed(file, module, groups))
            case config.Float8(block):
                inverse = f"{module}.weight_scale_inv" in file or block is not None
                scale = "weight_scale_inv" if inverse else "weight_scale"
                found.append(fp8.Fp8(file, module, scale, block))
            case config.Gptq():
                found.append(gptq.Gptq(file, module, **vars(said)))
            case config.Awq():
                found.append(gptq.Awq(file, module, said.group, said.zeros))
            case config.Mxfp4():
                raise ValueError(f"tensor {module}.weight holds numbers that mxfp4 does not have")
    return found


def _compressed(file: TensorReader, module: str, groups: tuple[config.Group, ...]) -> Stored:
    numbers = next((group.numbers for group in groups if group.holds(module)), None)
    kept: Stored
    wanted: str | None = None
    match numbers:
        case config.Integers():
            kept = integers = compressed_tensors.Integers(file, module, **vars(numbers))
            wanted = "I32" if integers.packed else "I8"
        case config.Float8(block):
            kept = fp8.Fp8(file, module, "weight_scale", block)
        case config.Mxfp4():
            kept, wanted = compressed_tensors.Mxfp4(file, module), "U8"
        case None:
            raise ValueError(f"no group of config_groups says how {module} is kept")
    kind = file.kind(kept.names[0])
    if kind not in ((wanted,) if wanted else fp8.KINDS):
        raise ValueError(
            f"tensor {kept.names[0]} holds {kind} numbers; its group in config_groups means"
            f" {wanted or ' or '.join(fp8.KINDS)}"
        )
    return kept
