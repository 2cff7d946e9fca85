"""What a pool of cards does in one second at full load: prompts alone, or tokens of answers alone.

Knows predicted steps that repeat without end. Does not know requests that come and go; `simulate`
does.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

from pieria.hardware.cluster import ClusterSpec
from pieria.models.config import ModelConfig
from pieria.parallel.mesh import Mesh
from pieria.plan.practice import SGLANG, Practice
from pieria.plan.precision import Precision
from pieria.plan.predict import Predictor
from pieria.plan.routing import BALANCED, Routing


@dataclass(frozen=True, eq=False)
class Pool:
    """Cards that serve one copy of a model. tp of them share requests; experts are over all."""

    model: ModelConfig
    cluster: ClusterSpec
    precision: Precision
    practice: Practice
    cards: int
    tp: int = 1
    routing: Routing = BALANCED

    @property
    def groups(self) -> int:
        """Of tp cards, with requests of their own."""
        return self.cards // self.tp

    @property
    def predictor(self) -> Predictor:
        """ValueError for cards that tp does not divide, and cuts that do not divide."""
        if self.cards % self.tp:
            raise ValueError(f"{self.cards} cards are not groups of {self.tp}")
        return _predictor(self)


@lru_cache(maxsize=64)
def _predictor(pool: Pool) -> Predictor:
    return Predictor(
        pool.model,
        Mesh(tp=pool.tp),
        pool.cluster,
        pool.precision,
        practice=pool.practice,
        routing=pool.routing,
        attention_dp=pool.groups,
        whole_experts=pool.groups > 1,
        max_num_batched_tokens=16384,
    )


def prompts(pool: Pool, tokens: int, prompt: int) -> float:
    """Tokens/s of a card, where each group computes `tokens` in prompts of that length a step."""
    count = max(1, tokens // prompt)
    seconds = pool.predictor.seconds([prompt] * count, [0] * count, count)
    return count * prompt / pool.tp / seconds


def answers(pool: Pool, batch: int, context: int) -> float:
    """Tokens/s of a card, where each group has `batch` requests of that context."""
    return batch / pool.tp / step(pool, batch, context)


def step(pool: Pool, batch: int, context: int) -> float:
    """Seconds of a step with a token of each of `batch` requests of a group."""
    return pool.predictor.seconds([1] * batch, [context - 1] * batch, batch)


def room(pool: Pool, context: int, share: float = 0.9) -> int:
    """Requests of that context for which a group's memory has room; 0 where weights take it all."""
    memory = pool.predictor.memory[0]
    free = pool.cluster.device.memory.value * share
    free -= memory.weights + memory.activations + memory.buffers
    token = memory.need.page * len(memory.need.windows) / pool.predictor.page_tokens
    return max(0, int(free / (token * context)))


WIDE = replace(SGLANG, name="wide", grouped=True, overlap=1.0, exchange_units=20 / 132)
"""Experts over many cards: DeepGEMM's grouped products, and two batches, of which one computes
while the other exchanges (lmsys.org, 2025-05-05: DeepEP, DeepGEMM, two-batch overlap).
exchange_units: num_sms in DeepEP's deep_ep/buffer.py, of an H800's 132.
"""
