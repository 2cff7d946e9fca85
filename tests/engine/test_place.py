"""A checkpoint on a device: decisions, memory, and what is refused before anything is loaded."""

import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any
from weakref import ref

import pytest
import torch

from pieria import ops
from pieria.engine import place as place_module
from pieria.engine.batch import LayerCache
from pieria.engine.device_runner import DeviceRunner
from pieria.engine.layout import layout
from pieria.engine.place import allocate, place, stored_dtype
from pieria.engine.plan import Chunk, Draw, StepPlan
from pieria.engine.process import Prepared
from pieria.engine.runner_config import RunnerConfig
from pieria.engine.scheduler import SchedulerConfig
from pieria.hardware import cpu, devices, memory
from pieria.hardware.spec import Quantity
from pieria.models.cache_spec import Array, CacheSpec
from pieria.models.checkpoint import Checkpoint, open_checkpoint
from pieria.parallel.mesh import Mesh
from tests.models import tiny
from tests.ops.harness import only


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


@pytest.mark.parametrize("name", ["int8", "fp8"])
def test_more_fits_where_keys_and_values_are_rounded(folder: Path, name: str) -> None:
    """Of 3 layers, 2 heads of 16, keys and values: a byte a number, 4 of each head's scale."""
    prepared = place(settings(folder, kv_cache_dtype=name), Mesh())
    assert prepared.pages == (1 << 20) // (3 * 2 * 2 * (16 + 4) * 16)
    held = {"int8": "int8", "fp8": "float8_e4m3fn"}[name]
    why = "asked for; with a float32 scale for each token and head"
    assert reasons(prepared)["kv_cache_dtype"] == (held, why)


def test_a_checkpoint_is_placed_and_runs(folder: Path) -> None:
    prepared = place(settings(folder), Mesh())
    # Keys and values of 3 layers, 2 heads of 16 float32: 768 bytes a token.
    assert (prepared.pages, prepared.page_tokens) == ((1 << 20) // (768 * 16), 16)
    assert prepared.max_model_len == 512
    found = reasons(prepared)
    assert "1020 KiB of cache, 256 MiB for steps: the largest took" in found.pop("memory")[1]
    # Present where there are native kernels.
    assert found.pop("instruction set", ("", ""))[1] in ("", "the best of this processor")
    assert found == {
        "family": ("llama", "by the architecture its config names"),
        "dtype": ("float32", "as the model's files have it"),
        "kv_cache_dtype": ("float32", "as they are computed"),
        "kv cache": ("1020 KiB, 85 pages of 16 tokens", "asked for"),
        "max_model_len": ("512", "what the model allows"),
        "quantize": ("stored", "as the files have them"),
        "threads": ("1", "asked for"),
    }
    tokens = (5, 9, 3, 7)
    plan = StepPlan((Chunk("a", 0, tokens, ((84,),), draw=Draw(0)),))
    [result] = prepared.runner.run(plan).chunks
    assert result.token == int(tiny.logits(tiny.model("Llama"), torch.tensor(tokens))[-1].argmax())
    prepared.runner.close()


def test_a_long_step_gives_signs_of_life(folder: Path) -> None:
    """Computed and replayed: an engine in the midst of a long prompt must not look hung."""
    with only("cpu", "torch"):
        scheduler = {"max_num_seqs": 1, "max_num_batched_tokens": 32}
        prepared = place(settings(folder, scheduler), Mesh())
        assert isinstance(prepared.runner, DeviceRunner) and prepared.watch is not None
        beats: list[int] = []
        prepared.watch(lambda: beats.append(1))
        plan = StepPlan((Chunk("a", 0, tuple(range(3, 35)), ((0, 1),)),))
        counted = []
        for _ in range(3):
            beats.clear()
            prepared.runner.run(plan)
            counted.append(len(beats))
        assert prepared.runner.captured is not None
        assert prepared.runner.captured.prompt is not None
        assert counted[0] == 3 and min(counted[1:]) >= 2


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


def test_a_cache_of_a_size_that_was_asked_for_is_had_from_the_start(folder: Path) -> None:
    """Another may never be used."""
    before = memory.resident()
    prepared = place(settings(folder, kv_cache_memory_bytes=256 << 20), Mesh())
    placed = memory.resident()
    pieces = sum(1 for _ in prepared.ahead)
    assert placed - before < 128 << 20
    assert isinstance(prepared.runner, DeviceRunner)
    arrays = [array for layer in prepared.runner.caches for array in layer]
    assert pieces in (0, sum(-(-array.nbytes // memory.PIECE_BYTES) for array in arrays))
    assert pieces == 0 or memory.resident() - placed > 250 << 20
    told = settings(folder, kv_cache_memory_bytes=None, memory_fraction=0.01)
    assert list(place(told, Mesh()).ahead) == []


def test_a_step_that_takes_more_than_was_counted_leaves_less_for_the_cache(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = Quantity(300 << 20, "B", "a small machine")
    monkeypatch.setattr(devices, "free_memory", lambda device: free)
    told = settings(folder, kv_cache_memory_bytes=None, memory_fraction=1.0)
    before = place(told, Mesh())
    monkeypatch.setattr(devices, "peak", lambda device, work: 140 << 20)
    prepared = place(told, Mesh())
    assert before.pages - prepared.pages == pytest.approx((12 << 20) / (768 * 16), abs=1)
    assert isinstance(prepared.runner, DeviceRunner)
    assert {len(a) for layer in prepared.runner.caches for a in layer} == {prepared.pages}
    assert "268 MiB for steps: the largest took 140 MiB" in reasons(prepared)["memory"][1]
    monkeypatch.setattr(devices, "peak", lambda device, work: 1 << 30)
    with pytest.raises(ValueError, match="no page of the cache fits .* smaller --max-num-batched"):
        place(told, Mesh())


def test_ranks_agree_again_whatever_each_had_counted(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rank that had counted more than was taken must not leave the others waiting for it; and
    what it held is gone before it takes anew.
    """
    agreed, held = [], []

    def gathered(x: torch.Tensor, group: object, dim: int = -1) -> torch.Tensor:
        if x.shape == (1, 3):
            agreed.append(x)
        return x

    def watched(*arguments: Any) -> list[LayerCache]:
        assert not any(array() is not None for array in held)
        caches = allocate(*arguments)
        held.extend(ref(array) for layer in caches for array in layer)
        return caches

    monkeypatch.setattr(place_module.ops, "all_gather", gathered)
    monkeypatch.setattr(place_module, "allocate", watched)
    monkeypatch.setattr(place_module, "step_bytes", lambda *sizes, **kept: 200 << 20)
    monkeypatch.setattr(devices, "peak", lambda device, work: 140 << 20)
    prepared = place(settings(folder), Mesh())
    assert len(agreed) == 2
    assert isinstance(prepared.runner, DeviceRunner)
    assert len(held) == 2 * sum(map(len, prepared.runner.caches))
    assert "328 MiB for steps: the largest took 140 MiB" in reasons(prepared)["memory"][1]


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2048 tokens make 128 MiB in a layer of it."""
    path = tmp_path_factory.mktemp("wide")
    sizes = {"num_hidden_layers": 2, "intermediate_size": 16384, "max_position_embeddings": 2048}
    tiny.write_tokenizer(tiny.save(tiny.model("Llama", **sizes), path))
    return path


def test_what_recorded_steps_keep_is_promised(wide: Path) -> None:
    """Steps that are not recorded, of nearly as many tokens, run beside what recorded ones keep."""
    scheduler = {"max_num_seqs": 4, "max_num_batched_tokens": 2048}
    prepared = place(settings(wide, scheduler, kv_cache_memory_bytes=8 << 20), Mesh())
    tried = re.search(r"the largest took ([\d.]+) MiB", reasons(prepared)["memory"][1])
    runner = prepared.runner
    assert isinstance(runner, DeviceRunner)
    if tried is None or runner.captured is None:
        pytest.skip("needs a system that tells the peak, and kernels")

    def run(tokens: int) -> None:
        pages = tuple(range(-(-tokens // 16)))
        chunk = Chunk("a", 0, (5,) * tokens, (pages,), draw=Draw(0))
        runner.run(StepPlan((chunk,)))

    def work() -> None:
        run(2048)
        run(2048)
        run(2047)

    run(16)  # weights are read for the first time
    took = devices.peak(devices.find("cpu"), work)
    assert runner.captured.prompt is not None
    assert took is not None and 256 << 20 < took <= float(tried[1]) * 2**20 + (8 << 20)


def test_the_largest_step_is_not_measured_where_none_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "peak", lambda device, work: None)
    assert "for steps: not measured" in reasons(place(settings(folder), Mesh()))["memory"][1]
    monkeypatch.setattr(devices, "peak", lambda device, work: 0)
    assert "the largest took 0 B" in reasons(place(settings(folder), Mesh()))["memory"][1]


@pytest.mark.parametrize(
    ("options", "slow"),
    [
        ({}, None),
        ({"dtype": "bfloat16", "kv_cache_dtype": "fp8"}, None),
        ({"dtype": "float64", "kv_cache_dtype": "int8"}, {"kv_write", "paged_attention"}),
    ],
)
def test_what_references_compute_in_place_of_kernels_is_told(
    folder: Path, options: dict[str, str], slow: set[str] | None, caplog: pytest.LogCaptureFixture
) -> None:
    prepared = place(settings(folder, **options), Mesh())
    told = [r.getMessage() for r in caplog.records if r.name == "pieria.engine.trial"]
    if slow is None:
        assert told == [] or prepared.runner.captured is None  # type: ignore[attr-defined]
        return
    [line] = told
    assert all(name in line for name in slow), line
    assert line.endswith("in float64 with --kv-cache-dtype int8")


def test_the_tightest_rank_decides(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another rank found room for fewer pages and shorter requests: all must have the same."""

    def gathered(x: torch.Tensor, group: object, dim: int = -1) -> torch.Tensor:
        found = x.shape == (1, 3)  # what ranks agree on, not a step's logits
        return torch.cat([x, x.new_tensor([[20, 0, 320]])]) if found else x

    monkeypatch.setattr(place_module.ops, "all_gather", gathered)
    prepared = place(settings(folder), Mesh())
    assert (prepared.pages, prepared.max_model_len) == (20, 320)
    assert isinstance(prepared.runner, DeviceRunner)
    assert {len(array) for layer in prepared.runner.caches for array in layer} == {20}


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
    ops.use("torch")
    (decision,) = place_module.use_threads(asked, "auto", "cpu", ranks)
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


KEYS = (Array("k", (2, 8), torch.float16), Array("v", (2, 4), torch.float16))
STATE = (Array("state", (3, 5), torch.float64),)


def test_allocate() -> None:
    """Layers with different windows share arrays, of which a page belongs to one of them."""
    specs = [CacheSpec(KEYS), CacheSpec(KEYS, 9), CacheSpec(state=STATE), CacheSpec(KEYS)]
    arranged = layout([*specs, CacheSpec(KEYS, 9)])
    caches = allocate(arranged, range(5), 5, 7, 3, devices.find("cpu"))
    keys = [((5, 3, 2, 8), torch.float16), ((5, 3, 2, 4), torch.float16)]
    assert [[(a.shape, a.dtype) for a in layer] for layer in caches] == [
        keys,
        keys,
        [((7, 3, 5), torch.float64)],
        keys,
        keys,
    ]
    assert all(not a.any() for layer in caches for a in layer)
    for table in set(arranged.tables) - {None}:
        own = [c[0].data_ptr() for c, t in zip(caches, arranged.tables, strict=True) if t == table]
        assert len(set(own)) == len(own)
    assert len({a.data_ptr() for layer in caches for a in layer}) == 2 * 2 + 1


def test_allocate_for_some_layers() -> None:
    arranged = layout([CacheSpec(KEYS)] * 4)
    caches = allocate(arranged, range(1, 3), 5, 0, 3, devices.find("cpu"))
    assert [len(layer) for layer in caches] == [0, 2, 2, 0]


def test_a_device_that_is_not_here(folder: Path) -> None:
    with pytest.raises(ValueError, match="device='abacus' is not here; there are: auto, .*cpu"):
        place(settings(folder, device="abacus"), Mesh())
