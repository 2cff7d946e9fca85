"""Large language models, each described once, served on MUSA GPUs, other GPUs and CPUs."""

from typing import TYPE_CHECKING, Any

from pieria.engine.sampling_params import SamplingParams

if TYPE_CHECKING:
    from pieria.llm import LLM

__all__ = ["LLM", "SamplingParams", "__version__"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`LLM` on first use: importing what it needs takes a second, and few commands need it."""
    if name == "LLM":
        from pieria.llm import LLM

        return LLM
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
