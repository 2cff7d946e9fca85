"""The whole server through the official OpenAI client, over a socket."""

import asyncio
from collections.abc import Iterator

import openai
import pytest

from tests.server.fakes import MODEL, LiveServer, Toy

HI = [{"role": "user", "content": "Hi"}]


@pytest.fixture(scope="module")
def live() -> Iterator[LiveServer]:
    with LiveServer(Toy(api_key=("k1", "k2"))) as server:
        yield server


@pytest.fixture
def client(live: LiveServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=live.url + "/v1", api_key="k2", max_retries=0) as made:
        yield made


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).owned_by == "pieria"
    with pytest.raises(openai.NotFoundError) as raised:
        client.models.retrieve("other/model")
    assert raised.value.code == "model_not_found"


def test_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=HI, n=2, seed=7)
    assert [c.message.content for c in answer.choices] == ["Hello, world!", "Bonjour!"]
    assert [c.finish_reason for c in answer.choices] == ["stop", "stop"]
    assert answer.usage is not None
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 3
    assert answer._request_id


def test_chat_stream(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model=MODEL, messages=HI, n=3, stream=True, stream_options={"include_usage": True}
    )
    texts = ["", "", ""]
    for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == ["Hello, world!", "Bonjour!", "你好🙂"]
    assert chunk.usage is not None
    assert chunk.usage.completion_tokens == 14 + 9 + 11


def test_the_clients_own_accumulation(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(
        model=MODEL, messages=HI, logprobs=True, top_logprobs=1
    ) as stream:
        for event in stream:
            assert event.type != "error"
        final = stream.get_final_completion()
    choice = final.choices[0]
    assert choice.message.content == "Hello, world!"
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    assert "".join(bytes(p.bytes or []).decode() for p in choice.logprobs.content) == (
        "Hello, world!<eos>"
    )


def test_completions(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model=MODEL, prompt=["a", "b"], echo=True, logprobs=1, max_tokens=2
    )
    assert [c.text for c in answer.choices] == ["aHe", "bHe"]
    logprobs = answer.choices[1].logprobs
    assert logprobs is not None
    assert logprobs.tokens == ["<bos>", "b", "H", "e"]
    assert logprobs.text_offset == [0, 5, 6, 7]
    stream = client.completions.create(model=MODEL, prompt="a", stream=True, max_tokens=4)
    assert "".join(c.choices[0].text for c in stream) == "Hell"


def test_extensions(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=HI,
        extra_body={"top_k": 3, "min_tokens": 2, "ignore_eos": True},
        max_completion_tokens=15,
    )
    assert answer.choices[0].message.content == "Hello, world!He"
    assert answer.choices[0].finish_reason == "length"


def test_errors(client: openai.OpenAI, live: LiveServer) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model=MODEL, messages=HI, temperature=-1)
    assert bad.value.param == "temperature"
    assert "temperature=-1.0 must be a number from 0.0" in bad.value.message
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(
            model=MODEL,
            messages=HI,
            tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}],
        )
    assert bad.value.param == "tools"
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt-5", messages=HI)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.AuthenticationError) as unknown:
        openai.OpenAI(base_url=live.url + "/v1", api_key="k3").models.list()
    assert unknown.value.code == "invalid_api_key"


def test_a_full_engine_is_a_rate_limit() -> None:
    with (
        LiveServer(Toy(limit=1)) as live,
        openai.OpenAI(base_url=live.url + "/v1", api_key="-", max_retries=0) as client,
    ):
        for stream in (False, True):
            with pytest.raises(openai.RateLimitError) as full:
                client.completions.create(model=MODEL, prompt="a", n=2, stream=stream)
            assert full.value.response.headers["retry-after"] == "1"


def test_a_stream_that_breaks_raises() -> None:
    toy = Toy()
    toy.client.break_after = 3
    with (
        LiveServer(toy) as live,
        openai.OpenAI(base_url=live.url + "/v1", api_key="-") as client,
    ):
        stream = client.chat.completions.create(model=MODEL, messages=HI, stream=True)
        text = ""
        with pytest.raises(openai.APIError, match="the logits are not finite"):
            for chunk in stream:
                text += chunk.choices[0].delta.content or ""
    assert text == "Hel"


async def test_many_at_once(live: LiveServer) -> None:
    async with openai.AsyncOpenAI(base_url=live.url + "/v1", api_key="k1") as client:

        async def one(number: int) -> str:
            stream = await client.chat.completions.create(
                model=MODEL, messages=HI, stream=True, max_tokens=number % 13 + 1
            )
            return "".join([c.choices[0].delta.content or "" async for c in stream])

        texts = await asyncio.gather(*[one(number) for number in range(32)])
    assert texts == ["Hello, world!"[: number % 13 + 1] for number in range(32)]


async def test_a_stream_that_is_closed_early_is_aborted() -> None:
    toy = Toy("x" * 30)
    toy.client.hold_after = 10
    with LiveServer(toy) as live:
        async with openai.AsyncOpenAI(base_url=live.url + "/v1", api_key="-") as client:
            stream = await client.chat.completions.create(
                model=MODEL, messages=HI, n=2, stream=True
            )
            await stream.__anext__()
            await stream.close()
            while toy.client.in_flight:
                await asyncio.sleep(0.005)
    assert len(toy.client.aborted) == 2
