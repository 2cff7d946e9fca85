"""What answers must keep to: bounds on the times of one request.

Knows times. Does not know where they come from.
"""

from dataclasses import dataclass, fields

from pieria.plan.pairs import number, pairs, seconds

EXAMPLE = "ttft=2s,tpot=50ms"


@dataclass(frozen=True)
class Slo:
    """Most seconds of one request; None: as long as it takes.

    ttft: from its arrival to the first token. tpot: mean time of each token after the first. gap:
    the longest wait for a token after the first. total: from arrival to the last token. share: of
    all requests, how many must keep to all of that.
    """

    ttft: float | None = None
    tpot: float | None = None
    gap: float | None = None
    total: float | None = None
    share: float = 0.9

    def met(self, ttft: float, tpot: float, gap: float, total: float) -> bool:
        """Whether a request with these times kept to all bounds."""
        return (
            (self.ttft is None or ttft <= self.ttft)
            and (self.tpot is None or tpot <= self.tpot)
            and (self.gap is None or gap <= self.gap)
            and (self.total is None or total <= self.total)
        )

    def __str__(self) -> str:
        bounds = [
            f"{f.name}<={value * 1e3:g}ms"
            for f in fields(self)
            if f.name != "share" and (value := getattr(self, f.name)) is not None
        ]
        return f"{', '.join(bounds) or 'no bounds'} for {self.share:.0%}"


def slo(text: str) -> Slo:
    """From `ttft=2s,tpot=50ms,share=0.95`; nothing bounds nothing. ValueError naming what is
    wrong.
    """
    names = [f.name for f in fields(Slo)]
    found = pairs(text, names, "slo")
    bounds = {k: seconds(v, f"slo: {k}") for k, v in found.items() if k != "share"}
    for name, value in bounds.items():
        if value == 0:
            raise ValueError(f"slo: {name}={found[name]!r} must be above 0, such as {EXAMPLE}")
    share = number(found.get("share", "0.9"), "slo: share")
    if share > 1:
        raise ValueError(f"slo: share={found['share']!r} must be at most 1")
    return Slo(**bounds, share=share)
