"""POST /tokenize and /detokenize."""

from typing import Any

import httpx
import pytest

from tests.server.fakes import MODEL, Toy


async def post(path: str, toy: Toy | None = None, **fields: Any) -> httpx.Response:
    async with (toy or Toy()).http() as http:
        return await http.post(path, json=fields)


async def test_a_text() -> None:
    answer = await post("/tokenize", prompt="aé", model=MODEL)
    tokens = [256, 97, 0xC3, 0xA9]
    assert answer.json() == {"count": 4, "max_model_len": 4096, "tokens": tokens}
    answer = await post("/tokenize", prompt="a", add_special_tokens=False, return_token_strs=True)
    assert answer.json() == {
        "count": 1,
        "max_model_len": 4096,
        "tokens": [97],
        "token_strs": ["a"],
    }


async def test_a_conversation() -> None:
    messages = [{"role": "user", "content": "Hi"}]
    answer = await post("/tokenize", messages=messages, chat_template_kwargs={"a": 1})
    assert bytes(answer.json()["tokens"]) == b"a=1\nuser: Hi\nassistant:"
    answer = await post("/tokenize", messages=messages, add_generation_prompt=False)
    assert bytes(answer.json()["tokens"]) == b"user: Hi\n"


async def test_back_to_text() -> None:
    answer = await post("/detokenize", tokens=[256, 97, 0xC3, 0xA9])
    assert answer.json() == {"prompt": "<bos>aé"}
    assert (await post("/detokenize", tokens=[])).json() == {"prompt": ""}


@pytest.mark.parametrize(
    ("path", "fields", "status", "param"),
    [
        ("/tokenize", {}, 400, "prompt"),
        (
            "/tokenize",
            {"prompt": "a", "messages": [{"role": "user", "content": "b"}]},
            400,
            "prompt",
        ),
        ("/tokenize", {"prompt": 5}, 400, "prompt"),
        ("/tokenize", {"prompt": "a", "model": "other"}, 404, "model"),
        ("/tokenize", {"prompt": "a" * 30_000}, 400, "prompt"),
        ("/tokenize", {"prompt": "a", "tools": []}, 400, "tools"),
        ("/detokenize", {"tokens": [258]}, 400, "tokens"),
        ("/detokenize", {"tokens": [1], "model": "other"}, 404, "model"),
    ],
)
async def test_refusals(path: str, fields: dict[str, Any], status: int, param: str) -> None:
    answer = await post(path, **fields)
    assert answer.status_code == status
    assert answer.json()["error"]["param"] == param


async def test_it_goes_on_while_draining() -> None:
    toy = Toy()
    toy.state.draining = True
    assert (await post("/tokenize", toy, prompt="a")).status_code == 200
