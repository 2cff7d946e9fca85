"""The command line as a user meets it: what it says, how it ends; a server from start to end."""

import asyncio
import io
import itertools
import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest

from pieria import LLM, SamplingParams, __version__, cli
from pieria.clock import RealTime
from pieria.engine.text import Delta
from pieria.models.catalog import CATALOG, PackagedModel
from tests.models import tiny

TEMPLATE = "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}\n{% endfor %}a:"
OPTIONS: dict[str, Any] = {
    "device": "cpu",
    "threads": 1,
    "dtype": "float32",
    "kv_cache_memory_bytes": 4 << 20,
}
FAST = [f"--{name.replace('_', '-')}={value}" for name, value in OPTIONS.items()]
GREEDY = SamplingParams(temperature=0, max_tokens=6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a tokenizer and a chat template."""
    path = tmp_path_factory.mktemp("tiny")
    tiny.write_tokenizer(tiny.save(tiny.model("Llama"), path))
    (path / "chat_template.jinja").write_text(TEMPLATE)
    return path


def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    clock = RealTime()
    deadline = clock.now() + seconds
    while not condition():
        assert clock.now() < deadline, "it did not happen"
        clock.sleep(0.01)


def refused(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What argparse says of wrong arguments."""
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == 2
    return capsys.readouterr().err


HELP = {
    "": ["serve", "chat", "generate", "pull", "devices", "plan", "keys", "bench"],
    "serve": ["MODEL", "--port N", "--max-num-seqs N", "--tp N", "--api-key KEY", "--config FILE"],
    "chat": ["MODEL", "--system TEXT", "--temperature X", "default: the model's own, else 0.7"],
    "generate": ["[PROMPT ...]", "--max-tokens N", "--block-size N", "--dtype"],
    "pull": ["name", "smollm2-135m"],
    "devices": ["--no-measure", "--spec NAME", "--json"],
    "plan": ["check"],
    "plan check": ["usage: pieria plan check", "DESIGN.yaml", "--json"],
    "keys": ["add", "list", "revoke"],
    "keys add": ["usage: pieria keys add", "[NAME]", "--scope", "--tokens-per-minute N"],
    "bench": ["ops", "startup", "serve", "throughput"],
    "bench serve": ["--model MODEL", "--base-url URL", "--goodput NAME:MS", "--dtype"],
    "bench throughput": ["--random-input-len N", "--output-json FILE", "--max-num-seqs N"],
    "bench ops": ["usage: pieria bench ops"],
    "bench startup": ["--streams"],
}


def test_help_of_every_command_without_torch() -> None:
    program = (
        "import sys\n"
        "from pieria.cli import main\n"
        "for command in sys.argv[1:]:\n"
        "    print('\\f')\n"
        "    try:\n"
        "        main([*command.split(), '--help'])\n"
        "    except SystemExit as end:\n"
        "        assert end.code == 0\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *HELP], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    pages = done.stdout.split("\f\n")[1:]
    for page, (command, words) in zip(pages, HELP.items(), strict=True):
        assert page.startswith(f"usage: pieria {command}".rstrip())
        assert [word for word in words if word not in re.sub(r"\s+", " ", page)] == [], command


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"pieria {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["sing"], "invalid choice: 'sing'"),
        (["serve", "m", "--max-seqs", "3"], "unrecognized arguments: --max-seqs"),
        (["generate", "m", "--max-tokens", "few"], "--max-tokens: 'few' must be an integer"),
        (["chat", "m", "--dtype", "int3"], "--dtype: 'int3' must be one of auto, float64"),
        (["pull"], "the following arguments are required: name"),
        (["bench"], "the following arguments are required: WHAT"),
    ],
)
def test_arguments_that_argparse_refuses(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(arguments, capsys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate"], "no model is given: a short name, hub id, folder or GGUF file"),
        (["serve"], "no model is given"),
        (["generate", "FOLDER", "--temperature=-1"], "temperature=-1.0 must be a number from 0.0"),
        (["chat", "FOLDER", "--top-p=2"], "top_p=2.0 must be a number above 0.0 to 1.0"),
        (["generate", "no-such-model", "x"], "there is no such path, and it is no known name"),
        (["chat", "FOLDER", "--block-size=0"], "block_size=0 must be from 1 to 1024 (set: "),
        (["chat", "FOLDER", "--max-model-len=999"], "999 is more than the 512 tokens"),
        (["generate", "FOLDER", "x" * 600], "context length is 512 tokens; the prompt has 600"),
        (["chat", "FOLDER", "--device=abacus"], "device='abacus' is not here; there are: auto, "),
        (["serve", "FOLDER", "--host=0.0.0.0"], "from other machines, and no API key is set"),
        (["serve", "FOLDER", "--port=70000"], "port=70000 must be from 0 to 65535"),
        (["serve", "FOLDER", "--host=192.0.2.1", "--api-key=k"], "cannot listen on host='192."),
        (["serve", "FOLDER", "--port=0", "--kv-cache-memory-bytes=1"], "a cache of 1 B holds 0"),
        (
            ["bench", "ops", "--device", "cpu", "--record", "f", "--dtype", "float32", "bfloat16"],
            "--dtype float32 bfloat16: --record f holds one dtype; give one",
        ),
        (["pull", "no-such-model"], "there is no such path, and it is no known name"),
    ],
)
def test_what_the_user_should_change(
    arguments: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(folder) if word == "FOLDER" else word for word in arguments]
    assert cli.main(given) == 2
    printed = capsys.readouterr()
    [line] = printed.err.splitlines()
    assert line.startswith(f"pieria {arguments[0]}: ") and message in line
    assert printed.out == ""
    assert psutil.Process().children() == []  # also of an engine that was started meanwhile


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (RuntimeError("a bad sector"), 1, "pieria generate: RuntimeError: a bad sector\n"),
        (ValueError("no such layer"), 2, "pieria generate: no such layer\n"),
    ],
)
def test_an_engine_that_does_not_start(
    error: Exception,
    status: int,
    message: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def prepare(settings: object) -> None:
        raise error

    monkeypatch.setattr("pieria.engine.ranks.prepare", prepare)
    assert cli.main(["generate", str(folder), "x", *FAST]) == status
    assert capsys.readouterr().err.endswith(message)


@pytest.mark.parametrize(
    ("error", "status"), [(OSError("the network is down"), 1), (KeyboardInterrupt(), 130)]
)
def test_a_model_that_cannot_be_fetched(
    error: BaseException,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def pull(name: str) -> None:
        raise error

    monkeypatch.setattr("pieria.models.pull.pull", pull)
    assert cli.main(["pull", "owner/name"]) == status
    told = {1: "pieria pull: the network is down\n", 130: ""}
    assert capsys.readouterr().err == told[status]


@pytest.fixture(scope="module")
def llm(folder: Path) -> Iterator[LLM]:
    with LLM(str(folder), **OPTIONS) as made:
        yield made


def continued(llm: LLM, prompts: list[str], params: SamplingParams) -> str:
    outputs = llm.generate(prompts, params, progress=False)
    return "".join(f"{o.prompt}{o.outputs[0].text}\n" for o in outputs)


def test_generate(folder: Path, llm: LLM, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--temperature=0", "--max-tokens=6", *FAST]
    assert cli.main(["generate", str(folder), "Hello", "Hi", *options]) == 0
    wanted = continued(llm, ["Hello", "Hi"], GREEDY)
    assert capsys.readouterr().out == wanted
    # Options and prompts may come in any order.
    assert cli.main(["generate", *options[:1], str(folder), "Hello", *options[1:], "Hi"]) == 0
    assert capsys.readouterr().out == wanted


def test_generate_with_sampling(folder: Path, llm: LLM, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--seed=5", "--temperature=1.5", "--top-k=50", "--top-p=0.9", "--min-p=0.001"]
    options += ["--repetition-penalty=1.1", "--max-tokens=9"]
    params = SamplingParams(
        seed=5,
        temperature=1.5,
        top_k=50,
        top_p=0.9,
        min_p=0.001,
        repetition_penalty=1.1,
        max_tokens=9,
    )
    assert cli.main(["generate", str(folder), "Hello", *options, *FAST]) == 0
    assert capsys.readouterr().out == continued(llm, ["Hello"], params)


def test_generate_in_a_process_from_standard_input(folder: Path, llm: LLM) -> None:
    command = [sys.executable, "-m", "pieria.cli", "generate", str(folder)]
    done = subprocess.run(
        [*command, "--temperature=0", "--max-tokens=6", *FAST],
        input=b"Hello\nHi\n",
        capture_output=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode() == continued(llm, ["Hello", "Hi"], GREEDY)


def test_generate_without_a_prompt(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert cli.main(["generate", str(folder), *FAST]) == 2
    assert "there is no prompt, neither as an argument nor on standard" in capsys.readouterr().err


def test_a_config_file(
    folder: Path, llm: LLM, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "pieria.toml"
    text = f'model = "{folder}"\nthreads = 1\ndevice = "cpu"\nkv-cache-memory-bytes = "4MiB"\n'
    text += "[scheduler]\nmax-num-seqs = 4\n[generation]\ntemperature = 0\nmax-tokens = 3\n"
    text += '[prompt]\nprompt = ["Hello"]\n'
    file.write_text(text)
    assert cli.main(["generate", "--config", str(file)]) == 0
    short = SamplingParams(temperature=0, max_tokens=3)
    assert capsys.readouterr().out == continued(llm, ["Hello"], short)
    assert cli.main(["generate", "--config", str(file), "--max-tokens=6"]) == 0
    assert capsys.readouterr().out == continued(llm, ["Hello"], GREEDY)
    file.write_text(text.replace("max-num-seqs", "max-num-seq"))
    assert cli.main(["generate", "--config", str(file)]) == 2
    told = f"unknown key 'max-num-seq' in {file} [scheduler]; nearest: max-num-seqs"
    assert told in capsys.readouterr().err
    file.write_text(text.replace("= 4\n", "= 0\n"))
    assert cli.main(["generate", "--config", str(file)]) == 2
    told = f"max_num_seqs=0 must be at least 1 (set: max-num-seqs in {file})"
    assert told in capsys.readouterr().err
    assert cli.main(["generate", "--config", str(tmp_path / "none.toml")]) == 2
    assert "cannot read" in capsys.readouterr().err


def test_options_that_are_not_given_are_the_models_or_ours() -> None:
    silent, told = cli.GenerationOptions(), cli.GenerationOptions(temperature=1.5, max_tokens=7)
    assert silent.params({}) == SamplingParams(temperature=0.7, max_tokens=None)
    model = {"temperature": 0.2, "top_p": 0.9}
    assert silent.params(model) == SamplingParams(**model, max_tokens=None)
    assert told.params(model) == SamplingParams(temperature=1.5, top_p=0.9, max_tokens=7)


@pytest.mark.parametrize("source", ["auto", "none"])
def test_sampling_defaults_of_a_packaged_model(
    source: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "generation_config.json").write_text('{"top_p": 0.75}')
    model = PackagedModel("a", "", "b", 1, "", "", {"temperature": 0.25, "top_p": 0.5})
    monkeypatch.setitem(CATALOG, "packaged", model)
    monkeypatch.setattr("pieria.models.pull.pull", lambda name: tmp_path)
    found: dict[str, Any] = {}

    async def serve(state: Any, config: Any, clock: Any, load: Any) -> int:
        found.update((await load()).defaults)
        return 0

    monkeypatch.setattr("pieria.server.serve.serve", serve)
    assert cli.main(["serve", "packaged", f"--generation-config={source}", *FAST]) == 0
    assert found == ({"temperature": 0.25, "top_p": 0.75} if source == "auto" else {})


def test_pull_of_a_path(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["pull", str(folder)]) == 0
    assert capsys.readouterr().out == f"{folder}\n"
    assert cli.main(["pull", str(tmp_path)]) == 2
    assert "there is neither a config.json nor a .gguf file" in capsys.readouterr().err


def test_devices(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["devices", "--no-measure"]) == 0
    printed = capsys.readouterr().out
    for word in ("cpu", "memory", "cores", "native dtypes", "float32", "kernel backends", "gloo"):
        assert word in printed
    assert "bandwidth" not in printed


def test_devices_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["devices", "--no-measure", "--spec", "cpu", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["device"] == "cpu"
    assert found["numbers"][0]["label"] == "memory" and found["numbers"][0]["source"]
    assert "threads" in found["facts"]


def test_the_spec_of_a_device_that_is_not_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["devices", "--spec", "MTT S5000 x8"]) == 0
    printed = capsys.readouterr().out
    for word in ("bfloat16 peak", "385 TFLOP/s", "1024 TFLOP/s", "inferred", "392 GB/s", "WAIC"):
        assert word in printed
    assert cli.main(["devices", "--spec", "oisa-128", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["device"]["name"] == "MTT S5000 (60 MPs, liquid)"
    assert found["cluster"]["numbers"][0]["value"] == 128
    assert cli.main(["devices", "--spec", "mtt-s500"]) == 2
    told = capsys.readouterr().err
    assert "no device or cluster is called 'mtt-s500'; did you mean mtt-s5000" in told


def talk(lines: Sequence[str], arguments: list[str], monkeypatch: Any, capsys: Any) -> list[str]:
    """The answers of a conversation, and what came after the last."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
    assert cli.main(["chat", *arguments]) == 0
    head, *answers = capsys.readouterr().out.split("> ")
    assert head.startswith("Type a message; /reset begins anew, /exit ends.")
    return answers


def test_chat(folder: Path, llm: LLM, monkeypatch: Any, capsys: Any) -> None:
    def answer(*said: str) -> str:
        roles = ("user", "assistant") * len(said)
        messages = [{"role": r, "content": c} for r, c in zip(roles, said, strict=False)]
        messages.insert(0, {"role": "system", "content": "Be"})
        return llm.chat(messages, GREEDY, progress=False)[0].outputs[0].text

    hi = answer("Hi")
    yo = answer("Hi", hi, "Yo")
    lines = ["Hi", "", "  Yo  ", "/reset", "Hi", "/exit", "Hi"]
    options = ["--system=Be", "--temperature=0", "--max-tokens=6", *FAST]
    found = talk(lines, [str(folder), *options], monkeypatch, capsys)
    assert found == [f"{hi}\n", "", f"{yo}\n", "", f"{hi}\n", ""]


def test_chat_ends_with_its_input(folder: Path, monkeypatch: Any, capsys: Any) -> None:
    options = [str(folder), "--temperature=0", "--max-tokens=2", *FAST]
    assert len(talk(["Hi"], options, monkeypatch, capsys)) == 2
    assert talk([], options, monkeypatch, capsys) == [""]


class Interrupted:
    """An `LLM` of which an answer is interrupted by Ctrl-C; keeps what it was told."""

    def __init__(self) -> None:
        self.told: list[list[dict[str, str]]] = []

    def stream_chat(self, messages: list[dict[str, str]], params: object) -> Iterator[Delta]:
        self.told.append(list(messages))
        yield Delta(0, "One, ")
        yield Delta(0, "two")
        if len(self.told) == 1:
            raise KeyboardInterrupt
        yield Delta(0, ", three", finish_reason="stop")


def test_an_interrupted_answer_does_not_end_the_conversation(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("Count\nGo on\n"))
    llm = Interrupted()
    cli._talk(llm, GREEDY, None)
    assert capsys.readouterr().out.endswith("> One, two\n> One, two, three\n> ")
    assert [[m["content"] for m in messages] for messages in llm.told] == [
        ["Count"],
        ["Count", "One, two", "Go on"],
    ]


class Serve:
    """`pieria serve` in a process; `with` waits until it serves and ends it in any case."""

    def __init__(self, folder: Path, log: Path, *options: str, module: str = "pieria.cli") -> None:
        self.log = log
        command = [sys.executable, "-m", module, "serve", str(folder), "--port=0"]
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [*command, "--served-model-name=tiny", *FAST, *options], stdout=out, stderr=out
            )

    def __enter__(self) -> "Serve":
        try:
            until(lambda: "serving tiny on " in self.said or self.process.poll() is not None)
            self.url = self.said.split("serving tiny on ")[1].split()[0]
            [self.engine] = [
                child
                for child in psutil.Process(self.process.pid).children()
                if "pieria.engine.process" in child.cmdline()
            ]
        except BaseException:
            print(self.said)
            self.process.kill()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait(timeout=20)
        print(self.said)
        # Even a front that was killed takes its engine with it.
        until(lambda: not self.engine.is_running())

    @property
    def said(self) -> str:
        return self.log.read_text()


async def stream(client: openai.AsyncOpenAI, number: int) -> tuple[str, str | None, int]:
    """(text, finish reason, tokens) of one streamed completion."""
    text, finish, tokens = "", None, 0
    chunks = await client.completions.create(
        model="tiny",
        prompt=f"Number{number}",
        stream=True,
        max_tokens=10 + number,
        temperature=1.0,
        seed=number,
        stream_options={"include_usage": True},
        extra_body={"ignore_eos": True},
    )
    async for chunk in chunks:
        for choice in chunk.choices:
            text += choice.text
            finish = choice.finish_reason or finish
        if chunk.usage is not None:
            tokens = chunk.usage.completion_tokens
    return text, finish, tokens


async def many_streams(url: str) -> None:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="-", max_retries=0) as client:
        found = await asyncio.gather(*[stream(client, number) for number in range(32)])
    assert [(finish, tokens) for _, finish, tokens in found] == [
        ("length", 10 + number) for number in range(32)
    ]
    assert len({text for text, _, _ in found}) == 32


def test_a_server_from_start_to_end(folder: Path, llm: LLM, tmp_path: Path) -> None:
    with Serve(folder, tmp_path / "log") as server:
        assert httpx.get(f"{server.url}/health").status_code == 200
        # What the engine decided is shown.
        assert re.search(r"max_model_len +512 +what the model allows", server.said)
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="-", max_retries=0) as client:
            assert [model.id for model in client.models.list()] == ["tiny"]
            messages: Any = [{"role": "user", "content": "Hi"}]
            answer = client.chat.completions.create(
                model="tiny", messages=messages, temperature=0, max_tokens=6
            )
            [wanted] = llm.chat(messages, GREEDY, progress=False)
            assert answer.choices[0].message.content == wanted.outputs[0].text
            asyncio.run(many_streams(server.url))
            endless: Any = {"max_tokens": 500, "extra_body": {"ignore_eos": True}}
            long = client.completions.create(model="tiny", prompt="Hi", stream=True, **endless)
            next(long)
            server.process.send_signal(signal.SIGTERM)
            last = list(long)[-1]
            assert last.choices[0].finish_reason == "length"
        assert server.process.wait(timeout=30) == 0
        assert "stopping; 1 requests are running" in server.said
        assert "Traceback" not in server.said and " ERROR " not in server.said
        assert not server.engine.is_running()


def test_an_answer_outlives_its_engine(folder: Path, tmp_path: Path) -> None:
    body = {"model": "tiny", "prompt": "Hi", "stream": True, "max_tokens": 500}
    body |= {"ignore_eos": True, "seed": 5, "return_token_ids": True}

    def tokens(lines: Iterator[str]) -> list[int]:
        events = [line.removeprefix("data: ") for line in lines if line]
        assert events.pop() == "[DONE]"
        return [t for event in events for t in json.loads(event)["choices"][0]["token_ids"]]

    with Serve(folder, tmp_path / "log") as server, httpx.Client(timeout=60) as http:
        url = f"{server.url}/v1/completions"
        with http.stream("POST", url, json=body) as answer:
            undisturbed = tokens(answer.iter_lines())
        with http.stream("POST", url, json=body) as answer:
            lines = answer.iter_lines()
            first = next(lines)
            server.engine.kill()
            assert tokens(itertools.chain([first], lines)) == undisturbed
        assert len(undisturbed) == 500
        assert "exit code -9; another takes its place, and 1 requests go on" in server.said
        assert "Traceback" not in server.said
