"""An engine without a model, and a server around it: tokens as told, held or failing on demand."""

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import httpx
from starlette.applications import Starlette

from pieria.clock import RealTime
from pieria.engine.cause import EngineDead
from pieria.engine.messages import Add, Output, Stats
from pieria.engine.plan import Logprob
from pieria.engine.text import TextEngine
from pieria.engine.untold import Untold
from pieria.models.tokenizer import Decoder
from pieria.server.access import Gate
from pieria.server.api import create_app
from pieria.server.config import ServerConfig
from pieria.server.serve import Server
from pieria.server.state import Served, ServerState

MODEL = "toy"
BOS, EOS = 256, 257
MAX_MODEL_LEN = 4096


class ToyTokenizer:
    """A token for each byte, and two special ones."""

    size = 258
    special_ids = frozenset({BOS, EOS})
    bos, eos = BOS, EOS

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [BOS] * add_special_tokens + list(text.encode())

    def decoder(self, skip_special_tokens: bool = True) -> Decoder:
        return Decoder(self, skip_special_tokens, False)

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        decoder = self.decoder(skip_special_tokens)
        return decoder.push(ids) + decoder.flush()

    def token_bytes(self, id: int) -> bytes:
        return {BOS: b"<bos>", EOS: b"<eos>"}.get(id) or bytes([id])

    def token_text(self, id: int) -> str:
        return self.token_bytes(id).decode(errors="replace")


class ToyTemplate:
    """`role: content` a line. Refuses a conversation that contains "refuse me"."""

    def render(
        self,
        messages: Sequence[dict[str, str]],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        **variables: Any,
    ) -> str:
        if any("refuse me" in message["content"] for message in messages):
            raise ValueError("I do not like this conversation")
        lines = [f"{name}={value}\n" for name, value in sorted(variables.items())]
        lines += [f"{message['role']}: {message['content']}\n" for message in messages]
        if continue_final_message:
            return "".join(lines).removesuffix("\n")
        return "".join(lines) + "assistant:" * add_generation_prompt


class FakeClient:
    """In an `EngineClient`'s place: each choice says its reply, a token a step, and then ends.

    hold_after: tokens of a choice after which it waits until this is None. refuse: raised instead
    of serving. break_after: tokens of a choice after which the engine ends its request with an
    error. backwards: a request's last choice comes first. adds, aborted: everything that was asked
    and taken back.
    """

    def __init__(self, *replies: str) -> None:
        self.replies = replies or ("Hello, world!", "Bonjour!", "你好🙂")
        self.stats = Stats(pages=100)
        self.failure: str | None = None
        self.refused = False
        self.stuck = False
        self.hold_after: int | None = None
        self.break_after: int | None = None
        self.refuse: Exception | None = None
        self.backwards = False
        self.adds: list[Add] = []
        self.aborted: list[str] = []
        self.live: set[str] = set()
        self.commands: list[tuple[str, str]] = []
        self.restarts = 0
        self.tokens_per_second = 0.0
        self.restarting = False
        self.timeout_seconds: float | None = None

    @property
    def ready(self) -> bool:
        return self.failure is None and not self.restarting

    @property
    def in_flight(self) -> int:
        return len(self.live)

    def progressing(self, within_seconds: float) -> bool:
        return self.ready and not self.stuck

    async def command(self, name: str, path: str = "") -> str:
        self.commands.append((name, path))
        if self.refuse is not None:
            raise self.refuse
        return "7" if name == "flush_cache" else path

    def abort(self, ids: set[str]) -> None:
        self.aborted += sorted(ids & self.live)
        self.live -= ids

    async def stream(
        self, adds: Sequence[Add], timeout_seconds: float | None = None
    ) -> AsyncIterator[Output]:
        self.timeout_seconds = timeout_seconds
        if self.refuse is not None:
            raise self.refuse
        self.adds += adds
        self.live |= {add.id for add in adds}
        ids = {add.id for add in adds}
        untold = Untold()
        for add in adds:
            untold.add(add)
        try:
            for step in itertools.count():
                for add in reversed(adds) if self.backwards else adds:
                    if add.id in self.live:
                        await self._wait(step)
                        for output in untold.due([self._output(add, step)]):
                            yield output
                if not ids & self.live:
                    return
        finally:
            self.abort(ids)

    async def _wait(self, step: int) -> None:
        while self.hold_after is not None and step >= self.hold_after and self.failure is None:
            await asyncio.sleep(0.002)
        await asyncio.sleep(0)
        if self.failure is not None:
            raise EngineDead(self.failure)

    def _output(self, add: Add, step: int) -> Output:
        if self.break_after is not None and step >= self.break_after:
            self.live.discard(add.id)
            return Output(add.id, finish_reason="error", error="the logits are not finite")
        said = [*self.replies[add.choice % len(self.replies)].encode(), EOS]
        if add.params.ignore_eos:
            said = said[:-1]
        token = said[step % len(said)]
        finish = "stop" if token == EOS else "length" if step + 1 == add.max_tokens else None
        if finish is not None:
            self.live.discard(add.id)
        wanted, of_prompt = add.params.logprobs, add.params.prompt_logprobs
        first = step == 0
        return Output(
            add.id,
            tokens=(token,),
            logprobs=() if wanted is None else (logprob(token, step, wanted),),
            prompt_logprobs=tuple(
                logprob(token, at, of_prompt) for at, token in enumerate(add.tokens[1:], start=1)
            )
            if first and of_prompt is not None
            else (),
            cached_tokens=3 if first else 0,
            finish_reason=finish,
        )


def logprob(token: int, position: int, alternatives: int) -> Logprob:
    """Likely, less so the further; the last alternatives are impossible."""
    top = [(token, -0.25 * (position + 1)), (ord("x"), -5.0), (ord("y"), float("-inf"))]
    return Logprob(token, top[0][1], 1, tuple(top[:alternatives]))


class Toy:
    """A served fake: the state, its engine, and the application for in-process clients."""

    def __init__(
        self,
        *replies: str,
        limit: int | None = None,
        max_model_len: int = MAX_MODEL_LEN,
        **options: Any,
    ) -> None:
        self.client = FakeClient(*replies)
        fixed = {"port": 0, "host": "127.0.0.1", "allowed_hosts": (MODEL,)}
        self.config = ServerConfig(**{**fixed, **options})
        self.clock = RealTime()
        names = self.config.served_model_name or (MODEL,)
        self.state = ServerState(names, "1.2.3", self.client, self.clock)
        engine = TextEngine(self.client, ToyTokenizer(), max_model_len, ToyTokenizer.size, limit)
        self.served = Served(engine, ToyTemplate(), {})

    def app(self, admin: bool = False) -> Starlette:
        return create_app(
            self.state, self.config, self.clock, Gate(self.config, self.clock), for_admins=admin
        )

    def http(self, ready: bool = True, admin: bool = False, **options: Any) -> httpx.AsyncClient:
        """A client of the application, without a socket."""
        if ready:
            self.state.served = self.served
        app = self.app(admin)
        transport = httpx.ASGITransport(app)
        return httpx.AsyncClient(transport=transport, base_url="http://toy", **options)


class LiveServer:
    """`Toy` on a loopback port, in a thread; `with` starts and drains it.

    status: what `Server.run` returned.
    """

    def __init__(
        self, toy: Toy, load: Callable[[], Awaitable[Served]] | None = None, wait: bool = True
    ) -> None:
        self.toy = toy
        self.server = Server(toy.state, toy.config, toy.clock)
        self.url = self.server.url
        self.status: int | None = None
        self._load = load or self._at_once
        self._wait = wait
        self._thread = threading.Thread(target=self._run)

    @property
    def connections(self) -> set[Any]:
        return self.server._listeners[0][0].server_state.connections

    async def _at_once(self) -> Served:
        return self.toy.served

    def _run(self) -> None:
        self.status = asyncio.run(self.server.run(self._load))

    def __enter__(self) -> "LiveServer":
        self._thread.start()
        if self._wait:
            until(lambda: self.toy.state.served is not None)
        return self

    def __exit__(self, *error: object) -> None:
        self.server.stop()
        self.join()

    def join(self) -> int | None:
        self._thread.join(timeout=30)
        assert not self._thread.is_alive(), "the server did not end"
        return self.status


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait for something that another thread does. AssertionError if it never comes."""
    clock = RealTime()
    deadline = clock.now() + seconds
    while not condition():
        assert clock.now() < deadline, "it did not happen"
        clock.sleep(0.005)


def chat(content: str = "Hi", **fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": content}], **fields}


def events(text: str) -> list[str]:
    """The data of each server-sent event."""
    assert text.endswith("\n\n")
    blocks = text.removesuffix("\n\n").split("\n\n")
    assert all(block.startswith("data: ") for block in blocks)
    return [block.removeprefix("data: ") for block in blocks]
