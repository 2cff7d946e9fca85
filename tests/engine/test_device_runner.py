"""Plans on a device: what one plan gives, whatever was run before and however rows are split."""

from collections.abc import Sequence

import pytest
import torch

from pieria import ops
from pieria.engine import step_memory
from pieria.engine.device_runner import DeviceRunner
from pieria.engine.layout import layout
from pieria.engine.place import allocate
from pieria.engine.plan import Chunk, Draw, StepPlan
from pieria.hardware import devices
from pieria.models.context import Packed
from pieria.models.decoder import Decoder
from tests.engine.real import VOCABULARY, tiny_model

PAGE_TOKENS = 4
WINDOWS = (None, None, None)
TOKENS = tuple((7 * i * i + 3 * i) % VOCABULARY for i in range(40))


@pytest.fixture(scope="module")
def model() -> Decoder:
    ops.use()
    return tiny_model(windows=WINDOWS)


def runner_of(model: Decoder) -> DeviceRunner:
    arranged = layout(model.cache_specs())
    stage = range(len(arranged.specs))
    caches = allocate(arranged, stage, 32, 0, PAGE_TOKENS, devices.find("cpu"))
    return DeviceRunner(model, caches, arranged.tables, PAGE_TOKENS, "cpu")


@pytest.fixture
def runner(model: Decoder) -> DeviceRunner:
    return runner_of(model)


def chunk(
    request: str, tokens: Sequence[int], start: int, end: int, pages: range, **more: object
) -> Chunk:
    return Chunk(request, start, tuple(tokens[start:end]), (tuple(pages),), **more)  # type: ignore[arg-type]


def logits_of(model: Decoder, tokens: Sequence[int]) -> torch.Tensor:
    with torch.no_grad():
        return model.logits(model(torch.tensor(tokens), Packed.of((len(tokens),))))


def test_a_draw_and_its_report(model: Decoder, runner: DeviceRunner) -> None:
    plan = StepPlan(
        (
            chunk("a", TOKENS, 0, 9, range(3), draw=Draw(0, logprobs=2)),
            chunk("b", TOKENS, 0, 5, range(3, 6)),
            chunk("c", TOKENS[3:], 0, 4, range(6, 7), draw=Draw(0)),
        )
    )
    a, b, c = runner.run(plan).chunks
    last_V = logits_of(model, TOKENS[:9])[-1]
    assert (a.request, a.token, a.error) == ("a", int(last_V.argmax()), None)
    assert a.logprob is not None and a.logprob.rank == 1
    assert a.logprob.logprob == pytest.approx(float(last_V.log_softmax(-1).max()), abs=1e-9)
    assert [token for token, _ in a.logprob.top] == last_V.topk(2).indices.tolist()
    assert (b.request, b.token, b.logprob, b.prompt_logprobs) == ("b", None, None, ())
    assert c.token == int(logits_of(model, TOKENS[3:7])[-1].argmax())
    assert c.logprob is None


def test_the_same_plan_again_gives_the_same(runner: DeviceRunner) -> None:
    first = StepPlan((chunk("a", TOKENS, 0, 10, range(5)),))
    second = StepPlan(
        (
            chunk("a", TOKENS, 10, 17, range(5), draw=Draw(5, temperature=1.0, logprobs=3)),
            chunk(
                "b",
                TOKENS,
                0,
                6,
                range(5, 7),
                draw=Draw(5, temperature=1.0),
                targets=TOKENS[1:7],
                prompt_logprobs=1,
            ),
        )
    )
    runner.run(first)
    once = runner.run(second)
    caches = [[array.clone() for array in layer] for layer in runner.caches]
    assert runner.run(second) == once
    for layer, kept in zip(runner.caches, caches, strict=True):
        for array, same in zip(layer, kept, strict=True):
            assert torch.equal(array, same)
    assert once.chunks[0].token is not None and len(once.chunks[1].prompt_logprobs) == 6


@pytest.mark.parametrize("rows", [1, 3, 8, 1000])
def test_prompt_logprobs_in_blocks_of_rows(
    model: Decoder, runner: DeviceRunner, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr(step_memory, "MOST_ROWS", rows)
    sizes: list[int] = []
    whole = model.logits

    def watched(hidden_RD: torch.Tensor) -> torch.Tensor:
        sizes.append(len(hidden_RD))
        return whole(hidden_RD)

    monkeypatch.setattr(model, "logits", watched)
    plan = StepPlan(
        (
            chunk("first", TOKENS, 0, 4, range(8, 9)),
            chunk("a", TOKENS, 0, 20, range(5), targets=TOKENS[1:21], prompt_logprobs=2),
            # The last prompt token has no target: a token is drawn there.
            chunk(
                "b",
                TOKENS,
                0,
                9,
                range(5, 8),
                targets=TOKENS[1:9],
                prompt_logprobs=0,
                draw=Draw(0),
            ),
        )
    )
    none, a, b = runner.run(plan).chunks
    assert none.prompt_logprobs == ()
    assert max(sizes) <= max(rows, 1)
    wanted_TV = logits_of(model, TOKENS[:21]).log_softmax(-1)
    for found, count in ((a.prompt_logprobs, 2), (b.prompt_logprobs, 0)):
        assert len(found) == {2: 20, 0: 8}[count]
        for at, report in enumerate(found):
            token = TOKENS[at + 1]
            assert report.token == token
            assert report.logprob == pytest.approx(float(wanted_TV[at, token]), abs=1e-9)
            assert report.rank == 1 + int((wanted_TV[at] > wanted_TV[at, token]).sum())
            assert [t for t, _ in report.top] == wanted_TV[at].topk(count).indices.tolist()


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_that_requests_error(broken: float) -> None:
    ops.use()
    model = tiny_model(windows=WINDOWS)
    model.embed.weight.data[96] = broken
    made = runner_of(model)
    plan = StepPlan(
        (
            chunk("bad", (1, 96, 2), 0, 3, range(1), draw=Draw(0, temperature=1.0)),
            chunk("good", TOKENS, 0, 5, range(1, 3), draw=Draw(0)),
        )
    )
    bad, good = made.run(plan).chunks
    assert (bad.error, bad.token) == ("the model's logits are not finite", None)
    assert good.token == int(logits_of(model, TOKENS[:5])[-1].argmax())


def test_other_ranks_draw_nothing(runner: DeviceRunner) -> None:
    runner.first = False
    wanted = {"draw": Draw(0), "targets": TOKENS[1:5], "prompt_logprobs": 0}
    [a] = runner.run(StepPlan((chunk("a", TOKENS, 0, 5, range(2), **wanted),))).chunks
    assert (a.token, a.logprob, a.prompt_logprobs) == (None, None, ())
