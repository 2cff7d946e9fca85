"""How numbers are kept and multiplied on a planned device: bytes a weight, and which peak.

Knows formats. Does not know models or devices.
"""

from dataclasses import dataclass, replace

from pieria.engine.runner_config import KV_CACHE_DTYPES


@dataclass(frozen=True)
class Precision:
    """name: as `--quantize` takes it.

    weight_bytes: of one weight of a quantized matrix, scales included. peak: the dtype whose peak
    (`DeviceSpec.peak`) its products have. dtype: torch's name of what layers hand on, and of what
    is not a matrix of a layer: embeddings, the head, norms. kv_dtype: torch's name of what keys and
    values are held in; None: `dtype`. experts_only: matrices outside of experts stay in `dtype`.
    """

    name: str
    weight_bytes: float
    peak: str
    dtype: str = "bfloat16"
    kv_dtype: str | None = None
    experts_only: bool = False

    @property
    def kv_bytes(self) -> int:
        """Of one remembered number."""
        import torch  # takes a second, which a command's help need not wait for

        held: torch.dtype = getattr(torch, self.kv_dtype or self.dtype)
        return held.itemsize

    def with_cache(self, name: str) -> "Precision":
        """The same with keys and values as `--kv-cache-dtype` names it."""
        return replace(self, kv_dtype=KV_CACHE_DTYPES[name])


PRECISIONS: dict[str, Precision] = {
    p.name: p
    for p in (
        Precision("float32", 4.0, "float32", "float32"),
        Precision("float16", 2.0, "float16", "float16"),
        Precision("bfloat16", 2.0, "bfloat16"),
        # One scale a tensor or row.
        Precision("fp8", 1.0, "float8_e4m3fn"),
        # A float32 scale for each 128 x 128 block (DeepSeek-V3, arXiv:2412.19437, section 3.3).
        Precision("fp8_block", 1.0 + 4 / 128**2, "float8_e4m3fn"),
        Precision("int8", 1.0, "int8"),
        # A bfloat16 scale for each 128 weights of a row (AWQ, GPTQ); multiplied in bfloat16.
        Precision("int4", 0.5 + 2 / 128, "bfloat16"),
        # As Kimi-K2.5 is published.
        Precision("int4_experts", 0.5 + 2 / 32, "bfloat16", experts_only=True),
        # As gpt-oss is published: a byte of exponent for each 32 weights (OCP Microscaling 1.0).
        Precision("mxfp4", 0.5 + 1 / 32, "bfloat16", experts_only=True),
        # A float8 scale for each 16 weights, and multiplied as they are (NVFP4).
        Precision("nvfp4", 0.5 + 1 / 16, "float4_e2m1fn"),
    )
}


def precision(name: str) -> Precision:
    """ValueError for a name that is not known."""
    if name not in PRECISIONS:
        raise ValueError(f"quantize={name!r}; there are: {', '.join(PRECISIONS)}")
    return PRECISIONS[name]
