"""Engines that are running: asked for tokens, and held still while another has its turn.

Knows the workers' protocol, llama.cpp's programs and HTTP. Does not know works.
"""

import json
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import psutil

from benchmarks.peers import engines
from benchmarks.peers.environments import llama_program
from benchmarks.peers.models import Model
from benchmarks.peers.work import Prompts
from pieria.bench.process import Server, free_port
from pieria.clock import Clock

START_SECONDS = 900.0
CALL_SECONDS = 3600.0


class EngineFailed(RuntimeError):
    """An engine ended, or gave no answer; its log says more."""


class Session(Protocol):
    """An engine in processes of its own."""

    def generate(self, prompts: Prompts, tokens: int) -> tuple[float, Prompts]:
        """Seconds, and the `tokens` greedy tokens of each. EngineFailed if it cannot."""

    def hold(self) -> None:
        """Let it take no processor time until `resume`."""

    def resume(self) -> None: ...

    def close(self) -> None: ...


class Worker:
    """A file of `workers` in its engine's environment. log: takes what the engine prints."""

    def __init__(self, engine: str, python: Path, model: Model, threads: int, log: Path) -> None:
        self._log = log
        settings = json.dumps(engines.worker_settings(engine, model.precision.quantize, threads))
        path = model.paths[engine]
        command = [python, engines.WORKERS / f"run_{engine}.py", path, settings]
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                list(map(str, command)),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=engines.environment(engine, threads),
                text=True,
            )
        try:
            self.load_seconds = float(self._answer()["ready"])
        except BaseException:  # an end that this process is told is one too
            self.close()
            raise

    def generate(self, prompts: Prompts, tokens: int) -> tuple[float, Prompts]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"prompts": prompts, "tokens": tokens}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failed() from None
        answer = self._answer()
        return float(answer["seconds"]), answer["outputs"]

    def hold(self) -> None:
        _each(self._process.pid, psutil.Process.suspend)

    def resume(self) -> None:
        _each(self._process.pid, psutil.Process.resume)

    def close(self) -> None:
        self.resume()
        children: list[psutil.Process] = []
        if self._process.poll() is None:
            children = psutil.Process(self._process.pid).children(recursive=True)
        assert self._process.stdin is not None and self._process.stdout is not None
        with suppress(BrokenPipeError):  # of one that has ended
            self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        for child in children:
            if child.is_running():
                child.kill()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._failed()
        found: dict[str, Any] = json.loads(line)
        return found

    def _failed(self) -> EngineFailed:
        code = self._process.wait()
        last = self._log.read_text(errors="replace").strip().splitlines()[-1:]
        said = f": {last[0][:300]}" if last else ""
        return EngineFailed(f"it ended with exit code {code}{said} (see {self._log})")


class Served:
    """A server of an engine. slots, slot_tokens: as `engines.server_command` takes them.

    watched: its memory is.
    """

    def __init__(
        self,
        engine: str,
        python: Path,
        model: Model,
        threads: int,
        log: Path,
        clock: Clock,
        slots: int = 1,
        slot_tokens: int = 2048,
        watched: bool = False,
    ) -> None:
        self._engine = engine
        self._log = log
        self._clock = clock
        self.slots = slots
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = engines.server_command(engine, python, model, port, threads, slots, slot_tokens)
        self.server = Server(
            command,
            port,
            clock,
            environment=engines.environment(engine, threads),
            log=log,
            watched=watched,
        )
        try:
            self.ready_seconds = self.server.wait(engines.READY[engine], START_SECONDS)
        except RuntimeError as error:
            self.close()
            raise EngineFailed(f"{error} (see {log})") from None

    def generate(self, prompts: Prompts, tokens: int) -> tuple[float, Prompts]:
        """llama.cpp's own API, one prompt after the other; of the others only the seconds."""
        began, outputs = self._clock.now(), []
        for prompt in prompts:
            body: dict[str, Any] = {"prompt": prompt, "temperature": 0, "ignore_eos": True}
            if self._engine == "llama.cpp":
                path = "/completion"
                body |= {"n_predict": tokens, "return_tokens": True}
            else:
                path = "/v1/completions"
                body |= {"max_tokens": tokens, "model": "m"}
            content = json.dumps(body).encode()
            try:
                status, text = self.server.request(path, content, CALL_SECONDS)
            except OSError as error:
                raise EngineFailed(f"{error} (see {self._log})") from None
            if status != 200:
                raise EngineFailed(f"{status}: {text[:200]}")
            outputs.append(json.loads(text).get("tokens", []))
        return self._clock.now() - began, outputs

    def hold(self) -> None:
        for process in self.server.processes():
            process.suspend()

    def resume(self) -> None:
        for process in self.server.processes():
            process.resume()

    def close(self) -> None:
        self.resume()
        self.server.__exit__()


def llama_bench(
    python: Path, model: Model, threads: int, options: Sequence[str], log: Path
) -> float:
    """Tokens a second of one run of llama-bench with these options, after its own warm-up."""
    program = llama_program("llama-bench", python)
    command = [program, "-m", model.paths["llama.cpp"], "-fa", "1", "-t", str(threads)]
    command += ["-r", "1", "-o", "json"]
    [row] = json.loads(_printed([*map(str, command), *options], log))
    return float(row["avg_ts"])


def llama_batched_bench(
    python: Path, model: Model, threads: int, requests: int, prompt: int, output: int, log: Path
) -> float:
    """Tokens a second, prompts' and answers', of so many requests at once."""
    program = llama_program("llama-batched-bench", python)
    size = requests * (prompt + output)
    command = [
        *(str(program), "-m", str(model.paths["llama.cpp"]), "-fa", "on", "-t", str(threads)),
        *("-c", str(size), "-npp", str(prompt), "-ntg", str(output), "-npl", str(requests)),
        *("--output-format", "jsonl"),
    ]
    rows = [line for line in _printed(command, log).splitlines() if line.startswith("{")]
    return float(json.loads(rows[-1])["speed"])


def _printed(command: Sequence[str], log: Path) -> str:
    with log.open("ab") as errors:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=errors, text=True)
    if done.returncode != 0:
        raise EngineFailed(f"{command[0]} ended with exit code {done.returncode} (see {log})")
    return done.stdout


def _each(pid: int, act: Any) -> None:
    """On a process and its children, parents first."""
    try:
        own = psutil.Process(pid)
        for process in [own, *own.children(recursive=True)]:
            act(process)
    except psutil.NoSuchProcess:
        return
