"""What Moore Threads says of the S5000, beside what is predicted of it and of other cards.

Knows what was said, settings that were not, and pools at full load. Every setting is an assumption:
a claim comes with what else is predicted if one of them is otherwise.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from pieria.hardware import catalog
from pieria.hardware.cluster import ClusterSpec
from pieria.plan import bounds, presets, steady
from pieria.plan.precision import PRECISIONS
from pieria.plan.routing import BALANCED, SKEWED
from pieria.plan.steady import WIDE, Pool
from pieria.plan.surfaces import Roof

SUBJECT = "mtt-s5000"
DEVICES = (SUBJECT, "h20", "h100", "h200", "b200", "ascend-910c")


@dataclass(frozen=True)
class Scene:
    """A model at work on `cards`: prompts of `context` tokens, or answers at that context.

    tokens: of a card's step in prompts, or its requests.
    """

    title: str
    model: str
    precision: str
    phase: str
    cards: int
    tokens: int
    context: int

    @property
    def setting(self) -> str:
        spread = f"{self.cards} cards" if self.cards > 1 else "1 card"
        if self.phase == "prefill":
            return f"{spread}, {self.tokens} tokens a step in prompts of {self.context}"
        return f"{spread}, {self.tokens} requests a card at {self.context} tokens"


SCENES = (
    Scene("DeepSeek 671B", "deepseek-v3", "fp8_block", "prefill", 32, 16384, 4096),
    Scene("DeepSeek 671B, 16K", "deepseek-v3", "fp8_block", "prefill", 32, 16384, 16384),
    Scene("DeepSeek 671B", "deepseek-v3", "fp8_block", "decode", 144, 128, 4096),
    Scene("Jiutian 35B", "jiutian-35b-moe", "fp8", "prefill", 1, 8192, 4096),
    Scene("Jiutian 35B", "jiutian-35b-moe", "fp8", "decode", 1, 64, 4096),
    Scene("Qwen3 32B", "qwen3-32b", "fp8", "prefill", 1, 8192, 4096),
    Scene("Qwen3 32B, 16K", "qwen3-32b", "fp8", "prefill", 1, 16384, 16384),
    Scene("Qwen3 32B", "qwen3-32b", "fp8", "decode", 1, 32, 4096),
)


@dataclass(frozen=True)
class Rate:
    """tokens_per_second: of a card. per_petaflops: of that for each PFLOP/s of its peak in the
    precision; per_watt: for each W of a card with its share of its host. low, high: at the worst
    and the best that the card's numbers may be; only of the subject. note: what is otherwise, or
    why there is no number.
    """

    model: str
    phase: str
    setting: str
    device: str
    precision: str
    tokens_per_second: float | None
    per_petaflops: float | None = None
    per_watt: float | None = None
    low: float | None = None
    high: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Condition:
    """If this were so: what is predicted then, and whether the claim is met."""

    what: str
    predicted: float
    met: bool


@dataclass(frozen=True)
class Claim:
    """said: at least so much. predicted: in `setting`. conditions: what would have to be true."""

    name: str
    said: float
    unit: str
    source: str
    setting: str
    predicted: float
    conditions: tuple[Condition, ...]

    @property
    def met(self) -> bool:
        return self.predicted >= self.said


@dataclass(frozen=True)
class Claims:
    rates: tuple[Rate, ...]
    claims: tuple[Claim, ...]


Progress = Callable[[str, int, int], None]
"""Told what is predicted, its number, and of how many."""


def claims(
    scenes: Sequence[Scene] = SCENES,
    devices: Sequence[str] = DEVICES,
    progress: Progress = lambda what, number, total: None,
) -> Claims:
    """Takes a second or two for each scene and device."""
    total = len(scenes) * len(devices) + len(SAID)
    rates = []
    for i, scene in enumerate(scenes):
        for j, device in enumerate(devices):
            progress(f"{scene.title} on {device}", i * len(devices) + j, total)
            rates.append(rate(scene, device))
    made = []
    for i, claim in enumerate(SAID):
        progress("what would have to be true", total - len(SAID) + i, total)
        made.append(claim())
    return Claims(tuple(rates), tuple(made))


def rate(scene: Scene, device: str) -> Rate:
    """Of one card in a scene; without a number where the model does not fit."""
    cluster = catalog.cluster(device)
    precision, note = _precision(scene, cluster)
    pool = _pool(scene, cluster, precision)
    made = Rate(scene.title, scene.phase, scene.setting, cluster.device.name, precision, None)
    if scene.phase == "decode":
        room = steady.room(pool, scene.context)
        if room < scene.tokens:
            note = f"{note}; " if note else ""
            if not room:
                return replace(made, note=f"{note}the weights do not fit")
            scene = replace(scene, tokens=room)
            note = f"{note}memory for {room} requests a card"
    found = _rate(pool, scene)
    peak = Roof(cluster.device).peak(PRECISIONS[precision].peak)
    watts = cluster.card_power
    low = high = None
    if device == SUBJECT:
        low, high = (
            _rate(_pool(scene, bounds.at(cluster, side), precision), scene)
            for side in ("worst", "best")
        )
    return replace(
        made,
        tokens_per_second=found,
        per_petaflops=found / (peak / 1e15),
        per_watt=found / watts.value if watts else None,
        low=low,
        high=high,
        note=note,
    )


def _precision(scene: Scene, cluster: ClusterSpec) -> tuple[str, str]:
    wanted = PRECISIONS[scene.precision]
    if cluster.device.peak(wanted.peak) is not None:
        return wanted.name, ""
    if cluster.device.peak("int8") is not None:
        return "int8", "in int8: the card has no FP8"
    return wanted.name, "weights are widened: the card has no FP8"


def _pool(scene: Scene, cluster: ClusterSpec, precision: str) -> Pool:
    return Pool(
        presets.model(scene.model), cluster, PRECISIONS[precision], WIDE, scene.cards, 1, SKEWED
    )


def _rate(pool: Pool, scene: Scene) -> float:
    if scene.phase == "prefill":
        return steady.prompts(pool, scene.tokens, scene.context)
    return steady.answers(pool, scene.tokens, scene.context)


PRESS = "SiliconFlow and Moore Threads, 2025-12, in the press; no settings were published"


def _stated(name: str, said: float, scene: Scene) -> Claim:
    """Tokens/s of a card on DeepSeek 671B."""
    cluster = catalog.cluster(SUBJECT)
    pool = _pool(scene, cluster, scene.precision)
    apart = replace(WIDE, overlap=0.0)
    changed: list[tuple[str, Pool, Scene]] = [
        ("tokens fall on experts evenly", replace(pool, routing=BALANCED), scene),
        ("nothing is exchanged while computing", replace(pool, practice=apart), scene),
        ("the card's numbers are the best they may be", _at(pool, "best"), scene),
        ("the card's numbers are the worst they may be", _at(pool, "worst"), scene),
        ("on 64 cards", replace(pool, cards=64), scene),
    ]
    if scene.phase == "prefill":
        changed.append(("prompts of 1024 tokens", pool, replace(scene, context=1024)))
        changed.append(("prompts of 16384 tokens", pool, replace(scene, context=16384)))
    else:
        changed.append(("contexts of 2048 tokens", pool, replace(scene, context=2048)))
        changed.append(("64 requests a card", pool, replace(scene, tokens=64)))
    conditions = []
    for what, other, at in changed:
        found = _rate(other, at)
        conditions.append(Condition(what, found, found >= said))
    return Claim(
        name, said, "tokens/s a card", PRESS, scene.setting, _rate(pool, scene), tuple(conditions)
    )


def _at(pool: Pool, side: bounds.Side) -> Pool:
    return replace(pool, cluster=bounds.at(pool.cluster, side))


def _against_h20() -> Claim:
    """How many times as fast prompts of 16K are."""
    said, scene = 2.5, SCENES[1]
    here, there = (_pool(scene, catalog.cluster(d), scene.precision) for d in (SUBJECT, "h20"))
    slower = _rate(there, scene)
    dense = SCENES[6]
    pools = (_pool(dense, catalog.cluster(d), dense.precision) for d in (SUBJECT, "h20"))
    alone, other = (_rate(pool, dense) for pool in pools)
    even = [_rate(replace(p, routing=BALANCED), scene) for p in (here, there)]
    peaks = [Roof(p.cluster.device).peak("float8_e4m3fn") for p in (here, there)]
    found = (
        ("all time went into products in FP8 at equal shares of peak", peaks[0] / peaks[1]),
        ("the model is Qwen3 32B on one card", alone / other),
        ("tokens fall on experts evenly", even[0] / even[1]),
        ("the S5000's numbers are the best they may be", _rate(_at(here, "best"), scene) / slower),
        (
            "the S5000's numbers are the worst they may be",
            _rate(_at(here, "worst"), scene) / slower,
        ),
    )
    return Claim(
        "16K prompts against H20",
        said,
        "times as fast",
        "the press, 2026-02; no settings were published",
        f"DeepSeek 671B, {scene.setting}",
        _rate(here, scene) / slower,
        tuple(Condition(what, ratio, ratio >= said) for what, ratio in found),
    )


SAID: tuple[Callable[[], Claim], ...] = (
    lambda: _stated("prompts of DeepSeek 671B", 4000.0, SCENES[0]),
    lambda: _stated("answers of DeepSeek 671B", 1000.0, SCENES[2]),
    _against_h20,
)
