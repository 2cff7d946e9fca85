"""What a caller asks for: how tokens are drawn and when a request ends. Torch-free.

Every field is checked here, once; servers and the Python API build this and pass its errors on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

MAX_CHOICES = 128
MAX_STOPS = 64
MAX_STOP_LENGTH = 1024
MAX_BIASES = 1024
MAX_LOGPROBS = 100


@dataclass(frozen=True)
class Range:
    """Numbers from low to high; above low if it is open; whole: integers alone."""

    low: float
    high: float
    whole: bool = False
    low_open: bool = False

    def check(self, name: str, value: object) -> None:
        """ValueError for what is not in it."""
        if (
            isinstance(value, bool)
            or not isinstance(value, int if self.whole else int | float)
            or not self.low <= value <= self.high
            or (self.low_open and value == self.low)
        ):
            what = "an integer" if self.whole else "a number"
            raise ValueError(
                f"{name}={value!r} must be {what} {'above' if self.low_open else 'from'} {self.low}"
                f" to {self.high}"
            )


TOKEN_ID = Range(0, 2**31 - 1, whole=True)
BIAS = Range(-100.0, 100.0)
RANGES: Mapping[str, Range] = MappingProxyType(
    {
        "n": Range(1, MAX_CHOICES, whole=True),
        "temperature": Range(0.0, 100.0),
        "top_p": Range(0.0, 1.0, low_open=True),
        "top_k": Range(-1, 2**31 - 1, whole=True),
        "min_p": Range(0.0, 1.0),
        "seed": Range(-(2**63), 2**63 - 1, whole=True),
        "presence_penalty": Range(-2.0, 2.0),
        "frequency_penalty": Range(-2.0, 2.0),
        "repetition_penalty": Range(0.0, 100.0, low_open=True),
        "max_tokens": Range(1, 2**31 - 1, whole=True),
        "min_tokens": Range(0, 2**31 - 1, whole=True),
        "logprobs": Range(0, MAX_LOGPROBS, whole=True),
        "prompt_logprobs": Range(0, MAX_LOGPROBS, whole=True),
    }
)
"""What numbers may be. Those that may be None too, `SamplingParams` says."""

_OPTIONAL = frozenset({"seed", "max_tokens", "logprobs", "prompt_logprobs"})

_GENERATION_CONFIG = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "max_new_tokens": "max_tokens",
}


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """Names and meanings are vLLM's.

    n: choices per prompt. seed: None draws one at admission. temperature 0 is greedy. top_k 0 or
    -1: no limit. repetition_penalty looks at prompt and output (Keskar 2019), presence and
    frequency at output alone (OpenAI). logit_bias: token id -> added to its logit. stop: strings,
    cut from the text unless include_stop_str_in_output. max_tokens None: up to the model's length.
    min_tokens: no end-of-text and no stop token before that many. logprobs, prompt_logprobs: how
    many alternatives to report beside the token itself; None: no report.

    ValueError, naming field, value and what is allowed, on a bad one.
    """

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: dict[int, float] | None = None
    stop: str | Sequence[str] | None = None
    stop_token_ids: Sequence[int] | None = None
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    max_tokens: int | None = 16
    min_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    skip_special_tokens: bool = True

    def __post_init__(self) -> None:
        for name, allowed in RANGES.items():
            value = getattr(self, name)
            if value is not None or name not in _OPTIONAL:
                allowed.check(name, value)
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise ValueError(
                f"min_tokens={self.min_tokens} must not exceed max_tokens={self.max_tokens}"
            )
        for name in ("include_stop_str_in_output", "ignore_eos", "skip_special_tokens"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name}={getattr(self, name)!r} must be true or false")
        self._check_stops()
        self._check_biases()

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings, however they were given."""
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    def _check_stops(self) -> None:
        if not isinstance(self.stop, str):
            _collection("stop", self.stop, Sequence, MAX_STOPS)
        _collection("stop_token_ids", self.stop_token_ids, Sequence, MAX_STOPS)
        for text in self.stops:
            if not isinstance(text, str):
                raise ValueError(f"stop={text!r} must be a string")
            if not 0 < len(text) <= MAX_STOP_LENGTH:
                raise ValueError(
                    f"stop has a string of {len(text)} characters;"
                    f" 1 to {MAX_STOP_LENGTH} are allowed"
                )
        for token in self.stop_token_ids or ():
            TOKEN_ID.check("stop_token_ids", token)

    def _check_biases(self) -> None:
        _collection("logit_bias", self.logit_bias, Mapping, MAX_BIASES)
        for token, bias in (self.logit_bias or {}).items():
            TOKEN_ID.check("logit_bias token", token)
            BIAS.check(f"logit_bias[{token}]", bias)


def sampling_defaults(*generation_configs: Mapping[str, Any]) -> dict[str, Any]:
    """What Hugging Face's generation_config.json says of sampling, in `SamplingParams`' names.

    A later one of several wins.
    """
    return {
        ours: config[theirs]
        for config in generation_configs
        for theirs, ours in _GENERATION_CONFIG.items()
        if config.get(theirs) is not None
    }


def _collection(name: str, value: object, kind: type[Any], longest: int) -> None:
    if value is None:
        return
    if not isinstance(value, kind):
        what = "a mapping" if kind is Mapping else "a list"
        raise ValueError(f"{name}={value!r} must be {what} of at most {longest} entries")
    if len(value) > longest:
        raise ValueError(f"{name} has {len(value)} entries; at most {longest} are allowed")
