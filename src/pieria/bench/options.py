"""What the load benchmarks can be asked for. Torch-free, and free of what only a run needs.

Names are those of `vllm bench serve`, `vllm bench throughput` and SGLang's serving benchmark where
they have one. Knows bounds; does not run anything.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pieria.config import option

METRICS = ("ttft", "tpot", "itl", "e2el")


def _json_object(text: str) -> str:
    try:
        if isinstance(json.loads(text), dict):
            return text
    except json.JSONDecodeError:
        pass
    raise ValueError("must be a JSON object")


@dataclass(frozen=True)
class WorkloadOptions:
    """Prompts"""

    dataset_name: Literal["random", "shared-prefix", "multi-turn", "trace"] = option(
        "random",
        help="random: prompts of random tokens; shared-prefix: groups of them that begin alike;"
        " multi-turn: each answer is part of the conversation's next prompt; trace: lengths, times"
        " and shared blocks of a file",
    )
    dataset_path: Path | None = option(
        None, help="a trace in Mooncake's format: JSON lines of timestamp, input_length, ..."
    )
    num_prompts: int = option(
        128, help="how many prompts or conversations; of a trace, at most as many"
    )
    random_input_len: int = option(
        1024, aliases=("--input-len",), help="tokens of a prompt, or of a turn beside what was said"
    )
    random_output_len: int = option(
        128, aliases=("--output-len",), help="tokens of an answer, but of a trace's"
    )
    random_range_ratio: float = option(
        0.0, help="both lengths are drawn from as much below to as much above, such as 0.3"
    )
    random_prefix_len: int = option(
        0, aliases=("--prefix-len",), help="tokens that all random prompts begin with, in addition"
    )
    gsp_num_groups: int = option(
        1, aliases=("--prefix-repetition-num-prefixes",), help="shared-prefix: how many prefixes"
    )
    gsp_system_prompt_len: int = option(
        1024, aliases=("--prefix-repetition-prefix-len",), help="shared-prefix: tokens of a prefix"
    )
    gsp_question_len: int = option(
        128,
        aliases=("--prefix-repetition-suffix-len",),
        help="shared-prefix: tokens of a prompt after its prefix",
    )
    gsp_output_len: int = option(
        128,
        aliases=("--prefix-repetition-output-len",),
        help="shared-prefix: tokens of an answer",
    )
    num_turns: int = option(4, aliases=("--gsp-num-turns",), help="multi-turn: turns of each")
    slowdown_factor: float = option(
        1.0,
        aliases=("--mooncake-slowdown-factor",),
        help="trace: 2 replays it half as fast",
    )
    tokenizer: str = option(
        "", help="where the prompts' vocabulary comes from, as MODEL; default: MODEL"
    )
    tokenize_prompt: bool = option(
        True, help="send prompts as token ids; off: as texts of about as many tokens"
    )
    seed: int = option(0, help="same seed, same prompts")

    def __post_init__(self) -> None:
        _least(self, 1, "num_prompts", "random_input_len", "random_output_len", "gsp_num_groups")
        _least(self, 1, "gsp_question_len", "gsp_output_len", "num_turns")
        _least(self, 0, "random_prefix_len", "gsp_system_prompt_len")
        if not 0 <= self.random_range_ratio < 1:
            raise ValueError(f"random_range_ratio={self.random_range_ratio} must be from 0 below 1")
        if not 0 < self.slowdown_factor < math.inf:
            raise ValueError(f"slowdown_factor={self.slowdown_factor} must be above 0")
        if (self.dataset_name == "trace") != (self.dataset_path is not None):
            raise ValueError(
                f"dataset_path={self.dataset_path} with dataset_name={self.dataset_name}:"
                " a trace needs a file, and only a trace takes one"
            )


@dataclass(frozen=True)
class TrafficOptions:
    """Requests"""

    base_url: str = option(
        "", metavar="URL", help="a server, such as http://127.0.0.1:8000; default: one is started"
    )
    host: str = option("", help="instead of --base-url: the server's address (default: 127.0.0.1)")
    port: int | None = option(None, help="instead of --base-url: the server's port (default: 8000)")
    served_model_name: str = option(
        "", metavar="NAME", help="what the server calls the model; default: it is asked"
    )
    header: tuple[str, ...] = option(
        (), metavar="KEY=VALUE", help="sent with each request, such as Authorization=Bearer KEY"
    )
    extra_body: str = option(
        "{}", metavar="JSON", parse=_json_object, help="more fields of each request's body"
    )
    temperature: float = option(0.0, help="0 always takes the most likely token")
    ignore_eos: bool = option(True, help="let every answer have the length that was asked for")
    max_concurrency: tuple[int, ...] = option(
        (), metavar="N", help="most requests at a time; several are run one after the other"
    )
    request_rate: float = option(
        math.inf, help="requests a second; inf sends all at once, as far as max-concurrency lets it"
    )
    burstiness: float = option(
        1.0, help="1: a Poisson process; below, requests come in bursts; above, more evenly"
    )
    num_warmups: int = option(1, help="requests that are sent before and not counted")
    ready_check_timeout_sec: float = option(
        600.0, help="how long to wait for the server to be ready"
    )

    def __post_init__(self) -> None:
        _least(self, 0, "num_warmups", "temperature", "ready_check_timeout_sec")
        if self.base_url and (self.host or self.port is not None):
            raise ValueError("give base_url, or host and port, not both")
        if self.base_url and not self.base_url.startswith(("http://", "https://")):
            raise ValueError(f"base_url={self.base_url!r} must begin with http:// or https://")
        if self.port is not None and not 1 <= self.port <= 65535:
            raise ValueError(f"port={self.port} must be from 1 to 65535")
        if any(count < 1 for count in self.max_concurrency):
            raise ValueError(f"max_concurrency={self.max_concurrency} must be at least 1")
        if not self.request_rate > 0:
            raise ValueError(f"request_rate={self.request_rate} must be above 0")
        if not 0 < self.burstiness < math.inf:
            raise ValueError(f"burstiness={self.burstiness} must be above 0")
        for header in self.header:
            if "=" not in header or "\n" in header or "\r" in header:
                raise ValueError(f"header={header!r} must be KEY=VALUE on one line")

    @property
    def url(self) -> str:
        """Of the server that is there already; empty if one is to be started."""
        if self.host or self.port is not None:
            return f"http://{self.host or '127.0.0.1'}:{self.port or 8000}"
        return self.base_url.rstrip("/")

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        pairs = (header.split("=", 1) for header in self.header)
        return tuple((key.strip(), value.strip()) for key, value in pairs)

    @property
    def body(self) -> dict[str, Any]:
        """What the bodies of all requests have in common."""
        eos = {"ignore_eos": True} if self.ignore_eos else {}
        extra: dict[str, Any] = json.loads(self.extra_body)
        return {"temperature": self.temperature, **eos, **extra}


@dataclass(frozen=True)
class ThroughputOptions:
    """Report"""

    output_json: Path | None = option(None, metavar="FILE", help="write the result as JSON")


@dataclass(frozen=True)
class ReportOptions:
    """Report"""

    percentile_metrics: str = option(
        ",".join(METRICS),
        help="times to report: ttft to the first token, tpot per token after it, itl between"
        " tokens, e2el to the last",
    )
    metric_percentiles: str = option("99", help="percentiles to report, such as 50,90,99")
    goodput: tuple[str, ...] = option(
        (),
        metavar="NAME:MS",
        help="count the requests that keep all of these limits, such as ttft:1000 tpot:50; itl"
        " means a request's 99th percentile",
    )
    save_result: bool = option(False, help="write the results as JSON")
    save_detailed: bool = option(False, help="with every request's times, lengths and error")
    result_dir: Path = option(Path(), help="folder of the file")
    result_filename: str = option("", help="its name; default: from the model and the time")
    plot: Path | None = option(
        None, metavar="FILE", help="draw throughput against latency, as PNG or SVG"
    )

    def __post_init__(self) -> None:
        for name in self.metrics:
            if name not in METRICS:
                raise ValueError(f"percentile_metrics: {name!r}; there are: {', '.join(METRICS)}")
        if not all(0 <= number <= 100 for number in self.percentiles):
            raise ValueError(f"metric_percentiles={self.metric_percentiles} must be from 0 to 100")
        if self.plot is not None and self.plot.suffix not in (".png", ".svg"):
            raise ValueError(f"plot={str(self.plot)!r} must end in .png or .svg")
        if not self.save_result and (self.save_detailed or self.result_filename):
            raise ValueError("save_detailed and result_filename are for save_result")
        _ = self.limits

    @property
    def metrics(self) -> tuple[str, ...]:
        return tuple(name.strip() for name in self.percentile_metrics.split(",") if name.strip())

    @property
    def percentiles(self) -> tuple[float, ...]:
        try:
            return tuple(float(number) for number in self.metric_percentiles.split(","))
        except ValueError:
            raise ValueError(
                f"metric_percentiles={self.metric_percentiles!r} must be numbers, such as 50,99"
            ) from None

    @property
    def limits(self) -> dict[str, float]:
        """Metric -> most seconds."""
        found = {}
        for pair in ",".join(self.goodput).split(",") if self.goodput else ():
            name, _, number = pair.partition(":")
            try:
                found[name] = float(number) / 1000
            except ValueError:
                raise ValueError(f"goodput: {pair!r} must be NAME:MILLISECONDS") from None
            if name not in METRICS or not found[name] >= 0:
                raise ValueError(
                    f"goodput: {pair!r} must be one of {', '.join(METRICS)} and milliseconds"
                )
        return found


def _least(options: Any, least: int, *names: str) -> None:
    for name in names:
        if not getattr(options, name) >= least:
            raise ValueError(f"{name}={getattr(options, name)} must be at least {least}")
