"""Matrices in FP8 with scales: X.weight and X.weight_scale_inv, or X.weight_scale.

A scale belongs to a block (DeepSeek-V3's layout, [O / 128, I / 128] rounded up), an output ([O] or
[O, 1]) or the whole tensor ([] or [1]); numbers are multiplied with it under either name. O
outputs, I inputs.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pieria.models.quantized.stored import Span, box, scales
from pieria.models.tensor_reader import TensorReader
from pieria.ops import Weight
from pieria.ops.formats import Float8

KINDS = {"F8_E4M3": "e4m3", "F8_E5M2": "e5m2"}
CODES = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}
NATIVE = (128, 128)


@dataclass(frozen=True)
class Fp8:
    """module: X. scale: the last part of the scales' name. block: outputs and inputs of one."""

    file: TensorReader
    module: str
    scale: str
    block: tuple[int, int] | None

    @property
    def names(self) -> tuple[str, ...]:
        return f"{self.module}.weight", f"{self.module}.{self.scale}"

    @property
    def kind(self) -> str:
        return KINDS[self.file.kind(self.names[0])]

    @property
    def why_dense(self) -> str | None:
        if self.block in (None, NATIVE) and (self.block is None or self.kind == "e4m3"):
            return None
        return f"blocks of {self.block} in {self.kind}; held are {NATIVE} in e4m3"

    @property
    def unit(self) -> tuple[int, int]:
        return self.block or (1, 1)

    def shape(self) -> tuple[int, int]:
        stored = self.file.shape(self.names[0])
        if len(stored) != 2:
            raise ValueError(f"tensor {self.names[0]} has shape {stored}, which is no matrix's")
        if self.names[1] not in self.file:
            raise ValueError(
                f"tensor {self.names[1]} is missing: {self.names[0]} holds FP8 numbers"
            )
        found = self.file.shape(self.names[1])
        outputs, inputs = stored
        allowed: tuple[tuple[int, ...], ...] = ((), (1,), (1, 1), (outputs,), (outputs, 1))
        if self.block is not None:
            allowed = ((-(-outputs // self.block[0]), -(-inputs // self.block[1])),)
        if found not in allowed:
            raise ValueError(
                f"tensor {self.names[1]} has shape {found}; of {outputs} x {inputs} numbers wanted"
                f" is {' or '.join(map(str, allowed))}"
            )
        return outputs, inputs

    def read(self, outputs: Span, inputs: Span, dtype: torch.dtype) -> Weight | Tensor:
        codes = box(self.file, self.names[0], CODES[self.kind], outputs, inputs)
        # 0x7f of e4m3 and above 0x7c of e5m2, beside the sign; the latter has infinities too.
        magnitudes = codes.view(torch.uint8) & 127
        if (magnitudes >= (127 if self.kind == "e4m3" else 124)).any():
            raise ValueError(f"tensor {self.names[0]}: there are numbers that are not finite")
        scales_ = self._scales(outputs, inputs)
        format = Float8(self.kind, self.block is not None)
        weight = Weight(format, tuple(codes.shape), dtype, (codes, scales_))
        if self.why_dense is None:
            return weight
        assert self.block is not None
        rows = scales_.repeat_interleave(self.block[0], 0)[: codes.shape[0]]
        return codes.float() * rows.repeat_interleave(self.block[1], 1)[:, : codes.shape[1]]

    def _scales(self, outputs: Span, inputs: Span) -> Tensor:
        name, stored = self.names[1], self.file.shape(self.names[1])
        if self.block is not None:
            spans = [
                (low // size, -(-high // size))
                for (low, high), size in zip((outputs, inputs), self.block, strict=True)
            ]
        else:
            # The first dimension may be the outputs; all others have one element.
            one = len(stored) == 0 or stored[0] == 1
            spans = [(0, 1) if one or i else outputs for i in range(len(stored))]
        found = scales(self.file, name, *spans, dtype=torch.float32)
        if self.block is not None:
            return found
        return found.reshape(-1, 1).expand(outputs[1] - outputs[0], 1).contiguous()
