"""Predictions from a record that is made up, so that each can be worked out by hand."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pieria.parallel.mesh import Mesh
from pieria.plan.practice import PIERIA
from pieria.plan.precision import PRECISIONS
from pieria.plan.predict import Predictor
from pieria.plan.presets import preset
from pieria.plan.record import Attended, Chosen, Host, Moved, Products, Record, Reread, load
from pieria.plan.recorded import RecordedTiming, Weights
from pieria.plan.work import Attention, Experts, Latents, Product, Stream

BANDWIDTH, PEAK = 1e10, 1e11
AXES = (1, 64, 1024), (256, 4096), (256, 4096)


def least(flops: float, size: float) -> float:
    return flops / PEAK + size / BANDWIDTH


def products(op: str, share: float) -> Products:
    """As fast as `share` of what the machine could, and twice that from its cache."""
    rows, outers, inners = AXES

    def grid(share: float) -> tuple[tuple[tuple[float, ...], ...], ...]:
        return tuple(
            tuple(
                tuple(least(2 * r * o * i, 2 * (o * i + r * (o + i))) / share for i in inners)
                for o in outers
            )
            for r in rows
        )

    return Products(op, "bfloat16", *AXES, grid(share), grid(2 * share))


def attended(phase: str, share: float) -> Attended:
    def seconds(r: int, c: int) -> float:
        queries, pairs = (r * c, r * c * (c + 1) / 2) if phase == "context" else (r, r * c)
        return least(2 * 8 * 128 * pairs, 2 * 128 * (4 * r * c + 8 * queries)) / share

    requests, contexts = (1, 16), (16, 4096)
    grid = tuple(tuple(seconds(r, c) for c in contexts) for r in requests)
    cached = tuple(tuple(seconds / 2 for seconds in row) for row in grid)
    return Attended(phase, 8, 4, 64, requests, contexts, grid, cached)


RECORD = Record(
    "a machine",
    2,
    "isa",
    "bfloat16",
    BANDWIDTH,
    PEAK,
    Reread((1e7, 2e7, 4e7), (2e10, 2e10, 1e10)),
    Host(2e-3, 1e-4, 3e-3, 2e-4, 1e-6, 1e-5),
    (products("linear", 0.5), products("gated_linear", 0.25)),
    (attended("generation", 0.5), attended("context", 0.25)),
    (Chosen(512, 256, 4, 16, (1, 1024), (1e-4, 1e-2), (5e-5, 5e-3)),),
    (Moved("rms_norm", (1e3, 1e6), (1e-6, 1e-3)),),
)
LARGE, SMALL = 1e8, 1e6
"""Bytes of weights: more than a cache holds, and fewer."""
TIMING = RecordedTiming(RECORD, Weights(LARGE))


def test_products_take_the_recorded_share_of_what_is_possible() -> None:
    for gated, share in ((False, 0.5), (True, 0.25)):
        work = Product("x", 10, 1000, 500, 1, "layer", gated)
        expected = least(2 * 10 * 1000 * 500, 2 * (500 * 1000 + 10 * 1500)) / share
        assert float(TIMING.of(work).seconds) == pytest.approx(expected)


def test_attention_of_recorded_heads() -> None:
    work = Attention("a", 8, 4, 64, 64, None, 1024, (1, 1), (100, 300))
    expected = least(2 * 8 * 128 * 400, 2 * 128 * (4 * 400 + 8 * 2)) / 0.5
    assert float(TIMING.of(work).seconds) == pytest.approx(expected)
    prompt = replace(work, queries=(100,), contexts=(100,))
    expected = least(2 * 8 * 128 * 5050, 2 * 128 * (4 * 100 + 8 * 100)) / 0.25
    assert float(TIMING.of(prompt).seconds) == pytest.approx(expected)


def test_a_window_bounds_what_is_seen() -> None:
    work = Attention("a", 8, 4, 64, 64, 50, 1024, (1,), (300,))
    expected = least(2 * 8 * 128 * 50, 2 * 128 * (4 * 50 + 8)) / 0.5
    assert float(TIMING.of(work).seconds) == pytest.approx(expected)


def test_recorded_experts_take_what_they_took() -> None:
    work = Experts("experts", 1024, 4, 16, 16, 512, 256)
    assert float(TIMING.of(work).seconds) == pytest.approx(1e-2)


@pytest.mark.parametrize(
    ("weights", "seconds"), [(LARGE, 1e-2), (SMALL, 5e-3), (3e7, 0.5 * 5e-3 + 0.5 * 1e-2)]
)
def test_weights_come_from_the_cache_as_far_as_they_fit(weights: float, seconds: float) -> None:
    """Between 20 and 40 MB reading them takes ever longer: in the middle, half of the way."""
    work = Experts("experts", 1024, 4, 16, 16, 512, 256)
    assert float(RecordedTiming(RECORD, Weights(weights)).of(work).seconds) == pytest.approx(
        seconds
    )
    product = Product("x", 10, 1000, 500, 1, "layer", False)
    whole = least(2 * 10 * 1000 * 500, 2 * (500 * 1000 + 10 * 1500)) / 0.5
    found = float(RecordedTiming(RECORD, Weights(weights)).of(product).seconds)
    assert found == pytest.approx(whole * seconds / 1e-2)


def test_experts_come_from_the_cache_if_they_were_chosen_a_moment_ago() -> None:
    """10 MB of every step, and 80 of experts, of which a token takes a quarter: a step after one of
    a single token reads 30 MB; after two steps 45, and all of that has left a cache of 40.
    """
    timing = RecordedTiming(RECORD, Weights(1e7, 8e7, 0.25))
    product = Product("x", 1, 256, 256, 1, "layer", False)
    near = least(2 * 256 * 256, 2 * (256 * 256 + 512))
    assert float(timing.of(product).seconds) == pytest.approx(near * 1.5)
    # Sixteen tokens take nearly all.
    many = replace(product, rows=16)
    far = least(2 * 16 * 256 * 256, 2 * (256 * 256 + 16 * 512)) / 0.5
    assert float(timing.of(many).seconds) == pytest.approx(far)
    # A quarter was chosen in the step before, half of which is still there: 1/8 of the time twice
    # as fast.
    one = Experts("experts", 1, 4, 16, 16, 512, 256)
    assert float(timing.of(one).seconds) == pytest.approx(1e-4 * (1 - 0.25 / 4))
    arrays = replace(one, tokens=np.array([1.0, 1024.0]))
    assert timing.of(arrays).seconds == pytest.approx([1e-4 * (1 - 0.25 / 4), 1e-2])


def test_a_machine_whose_cache_is_no_faster_reads_all_from_memory() -> None:
    assert Reread((1e7, 2e7), (1e10, 1e10)).share(1e6) == 1


def test_what_is_not_recorded_is_noted() -> None:
    timing = RecordedTiming(RECORD, Weights(LARGE))
    assert float(timing.of(Stream("soft_cap", 0, 1e6)).seconds) == pytest.approx(1e-3)
    assert timing.notes == {"soft_cap: as fast as rms_norm": 1}
    with pytest.raises(ValueError, match="latent attention is not recorded"):
        timing.of(Latents("l", 8, 64, 32, 0, 0, 128, (1,), (1,)))


def test_small_calls_take_no_less_than_the_smallest_that_was_recorded() -> None:
    assert float(TIMING.of(Stream("rms_norm", 0, 1)).seconds) == pytest.approx(1e-6)


def test_host_time_of_replayed_and_other_steps() -> None:
    assert TIMING.run(0.01, 0.0, 100, True, 4, 4)[0] == pytest.approx(0.01 + 2e-3 + 4e-4)
    eager = 0.01 + 100 * 1e-5 + 3e-3 + 4 * 2e-4 + 50 * 1e-6
    assert TIMING.run(0.01, 0.0, 100, False, 50, 4)[0] == pytest.approx(eager)
    called = RecordedTiming(RECORD, Weights(LARGE), replays=False)
    assert called.run(0.01, 0.0, 100, True, 50, 4)[0] == pytest.approx(eager)


def test_a_whole_step_of_one_prompt_is_replayed() -> None:
    timing = RecordedTiming(RECORD, Weights(LARGE), prompt=50)

    def beside(tokens: int, requests: int) -> float:
        return timing.run(0.0, 0.0, 100, False, tokens, requests)[0]

    assert beside(50, 1) == pytest.approx(2e-3 + 1e-4 + 50 * 1e-6)
    eager = 100 * 1e-5 + 3e-3 + 2e-4
    assert beside(49, 1) == pytest.approx(eager + 49 * 1e-6)
    assert beside(50, 2) == pytest.approx(eager + 2e-4 + 50 * 1e-6)
    called = RecordedTiming(RECORD, Weights(LARGE), replays=False, prompt=50)
    assert called.run(0.0, 0.0, 100, False, 50, 1)[0] == pytest.approx(eager + 50 * 1e-6)


def test_a_model_is_predicted_and_explained_alike() -> None:
    predictor = Predictor(
        preset("qwen3-0.6b").model(), Mesh(), TIMING, PRECISIONS["bfloat16"], practice=PIERIA
    )
    one, many = (predictor.seconds([n], [0], 1) for n in (1, 100))
    assert 0 < one < many
    assert predictor.calls > 28 * 8


def test_record_comes_back_from_its_file(tmp_path: Path) -> None:
    RECORD.save(tmp_path / "deep" / "record.json")
    assert load(tmp_path / "deep" / "record.json") == RECORD


@pytest.mark.parametrize("text", ["", "[]", '{"machine": 3}'])
def test_file_that_is_no_record_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "wrong.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"wrong\.json is not a table of `pieria bench ops"):
        load(path)


def test_missing_record_says_what_writes_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`pieria bench ops --record` writes it"):
        load(tmp_path / "none.json")
