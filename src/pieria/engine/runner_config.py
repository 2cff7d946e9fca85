"""How a model is placed on a device, as the caller asks for it. Torch-free.

Knows what may be asked. `resolve.py` turns it into what is done, with a reason for each decision.
"""

from dataclasses import dataclass

from pieria.config import option, size

FACTORY = "pieria.engine.ranks:prepare"
"""What makes the runner of a device that is here, from a `RunnerConfig`."""

DTYPES = ("auto", "float64", "float32", "bfloat16", "float16")

KV_CACHE_DTYPES = {
    "auto": None,
    "int8": "int8",
    "fp8": "float8_e4m3fn",
    "fp8_e4m3": "float8_e4m3fn",
}
"""How keys and values may be held, by the names that vLLM has; None: in the dtype that is computed
in.
"""


@dataclass(frozen=True)
class RunnerConfig:
    """Model and device"""

    model: str = option("", positional=True, help="short name, hub id, folder or GGUF file")
    dtype: str = option(
        "auto", choices=DTYPES, help="in which dtype weights are held and computed with"
    )
    quantize: str = option(
        "auto",
        aliases=("--quantization",),
        help="format of weights: none, stored (as the files have them), int8, int8-g32,"
        " int4[-g64|-g128][-zp], fp8, fp8-e5m2 or fp8-block; auto: stored",
    )
    kv_cache_dtype: str = option(
        "auto",
        choices=tuple(KV_CACHE_DTYPES),
        help="how keys and values are held: as they are computed, or as int8 or E4M3 with a scale"
        " for each token and head",
    )
    device: str = option("auto", help="auto, cpu, or a GPU's name as `pieria devices` prints it")
    max_model_len: int | None = option(
        None, help="most tokens of one request, prompt and output; default: what the model allows"
    )
    tensor_parallel_size: int = option(
        1, aliases=("--tp",), help="over how many processes each weight is cut"
    )
    pipeline_parallel_size: int = option(
        1, aliases=("--pp",), help="over how many processes the layers are divided"
    )
    expert_parallel_size: int = option(
        1, aliases=("--ep",), help="over how many processes the experts are divided"
    )
    kv_cache_memory_bytes: int | None = option(
        None,
        parse=size,
        metavar="SIZE",
        help="size of the paged cache of each process, such as 4GiB; taken once there is time",
    )
    memory_fraction: float = option(
        0.5,
        aliases=("--mem-fraction-static",),
        help="share of the free memory that the cache may take where its size is not given",
    )
    block_size: int = option(16, help="tokens in a page of the cache")
    threads: int | None = option(
        None, help="compute threads; default: one per physical core that this process may use"
    )
    cpu_isa: str = option(
        "auto",
        aliases=("--cpu.isa",),
        help="instruction set of the kernels for processors: auto, avx512_bf16,"
        " avx512_vnni, avx512, avx2 or portable",
    )
    enforce_eager: bool = option(
        False, help="do not record the steps of running requests to replay them"
    )

    def __post_init__(self) -> None:
        if not self.model:
            raise ValueError("no model is given: a short name, hub id, folder or GGUF file")
        for name, low, high in (
            ("tensor_parallel_size", 1, 1024),
            ("pipeline_parallel_size", 1, 1024),
            ("expert_parallel_size", 1, 1024),
            ("block_size", 1, 1024),
            ("max_model_len", 1, 2**31 - 1),
            ("kv_cache_memory_bytes", 1, 2**63 - 1),
            ("threads", 1, 4096),
        ):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ValueError(f"{name}={value} must be from {low} to {high}")
        if not 0 < self.memory_fraction <= 1:
            raise ValueError(
                f"memory_fraction={self.memory_fraction} must be above 0 and at most 1"
            )
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype={self.dtype!r}; there are: {', '.join(DTYPES)}")
        if self.kv_cache_dtype not in KV_CACHE_DTYPES:
            raise ValueError(
                f"kv_cache_dtype={self.kv_cache_dtype!r}; there are: {', '.join(KV_CACHE_DTYPES)}"
            )
