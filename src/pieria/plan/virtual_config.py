"""How a virtual device serves: its pace, and whose words it speaks. Torch-free.

Knows options and their bounds.
"""

from dataclasses import dataclass
from typing import Literal

from pieria.config import option
from pieria.plan.precision import PRECISIONS

VIRTUAL_FACTORY = "pieria.plan.virtual:prepare"
"""What makes the runner of a device that is not there."""


@dataclass(frozen=True)
class VirtualConfig:
    """Virtual device

    With --device virtual:NAME or virtual:NAMExCARDS nothing is computed: steps take the time that
    is predicted for the model on those cards, and tokens mean nothing.
    """

    speedup: float = option(1.0, help="how many times faster than predicted time passes")
    quantize: str = option(
        "bfloat16",
        flag="--virtual-quantize",
        choices=tuple(PRECISIONS),
        help="how weights are kept and multiplied there",
    )
    words: str = option(
        "smollm2-135m",
        metavar="MODEL",
        help="small model whose tokenizer and chat template serve where MODEL's are not here",
    )
    text: Literal["random", "written"] = option(
        "random",
        help="tokens of answers: random ones, or from a text that the --words model writes first",
    )
    answer_tokens: int = option(
        256, help="mean length of answers, where a request's max_tokens is not reached before"
    )

    def __post_init__(self) -> None:
        if not 0 < self.speedup <= 10_000:
            raise ValueError(f"speedup={self.speedup} must be above 0 and at most 10000")
        if not 1 <= self.answer_tokens <= 1 << 20:
            raise ValueError(f"answer_tokens={self.answer_tokens} must be from 1 to {1 << 20}")
        if self.quantize not in PRECISIONS:
            raise ValueError(f"quantize={self.quantize!r}; there are: {', '.join(PRECISIONS)}")


def device_title(device: str, config: VirtualConfig) -> str:
    """What to call it before users. ValueError for an unknown name."""
    from pieria.hardware import catalog

    name, cards = catalog.counted(device)
    spec = catalog.cluster(name).device
    pace = "" if config.speedup == 1 else f", {config.speedup:g} times as fast"
    return f"virtual {cards or 1} x {spec.name}{pace}: predicted times, meaningless tokens"
