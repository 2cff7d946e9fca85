"""However requests are batched, split, cached, preempted or aborted, their tokens are those of the
naive loop.
"""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pieria import ops
from pieria.engine.messages import Add
from pieria.models.context import Packed
from pieria.models.decoder import Decoder
from tests.engine.real import VOCABULARY, add, engine, naive, run, tiny_model, tokens_of


@pytest.fixture(scope="module", params=["reference", "torch"])
def model(request: pytest.FixtureRequest) -> Decoder:
    """The model, with each backend in turn."""
    ops.use(*([] if request.param == "reference" else [request.param]))
    return tiny_model()


def prompt(length: int, seed: int) -> list[int]:
    return random.Random(seed).choices(range(VOCABULARY), k=length)


def check(model: Decoder, adds: list[Add], news: dict[str, list[object]]) -> None:
    for message in adds:
        assert tokens_of(news[message.id]) == naive(model, message), message.id  # type: ignore[arg-type]


def test_one_request(model: Decoder) -> None:
    made = engine(model)
    message = add("a", prompt(23, 0), 40)
    made.add(message)
    check(model, [message], run(made))


def test_a_batch_of_different_lengths(model: Decoder) -> None:
    made = engine(model)
    adds = [add(str(i), prompt(1 + 7 * i, i), 5 + i) for i in range(9)]
    for message in adds:
        made.add(message)
    check(model, adds, run(made))


def test_prompts_split_over_many_steps(model: Decoder) -> None:
    made = engine(model, max_num_batched_tokens=5, max_num_seqs=4)
    adds = [add(str(i), prompt(31 + i, i), 6) for i in range(5)]
    for message in adds:
        made.add(message)
    news = run(made)
    assert made.stats.split_prompts >= 5
    check(model, adds, news)


def test_shared_beginnings(model: Decoder) -> None:
    made = engine(model)
    shared = prompt(40, 1)
    for round in range(3):
        adds = [add(f"{round}-{i}", shared[: 20 + i] + prompt(i, i), 8) for i in range(6)]
        for message in adds:
            made.add(message)
        check(model, adds, run(made))
    assert made.stats.prefix_hits > 200


def test_preemption(model: Decoder) -> None:
    made = engine(model, pages=18)
    adds = [add(str(i), prompt(10 + i, i), 40, ignore_eos=True) for i in range(8)]
    for message in adds:
        made.add(message)
    news = run(made)
    assert made.stats.preemptions >= 5
    check(model, adds, news)


def test_preemption_without_a_prefix_cache(model: Decoder) -> None:
    made = engine(model, pages=18, enable_prefix_caching=False)
    adds = [add(str(i), prompt(10 + i, i), 40, ignore_eos=True) for i in range(8)]
    for message in adds:
        made.add(message)
    news = run(made)
    assert made.stats.preemptions >= 5 and made.stats.prefix_hits == 0
    check(model, adds, news)


def test_abort_storm(model: Decoder) -> None:
    """Aborted requests leave nothing behind, and the others never notice."""
    chance = random.Random(3)
    made = engine(model, pages=40, max_num_batched_tokens=24)
    adds = [
        add(str(i), prompt(chance.randint(1, 30), i % 4), 20, ignore_eos=True) for i in range(30)
    ]
    kept, news, waiting = {m.id for m in adds[::3]}, {}, list(adds)
    live: set[str] = set()
    while waiting or not made.idle:
        for message in waiting[:3]:
            made.add(message)
            live.add(message.id)
        del waiting[:3]
        doomed = [id for id in sorted(live - kept) if chance.random() < 0.3]
        made.abort(doomed)
        live -= set(doomed)
        made.scheduler.check()
        for output in made.step():
            news.setdefault(output.id, []).append(output)
        made.scheduler.check()
    assert made.stats.pages_held == 0
    check(model, [m for m in adds if m.id in kept], news)


def test_draws_are_keyed_by_seed_choice_and_position(model: Decoder) -> None:
    """Sampled tokens do not depend on the company either."""
    made = engine(model, pages=40, max_num_batched_tokens=24)
    adds = [
        add(
            f"{i}",
            prompt(9, i % 3),
            20,
            temperature=0.5 + 0.2 * i,
            top_k=(0, 11)[i % 2],
            top_p=(1.0, 0.9, 0.7)[i % 3],
            min_p=(0.0, 0.02)[i % 2],
            presence_penalty=(0.0, 0.5)[i % 2],
            repetition_penalty=(1.0, 1.3)[i % 3 == 1],
            min_tokens=(0, 6)[i % 2],
            logit_bias={7: 2.0} if i % 4 == 0 else None,
            seed=i // 2,
            choice=i % 2,
        )
        for i in range(12)
    ]
    for message in adds:
        made.add(message)
    news = run(made)
    check(model, adds, news)
    again = engine(model)
    again.add(adds[4])
    assert tokens_of(run(again)["4"]) == tokens_of(news["4"])
    assert tokens_of(news["0"]) != tokens_of(news["1"])


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_traffic(model: Decoder, data: st.DataObject) -> None:
    """Requests that come at any time to engines of any size."""
    draw = data.draw
    made = engine(
        model,
        pages=draw(st.integers(14, 40)),
        page_tokens=draw(st.sampled_from([1, 3, 4])) if draw(st.booleans()) else 4,
        max_num_seqs=draw(st.integers(1, 6)),
        max_num_batched_tokens=draw(st.integers(6, 40)),
        enable_prefix_caching=draw(st.booleans()),
        scheduling_policy=draw(st.sampled_from(["fcfs", "priority", "longest_prefix"])),
    )
    cache = made.scheduler.cache
    room = cache.pages.count // len(cache.windows) * cache.page_tokens - 3 * cache.page_tokens
    adds, news = [], {}
    for i in range(draw(st.integers(1, 6))):
        most = draw(st.integers(1, min(12, room - 1)))
        length = draw(st.integers(1, min(24, room - most)))
        message = add(
            str(i), prompt(length, draw(st.integers(0, 1))), most, priority=draw(st.integers(0, 2))
        )
        adds.append(message)
        made.add(message)
        for _ in range(draw(st.integers(0, 4))):
            for output in made.step() if not made.idle else []:
                news.setdefault(output.id, []).append(output)
            made.scheduler.check()
    for id, more in run(made).items():
        news.setdefault(id, []).extend(more)
    check(model, adds, news)


def test_logprobs_are_those_of_the_softmax(model: Decoder) -> None:
    made = engine(model, max_num_batched_tokens=8, max_num_seqs=2)
    tokens = prompt(21, 5)
    made.add(add("a", tokens, 6, logprobs=3, prompt_logprobs=2, ignore_eos=True))
    news = run(made)["a"]
    sequence = torch.tensor(tokens + tokens_of(news))
    with torch.no_grad():
        logits = model.logits(model(sequence, Packed.of((len(sequence),))))
    wanted = torch.log_softmax(logits, -1)
    reports = [r for o in news for r in o.prompt_logprobs] + [r for o in news for r in o.logprobs]
    assert len(reports) == len(sequence) - 1
    for i, report in enumerate(reports):
        token = int(sequence[i + 1])
        assert report.token == token
        assert report.logprob == pytest.approx(float(wanted[i, token]), abs=1e-9)
        assert report.rank == 1 + int((wanted[i] > wanted[i, token]).sum())
        count = 2 if i < len(tokens) - 1 else 3
        values, ids = wanted[i].topk(count)
        assert [t for t, _ in report.top] == ids.tolist()
        assert [v for _, v in report.top] == pytest.approx(values.tolist(), abs=1e-9)


def test_a_request_whose_logits_are_not_finite_ends_alone(model: Decoder) -> None:
    broken = tiny_model()
    poisoned = VOCABULARY - 1
    broken.embed.weight.data[poisoned] = float("nan")
    made = engine(broken, enable_prefix_caching=False)
    good = add("good", [1, 2, 3, 4], 10)
    made.add(add("bad", [7, poisoned, 9], 10))
    made.add(good)
    news = run(made)
    assert news["bad"][-1].finish_reason == "error"
    assert "not finite" in (news["bad"][-1].error or "")
    assert tokens_of(news["good"]) == naive(broken, good)


def test_a_step_that_raises_ends_the_request_at_fault_alone(
    model: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = engine(model)
    good, bad = add("good", prompt(9, 0), 10), add("bad", prompt(9, 1), 10)
    run_plan = made.runner.run

    def failing(plan: object) -> object:
        if any(c.request == "bad" and c.start > 8 for c in plan.chunks):  # type: ignore[attr-defined]
            raise RuntimeError("a fault in the runner")
        return run_plan(plan)  # type: ignore[arg-type]

    monkeypatch.setattr(made.runner, "run", failing)
    made.add(good)
    made.add(bad)
    news = run(made)
    assert news["bad"][-1].error == "computing a step of it failed with RuntimeError"
    assert tokens_of(news["good"]) == naive(model, good)
