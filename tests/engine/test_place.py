"""A checkpoint on a device: decisions, memory, and what is refused before anything is loaded."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from pieria.engine import place as place_module
from pieria.engine.device_runner import DeviceRunner
from pieria.engine.place import allocate, place, stored_dtype
from pieria.engine.plan import Chunk, Draw, StepPlan
from pieria.engine.process import Prepared
from pieria.engine.runner_config import RunnerConfig
from pieria.engine.scheduler import SchedulerConfig
from pieria.hardware import cpu, devices
from pieria.hardware.spec import Quantity
from pieria.models.cache_spec import Array, CacheSpec
from pieria.models.checkpoint import Checkpoint, open_checkpoint
from pieria.models.decoder import Decoder
from pieria.parallel.mesh import Mesh
from tests.models import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny")
    tiny.write_tokenizer(tiny.save(tiny.model("Llama"), path))
    return path


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def settings(
    folder: Path, scheduler: dict[str, Any] | None = None, **runner: Any
) -> dict[str, Any]:
    options = {"device": "cpu", "threads": 1, "kv_cache_memory_bytes": 1 << 20, **runner}
    config = RunnerConfig(str(folder), **options)
    return {"runner": asdict(config), "scheduler": asdict(SchedulerConfig(**(scheduler or {})))}


def reasons(prepared: Prepared) -> dict[str, tuple[str, str]]:
    return {name: (value, reason) for name, value, reason in prepared.decisions}


def test_a_checkpoint_is_placed_and_runs(folder: Path) -> None:
    prepared = place(settings(folder), Mesh())
    # Keys and values of 3 layers, 2 heads of 16 float32: 768 bytes a token.
    assert (prepared.pages, prepared.page_tokens) == ((1 << 20) // (768 * 16), 16)
    assert (prepared.max_model_len, prepared.stop_ids) == (512, frozenset({2}))
    assert reasons(prepared) == {
        "dtype": ("float32", "as the model's files have it"),
        "kv cache": ("1020 KiB, 85 pages of 16 tokens", "asked for"),
        "max_model_len": ("512", "what the model allows"),
        "threads": ("1", "asked for"),
    }
    tokens = (5, 9, 3, 7)
    plan = StepPlan((Chunk("a", 0, tokens, (84,), Draw(4, 0)),))
    [result] = prepared.runner.run(plan).chunks
    assert result.token == int(tiny.logits(tiny.model("Llama"), torch.tensor(tokens))[-1].argmax())
    prepared.runner.close()


def test_options_reach_what_they_are_for(folder: Path) -> None:
    told = settings(folder, dtype="bfloat16", block_size=4, max_model_len=64)
    prepared = place(told, Mesh())
    assert (prepared.pages, prepared.max_model_len) == ((1 << 20) // (384 * 4), 64)
    runner = prepared.runner
    assert isinstance(runner, DeviceRunner)
    assert {a.dtype for layer in runner.caches for a in layer} == {torch.bfloat16}
    assert {p.dtype for p in runner.model.parameters()} == {torch.bfloat16}


def test_memory_is_a_share_of_what_is_free(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = Quantity(300 << 20, "B", "a small machine")
    monkeypatch.setattr(devices, "free_memory", lambda device: free)
    told = settings(
        folder, {"max_num_seqs": 4096, "max_num_batched_tokens": 4096},
        kv_cache_memory_bytes=None, memory_fraction=0.25,
    )  # fmt: skip
    prepared = place(told, Mesh())
    weights = sum(p.numel() for p in tiny.model("Llama").parameters()) * 4
    left = (300 << 20) - weights - (256 << 20)
    assert prepared.pages == int(left * 0.25) // (768 * 16)
    assert "that a small machine leaves" in reasons(prepared)["kv cache"][1]
    monkeypatch.setattr(devices, "free_memory", lambda device: Quantity(1 << 20, "B", "a toy"))
    with pytest.raises(ValueError, match="no page of the cache fits .* a toy allows 1 MiB"):
        place(told, Mesh())


def test_the_tightest_rank_decides(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another rank found less memory free: both must have the same pages."""
    monkeypatch.setattr(devices, "free_memory", lambda device: Quantity(2 << 30, "B", "here"))

    def gathered(x: torch.Tensor, group: object) -> torch.Tensor:
        return torch.cat([x, x.new_tensor([300 << 20])])

    monkeypatch.setattr(place_module.ops, "all_gather", gathered)
    told = settings(folder, kv_cache_memory_bytes=50 << 20)
    with pytest.raises(ValueError, match="here allows 300 MiB"):
        place(told, Mesh())


@pytest.mark.parametrize(
    ("asked", "ranks", "count", "reason"),
    [
        (3, 2, 3, "asked for"),
        (None, 1, 6, "a big machine, over 1 ranks"),
        (None, 4, 1, "a big machine, over 4 ranks"),
        (None, 7, 1, "a big machine, over 7 ranks"),
    ],
)
def test_threads(
    asked: int | None, ranks: int, count: int, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "threads", lambda processor: Quantity(6, "threads", "a big machine"))
    decision = place_module.use_threads(asked, ranks)
    assert (decision.value, decision.reason) == (str(count), reason)
    assert torch.get_num_threads() == count


@pytest.mark.parametrize(
    ("config", "dtype"),
    [
        ({"dtype": "bfloat16"}, "bfloat16"),
        ({"torch_dtype": "float16"}, "float16"),
        ({"dtype": "float32", "torch_dtype": "float16"}, "float32"),
        ({"dtype": "float8_e4m3fn"}, None),
        ({"torch_dtype": "auto"}, None),
        ({"dtype": None}, None),
        ({"dtype": ["bfloat16"]}, None),
        ({}, None),
    ],
)
def test_stored_dtype(config: dict[str, Any], dtype: str | None) -> None:
    checkpoint = Checkpoint(Path("m"), "safetensors", config, {}, None)
    assert stored_dtype(checkpoint) == dtype


def test_stored_dtype_of_files(folder: Path, smollm2: Path) -> None:
    assert stored_dtype(open_checkpoint(folder)) == "float32"
    assert stored_dtype(open_checkpoint(smollm2)) is None


def test_allocate() -> None:
    specs = (
        CacheSpec((Array("k", (2, 8), torch.float16), Array("v", (2, 4), torch.float16))),
        CacheSpec((Array("latent", (24,), torch.float64),)),
        CacheSpec(),
    )
    caches = allocate(specs, 5, 3, devices.find("cpu"))
    assert [[(a.shape, a.dtype) for a in layer] for layer in caches] == [
        [((5, 3, 2, 8), torch.float16), ((5, 3, 2, 4), torch.float16)],
        [((5, 3, 24), torch.float64)],
        [],
    ]
    assert all(not a.any() for layer in caches for a in layer)
    assert len({a.data_ptr() for layer in caches for a in layer}) == 3


def test_layers_with_a_state_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    specs = (CacheSpec(state=(Array("state", (2, 8), torch.float32),)),)
    monkeypatch.setattr(Decoder, "cache_specs", lambda self: specs)
    with pytest.raises(ValueError, match="layers with per-request state are not served yet"):
        place(settings(folder), Mesh())


def test_a_device_that_is_not_here(folder: Path) -> None:
    with pytest.raises(ValueError, match="device='abacus' is not here; there are: auto, .*cpu"):
        place(settings(folder, device="abacus"), Mesh())
