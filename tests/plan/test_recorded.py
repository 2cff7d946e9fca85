"""Predictions from a record that is made up, so that each can be worked out by hand."""

from dataclasses import replace
from pathlib import Path

import pytest

from pieria.parallel.mesh import Mesh
from pieria.plan.practice import PIERIA
from pieria.plan.precision import PRECISIONS
from pieria.plan.predict import Predictor
from pieria.plan.presets import preset
from pieria.plan.record import Attended, Chosen, Host, Moved, Products, Record, load
from pieria.plan.recorded import RecordedTiming
from pieria.plan.work import Attention, Experts, Latents, Product, Stream

BANDWIDTH, PEAK = 1e10, 1e11
AXES = (1, 64, 1024), (256, 4096), (256, 4096)


def least(flops: float, size: float) -> float:
    return flops / PEAK + size / BANDWIDTH


def products(op: str, share: float) -> Products:
    """As fast as `share` of what the machine could."""
    rows, outers, inners = AXES
    return Products(
        op,
        "bfloat16",
        *AXES,
        tuple(
            tuple(
                tuple(least(2 * r * o * i, 2 * (o * i + r * (o + i))) / share for i in inners)
                for o in outers
            )
            for r in rows
        ),
    )


def attended(phase: str, share: float) -> Attended:
    def seconds(r: int, c: int) -> float:
        queries, pairs = (r * c, r * c * (c + 1) / 2) if phase == "context" else (r, r * c)
        return least(2 * 8 * 128 * pairs, 2 * 128 * (4 * r * c + 8 * queries)) / share

    requests, contexts = (1, 16), (16, 4096)
    grid = tuple(tuple(seconds(r, c) for c in contexts) for r in requests)
    return Attended(phase, 8, 4, 64, requests, contexts, grid)


RECORD = Record(
    "a machine",
    2,
    "isa",
    "bfloat16",
    BANDWIDTH,
    PEAK,
    (products("linear", 0.5), products("gated_linear", 0.25)),
    (attended("generation", 0.5), attended("context", 0.25)),
    (Chosen(512, 256, 4, 16, (1, 1024), (1e-4, 1e-2)),),
    (Moved("rms_norm", (1e3, 1e6), (1e-6, 1e-3)),),
    Host(2e-3, 1e-4, 3e-3, 2e-4, 1e-6, 1e-5, 0.0),
)
TIMING = RecordedTiming(RECORD)


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


def test_what_is_not_recorded_is_noted() -> None:
    timing = RecordedTiming(RECORD)
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
    called = RecordedTiming(RECORD, replays=False)
    assert called.run(0.01, 0.0, 100, True, 50, 4)[0] == pytest.approx(eager)


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
