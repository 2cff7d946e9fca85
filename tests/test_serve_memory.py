"""The memory that a start announces is held under the largest steps that are admitted."""

import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest

from pieria.clock import RealTime
from tests.models import tiny
from tests.test_cli import Serve

VOCABULARY = 150_000
"""The logits of a step of 512 tokens would take 300 MB as they are, and thrice that in work."""

UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


class Peak:
    """The most memory that a process had while the block ran; what it shares counts in part."""

    def __init__(self, process: psutil.Process) -> None:
        self.bytes = 0
        self._process = process
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        clock = RealTime()
        while not self._over.is_set():
            self.bytes = max(self.bytes, self._process.memory_full_info().pss)
            clock.sleep(0.005)

    def __enter__(self) -> "Peak":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    folder = tmp_path_factory.mktemp("model")
    tiny.write_tokenizer(tiny.save(tiny.model("Llama", vocab_size=VOCABULARY), folder))
    with Serve(folder, folder / "log", "--max-num-seqs=16") as made:
        yield made


def test_what_was_promised_is_held(server: Serve) -> None:
    told = re.search(r"^ *memory +([\d.]+) (\w+)", server.said, re.MULTILINE)
    assert told is not None, server.said
    promised = float(told[1]) * UNITS[told[2]]
    body = {"model": "tiny", "max_tokens": 8, "logprobs": 20, "prompt_logprobs": 20}
    body |= {"temperature": 1.0, "top_p": 0.9, "repetition_penalty": 1.2, "ignore_eos": True}

    def ask(number: int) -> int:
        prompt = [4 + (number * 7 + i) % 150 for i in range(480)]
        answer = httpx.post(
            f"{server.url}/v1/completions", json=body | {"prompt": prompt}, timeout=300
        )
        return answer.status_code

    with Peak(server.engine) as peak, ThreadPoolExecutor(16) as pool:
        assert set(pool.map(ask, range(16))) == {200}
    assert 0 < peak.bytes <= promised
