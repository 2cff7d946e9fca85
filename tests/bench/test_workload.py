"""Prompts have the lengths, the shared parts and the times that they were asked to have."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pieria.bench.options import WorkloadOptions
from pieria.bench.workload import Conversation, make
from pieria.models.checkpoint import open_checkpoint
from pieria.models.tokenizer import Tokenizer
from tests.server.fakes import BOS, EOS, ToyTokenizer

TOY: Any = ToyTokenizer()


def of(salt: object = 0, **options: Any) -> tuple[Conversation, ...]:
    return make(WorkloadOptions(**options), TOY, salt)


def prompts(made: tuple[Conversation, ...]) -> list[tuple[int, ...]]:
    return [conversation.turns[0].tokens for conversation in made]


def test_random_prompts() -> None:
    made = of(num_prompts=20, random_input_len=30, random_output_len=7)
    assert len(made) == 20
    assert all(len(c.turns) == 1 and c.arrival_seconds is None for c in made)
    assert {(len(c.turns[0].tokens), c.turns[0].output_tokens) for c in made} == {(30, 7)}
    assert len(set(prompts(made))) == 20
    ids = {token for prompt in prompts(made) for token in prompt}
    assert not ids & {BOS, EOS}
    assert len(ids) > 200


def test_same_seed_same_prompts() -> None:
    assert of(num_prompts=3) == of(num_prompts=3)
    assert of(num_prompts=3) != of(num_prompts=3, seed=1)
    assert of(num_prompts=3) != of(salt=8, num_prompts=3)


@given(st.integers(1, 50), st.floats(0, 0.99))
def test_lengths_lie_around_what_is_asked_for(length: int, ratio: float) -> None:
    options = {"random_input_len": length, "random_output_len": length}
    made = of(num_prompts=20, random_range_ratio=ratio, **options)
    spread = int(length * ratio)
    for conversation in made:
        [turn] = conversation.turns
        for found in (len(turn.tokens), turn.output_tokens):
            assert max(1, length - spread) <= found <= length + spread


def test_a_prefix_for_all() -> None:
    made = prompts(of(num_prompts=5, random_input_len=10, random_prefix_len=6))
    assert {len(prompt) for prompt in made} == {16}
    assert len({prompt[:6] for prompt in made}) == 1
    assert len({prompt[6:] for prompt in made}) == 5


def test_groups_that_begin_alike() -> None:
    made = of(
        dataset_name="shared-prefix",
        num_prompts=9,
        gsp_num_groups=3,
        gsp_system_prompt_len=20,
        gsp_question_len=5,
        gsp_output_len=2,
    )
    beginnings = [prompt[:20] for prompt in prompts(made)]
    assert [beginnings.count(beginning) for beginning in beginnings] == [3] * 9
    assert len({prompt[20:] for prompt in prompts(made)}) == 9
    assert {(len(c.turns[0].tokens), c.turns[0].output_tokens) for c in made} == {(25, 2)}


def test_conversations() -> None:
    made = of(
        dataset_name="multi-turn",
        num_prompts=2,
        num_turns=3,
        random_input_len=4,
        random_prefix_len=5,
        random_output_len=6,
    )
    assert [[len(turn.tokens) for turn in c.turns] for c in made] == [[9, 4, 4]] * 2
    assert len({turn.tokens for c in made for turn in c.turns}) == 6


def trace(path: Path, *lines: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_a_trace(tmp_path: Path) -> None:
    file = trace(
        tmp_path / "t.jsonl",
        {"timestamp": 3000, "input_length": 600, "output_length": 5, "hash_ids": [7, 8]},
        {"timestamp": 1000, "input_length": 700, "output_length": 6, "hash_ids": [7]},
        {"timestamp": 5000, "input_length": 3, "output_length": 1},
        {"timestamp": 9000, "input_length": 3, "output_length": 1},
    )
    made = of(dataset_name="trace", dataset_path=file, num_prompts=3, slowdown_factor=2.0)
    assert [c.arrival_seconds for c in made] == [0.0, 4.0, 8.0]
    first, second, third = prompts(made)
    assert [len(first), len(second), len(third)] == [700, 600, 3]
    assert first[:512] == second[:512]
    assert first[512:600] != second[512:]
    assert [c.turns[0].output_tokens for c in made] == [6, 5, 1]


@pytest.mark.parametrize(
    "line", ["{", "[]", '{"timestamp": 1, "input_length": 0, "output_length": 1}', '{"x": 1}']
)
def test_a_trace_that_cannot_be_read(line: str, tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text(f'{{"timestamp": 1, "input_length": 1, "output_length": 1}}\n{line}\n')
    with pytest.raises(ValueError, match="t.jsonl, line 2: must be an object with timestamp"):
        of(dataset_name="trace", dataset_path=file)


def test_texts_of_words_have_as_many_tokens(smollm2: Path) -> None:
    tokenizer: Tokenizer = open_checkpoint(smollm2).tokenizer()
    options = WorkloadOptions(num_prompts=5, random_input_len=200, tokenize_prompt=False)
    for conversation in make(options, tokenizer, 0):
        tokens = conversation.turns[0].tokens
        assert tuple(tokenizer.encode(tokenizer.decode(tokens), False)) == tokens


def test_a_vocabulary_without_words() -> None:
    with pytest.raises(ValueError, match="only 0 tokens of this vocabulary are words"):
        of(tokenize_prompt=False)
