"""`pieria keys` as a user meets it."""

from pathlib import Path

import pytest

from pieria import cli
from pieria.server import keys


def run(*arguments: str) -> int:
    return cli.main(["keys", *arguments])


def test_add_list_revoke(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = f"--api-key-file={tmp_path / 'keys.json'}"
    assert run("add", "alice", file, "--scope", "metrics", "inference", "metrics") == 0
    secret = capsys.readouterr().out.strip()
    assert secret.startswith(keys.PREFIX)
    assert run("add", file, "--tokens-per-minute=7", "bob") == 0
    first, second = keys.read_file(tmp_path / "keys.json")
    assert (first.name, first.scopes) == ("alice", ("inference", "metrics"))
    assert (second.scopes, second.tokens_per_minute) == (("inference",), 7)
    capsys.readouterr()
    assert run("list", file) == 0
    shown = capsys.readouterr().out
    assert "alice" in shown
    assert secret not in shown
    assert run("revoke", "alice", file) == 0
    assert [key.name for key in keys.read_file(tmp_path / "keys.json")] == ["bob"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["add", "alice"], "no file is given: --api-key-file PATH"),
        (["add", "--api-key-file=FILE"], "no key is named"),
        (["add", "x" * 65, "--api-key-file=FILE"], "must be 1 to 64 printable ASCII"),
        (["add", "a", "--api-key-file=FILE", "--max-concurrent-requests=0"], "must be from 1 to"),
        (["list", "--api-key-file=FILE"], "cannot read FILE: No such file"),
    ],
)
def test_what_the_user_should_change(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "keys.json")
    assert run(*(word.replace("FILE", path) for word in arguments)) == 2
    assert message.replace("FILE", path) in capsys.readouterr().err
