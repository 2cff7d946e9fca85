"""Numbers of 8 bits with an exponent times a scale, as FP8 checkpoints hold them.

A scale belongs to an output, or to a block of 128 outputs and 128 inputs (DeepSeek-V3,
arXiv:2412.19437, section 3.3). A product takes its other operand in E4M3 with a scale for each 128
inputs, and adds up in float32.

O outputs, I inputs; any dimensions may stand before.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pieria.ops.formats import activations
from pieria.ops.weight import Weight

BLOCK = 128
KINDS = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}


@dataclass(frozen=True)
class Float8:
    """kind: e4m3 or e5m2. blocks: whether a scale belongs to a block of 128 x 128.

    tensors of a weight: codes, a float8 dtype [.., O, I]; scales, float32 [.., O, 1] or of blocks
    [.., O / 128, I / 128], both rounded up.
    """

    kind: str = "e4m3"
    blocks: bool = False

    @property
    def name(self) -> str:
        return f"fp8{'' if self.kind == 'e4m3' else '-' + self.kind}{'-block' * self.blocks}"

    @property
    def unit(self) -> int:
        """Inputs that a cut may not separate; of blocks, outputs too."""
        return BLOCK if self.blocks else 1

    def nbytes(self, shape: tuple[int, ...]) -> int:
        """Of a weight that `quantize` makes."""
        *stack, outputs, inputs = shape
        scales = -(-outputs // BLOCK) * -(-inputs // BLOCK) if self.blocks else outputs
        return int(torch.Size(stack).numel()) * (outputs * inputs + 4 * scales)

    def quantize(self, tensor: Tensor) -> Weight:
        """To the nearest, of a tensor [.., O, I]. ValueError for a number that is not finite."""
        dtype = KINDS[self.kind]
        limit = torch.finfo(dtype).max
        codes = torch.empty(tensor.shape, dtype=dtype, device=tensor.device)
        *stack, outputs, inputs = tensor.shape
        made = []
        # A matrix at a time, of that a block's rows: little is held in float32.
        for matrix, into in zip(
            tensor.reshape(-1, outputs, inputs), codes.view(-1, outputs, inputs), strict=True
        ):
            rows = []
            for part, out in zip(matrix.split(BLOCK), into.split(BLOCK), strict=True):
                if not part.isfinite().all():
                    raise ValueError("there are numbers that are not finite")
                wide = part.float()
                scales = self._most(wide) / limit
                each = self._each(scales, wide.shape)
                out.copy_(torch.where(each > 0, wide / each, 0).clamp(-limit, limit))
                rows.append(scales)
            made.append(torch.cat(rows))
        scales = torch.stack(made).view(*stack, -1, made[0].shape[-1])
        return Weight(self, tuple(tensor.shape), tensor.dtype, (codes, scales))

    def values(self, weight: Weight) -> Tensor:
        """float32."""
        codes, scales = weight.tensors
        return codes.float() * self._each(scales, codes.shape)

    def rounded(self, x: Tensor) -> Tensor:
        return activations.Float8(torch.float8_e4m3fn, BLOCK)(x)

    def _most(self, rows_OI: Tensor) -> Tensor:
        most = rows_OI.abs()
        if not self.blocks:
            return most.amax(-1, keepdim=True)
        padded = torch.nn.functional.pad(most, (0, -most.shape[-1] % BLOCK))
        return torch.unflatten(padded, -1, (-1, BLOCK)).amax((0, -1)).unsqueeze(0)

    def _each(self, scales: Tensor, shape: torch.Size) -> Tensor:
        """Each number's scale, or what is broadcast to it."""
        if not self.blocks:
            return scales
        rows = scales.repeat_interleave(BLOCK, -2)[..., : shape[-2], :]
        return rows.repeat_interleave(BLOCK, -1)[..., : shape[-1]]
