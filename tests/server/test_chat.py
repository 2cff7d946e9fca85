"""POST /v1/chat/completions: templates, both forms of the answer, log-probabilities."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from pieria.engine.text import TimedOut, TooSlow
from pieria.server.chat import template
from pieria.server.config import ServerConfig
from tests.server.fakes import MODEL, Toy, ToyTokenizer, chat, events

PATH = "/v1/chat/completions"


async def ask(toy: Toy, **fields: Any) -> httpx.Response:
    async with toy.http() as http:
        return await http.post(PATH, json=chat(**fields))


async def whole(toy: Toy, **fields: Any) -> dict[str, Any]:
    answer = await ask(toy, **fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def chunks(toy: Toy, **fields: Any) -> list[dict[str, Any]]:
    answer = await ask(toy, stream=True, **fields)
    assert answer.status_code == 200, answer.text
    *data, done = events(answer.text)
    assert done == "[DONE]"
    return [json.loads(one) for one in data]


async def error(toy: Toy, status: int = 400, **fields: Any) -> dict[str, Any]:
    answer = await ask(toy, **fields)
    assert answer.status_code == status, answer.text
    return answer.json()["error"]


async def test_a_whole_answer() -> None:
    toy = Toy()
    answer = await whole(toy)
    assert answer.pop("id").startswith("chatcmpl-")
    assert answer.pop("system_fingerprint").startswith("fp_")
    assert abs(answer.pop("created") - toy.clock.wall()) < 60
    assert answer == {
        "object": "chat.completion",
        "model": MODEL,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello, world!", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 19,
            "completion_tokens": 14,
            "total_tokens": 33,
            "prompt_tokens_details": {"cached_tokens": 3},
        },
    }


async def test_the_prompt_is_what_the_template_renders() -> None:
    toy = Toy()
    await whole(toy, chat_template_kwargs={"mood": "calm"})
    assert bytes(toy.client.adds[0].tokens) == b"mood=calm\nuser: Hi\nassistant:"
    await whole(toy, add_generation_prompt=False, add_special_tokens=True)
    assert toy.client.adds[1].tokens == (256, *b"user: Hi\n")
    said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "I"}]
    await whole(toy, messages=said, continue_final_message=True)
    assert bytes(toy.client.adds[2].tokens) == b"user: Hi\nassistant: I"


async def test_a_template_that_refuses() -> None:
    refused = await error(Toy(), content="refuse me")
    assert refused["param"] == "messages"
    assert "I do not like this conversation" in refused["message"]


async def test_a_model_without_template() -> None:
    toy = Toy()
    object.__setattr__(toy.served, "template", None)
    assert "no chat template" in (await error(toy))["message"]


async def test_sampling_reaches_the_engine() -> None:
    toy = Toy()
    fields = {
        "n": 2,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 7,
        "min_p": 0.1,
        "seed": 11,
        "presence_penalty": 0.2,
        "frequency_penalty": 0.3,
        "repetition_penalty": 1.1,
        "logit_bias": {"65": 2, "66": -1.5},
        "stop": ["zzz"],
        "stop_token_ids": [1],
        "include_stop_str_in_output": True,
        "ignore_eos": True,
        "min_tokens": 2,
        "max_completion_tokens": 5,
        "skip_special_tokens": False,
    }
    await whole(toy, **fields, priority=3, cache_salt="pepper")
    first, second = toy.client.adds
    del fields["max_completion_tokens"]
    fields["logit_bias"] = {65: 2, 66: -1.5}
    assert {name: getattr(first.params, name) for name in fields} == fields
    assert (first.max_tokens, first.priority, first.salt) == (5, 3, "pepper")
    assert (first.seed, first.choice, second.choice) == (11, 0, 1)


@pytest.mark.parametrize(("asked", "given"), [({"timeout": 2.5}, 2.5), ({}, 7.0)])
async def test_a_request_has_a_deadline(asked: dict[str, float], given: float) -> None:
    toy = Toy(request_timeout_seconds=7.0)
    await whole(toy, **asked)
    assert toy.client.timeout_seconds == given
    without = Toy()
    await whole(without)
    assert without.client.timeout_seconds is None


@pytest.mark.parametrize("late", [TimedOut("it did not finish within 2 s"), TooSlow("99 wait")])
async def test_a_request_that_is_ended_is_told_why(late: Exception) -> None:
    toy = Toy()
    toy.client.refuse = late
    wrong = await error(toy, status=408)
    assert (wrong["message"], wrong["code"]) == (f"the request was ended: {late}", "timeout")


async def test_defaults() -> None:
    toy = Toy()
    await whole(toy)
    params = toy.client.adds[0].params
    assert (params.temperature, params.max_tokens, params.n) == (1.0, None, 1)
    object.__setattr__(toy.served, "defaults", {"temperature": 0.6, "max_tokens": 4})
    answer = await whole(toy, top_k=5)
    params = toy.client.adds[1].params
    assert (params.temperature, params.max_tokens, params.top_k) == (0.6, 4, 5)
    assert answer["choices"][0]["finish_reason"] == "length"
    await whole(toy, temperature=0, max_tokens=9)
    params = toy.client.adds[2].params
    assert (params.temperature, params.max_tokens) == (0, 9)


async def test_the_two_limits_are_one() -> None:
    toy = Toy()
    await whole(toy, max_tokens=4, max_completion_tokens=4)
    assert (await error(toy, max_tokens=4, max_completion_tokens=5))["param"] == "max_tokens"
    wrong = await error(toy, max_completion_tokens=0)
    assert wrong["param"] == "max_completion_tokens"
    assert wrong["message"].startswith("max_completion_tokens=0 must be")


async def test_logprobs() -> None:
    toy = Toy("é")
    answer = await whole(toy, logprobs=True, top_logprobs=3)
    content = answer["choices"][0]["logprobs"]["content"]
    assert content[0] == {
        "token": "\ufffd",
        "bytes": [0xC3],
        "logprob": -0.25,
        "top_logprobs": [
            {"token": "\ufffd", "bytes": [0xC3], "logprob": -0.25},
            {"token": "x", "bytes": [120], "logprob": -5.0},
            {"token": "y", "bytes": [121], "logprob": -9999.0},
        ],
    }
    assert answer["choices"][0]["logprobs"]["refusal"] is None
    assert [one["token"] for one in content] == ["\ufffd", "\ufffd", "<eos>"]
    plain = await whole(toy, logprobs=True)
    assert plain["choices"][0]["logprobs"]["content"][0]["top_logprobs"] == []
    assert (await whole(toy, logprobs=False))["choices"][0]["logprobs"] is None


async def test_logprobs_have_limits() -> None:
    toy = Toy(max_logprobs=2)
    await whole(toy, logprobs=True, top_logprobs=2, prompt_logprobs=2)
    assert (await error(toy, logprobs=True, top_logprobs=3))["param"] == "top_logprobs"
    assert (await error(toy, top_logprobs=1))["param"] == "top_logprobs"
    assert (await error(toy, prompt_logprobs=3))["param"] == "prompt_logprobs"
    assert (await error(toy, logprobs=True, top_logprobs=-1))["param"] == "top_logprobs"
    assert (await error(toy, prompt_logprobs=1, stream=True))["param"] == "prompt_logprobs"


async def test_extras_come_when_asked_for() -> None:
    answer = await whole(Toy("ab"), prompt_logprobs=0, return_token_ids=True, stop_token_ids=[97])
    prompt = b"user: Hi\nassistant:"
    assert answer["prompt_token_ids"] == list(prompt)
    assert answer["prompt_logprobs"][0] is None
    assert list(answer["prompt_logprobs"][1]) == [str(prompt[1])]
    assert answer["choices"][0]["token_ids"] == [97, 98, 257]


async def test_stop_strings_say_which() -> None:
    answer = await whole(Toy(), stop=[", w", "zz"])
    choice = answer["choices"][0]
    assert choice["message"]["content"] == "Hello"
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", ", w")


async def test_a_stream_begins_with_the_role_and_ends_with_the_reason() -> None:
    got = await chunks(Toy("Hi!"))
    assert len({(c["id"], c["created"], c["model"], c["system_fingerprint"]) for c in got}) == 1
    assert {c["object"] for c in got} == {"chat.completion.chunk"}
    assert all("usage" not in c for c in got)
    choices = [c["choices"] for c in got]
    assert choices == [
        [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]
        for delta, finish in [
            ({"role": "assistant", "content": ""}, None),
            ({"content": "H"}, None),
            ({"content": "i"}, None),
            ({"content": "!"}, None),
            ({}, "stop"),
        ]
    ]


async def test_a_stream_says_what_the_whole_says() -> None:
    toy = Toy()
    fields = {"n": 3, "logprobs": True, "top_logprobs": 1, "return_token_ids": True, "seed": 1}
    answer = await whole(toy, **fields)
    got = await chunks(toy, **fields, stream_options={"include_usage": True})
    assert got[-1]["choices"] == []
    assert got[-1]["usage"] == answer["usage"]
    assert all(c["usage"] is None for c in got[:-1])
    assert got[0]["prompt_token_ids"] == answer["prompt_token_ids"]
    assert all("prompt_token_ids" not in c for c in got[1:])
    for choice in answer["choices"]:
        mine = [c["choices"][0] for c in got[:-1] if c["choices"][0]["index"] == choice["index"]]
        assert mine[0]["delta"] == {"role": "assistant", "content": ""}
        text = "".join(one["delta"].get("content", "") for one in mine)
        assert text == choice["message"]["content"]
        logprobs = [p for one in mine if one["logprobs"] for p in one["logprobs"]["content"]]
        assert logprobs == choice["logprobs"]["content"]
        assert [t for one in mine for t in one.get("token_ids", [])] == choice["token_ids"]
        assert [one["finish_reason"] for one in mine if one["finish_reason"]] == ["stop"]
        assert mine[-1]["finish_reason"] == "stop"


async def test_usage_can_be_had_on_the_way() -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    got = await chunks(Toy("Hi"), stream_options=options)
    assert [c["usage"]["completion_tokens"] for c in got] == [1, 1, 2, 3, 3]


async def test_half_a_character_waits_for_its_other_half() -> None:
    got = await chunks(Toy("🙂"))
    texts = [c["choices"][0]["delta"].get("content") for c in got]
    assert texts == ["", "🙂", None]


async def test_stream_options_need_a_stream() -> None:
    assert (await error(Toy(), stream_options={"include_usage": True}))["param"] == "stream_options"


async def test_the_model_must_be_one_that_is_served() -> None:
    toy = Toy(served_model_name=("a", "b/c"))
    for name in ("a", "b/c"):
        assert (await whole(toy, model=name))["model"] == name
    wrong = await error(toy, 404, model="d")
    assert wrong == {
        "message": "the model 'd' does not exist; served: a, b/c",
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
    }


async def test_a_prompt_far_too_long_is_not_even_tokenized() -> None:
    toy = Toy()
    tokenizer = toy.served.engine.tokenizer
    seen: list[int] = []
    encode = tokenizer.encode
    tokenizer.encode = lambda text, **options: seen.append(len(text)) or encode(text, **options)
    wrong = await error(toy, content="x" * 5000)
    assert "maximum context length is 4096" in wrong["message"]
    wrong = await error(toy, content="x" * 30_000)
    assert "messages has 30017 bytes; the 4096 tokens of this model's" in wrong["message"]
    assert seen == [5017]


@pytest.mark.parametrize("stream", [False, True])
async def test_the_engine_is_full(stream: bool) -> None:
    answer = await ask(Toy(limit=1), n=2, stream=stream)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")


async def test_a_stream_that_breaks_says_so() -> None:
    toy = Toy()
    toy.client.break_after = 2
    answer = await ask(toy, stream=True)
    *first, last = events(answer.text)
    assert answer.status_code == 200
    assert len(first) == 3
    error = json.loads(last)["error"]
    assert error["type"] == "server_error"
    assert error["message"].startswith("the logits are not finite; the server's log has more")


def test_the_template_of_the_options_comes_before_the_models(tmp_path: Path) -> None:
    file = tmp_path / "t.jinja"
    file.write_text("{{ bos_token }}{{ messages[0].content }}{{ eos_token }}")
    given = template(ServerConfig(chat_template=file), "unused", ToyTokenizer())
    assert given is not None
    assert given.render([{"role": "user", "content": "Hi"}]) == "<bos>Hi<eos>"
    own = template(ServerConfig(), "{{ messages | length }}", ToyTokenizer())
    assert own is not None
    assert own.render([{"role": "user", "content": "Hi"}]) == "1"
    assert template(ServerConfig(), None, ToyTokenizer()) is None
    with pytest.raises(ValueError, match="chat_template: cannot read"):
        template(ServerConfig(chat_template=tmp_path / "none"), None, ToyTokenizer())
    file.write_bytes(b"\xff")
    with pytest.raises(ValueError, match="must be UTF-8"):
        template(ServerConfig(chat_template=file), None, ToyTokenizer())
