"""An error in one request's template, tokenizer or text ends that request; the others go on."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from pieria.models.tokenizer import Decoder
from tests.server.fakes import Toy, ToyTemplate, ToyTokenizer, chat

PATH = "/v1/chat/completions"


def failing(owner: type[Any], name: str, error: type[Exception]) -> Callable[..., Any]:
    """The function, but for what mentions "boom"."""
    call = getattr(owner, name)

    def wrapped(self: Any, *arguments: Any, **named: Any) -> Any:
        if "boom" in repr(arguments) or list(b"boom") in arguments:
            raise error("a secret of the machine")
        return call(self, *arguments, **named)

    return wrapped


@pytest.mark.parametrize("error", [RuntimeError, MemoryError, RecursionError])
@pytest.mark.parametrize(
    ("owner", "name"), [(ToyTemplate, "render"), (ToyTokenizer, "encode"), (Decoder, "push")]
)
async def test_one_request_fails_alone(
    monkeypatch: pytest.MonkeyPatch, owner: type[Any], name: str, error: type[Exception]
) -> None:
    monkeypatch.setattr(owner, name, failing(owner, name, error))
    toy = Toy("good", "boom")
    if name == "push":
        # A choice whose text comes a token a step: the whole word in one.
        monkeypatch.setattr(toy.client, "_output", whole_words(toy.client._output))
    async with toy.http() as http:
        text = "Hi" if name == "push" else "boom"
        both = {"n": 2} if name == "push" else {}
        bad, *good = await asyncio.gather(
            http.post(PATH, json=chat(text, **both)),
            *(http.post(PATH, json=chat("Hi")) for _ in range(3)),
        )
    assert bad.status_code == 500 and "secret" not in bad.text
    for answer in good:
        assert answer.status_code == 200
        assert answer.json()["choices"][0]["message"]["content"] == "good"
    assert toy.client.in_flight == 0


def whole_words(output: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(add: Any, step: int) -> Any:
        made = output(add, step)
        if add.choice == 1 and step == 0:
            return type(made)(add.id, tuple(b"boom"))
        return made

    return wrapped
