"""How long prompts and answers are: numbers of tokens drawn one after the other.

Knows distributions. Does not know what is drawn for.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import exp
from random import Random

FORMS = "a number (512), uniform:LOW:HIGH, exponential:MEAN or lognormal:MEDIAN:SIGMA"


@dataclass(frozen=True)
class Lengths:
    """form: "fixed", "uniform", "exponential" or "lognormal"; a, b: its numbers as written.

    Whatever is drawn is rounded, at least 1, and at most `most`.
    """

    form: str
    a: float
    b: float = 0.0
    most: int = 1 << 20

    def draws(self, random: Random) -> Iterator[int]:
        """Without end."""
        while True:
            yield min(max(1, round(self._draw(random))), self.most)

    def _draw(self, random: Random) -> float:
        if self.form == "uniform":
            return random.randint(int(self.a), int(self.b))
        if self.form == "exponential":
            return random.expovariate(1 / self.a)
        if self.form == "lognormal":
            return self.a * exp(random.gauss(0.0, self.b))
        return self.a

    def __str__(self) -> str:
        if self.form == "fixed":
            return f"{self.a:g}"
        numbers = (self.a,) if self.form == "exponential" else (self.a, self.b)
        return ":".join([self.form, *(f"{n:g}" for n in numbers)])


def lengths(text: str, where: str) -> Lengths:
    """ValueError, naming `where` and the forms, for anything else."""
    name, *rest = text.strip().split(":")
    wanted = {"uniform": 2, "exponential": 1, "lognormal": 2}
    try:
        if name in wanted and len(rest) == wanted[name]:
            a, b = (*map(float, rest), 0.0)[:2]
            made = Lengths(name, a, b)
        elif not rest:
            made = Lengths("fixed", float(int(name)))
        else:
            raise ValueError
    except ValueError:
        raise ValueError(f"{where}={text!r} must be {FORMS}") from None
    high = made.b if made.form == "uniform" else made.a
    if not 1 <= made.a <= high <= made.most or not 0 <= made.b <= made.most:
        raise ValueError(
            f"{where}={text!r} must have lengths from 1 to {made.most}, the lower first"
        )
    return made
