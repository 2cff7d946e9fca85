"""Serving on a device that is not there: its pace, its cache, its words, and what it refuses."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from pieria.engine.engine import Engine
from pieria.engine.messages import Add
from pieria.engine.process import Prepared
from pieria.engine.runner_config import RunnerConfig
from pieria.engine.sampling_params import SamplingParams
from pieria.engine.scheduler import SchedulerConfig
from pieria.hardware import catalog
from pieria.models.checkpoint import open_checkpoint
from pieria.plan import presets
from pieria.plan.arrangement import Arrangement
from pieria.plan.placed import Subject, placed
from pieria.plan.precision import PRECISIONS
from pieria.plan.replica import PredictedRunner, Replica, VirtualTime
from pieria.plan.virtual import SLACK_SECONDS, Pace, prepare
from pieria.plan.virtual_config import VirtualConfig, device_title
from tests.models import tiny
from tests.plan import small

LIMITS = SchedulerConfig(8, 256)


@pytest.fixture(scope="module")
def lender(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small real model with a tokenizer."""
    path = tmp_path_factory.mktemp("tiny")
    tiny.write_tokenizer(tiny.save(tiny.model("Llama"), path))
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.write(tmp_path_factory.mktemp("small"))


def prepared(
    model: Path, lender: Path, device: str = "virtual:mtt-s5000x2", **options: Any
) -> Prepared:
    virtual = {k: options.pop(k) for k in list(options) if k in VirtualConfig.__annotations__}
    return prepare(
        {
            "model": str(model),
            "runner": asdict(RunnerConfig(str(lender), device=device, **options)),
            "scheduler": asdict(LIMITS),
            "virtual": asdict(VirtualConfig(**virtual)),
        }
    )


def test_steps_end_when_they_are_predicted_to() -> None:
    clock = VirtualTime()
    pace = Pace(clock, 1.0)
    pace.sleep(0.5)
    assert clock.at == 0.5
    clock.at += 0.6 * SLACK_SECONDS  # the host between steps is in the prediction
    pace.sleep(0.5)
    assert clock.at == 1.0
    clock.at = 7.0  # nothing was to be done
    pace.sleep(0.5)
    assert clock.at == 7.5
    assert pace.now() == pace.wall() == 7.5


def test_time_may_pass_faster() -> None:
    clock = VirtualTime()
    pace = Pace(clock, 4.0)
    for _ in range(10):
        pace.sleep(1.0)
    assert clock.at == pytest.approx(2.5)


def test_a_pace_that_cannot_be_kept_is_told(caplog: pytest.LogCaptureFixture) -> None:
    clock = VirtualTime()
    pace = Pace(clock, 1.0)
    for _ in range(400):
        clock.at += 0.9 * SLACK_SECONDS
        pace.sleep(0.001)
    assert pace.late_seconds > 2
    assert "too slow to keep the predicted pace" in caplog.text
    assert len(caplog.records) == int(pace.late_seconds)


def test_the_cache_is_that_of_the_cards(model: Path, lender: Path) -> None:
    found = prepared(model, lender, memory_fraction=1.0, max_model_len=4000, block_size=32)
    subject = Subject(
        "small",
        presets.model(str(model)),
        catalog.cluster("mtt-s5000"),
        page_tokens=32,
        max_model_len=4000,
    )
    replica = placed(subject, Arrangement(tp=2), PRECISIONS["bfloat16"], LIMITS).replica
    assert (found.pages, found.page_tokens, found.max_model_len) == (replica.pages, 32, 4000)
    told = {name: value for name, value, _ in found.decisions}
    assert told["device"].startswith("virtual 2 x MTT S5000")
    assert told["layout"] == "TP2 in bfloat16"
    assert isinstance(found.runner, PredictedRunner)


def test_answers_are_tokens_of_the_lender_and_end(model: Path, lender: Path) -> None:
    found = prepared(model, lender, speedup=10_000.0, answer_tokens=20)
    stop_ids = open_checkpoint(lender).stop_ids
    scheduler = Replica(LIMITS, found.pages, found.page_tokens, found.max_model_len).start(stop_ids)
    engine = Engine(scheduler, found.runner)
    params = SamplingParams(max_tokens=None, logprobs=1)
    for i in range(8):
        engine.add(Add(str(i), (1, 2, 3), params, seed=i, max_tokens=400))
    ended: dict[str, str] = {}
    tokens: list[int] = []
    while not engine.idle:
        for output in engine.step():
            tokens += output.tokens
            assert len(output.logprobs) == len(output.tokens)
            if output.finish_reason:
                ended[output.id] = output.finish_reason
    assert set(ended.values()) == {"stop"}
    assert 8 * 5 < len(tokens) < 8 * 60
    assert set(tokens) <= set(range(found.vocabulary))
    found.runner.close()


def test_a_text_is_written_by_the_lender_first(model: Path, lender: Path) -> None:
    found = prepared(model, lender, text="written", speedup=10_000.0)
    told = {name: value for name, value, _ in found.decisions}
    assert told["tokens"] == f"written, of {lender}"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"device": "virtual:mtt-s9000"}, "no device or cluster is called 'virtual:mtt-s9000'|no"),
        (
            {"tensor_parallel_size": 4},
            "TP4 takes 4 cards and virtual:mtt-s5000x2 has 2; one replica is served, so ask for"
            " virtual:mtt-s5000x4",
        ),
        ({"threads": 3}, "threads=3 means nothing on virtual:mtt-s5000x2"),
        ({"dtype": "float64"}, "dtype=float64 with quantize=bfloat16: a virtual device takes one"),
        ({"dtype": "float16", "quantize": "fp8"}, "dtype=float16 with quantize=fp8"),
        ({"max_model_len": 5000}, "max_model_len=5000 is more than the 4096 tokens"),
        ({"device": "virtual:mtt-s5000x3"}, "do not divide over tp=3.*what works: DP3"),
        ({"kv_cache_memory_bytes": 1 << 50}, "does not fit"),
    ],
)
def test_what_cannot_be_is_refused(
    model: Path, lender: Path, options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        prepared(model, lender, **options)


def test_options_are_checked() -> None:
    for options, reason in (
        ({"speedup": 0.0}, "speedup=0.0 must be above 0"),
        ({"answer_tokens": 0}, "answer_tokens=0 must be from 1"),
        ({"quantize": "fp7"}, "quantize='fp7'; there are: float32"),
    ):
        with pytest.raises(ValueError, match=reason):
            VirtualConfig(**options)  # type: ignore[arg-type]


def test_what_users_are_told() -> None:
    assert device_title("virtual:mtt-s5000x8", VirtualConfig(speedup=2.0)) == (
        "virtual 8 x MTT S5000 (60 MPs, liquid), 2 times as fast:"
        " predicted times, meaningless tokens"
    )
