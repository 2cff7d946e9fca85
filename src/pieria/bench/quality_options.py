"""What `pieria quality` may be asked for. Torch-free."""

from dataclasses import dataclass
from pathlib import Path

from pieria.config import option
from pieria.engine.runner_config import DTYPES, KV_CACHE_DTYPES


@dataclass(frozen=True)
class QualityOptions:
    """Quality"""

    model: str = option(
        "",
        positional=True,
        help="short name, hub id, folder or GGUF file; of jiutian-35b-moe, -mla and -dense, which"
        " have no files, the error of each product with Gaussian weights is measured",
    )
    formats: tuple[str, ...] = option(
        (),
        help="what to compare with float32: float64, bfloat16, float16, formats of --quantize,"
        " stored (as the file has them), or paths of other checkpoints of the same model;"
        " default: all that fit",
    )
    kv_cache_dtypes: tuple[str, ...] = option(
        ("auto",),
        choices=tuple(KV_CACHE_DTYPES),
        help="how keys and values are held; each format is measured with every one of these",
    )
    text: Path | None = option(
        None, metavar="FILE", help="UTF-8 text to measure on; default: Newton's Opticks, 25k tokens"
    )
    tokens: int | None = option(None, help="measure on the text's first so many; default: all")
    context: int = option(512, help="tokens that are computed together, without what is before")
    dtype: str = option(
        "float32",
        choices=DTYPES[1:],
        help="in which dtype all else is held and computed where weights are in a format",
    )
    threads: int | None = option(
        None, help="compute threads; default: one per physical core that this process may use"
    )
    output_json: Path | None = option(None, metavar="FILE", help="write the numbers to this file")
    output_plot: Path | None = option(
        None,
        metavar="FILE",
        help="draw divergence over bits and over speed into this file (.svg or .png)",
    )

    def __post_init__(self) -> None:
        if not self.model:
            raise ValueError("no model is given: a short name, hub id, folder or GGUF file")
        for name in self.kv_cache_dtypes:
            if name not in KV_CACHE_DTYPES:
                raise ValueError(
                    f"kv_cache_dtypes: {name!r} is none of {', '.join(KV_CACHE_DTYPES)}"
                )
        if self.context < 2:
            raise ValueError(f"context={self.context} must be at least 2")
        if self.tokens is not None and self.tokens < 2:
            raise ValueError(f"tokens={self.tokens} must be at least 2")
