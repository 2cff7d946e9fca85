"""Every fault point fired in a server under load: others' tokens stay, and the cause is told."""

import itertools
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

import httpx
import psutil
import pytest
import torch

from tests.engine.faults import POINTS
from tests.engine.faulty import FRONT
from tests.engine.test_faults import ONCE
from tests.models import tiny
from tests.test_cli import TEMPLATE, Serve

STREAMS = 8
KINDS = 12
CAUSES = {"": "logits are not finite", "MemoryError": "not enough memory"}
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"

CASES = [
    *((point, error, 1) for point in POINTS for error in ("RuntimeError", "MemoryError")),
    # A step that was recorded is not packed again.
    *((point, "AssertionError", 2) for point in POINTS if point not in (*ONCE, "pack")),
    *((point, error, 1) for point in FRONT for error in ("KeyError", "MemoryError")),
    *((value, "", at) for value in ("nan", "inf") for at in (1, 3)),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    tiny.write_tokenizer(tiny.save(tiny.model("Llama"), path))
    (path / "chat_template.jinja").write_text(TEMPLATE)
    return path


def good(kind: int) -> dict[str, Any]:
    return {
        "model": "tiny",
        "prompt": [5 + kind, *range(3, 3 + 2 * kind)],
        "max_tokens": 20 + kind,
        "temperature": 0.9 if kind % 3 else 0.0,
        "seed": 1000 + kind,
        "ignore_eos": True,
        "stream": True,
        "return_token_ids": True,
        "logprobs": 1,
    }


def streamed(http: httpx.Client, body: dict[str, Any]) -> list[Any]:
    """The tokens and their log-probabilities; what an error event says."""
    found = []
    with http.stream("POST", COMPLETIONS, json=body) as answer:
        for line in answer.iter_lines():
            if not line or line.endswith("[DONE]"):
                continue
            said = json.loads(line.removeprefix("data: "))
            if "error" in said:
                return [said["error"]["message"]]
            choice = said["choices"][0]
            found.append((choice["token_ids"], choice["logprobs"]))
    return found


class Load:
    """Good requests, one after the other in each of a few threads, each compared with `wanted`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.answered = 0
        self.wrong: list[Any] = []
        self.over = threading.Event()
        with httpx.Client(base_url=url, timeout=120) as http:
            self.wanted = [streamed(http, good(kind)) for kind in range(KINDS)]
        assert all(len(found) > 5 for found in self.wanted)
        self.threads = [threading.Thread(target=self._run, args=(i,)) for i in range(STREAMS)]

    def __enter__(self) -> "Load":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join(timeout=120)

    def _run(self, first: int) -> None:
        with httpx.Client(base_url=self.url, timeout=120) as http:
            for turn in itertools.count(first):
                if self.over.is_set():
                    return
                kind = turn * 5 % KINDS
                found = streamed(http, good(kind))
                self.answered += 1
                if found != self.wanted[kind]:
                    self.wrong.append((kind, found))


def told(http: httpx.Client, point: str, error: str, at: int, stream: bool) -> str:
    """What the server says to a request that fails there."""
    salt = f"{point}:{error}:{at}:{stream}"
    body: dict[str, Any] = {"model": "tiny", "max_tokens": 16, "seed": crc32(salt.encode())}
    body |= {"ignore_eos": True, "cache_salt": salt, "temperature": 0.9, "stream": stream}
    if point == "render":
        answer = http.post(
            CHAT, json=body | {"messages": [{"role": "user", "content": f"*{salt}*"}]}
        )
    else:
        prompt = f"*{salt}*" if point in FRONT else list(range(4, 44))
        answer = http.post(COMPLETIONS, json=body | {"prompt": prompt})
    text = answer.text
    if answer.status_code == 200:
        assert stream and not text.endswith("[DONE]\n\n")
        text = text.strip().split("\n\n")[-1].removeprefix("data: ")
    message = json.loads(text)["error"]["message"]
    assert isinstance(message, str) and "secret" not in message
    return message


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    log = tmp_path_factory.mktemp("log") / "log"
    with Serve(folder, log, "--max-num-seqs=12", module="tests.engine.faulty") as made:
        yield made


def test_a_fault_ends_its_request_alone_while_others_are_streamed(server: Serve) -> None:
    with httpx.Client(base_url=server.url, timeout=120) as http, Load(server.url) as load:
        for (point, error, at), stream in itertools.product(CASES, (False, True)):
            cause = CAUSES.get(error, error)
            message = told(http, point, error, at, stream)
            assert cause in message, (point, error, at, stream, message)
            assert http.get("/health").json() == {"status": "ok"}
            assert load.wrong == []
    assert load.answered >= STREAMS
    assert load.wrong == []
    metrics = httpx.get(server.url + "/metrics").text
    for name in ("engine_restarts_total", "cache_repairs_total", "kv_cache_usage_perc"):
        [line] = [line for line in metrics.splitlines() if line.startswith(f"pieria:{name}")]
        assert line.endswith(" 0.0"), line
    assert psutil.pid_exists(server.engine.pid)
