"""POST /v1/completions: forms of prompts, echo, log-probabilities, both forms of the answer."""

import json
from typing import Any

import httpx
import pytest

from pieria.engine.text import WHOLE_INTERVAL
from tests.server.fakes import MODEL, Toy, events

PATH = "/v1/completions"


async def ask(toy: Toy, **fields: Any) -> httpx.Response:
    async with toy.http() as http:
        return await http.post(PATH, json={"model": MODEL, "prompt": "ab", **fields})


async def whole(toy: Toy, **fields: Any) -> dict[str, Any]:
    answer = await ask(toy, **fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def pieces(toy: Toy, **fields: Any) -> list[dict[str, Any]]:
    answer = await ask(toy, stream=True, **fields)
    assert answer.status_code == 200, answer.text
    *data, done = events(answer.text)
    assert done == "[DONE]"
    return [json.loads(one) for one in data]


async def error(toy: Toy, **fields: Any) -> dict[str, Any]:
    answer = await ask(toy, **fields)
    assert answer.status_code == 400, answer.text
    return answer.json()["error"]


async def test_a_whole_answer() -> None:
    answer = await whole(Toy("Hi"))
    assert answer.pop("id").startswith("cmpl-")
    assert answer.pop("system_fingerprint").startswith("fp_")
    del answer["created"]
    assert answer == {
        "object": "text_completion",
        "model": MODEL,
        "choices": [{"index": 0, "text": "Hi", "logprobs": None, "finish_reason": "stop"}],
        "usage": {
            "prompt_tokens": 3,
            "completion_tokens": 3,
            "total_tokens": 6,
            "prompt_tokens_details": {"cached_tokens": 3},
        },
    }


@pytest.mark.parametrize(
    ("prompt", "tokens"),
    [
        ("ab", [[256, 97, 98]]),
        (["ab", "c"], [[256, 97, 98], [256, 99]]),
        ([97, 98], [[97, 98]]),
        ([[97], [98, 257]], [[97], [98, 257]]),
    ],
)
async def test_forms_of_prompts(prompt: object, tokens: list[list[int]]) -> None:
    toy = Toy("one", "two")
    answer = await whole(toy, prompt=prompt, n=2)
    assert sorted({add.tokens for add in toy.client.adds}) == sorted(map(tuple, tokens))
    assert [choice["index"] for choice in answer["choices"]] == list(range(2 * len(tokens)))
    assert [choice["text"] for choice in answer["choices"]] == ["one", "two"] * len(tokens)
    assert answer["usage"]["prompt_tokens"] == sum(map(len, tokens))


async def test_special_tokens_can_be_left_out() -> None:
    toy = Toy()
    await whole(toy, add_special_tokens=False)
    assert toy.client.adds[0].tokens == (97, 98)


async def test_token_ids_must_be_in_the_vocabulary() -> None:
    wrong = await error(Toy(), prompt=[[97], [258]])
    assert wrong["param"] == "prompt"
    assert wrong["message"] == "prompt: token id 258 must be below the 258 of this model"


async def test_biased_tokens_too() -> None:
    wrong = await error(Toy(), logit_bias={"97": 1, "258": 1})
    assert wrong["param"] == "logit_bias"
    assert wrong["message"] == "logit_bias: token id 258 must be below the 258 of this model"


async def test_an_empty_prompt() -> None:
    toy = Toy()
    await whole(toy, prompt="")
    assert toy.client.adds[0].tokens == (256,)
    assert "no tokens" in (await error(toy, prompt="", add_special_tokens=False))["message"]


async def test_the_default_is_openais_sixteen_tokens() -> None:
    assert (await whole(Toy("x" * 50)))["choices"][0]["text"] == "x" * 16


async def test_logprobs() -> None:
    answer = await whole(Toy("Hé"), logprobs=3, max_tokens=2)
    assert answer["choices"][0]["logprobs"] == {
        "tokens": ["H", "\ufffd"],
        "token_logprobs": [-0.25, -0.5],
        "top_logprobs": [
            {"H": -0.25, "x": -5.0, "y": -9999.0},
            {"\ufffd": -0.5, "x": -5.0, "y": -9999.0},
        ],
        "text_offset": [0, 1],
    }
    answer = await whole(Toy("H"), logprobs=0, max_tokens=1)
    assert answer["choices"][0]["logprobs"]["top_logprobs"] == [{"H": -0.25}]
    assert (await error(Toy(max_logprobs=2), logprobs=3))["param"] == "logprobs"


async def test_echo() -> None:
    answer = await whole(Toy("one", "two"), prompt=["ab", "c"], n=2, echo=True)
    assert [c["text"] for c in answer["choices"]] == ["abone", "abtwo", "cone", "ctwo"]
    assert answer["usage"]["completion_tokens"] == 16
    answer = await whole(Toy("!"), prompt=[256, 97], echo=True)
    assert answer["choices"][0]["text"] == "<bos>a!"


async def test_echo_with_logprobs() -> None:
    answer = await whole(Toy("H", "J"), echo=True, logprobs=1, n=2, max_tokens=1)
    for choice, letter in zip(answer["choices"], "HJ", strict=True):
        assert choice["text"] == f"ab{letter}"
        assert choice["logprobs"] == {
            "tokens": ["<bos>", "a", "b", letter],
            "token_logprobs": [None, -0.5, -0.75, -0.25],
            "top_logprobs": [None, {"a": -0.5}, {"b": -0.75}, {letter: -0.25}],
            "text_offset": [0, 5, 6, 7],
        }
        assert "prompt_logprobs" not in choice


@pytest.mark.parametrize("stream", [False, True])
async def test_a_text_is_scored_without_continuing_it(stream: bool) -> None:
    toy = Toy("one")
    fields = {"echo": True, "logprobs": 1, "max_tokens": 0}
    if stream:
        *got, last = await pieces(toy, **fields, stream_options={"include_usage": True})
        (choice,) = (c["choices"][0] for c in got)
        usage = last["usage"]
    else:
        answer = await whole(toy, **fields)
        (choice,), usage = answer["choices"], answer["usage"]
    assert (choice["text"], choice["finish_reason"]) == ("ab", "length")
    assert choice["logprobs"]["tokens"] == ["<bos>", "a", "b"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (3, 0)
    assert (await error(toy, max_tokens=0))["param"] == "max_tokens"


async def test_extras_come_when_asked_for() -> None:
    answer = await whole(
        Toy("Hi"), prompt=["ab", "c"], prompt_logprobs=1, return_token_ids=True, max_tokens=1
    )
    first, second = answer["choices"]
    assert (first["prompt_token_ids"], second["prompt_token_ids"]) == ([256, 97, 98], [256, 99])
    assert first["token_ids"] == [ord("H")]
    assert first["prompt_logprobs"] == [
        None,
        {"97": {"logprob": -0.5, "rank": 1, "decoded_token": "a"}},
        {"98": {"logprob": -0.75, "rank": 1, "decoded_token": "b"}},
    ]
    assert first["logprobs"] is None


async def test_prompt_logprobs_cannot_differ_from_those_echoed() -> None:
    fields = {"echo": True, "logprobs": 1}
    assert (await error(Toy(), **fields, prompt_logprobs=2))["param"] == "prompt_logprobs"
    both = (await whole(Toy(), **fields, prompt_logprobs=1))["choices"][0]
    assert len(both["prompt_logprobs"]) == 3
    assert both["logprobs"]["token_logprobs"][:3] == [None, -0.5, -0.75]


async def test_best_of_is_only_n() -> None:
    await whole(Toy(), best_of=2, n=2)
    await whole(Toy(), best_of=1)
    assert (await error(Toy(), best_of=2))["param"] == "best_of"


@pytest.mark.parametrize("backwards", [False, True])
async def test_a_stream_says_what_the_whole_says(backwards: bool) -> None:
    toy = Toy("Hi!", "é🙂")
    toy.client.backwards = backwards
    fields = {
        "prompt": ["ab", "c"],
        "n": 2,
        "echo": True,
        "logprobs": 2,
        "return_token_ids": True,
        "stop": ["?"],
    }
    answer = await whole(toy, **fields)
    *got, last = await pieces(toy, **fields, stream_options={"include_usage": True})
    assert (last["choices"], last["usage"]) == ([], answer["usage"])
    assert all(c["usage"] is None for c in got)
    for choice in answer["choices"]:
        mine = [c["choices"][0] for c in got if c["choices"][0]["index"] == choice["index"]]
        assert "".join(one["text"] for one in mine) == choice["text"]
        for name, values in choice["logprobs"].items():
            assert [v for one in mine for v in one["logprobs"][name]] == values
        assert [t for one in mine for t in one["token_ids"]] == choice["token_ids"]
        assert mine[0]["prompt_token_ids"] == choice["prompt_token_ids"]
        assert [one["finish_reason"] for one in mine[-2:]] == [None, "stop"]


async def test_a_stream_of_plain_text() -> None:
    got = await pieces(Toy("é!"))
    assert [(c["choices"][0]["text"], c["choices"][0]["finish_reason"]) for c in got] == [
        ("é", None),
        ("!", None),
        ("", "stop"),
    ]
    assert {c["object"] for c in got} == {"text_completion"}
    assert all("usage" not in c for c in got)


async def test_pieces_of_several_tokens() -> None:
    toy = Toy("Hello?", stream_interval=3)
    got = await pieces(toy, logprobs=0)
    counts = [len(c["choices"][0]["logprobs"]["tokens"]) for c in got]
    assert counts == [1, 3, 3], "six letters and the end of text"
    assert "".join(c["choices"][0]["text"] for c in got) == "Hello?"


async def test_a_whole_answer_is_not_told_token_by_token() -> None:
    toy = Toy("Hello?")
    await whole(toy)
    assert toy.client.adds[0].stream_interval == WHOLE_INTERVAL


async def test_usage_can_be_had_on_the_way() -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    got = await pieces(Toy("Hi"), stream_options=options)
    assert [c["usage"]["completion_tokens"] for c in got] == [1, 2, 3, 3]
