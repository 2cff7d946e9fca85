"""Layers that keep a state of each request, beside layers that keep pages: the engine's tokens are
those of the naive loop, however requests are split, cached, preempted or aborted, and however few
states there are.
"""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pieria import LLM, SamplingParams, ops
from pieria.engine.engine import Engine
from pieria.engine.messages import Add, Output
from pieria.models.config import DeltaConfig, LayerConfig, ModelConfig, NormConfig
from pieria.models.decoder import Decoder
from pieria.parallel.mesh import Mesh
from tests.engine.real import VOCABULARY, add, engine, fill, naive, run, tiny_config, tokens_of
from tests.models import test_qwen3_next, tiny
from tests.models.test_families import read

DELTA = DeltaConfig(4, 2, 8, 6, 4, NormConfig(1e-6))


def config() -> ModelConfig:
    """Of each kind of layer: with a state, with a window, with a state, with all tokens."""
    window, full = tiny_config((6, None)).layers
    delta = LayerConfig(DELTA, full.mlp, full.norm)
    layers = (delta, window, delta, full)
    return ModelConfig("tiny", 32, VOCABULARY, 512, layers, full.norm, tied=False)


@pytest.fixture(scope="module", params=["reference", "torch"])
def model(request: pytest.FixtureRequest) -> Iterator[Decoder]:
    """The model, with each backend in turn. Some heads remember all of a prompt, some one token."""
    ops.use(*([] if request.param == "reference" else [request.param]))
    made = fill(Decoder(config(), Mesh(), torch.float64))
    for layer in ("0", "2"):
        made.layers[layer].mixer.rates.log.data = torch.linspace(-6, 1, 4).double()
    yield made
    ops.use()


def prompt(length: int, seed: int) -> list[int]:
    return random.Random(seed).choices(range(VOCABULARY), k=length)


def check(model: Decoder, made: Engine, adds: list[Add]) -> None:
    for message in adds:
        made.add(message)
    news = run(made)
    for message in adds:
        assert tokens_of(news[message.id]) == naive(model, message), message.id
    assert made.scheduler.cache.states.held == 0


def test_a_batch_of_different_lengths(model: Decoder) -> None:
    made = engine(model)
    check(model, made, [add(str(i), prompt(1 + 11 * i, i), 5 + i) for i in range(9)])


@pytest.mark.parametrize("caching", [True, False])
def test_prompts_split_over_many_steps(model: Decoder, caching: bool) -> None:
    options = {"max_num_batched_tokens": 7, "enable_prefix_caching": caching}
    made = engine(model, max_num_seqs=4, **options)
    check(model, made, [add(str(i), prompt(17 + 9 * i, i), 9) for i in range(5)])
    assert made.stats.split_prompts >= 4


def test_shared_beginnings(model: Decoder) -> None:
    """What goes on from a state leaves it as it is for the next one."""
    made = engine(model, max_num_batched_tokens=24)
    shared = prompt(40, 1)
    for round in range(3):
        adds = [add(f"{round}-{i}", shared[: 20 + i] + prompt(i, i), 8) for i in range(6)]
        check(model, made, adds)
    assert made.stats.prefix_hits > 100
    assert made.scheduler.cache.states.cached > 5


def test_preemption(model: Decoder) -> None:
    made = engine(model, pages=20)
    check(model, made, [add(str(i), prompt(10 + i, i), 30, ignore_eos=True) for i in range(8)])
    assert made.stats.preemptions >= 3


@pytest.mark.parametrize(("states", "caching"), [(2, True), (2, False), (3, True), (5, True)])
def test_few_states(model: Decoder, states: int, caching: bool) -> None:
    """Those of requests that run are all there are, or leave some for beginnings."""
    made = engine(model, states=states, max_num_batched_tokens=16, enable_prefix_caching=caching)
    shared = prompt(16, 2)
    for round in range(2):
        adds = [add(f"{round}-{i}", shared + prompt(5 * i, i), 8) for i in range(4)]
        check(model, made, adds)
    assert made.stats.prefix_hits > 0 or states < 5


def test_abort_storm(model: Decoder) -> None:
    """Aborted requests leave nothing behind, and the others never notice."""
    chance = random.Random(3)
    made = engine(model, pages=40, states=9, max_num_batched_tokens=24)
    adds = [
        add(str(i), prompt(chance.randint(1, 30), i % 4), 20, ignore_eos=True) for i in range(24)
    ]
    kept, waiting = {m.id for m in adds[::3]}, list(adds)
    news: dict[str, list[Output]] = {}
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
    assert made.stats.pages_held == made.scheduler.cache.states.held == 0
    for message in adds[::3]:
        assert tokens_of(news[message.id]) == naive(model, message), message.id


@settings(max_examples=8, deadline=None)
@given(st.data())
def test_any_traffic(model: Decoder, data: st.DataObject) -> None:
    draw = data.draw
    made = engine(
        model,
        pages=draw(st.integers(14, 40)),
        page_tokens=draw(st.sampled_from([1, 3, 4])),
        states=draw(st.integers(2, 9)),
        max_num_seqs=draw(st.integers(1, 6)),
        max_num_batched_tokens=draw(st.integers(6, 40)),
        enable_prefix_caching=draw(st.booleans()),
    )
    cache = made.scheduler.cache
    room = min(36, (cache.pages.count // len(cache.windows) - 4) * cache.page_tokens)
    adds = []
    for i in range(draw(st.integers(1, 5))):
        most = draw(st.integers(1, min(12, room - 1)))
        length = draw(st.integers(1, room - most))
        adds.append(add(str(i), prompt(length, draw(st.integers(0, 1))), most))
    check(model, made, adds)


def test_a_state_that_is_lost_would_be_seen(model: Decoder) -> None:
    """Else the tests above would prove nothing."""
    made, message = engine(model), add("a", prompt(30, 0), 20, ignore_eos=True)
    made.add(message)
    news = [*made.step()]
    *_, state = made.runner.caches[2]  # type: ignore[attr-defined]
    state.zero_()
    news += [output for more in run(made).values() for output in more]
    assert tokens_of(news) != naive(model, message)


def test_the_cache_is_a_state_for_each_slot(model: Decoder) -> None:
    made = engine(model, pages=5, page_tokens=4, states=7)
    shapes = [[tuple(a.shape) for a in layer] for layer in made.runner.caches]  # type: ignore[attr-defined]
    states = [(7, 3, 2 * 8), (7, 3, 2 * 8), (7, 3, 4 * 6), (7, 4, 8, 6)]
    # Two page tables, one for each way to look back.
    pages = [(10, 4, 2, 8)] * 2
    assert shapes == [states, pages, states, pages]


def test_llm_generates_and_finds_prefixes_again(tmp_path: Path) -> None:
    """From files to text, with sizes as they are resolved."""
    oracle = test_qwen3_next.oracle("3.5 moe", torch.float64)
    tiny.write_tokenizer(test_qwen3_next.save(oracle, tmp_path))
    model = read(tmp_path, torch.float64)
    params = SamplingParams(temperature=0, max_tokens=10, ignore_eos=True)
    prompts = [prompt(70, 1), prompt(70, 1)[:50] + prompt(9, 2), prompt(5, 3)]
    size = 4 << 20
    with LLM(str(tmp_path), dtype="float64", device="cpu", kv_cache_memory_bytes=size) as llm:
        for _ in range(2):
            outputs = llm.generate(prompts, params, progress=False)
            for i, (tokens, output) in enumerate(zip(prompts, outputs, strict=True)):
                message = add(str(i), tokens, 10, ignore_eos=True)
                assert list(output.outputs[0].token_ids) == naive(model, message)
        # The second time all full pages but the one that holds the last token.
        assert llm.stats.prefix_hits >= 64 + 48
        assert any(" states of " in d.value for d in llm.decisions)
