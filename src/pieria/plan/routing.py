"""How tokens fall on experts: a model of what nobody knows before the weights are there.

Knows popularity. Does not know bytes or seconds.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Routing:
    """exponent: of the power law that experts' popularity follows; None: all are chosen as often.

    A share of tokens x is drawn with density x^-exponent between the least and a hundred times as
    much; measured tables of experts (aiconfigurator) were made with 1.01 and 1.2.
    """

    name: str
    exponent: float | None = None

    def shares(self, total: int) -> Array:
        """Of each expert, how much of all (token, expert) pairs it gets; the most popular first."""
        return _shares(self.exponent, total)

    def touched(self, tokens: Array, top: int, here: int, total: int) -> Array:
        """Experts of `here` evenly taken out of `total` that any of the tokens uses, on average."""
        chosen = np.minimum(self.shares(total) * top, 1.0)
        if self.exponent is None:
            used = total * (1 - (1 - top / total) ** np.asarray(tokens, float))
        else:
            untouched = np.power.outer(1 - chosen, np.atleast_1d(np.asarray(tokens, float)))
            used = (total - untouched.sum(0)).reshape(np.shape(tokens))
        made: Array = used * here / total
        return made

    def busiest(self, ranks: int, total: int) -> float:
        """How much more than an average rank the busiest of them has to do.

        Experts stand in an order that has nothing to do with how popular they are.
        """
        if ranks == 1 or self.exponent is None:
            return 1.0
        order = np.random.default_rng(0).permutation(total)
        loads = self.shares(total)[order].reshape(ranks, -1).sum(1)
        return float(loads.max() * ranks)


BALANCED = Routing("balanced")
SKEWED = Routing("skewed", 1.2)
ROUTINGS = {routing.name: routing for routing in (BALANCED, SKEWED)}

MOST = 100.0
"""How much more often the most popular expert is chosen than the least popular one."""


@lru_cache(maxsize=64)
def _shares(exponent: float | None, total: int) -> Array:
    if exponent is None:
        return np.full(total, 1 / total)
    places = (np.arange(total) + 0.5) / total
    flat = 1 - exponent
    drawn = ((MOST**flat - 1) * places + 1) ** (1 / flat)
    made: Array = np.sort(drawn)[::-1] / drawn.sum()
    return made
