"""`pieria serve` on a device that is not there, as a client meets it: it says what it is."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from pieria import cli
from pieria.clock import RealTime
from pieria.server.state import ServerState
from tests.models import tiny
from tests.plan import small
from tests.server.fakes import FakeClient, Toy


def test_a_server_without_a_virtual_device_says_nothing_of_one() -> None:
    state = ServerState(("m",), "1", FakeClient(), RealTime())
    other = ServerState(("m",), "1", FakeClient(), RealTime(), "virtual 2 x some card")
    assert not state.fingerprint.startswith("fp_virtual")
    assert other.fingerprint.startswith("fp_virtual_")


async def test_models_tell_of_the_virtual_device() -> None:
    toy = Toy()
    toy.state.virtual = "virtual 2 x some card"
    async with toy.http(True) as http:
        (card,) = (await http.get("/v1/models")).json()["data"]
    assert card["virtual_device"] == "virtual 2 x some card"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """(address, log) of a server."""
    folder = tmp_path_factory.mktemp("virtual")
    lender = folder / "lender"
    lender.mkdir()
    tiny.write_tokenizer(tiny.save(tiny.model("Llama"), lender))
    template = folder / "template.jinja"
    template.write_text("{% for m in messages %}{{ m.role }}:{{ m.content }}{% endfor %}")
    log = folder / "log"
    command = [sys.executable, "-m", "pieria.cli", "serve", str(small.write(folder)), "--port=0"]
    options = [
        "--device=virtual:mtt-s5000x2",
        f"--words={lender}",
        f"--chat-template={template}",
        "--speedup=10",
        "--served-model-name=planned",
    ]
    with log.open("w") as out:
        process = subprocess.Popen([*command, *options], stdout=out, stderr=out)
    clock = RealTime()
    deadline = clock.now() + 120
    try:
        while "serving planned on " not in log.read_text():
            assert process.poll() is None and clock.now() < deadline, log.read_text()
            clock.sleep(0.05)
        yield log.read_text().split("serving planned on ")[1].split()[0], log
    finally:
        process.terminate()
        process.wait(timeout=30)


def test_it_says_what_it_is_and_answers(served: tuple[str, Path]) -> None:
    url, log = served
    title = "virtual 2 x MTT S5000 (60 MPs, liquid), 10 times as fast: predicted times,"
    assert f"WARNING __main__: {title}" in log.read_text()
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
    (model,) = client.models.list().data
    assert model.model_extra is not None
    assert model.model_extra["virtual_device"].startswith(title)
    assert model.model_extra["max_model_len"] == 4096
    messages: list[openai.types.chat.ChatCompletionUserMessageParam] = [
        {"role": "user", "content": "hello"}
    ]
    answer = client.chat.completions.create(
        model="planned", messages=messages, max_tokens=20, extra_body={"ignore_eos": True}
    )
    assert answer.system_fingerprint is not None
    assert answer.system_fingerprint.startswith("fp_virtual_")
    assert answer.usage is not None and answer.usage.completion_tokens == 20
    assert answer.choices[0].message.content
    text = client.completions.create(
        model="planned", prompt="hello", max_tokens=500, temperature=0, stream=True
    )
    chunks = list(text)
    assert all(c.system_fingerprint == answer.system_fingerprint for c in chunks)
    assert chunks[-1].choices[0].finish_reason in ("stop", "length")


def test_options_of_virtual_devices_are_for_them_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["serve", "some", "--device", "cpu", "--speedup", "2"]) == 2
    assert "--device cpu is not virtual: speedup" in capsys.readouterr().err
    assert cli.main(["serve", "some", "--device", "virtual:none"]) == 2
    assert "no device or cluster is called 'none'" in capsys.readouterr().err
