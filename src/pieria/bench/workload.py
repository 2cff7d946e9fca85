"""What is asked of an engine: prompts of random tokens, in the shapes that real traffic has.

Knows vocabularies and trace files. Does not know engines, servers or time.
"""

import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pieria.bench.options import WorkloadOptions
from pieria.models.tokenizer import Tokenizer

BLOCK_TOKENS = 512
"""What an entry of a trace's `hash_ids` stands for."""

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class Turn:
    """tokens: what is new in the prompt. output_tokens: how many are asked for."""

    tokens: Tokens
    output_tokens: int


@dataclass(frozen=True)
class Conversation:
    """A turn's prompt is all that was said before, answers too, and its own tokens.

    arrival_seconds: when a trace has it begin; None: as the load is set.
    """

    turns: tuple[Turn, ...]
    arrival_seconds: float | None = None


def make(options: WorkloadOptions, tokenizer: Tokenizer, salt: object) -> tuple[Conversation, ...]:
    """The conversations, in the order of their beginning.

    salt: another one gives other tokens, so that no cache knows them. ValueError for a vocabulary
    or a trace that cannot be used.
    """
    draw = random.Random(f"{options.seed}/{salt}")
    vocabulary = _words(tokenizer) if not options.tokenize_prompt else _plain(tokenizer)

    def tokens(count: int) -> Tokens:
        return tuple(draw.choices(vocabulary, k=count))

    def near(length: int) -> int:
        spread = int(length * options.random_range_ratio)
        return max(1, draw.randint(length - spread, length + spread))

    if options.dataset_name == "trace":
        assert options.dataset_path is not None
        lines = list(_lines(options.dataset_path, options.num_prompts))
        return _replay(lines, options.slowdown_factor, tokens)
    if options.dataset_name == "shared-prefix":
        prefixes = [tokens(options.gsp_system_prompt_len) for _ in range(options.gsp_num_groups)]
        return tuple(
            _single(
                prefixes[number % len(prefixes)] + tokens(options.gsp_question_len),
                options.gsp_output_len,
            )
            for number in range(options.num_prompts)
        )
    prefix = tokens(options.random_prefix_len)
    turns = options.num_turns if options.dataset_name == "multi-turn" else 1
    return tuple(
        Conversation(
            tuple(
                Turn(
                    (prefix if turn == 0 else ()) + tokens(near(options.random_input_len)),
                    near(options.random_output_len),
                )
                for turn in range(turns)
            )
        )
        for _ in range(options.num_prompts)
    )


@dataclass(frozen=True)
class _Line:
    seconds: float
    input_tokens: int
    output_tokens: int
    blocks: tuple[int, ...]


def _lines(path: Path, most: int) -> Iterator[_Line]:
    with path.open(encoding="utf-8") as file:
        for number, text in enumerate(file, start=1):
            if number > most:
                return
            try:
                yield _line(json.loads(text))
            except (ValueError, TypeError, KeyError) as error:
                raise ValueError(
                    f"{path}, line {number}: must be an object with timestamp (ms), input_length"
                    f" and output_length from 1 on, and perhaps hash_ids ({error!r})"
                ) from None


def _line(entry: dict[str, Any]) -> _Line:
    tokens_in, tokens_out = int(entry["input_length"]), int(entry["output_length"])
    if min(tokens_in, tokens_out) < 1:
        raise ValueError("a length below 1")
    blocks = tuple(int(block) for block in entry.get("hash_ids", ()))
    return _Line(float(entry["timestamp"]) / 1000, tokens_in, tokens_out, blocks)


def _replay(lines: list[_Line], slowdown: float, tokens: Any) -> tuple[Conversation, ...]:
    """Blocks of the same id are the same tokens; what no block covers is each prompt's own."""
    blocks: dict[int, Tokens] = {}
    start = min((line.seconds for line in lines), default=0.0)
    made = []
    for line in sorted(lines, key=lambda line: line.seconds):
        prompt: Tokens = ()
        for block in line.blocks:
            if block not in blocks:
                blocks[block] = tokens(BLOCK_TOKENS)
            prompt += blocks[block]
        prompt = prompt[: line.input_tokens]
        prompt += tokens(line.input_tokens - len(prompt))
        turn = Turn(prompt, line.output_tokens)
        made.append(Conversation((turn,), (line.seconds - start) * slowdown))
    return tuple(made)


def _single(prompt: Tokens, output_tokens: int) -> Conversation:
    return Conversation((Turn(prompt, output_tokens),))


def _plain(tokenizer: Tokenizer) -> list[int]:
    """All tokens that stand for something and are not special."""
    ids = range(tokenizer.size)
    return [i for i in ids if i not in tokenizer.special_ids and tokenizer.token_bytes(i)]


def _words(tokenizer: Tokenizer) -> list[int]:
    """Tokens that are a whole word with its space, so that a text of them has as many tokens."""
    found = []
    for id in _plain(tokenizer):
        text = tokenizer.token_text(id)
        if re.fullmatch(" [a-z]+", text) and tokenizer.encode(text, False) == [id]:
            found.append(id)
    if len(found) < 100:
        raise ValueError(
            f"only {len(found)} tokens of this vocabulary are words; give --tokenize-prompt"
        )
    return found
