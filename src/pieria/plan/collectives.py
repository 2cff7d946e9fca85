"""How long ranks take to exchange messages: measured curves, carried over to another fabric.

A measured time is split into what the smallest message takes and the rest. The first grows with the
fabric's latency, the second with its bandwidth; neither share is constant over sizes, as it would
be for alpha + beta S. Knows fabrics. Does not know models.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from pieria.hardware import catalog
from pieria.hardware.cluster import ClusterSpec
from pieria.hardware.fabric import Fabric
from pieria.plan.tables import Array, load

SYSTEMS = {"h100": "h100_sxm", "h200": "h200_sxm", "a100-sxm-80": "a100_sxm", "b200": "b200_sxm"}
"""Clusters whose collectives were measured -> the file. gb200's holds 2 and 4 cards only."""
REFERENCE = "h100"

ONE_SHOT_BYTES = np.array([512, 4096, 32768, 262144, 524288, 1048576.0])
ONE_SHOT = {
    2: np.array([3.7, 3.9, 4.5, 7.9, 12.5, 19.9]) * 1e-6,
    4: np.array([4.8, 3.7, 4.8, 13.9, 20.2, 31.1]) * 1e-6,
    8: np.array([5.9, 5.7, 7.8, 16.7, 22.1, 33.8]) * 1e-6,
}
"""All-reduce in one exchange through peers' memory, ranks -> seconds, on H100 (sgl-project/sglang
pull request 2904, 2025-01). Engines use it, or their like of it, for small messages.
"""


@dataclass(frozen=True)
class Curve:
    """Seconds over bytes."""

    sizes: Array
    seconds: Array

    def __call__(self, size: Any) -> Any:
        """Between points linear in logarithms; beyond the ends as the last two points go."""
        x, y = np.log(self.sizes), np.log(self.seconds)
        at = np.log(np.maximum(size, 1.0))
        made = np.interp(at, x, y)
        slope = (y[-1] - y[-2]) / (x[-1] - x[-2])
        return np.exp(np.where(at > x[-1], y[-1] + slope * (at - x[-1]), made))

    @property
    def least(self) -> float:
        return float(self.seconds.min())


class Collectives:
    """Of one cluster.

    one_shot: small all-reduces are one exchange, where cards can read each other's memory.
    """

    def __init__(self, cluster: ClusterSpec, one_shot: bool) -> None:
        known = {catalog.cluster(name).name: name for name in SYSTEMS}
        self.cluster = cluster
        self.one_shot = one_shot
        self.like = known.get(cluster.name, REFERENCE)
        self.measured = catalog.cluster(self.like).tiers[0]
        self._table = load(SYSTEMS[self.like])["comm_nccl"]
        self._curves: dict[tuple[str, int], Curve] = {}

    def seconds(self, op: str, size: Any, ranks: int, stride: int = 1, copies: int = 1) -> Any:
        """Of one collective over `ranks` cards, `stride` apart. copies: see `work.Exchange`.

        size: bytes a rank has before an all-reduce, an all-to-all, a broadcast or a send, and after
        an all-gather or before a reduce-scatter. ValueError if the cluster does not reach so far.
        """
        is_routed = op in ("dispatch", "combine")
        if is_routed:
            op = "alltoall"
        if ranks == 1:
            return np.zeros_like(np.asarray(size, float))
        near, inside = self.cluster.tiers[0], 1
        if near.cards is not None and stride < near.cards.value:
            inside = min(ranks, int(near.cards.value // stride))
        if inside == ranks:
            return self._within(near, op, size, ranks)
        far = self.cluster.fabric(ranks * stride)
        nodes = -(-ranks // inside)
        if op == "all_reduce" and inside > 1:
            return (
                self._within(near, "reduce_scatter", size, inside)
                + self._within(far, op, size / inside, nodes)
                + self._within(near, "all_gather", size, inside)
            )
        if op in ("all_gather", "reduce_scatter") and inside > 1:
            across = self._within(far, op, size / inside, nodes)
            return across + self._within(near, op, size, inside)
        if op == "alltoall" and inside > 1:
            sent = size * (1 - inside / ranks) * nodes / (nodes - 1)
            if is_routed:
                large = np.asarray(size) / copies > LOW_LATENCY_BYTES
                sent = np.where(large, sent * reached(nodes, copies) / copies, sent)
            across = self._within(far, op, sent, nodes)
            return np.maximum(across, self._within(near, op, size * inside / ranks, inside))
        return self._within(far, op, size, nodes)

    def _within(self, fabric: Fabric, op: str, size: Any, ranks: int) -> Any:
        if op in ("send", "receive", "broadcast"):
            payload = fabric.payload(max(ranks, 2)).value
            return np.where(np.asarray(size) > 0, P2P_SECONDS + size / payload, 0.0)
        if op == "all_reduce" and not fabric.reduction:
            parts = [self._scaled(fabric, part, size, ranks) for part in RING]
            seconds = parts[0] + parts[1]
        else:
            seconds = self._scaled(fabric, op, size, ranks)
        if op == "all_reduce" and self.one_shot and ranks in ONE_SHOT:
            curve = Curve(ONE_SHOT_BYTES, ONE_SHOT[ranks])
            quick = self._carried(fabric, curve, catalog.cluster(REFERENCE).tiers[0], size, ranks)
            small = np.asarray(size) <= ONE_SHOT_BYTES[-1]
            seconds = np.where(small, np.minimum(quick, seconds), seconds)
        return np.where(np.asarray(size) > 0, seconds, 0.0)

    def _scaled(self, fabric: Fabric, op: str, size: Any, ranks: int) -> Any:
        curve = self._curve(op, ranks)
        return self._carried(fabric, curve, self.measured, size, ranks)

    def _carried(
        self, fabric: Fabric, curve: Curve, measured: Fabric, size: Any, ranks: int
    ) -> Any:
        if fabric is measured:
            return curve(size)
        known = min(ranks, 8)
        slower = measured.payload(known).value / fabric.payload(ranks).value
        # A ring or a tree of more ranks than were measured takes more hops.
        hops = max(1.0, np.log2(ranks) / np.log2(known))
        later = (fabric.latency.value - measured.latency.value) * np.log2(max(ranks, 2)) * 2
        start = curve.least * hops + max(later, 0.0)
        return start + (curve(size) - curve.least) * slower

    def _curve(self, op: str, ranks: int) -> Curve:
        known = 2 if ranks < 4 else 4 if ranks < 8 else 8
        if (op, known) not in self._curves:
            row = self._table.seconds[self._table.keys.index((op, "half", str(known)))]
            there = ~np.isnan(row)
            # Two bytes an element; a shorter message never takes longer.
            seconds = np.minimum.accumulate(row[there][::-1])[::-1]
            self._curves[op, known] = Curve(self._table.axes[0][there] * 2, seconds)
        return self._curves[op, known]


LOW_LATENCY_TOKENS = 256
LOW_LATENCY_BYTES = LOW_LATENCY_TOKENS * 7168 * 2
"""Of a rank's tokens: DeepEP's kernels for few tokens send each copy by itself, need no host in
between, and occupy no multiprocessor while they wait; those for many send a token to each node
once, which hands it on (deepseek-ai/DeepEP, README: 128 tokens a batch, and the pre-training
setting of 4096).
"""


def reached(nodes: int, copies: int) -> float:
    """Nodes that so many experts drawn anywhere are on, on average."""
    return float(nodes * (1 - (1 - 1 / nodes) ** copies))


RING = ("reduce_scatter", "all_gather")
"""What an all-reduce is made of where no switch adds."""

P2P_SECONDS = 10e-6
"""Until a message to a neighbour arrives: aiconfigurator's constant for point-to-point."""
