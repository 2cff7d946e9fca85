"""From what became of requests to the numbers that people compare, named as vLLM names them.

Knows one request's times. Does not send or print.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Outcome:
    """One request; its times are seconds.

    started: since the run began. ttft: from sending it to the first token. gaps: between one piece
    of the answer and the next; a piece is a token, if the server sends them one by one.
    error: why it failed, empty if it did not.
    """

    started: float
    prompt_tokens: int
    output_tokens: int
    ttft: float
    gaps: tuple[float, ...]
    text: str
    error: str = ""

    @property
    def e2el(self) -> float:
        """From sending it to the last token."""
        return self.ttft + sum(self.gaps)

    @property
    def tpot(self) -> float:
        """Per token after the first; 0 if there is none."""
        return sum(self.gaps) / max(1, self.output_tokens - 1)

    def keeps(self, limits: Mapping[str, float]) -> bool:
        """Whether no time is above its limit; of the gaps, their 99th percentile."""
        found = {
            "ttft": self.ttft,
            "tpot": self.tpot,
            "e2el": self.e2el,
            "itl": float(np.percentile(self.gaps or (0.0,), 99)),
        }
        return not self.error and all(found[name] <= most for name, most in limits.items())


def summarize(
    outcomes: Sequence[Outcome],
    seconds: float,
    percentiles: Sequence[float] = (99,),
    limits: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """All numbers of one run that took `seconds`; times are milliseconds, and NaN if none was met.

    limits: seconds by metric; the requests that keep them all are the goodput.
    """
    good = [outcome for outcome in outcomes if not outcome.error]
    tokens_in = sum(outcome.prompt_tokens for outcome in good)
    tokens_out = sum(outcome.output_tokens for outcome in good)
    found = {
        "duration": seconds,
        "completed": len(good),
        "failed": len(outcomes) - len(good),
        "total_input_tokens": tokens_in,
        "total_output_tokens": tokens_out,
        "request_throughput": len(good) / seconds,
        "output_throughput": tokens_out / seconds,
        "total_token_throughput": (tokens_in + tokens_out) / seconds,
    }
    if limits:
        found["request_goodput"] = sum(outcome.keeps(limits) for outcome in good) / seconds
    times = {
        "ttft": [outcome.ttft for outcome in good],
        "tpot": [outcome.tpot for outcome in good if outcome.output_tokens > 1],
        "itl": [gap for outcome in good for gap in outcome.gaps],
        "e2el": [outcome.e2el for outcome in good],
    }
    for name, values in times.items():
        ms = np.array(values or [np.nan]) * 1000
        found[f"mean_{name}_ms"] = float(ms.mean())
        found[f"median_{name}_ms"] = float(np.median(ms))
        found[f"std_{name}_ms"] = float(ms.std())
        for percentile in percentiles:
            found[f"p{percentile:g}_{name}_ms"] = float(np.percentile(ms, percentile))
    return found


def errors(outcomes: Sequence[Outcome]) -> list[tuple[str, int]]:
    """What went wrong and how often, the most frequent first."""
    return Counter(outcome.error for outcome in outcomes if outcome.error).most_common()
