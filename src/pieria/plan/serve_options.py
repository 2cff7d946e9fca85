"""What `pieria plan serve` may be asked. Torch-free.

Knows options and their bounds. Does not know models or devices.
"""

from dataclasses import dataclass
from pathlib import Path

from pieria.config import option
from pieria.engine.runner_config import KV_CACHE_DTYPES
from pieria.plan.practice import PRACTICES
from pieria.plan.precision import PRECISIONS

DEVICE_HELP = "a device or cluster that `pieria devices --spec` knows, with an x and how many"

ROUTINGS = ("balanced", "skewed")
ROUTERS = ("least_loaded", "round_robin")
PRACTICE_NAMES = tuple(name for name in PRACTICES if name)


@dataclass(frozen=True)
class PlanOptions:
    """What to plan"""

    model: str = option(
        "", positional=True, help="a preset, a config.json or its folder, or a model that is here"
    )
    device: str = option("", help=DEVICE_HELP)
    cards: int | None = option(
        None, help="how many; default: as the device's name says, else those of a node"
    )
    workload: str = option(
        "rate=1,input=1024,output=256",
        help="who asks for what, or a trace's path; `--workload help` explains it",
    )
    slo: str = option(
        "", help="what requests must keep to, such as ttft=2s,tpot=50ms,share=0.9 (of requests)"
    )
    search: bool = option(False, help="try all layouts on these cards and show the best")
    disaggregate: bool = option(
        False, help="search also with some cards for prompts and the others for answers"
    )
    prefill_cards: int = option(
        0, help="of the cards, how many only compute prompts, in replicas as all others; 0: none"
    )

    def __post_init__(self) -> None:
        if not self.device:
            raise ValueError(f"no --device is given: {DEVICE_HELP}")


@dataclass(frozen=True)
class LayoutOptions:
    """Layout

    Without any of these, one replica is cut over all cards by --tp.
    """

    tp: int | None = option(
        None, aliases=("--tensor-parallel-size",), help="ranks that each weight is cut over"
    )
    pp: int | None = option(
        None, aliases=("--pipeline-parallel-size",), help="ranks that the layers are divided over"
    )
    ep: int | None = option(
        None,
        aliases=("--expert-parallel-size",),
        help="ranks that the experts are divided over: of one replica, or, with --dp, of several",
    )
    dp: int | None = option(None, aliases=("--data-parallel-size",), help="replicas")
    router: str = option("least_loaded", choices=ROUTERS, help="which replica gets a request")


@dataclass(frozen=True)
class EngineOptions:
    """Engine

    A search tries every combination of several values.
    """

    quantize: tuple[str, ...] = option(
        ("bfloat16",), choices=tuple(PRECISIONS), help="how weights are kept and multiplied"
    )
    kv_cache_dtype: str = option(
        "auto", choices=tuple(KV_CACHE_DTYPES), help="how keys and values are held"
    )
    max_num_seqs: tuple[int, ...] = option((256,), help="most requests in one step")
    max_num_batched_tokens: tuple[int, ...] = option((8192,), help="most tokens in one step")
    max_model_len: int | None = option(
        None, help="most tokens of one request; default: what the model allows and the cache holds"
    )
    enable_prefix_caching: bool = option(True, help="reuse beginnings of text that were seen")
    block_size: int = option(64, help="tokens in a page of the cache")
    memory_fraction: float = option(0.9, help="share of a card's memory that the engine may use")
    practice: str = option(
        "engine",
        choices=PRACTICE_NAMES,
        help="how an engine runs a model: as they do today, as this project does, or another one",
    )
    routing: str = option("balanced", choices=ROUTINGS, help="how tokens fall on experts")

    def __post_init__(self) -> None:
        if not 0 < self.memory_fraction <= 1:
            raise ValueError(
                f"memory_fraction={self.memory_fraction} must be above 0 and at most 1"
            )
        if not 1 <= self.block_size <= 1024:
            raise ValueError(f"block_size={self.block_size} must be from 1 to 1024")


@dataclass(frozen=True)
class OutputOptions:
    """Output

    Tables, and besides, each of these that is given.
    """

    explain: bool = option(False, help="say where every number comes from")
    json: Path | None = option(
        None, metavar="FILE", help="all of it as one object; -: to standard output, and no tables"
    )
    html: Path | None = option(
        None, metavar="FILE", help="all of it as one page with charts, which needs no network"
    )
    trace: Path | None = option(
        None, metavar="FILE", help="the first steps, for chrome://tracing or ui.perfetto.dev"
    )

    def __post_init__(self) -> None:
        """Before anything is planned: planning takes long."""
        for name in ("json", "html", "trace"):
            path = getattr(self, name)
            if path is None or path == STANDARD_OUTPUT:
                if path is not None and name != "json":
                    raise ValueError(f"{name}={path} must be a file")
            elif path.is_dir() or not path.parent.is_dir():
                wrong = "it is a folder" if path.is_dir() else f"there is no folder {path.parent}"
                raise ValueError(f"{name}={path} must be a file: {wrong}")


STANDARD_OUTPUT = Path("-")
