"""Divergence and perplexity against the same computed by transformers on quantized weights."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from pieria.bench import gaussian, quality_cli
from pieria.bench.quality import TEXT
from pieria.bench.quality_options import QualityOptions
from pieria.clock import RealTime
from pieria.models.jiutian_35b import CONFIGS
from tests.models import tiny

SIZES: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_key_value_heads": 4,
}


def run(model: Path | str, tmp_path: Path, **options: Any) -> tuple[list[dict[str, Any]], str]:
    """The numbers that are written, and what is printed."""
    file = tmp_path / "found.json"
    given = QualityOptions(model=str(model), output_json=file, threads=1, **options)
    with Console(record=True, width=200, file=(tmp_path / "shown").open("w")) as out:
        quality_cli.run(given, RealTime(), out, Console(quiet=True))
    found: list[dict[str, Any]] = json.loads(file.read_text())["formats"]
    return found, out.export_text()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    folder = tmp_path_factory.mktemp("plain")
    made = tiny.model("Llama", **SIZES)
    tiny.write_tokenizer(tiny.save(made, folder))
    return made, folder


def test_numbers_are_those_of_transformers(plain: tuple[Any, Path], tmp_path: Path) -> None:
    """bfloat16 weights are exact here, so that the oracle needs no rounding of its own."""
    made, folder = plain
    text = tmp_path / "text"
    text.write_text("the quick brown fox jumps over the lazy dog " * 8)
    plot = tmp_path / "plot.svg"
    formats = ("float32", "float64", "int8")
    found, shown = run(folder, tmp_path, formats=formats, text=text, context=32, output_plot=plot)
    tokens = quality_cli.windows(
        quality_cli.open_checkpoint(folder), QualityOptions(str(folder), text=text, context=32)
    )
    loss, count = 0.0, 0
    for window in tokens:
        logits = tiny.logits(made, torch.tensor(window)).double()
        logprobs = torch.log_softmax(logits, -1)[:-1]
        loss -= float(logprobs.gather(1, torch.tensor(window[1:]).unsqueeze(1)).sum())
        count += len(window) - 1
    by_name = {one["format"]: one for one in found}
    assert by_name["float32"]["perplexity"] == pytest.approx(math.exp(loss / count), rel=1e-4)
    assert by_name["float32"]["kl"] == 0 and by_name["float32"]["agreement"] == 1
    assert 0 <= by_name["float64"]["kl"] < 1e-6 < by_name["int8"]["kl"]
    assert [by_name[name]["bits"] for name in formats[:2]] == [32, 64]
    assert 8 < by_name["int8"]["bits"] < 8.5
    assert all(name in shown for name in formats) and plot.stat().st_size > 1000


def test_keys_and_values_of_fewer_bits(plain: tuple[Any, Path], tmp_path: Path) -> None:
    """They cost little, integers less than FP8, and both something."""
    text = tmp_path / "text"
    text.write_text("the quick brown fox jumps over the lazy dog " * 8)
    kinds = ("auto", "int8", "fp8")
    options: dict[str, Any] = {"formats": ("float32",), "kv_cache_dtypes": kinds}
    found, _ = run(plain[1], tmp_path, text=text, context=64, **options)
    assert [one["format"] for one in found] == [
        "float32",
        "float32, keys and values int8",
        "float32, keys and values fp8",
    ]
    exact, int8, fp8 = (one["kl"] for one in found)
    assert exact == 0 < int8 < fp8 < 0.1


def test_another_checkpoint_of_the_model(plain: tuple[Any, Path], tmp_path: Path) -> None:
    """The same files, so without divergence; other ones are refused by their tokens."""
    _, folder = plain
    text = tmp_path / "text"
    text.write_text("the quick brown fox " * 8)
    [one], _ = run(folder, tmp_path, formats=(str(folder),), text=text)
    assert one["kl"] == pytest.approx(0, abs=1e-9) and one["format"] == folder.name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"formats": ("int7",)}, "format 'int7' is none of float64, "),
        ({"kv_cache_dtypes": ("fp4",)}, "kv_cache_dtypes: 'fp4' is none of auto, int8, fp8"),
        ({"context": 1}, "context=1 must be at least 2"),
        ({"tokens": 1}, "tokens=1 must be at least 2"),
    ],
)
def test_what_is_wrong_is_named(
    options: dict[str, Any], message: str, plain: tuple[Any, Path], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        run(plain[1], tmp_path, **options)


def test_the_text_is_long_enough() -> None:
    """Some 4 characters are a token."""
    assert len(TEXT.read_text(encoding="utf-8")) > 4 * 20_000


@pytest.mark.parametrize("name", CONFIGS)
def test_gaussian_errors(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of rounding to evenly spaced numbers: a step is 2 max / 254 and its error 1 / sqrt(12)
    of it; both operands of int8 are rounded, so that errors add up as squares.
    """
    monkeypatch.setattr(gaussian, "inputs", lambda name: {"mixer.q": 2048, "mlp.down": 96})
    float64, int8, wide = gaussian.measure(name, ("float64", "int8", "int4-g128"))
    assert float64.layers["mixer.q"] == pytest.approx(0, abs=1e-12)
    chance = torch.randn(512, 2048, generator=torch.Generator().manual_seed(0))
    step = float(chance.abs().amax(1).mean()) / 127 / math.sqrt(12)
    assert int8.layers["mixer.q"] == pytest.approx(step * math.sqrt(2), rel=0.1)
    assert wide.layers["mlp.down"] is None
    assert wide.layers["mixer.q"] is not None and wide.layers["mixer.q"] > 0.05


def test_shapes_of_jiutian() -> None:
    found = gaussian.inputs("jiutian-35b-moe")
    assert found["mixer.q"] == 2048 and found["mixer.o"] == 4096
    assert found["mlp.experts.down"] == 896 and found["head"] == 2048
