"""Puts one rank's part of a model on a device: what to hold, in which dtype, in how much memory.

Knows configs, checkpoints and devices. Does not know plans.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from pieria import ops
from pieria.config import Decision
from pieria.engine import resolve
from pieria.engine.batch import LayerCache
from pieria.engine.device_runner import DeviceRunner
from pieria.engine.process import Prepared
from pieria.engine.runner_config import DTYPES, RunnerConfig
from pieria.engine.scheduler import SchedulerConfig
from pieria.hardware import cpu, devices
from pieria.hardware.spec import Device
from pieria.models.cache_spec import CacheSpec
from pieria.models.checkpoint import Checkpoint, open_checkpoint
from pieria.models.decoder import Decoder
from pieria.models.loader import build, load
from pieria.parallel.mesh import Mesh


def place(settings: dict[str, Any], mesh: Mesh) -> Prepared:
    """One rank's runner, loaded."""
    config = msgspec.convert(settings["runner"], RunnerConfig)
    scheduler = msgspec.convert(settings["scheduler"], SchedulerConfig)
    device = devices.find(config.device)
    ops.use(*device.backends)
    threads = _use_threads(config.threads, mesh.size)
    checkpoint = open_checkpoint(Path(config.model))
    dtype = resolve.dtype(config.dtype, stored_dtype(checkpoint), device.spec.native_dtypes)
    model = build(checkpoint, mesh, getattr(torch, dtype.value))
    specs = model.cache_specs()
    if any(spec.state for spec in specs):
        raise ValueError(f"{config.model}: layers with per-request state are not served yet")
    free = devices.free_memory(device)
    # Ranks ask at different moments; the cache of each must have the same pages.
    least = torch.tensor([int(free.value)], device=device.torch_device)
    least = ops.all_gather(least, mesh.group("tp")).min()
    weight_bytes = sum(p.numel() * p.element_size() for p in model.parameters())
    pages, max_model_len, decisions = resolve.cache(
        config,
        context=model.config.context,
        token_bytes=sum(a.nbytes for spec in specs for a in spec.token),
        weight_bytes=weight_bytes,
        free_bytes=int(least) // mesh.size,
        free_source=free.source,
        max_num_seqs=scheduler.max_num_seqs,
    )
    _load(checkpoint, model, device.torch_device)
    caches = allocate(specs, pages, config.block_size, device)
    return Prepared(
        runner=DeviceRunner(model, caches, config.block_size, device.torch_device),
        pages=pages,
        page_tokens=config.block_size,
        max_model_len=max_model_len,
        stop_ids=checkpoint.stop_ids,
        decisions=tuple((d.name, d.value, d.reason) for d in (dtype, *decisions, threads)),
    )


def allocate(
    specs: Sequence[CacheSpec], pages: int, page_tokens: int, device: Device
) -> list[LayerCache]:
    """The cache's memory, zeros: no NaN can come from what was never written."""
    return [
        tuple(
            devices.zeros(device, (pages, page_tokens, *array.shape), array.dtype)
            for array in spec.token
        )
        for spec in specs
    ]


def _use_threads(asked: int | None, ranks: int) -> Decision:
    """Threads of this rank, now in use: as asked, else its share of what the processor allows."""
    if asked is not None:
        decision = Decision("threads", str(asked), "asked for")
    else:
        allowed = cpu.threads(cpu.processor())
        count = max(1, int(allowed.value) // ranks)
        decision = Decision("threads", str(count), f"{allowed.source}, over {ranks} ranks")
    cpu.use_threads(int(decision.value))
    return decision


def stored_dtype(checkpoint: Checkpoint) -> str | None:
    """The dtype that the files say they are in; None if they are quantized or silent."""
    stored = checkpoint.config.get("dtype", checkpoint.config.get("torch_dtype"))
    return stored if stored in DTYPES and stored != "auto" else None


def _load(checkpoint: Checkpoint, model: Decoder, device: str) -> None:
    """Load with a progress bar, on the first rank."""
    total = sum(p.numel() * p.element_size() for p in model.parameters())
    columns = (TextColumn("loading"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    console = Console(stderr=True)
    silent = model.mesh.rank > 0
    with Progress(*columns, console=console, disable=silent, transient=True) as progress:
        task = progress.add_task("load", total=total)
        load(checkpoint, model, device, lambda size: progress.advance(task, size))
