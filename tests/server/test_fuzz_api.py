"""A small part of `make fuzz-api`, and that it would see a server that breaks."""

from pathlib import Path

import pytest

from pieria.server.exchange import Exchange
from tests.server import fuzz_api
from tests.server.fakes import MODEL, LiveServer, Toy

FEW = ("--phases=fuzzing", "--include-method=POST", "--max-examples")


@pytest.mark.parametrize("spec", fuzz_api.SPECS)
def test_nothing_sent_breaks_the_server(spec: str, tmp_path: Path) -> None:
    with LiveServer(Toy(api_key=(fuzz_api.KEY,), max_model_len=64)) as live:
        result = fuzz_api.schemathesis(live.url, spec, MODEL, tmp_path, 1, *FEW, "4")
        assert not result["failed"], result["output"]
    assert result["cases"] > 5
    assert "400" in result["statuses"]
    assert live.status == 0


def test_a_server_that_breaks_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(exchange: Exchange, *_: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(Exchange, "prepare", broken)
    with LiveServer(Toy(api_key=(fuzz_api.KEY,))) as live:
        result = fuzz_api.schemathesis(live.url, "ours", MODEL, tmp_path, 1, *FEW, "1")
    assert result["failed"]
    assert "500" in result["statuses"]
