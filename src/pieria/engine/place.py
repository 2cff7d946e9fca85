"""Puts one rank's part of a model on a device: what to hold, in which dtype, in how much memory.

Knows configs, checkpoints and devices. Does not know plans.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import torch
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from pieria import ops
from pieria.config import Decision, format_size
from pieria.engine import resolve
from pieria.engine.batch import LayerCache
from pieria.engine.capture import Captured, Recorder
from pieria.engine.device_runner import DeviceRunner
from pieria.engine.layout import Layout, layout
from pieria.engine.process import Prepared
from pieria.engine.runner_config import DTYPES, KV_CACHE_DTYPES, RunnerConfig
from pieria.engine.scheduler import SchedulerConfig
from pieria.engine.step_memory import step_bytes
from pieria.engine.trial import tried
from pieria.hardware import cpu, devices, memory
from pieria.hardware.spec import Device
from pieria.models.checkpoint import Checkpoint, open_checkpoint
from pieria.models.decoder import Decoder
from pieria.models.loader import build, held_bytes, load
from pieria.models.parts import Module
from pieria.models.quantization import NONE, STORED
from pieria.parallel.mesh import Mesh

BEHIND = 4
"""Modules that may be loaded and not packed: each is in memory twice when it is."""


def place(settings: dict[str, Any], mesh: Mesh) -> Prepared:
    """One rank's runner, loaded."""
    config = msgspec.convert(settings["runner"], RunnerConfig)
    scheduler = msgspec.convert(settings["scheduler"], SchedulerConfig)
    device = devices.find(config.device)
    ops.use(*device.backends)
    checkpoint = open_checkpoint(Path(config.model))
    dtype = resolve.dtype(config.dtype, stored_dtype(checkpoint), device.spec.native_dtypes)
    model = build(checkpoint, mesh, getattr(torch, dtype.value))
    quantize = quantization(config.quantize, checkpoint)
    held = resolve.kv_cache_dtype(config.kv_cache_dtype, dtype.value)
    recognised = Decision("family", model.config.family, "by the architecture its config names")
    if not model.config.generates:
        raise ValueError(
            f"{config.model}: {model.config.family} models do not generate; use LLM.embed"
        )
    # Page tables are the same on every rank, so they follow from all layers, not from this stage's.
    whole = model if mesh.size == 1 else build(checkpoint, replace(mesh, pp=1, rank=0), model.dtype)
    arranged = layout(whole.cache_specs(kv_cache_dtype(config.kv_cache_dtype)))
    stage = mesh.stage(len(arranged.specs))
    program = devices.program(device)
    records = recorder(model, config, device)
    most = scheduler.max_num_batched_tokens, scheduler.max_num_seqs
    free = devices.free_memory(device)
    need = resolve.Need(
        weights=held_bytes(checkpoint, model, quantize.value),
        page=config.block_size * arranged.token_bytes(stage),
        windows=arranged.windows,
        state=arranged.state_bytes(stage) if any(s.state for s in arranged.specs) else None,
        context=model.config.context,
        step=step_bytes(model, *most, recorded=records is not None),
    )

    def sized(need: resolve.Need) -> resolve.Sizes:
        room = int(free.value) // mesh.size
        found = resolve.cache(config, scheduler, need, free_bytes=room, free_source=free.source)
        return _agree(found, mesh, device)

    sizes = sized(need)
    threads = use_threads(config.threads, config.cpu_isa, device.torch_device, mesh.size)
    load_weights(checkpoint, model, device.torch_device, quantize.value, need.weights)
    tables = arranged.tables
    caches = allocate(arranged, stage, sizes.pages, sizes.states, config.block_size, device)
    took = tried(model, caches, tables, config, scheduler, sizes, device, records)
    # Not whether it was more than counted: ranks count differently, and all must agree again.
    if took is not None and resolve.kept(took) > resolve.ACTIVATION_BYTES:
        need = replace(need, step=max(need.step, took))
        caches = []  # there may be no room for both
        sizes = sized(need)
        caches = allocate(arranged, stage, sizes.pages, sizes.states, config.block_size, device)
    made = runner(model, caches, tables, config, scheduler, sizes.max_model_len, device)
    return Prepared(
        runner=made,
        pages=sizes.pages,
        page_tokens=config.block_size,
        max_model_len=sizes.max_model_len,
        vocabulary=model.config.vocabulary,
        decisions=tuple(
            (d.name, d.value, d.reason)
            for d in (
                recognised,
                dtype,
                quantize,
                held,
                *sizes.decisions,
                *promise(need, sizes, program, took),
                *threads,
            )
        ),
        windows=arranged.windows,
        states=sizes.states,
        ahead=() if config.kv_cache_memory_bytes is None else taken(caches, device),
        watch=partial(_watch, model, made.captured),
    )


def promise(
    need: resolve.Need, sizes: resolve.Sizes, program: int, took: int | None
) -> tuple[Decision, ...]:
    """What a rank's memory is going to be, and is not to exceed."""
    cache = sizes.pages * need.page + sizes.states * (need.state or 0)
    steps = resolve.kept(need.step)
    parts = f"{format_size(need.weights)} of weights, {format_size(cache)} of cache"
    tried = "not measured on this device"
    if took is not None:
        tried = f"the largest took {format_size(took)}"
    why = f"{format_size(program)} of the program, {parts}, {format_size(steps)} for steps: {tried}"
    return (Decision("memory", format_size(program + need.weights + cache + steps), why),)


def _watch(model: Decoder, steps: Captured | None, beat: Callable[[], None]) -> None:
    """Call `beat` at every layer: a step of a long prompt may take minutes, and is no hang."""
    if steps is not None:
        steps.beat = beat
    for layer in model.layers.values():
        layer.register_forward_pre_hook(lambda *_: beat())


def allocate(
    layout: Layout, stage: range, pages: int, states: int, page_tokens: int, device: Device
) -> list[LayerCache]:
    """What each layer remembers, zeros: no NaN can come from what was never written.

    Layers at the same place within a page share its arrays; no page is in two of their tables.
    stage: the layers that are here; the others have no arrays.
    """
    slots: dict[int, LayerCache] = {}
    caches: list[LayerCache] = []
    for layer, (place, spec) in enumerate(zip(layout.places, layout.specs, strict=True)):
        if layer not in stage:
            caches.append(())
        elif place is None:
            caches.append(
                tuple(devices.zeros(device, (states, *a.shape), a.dtype) for a in spec.state)
            )
        else:
            if place.slot not in slots:
                slots[place.slot] = tuple(
                    devices.zeros(device, (pages, page_tokens, *a.shape), a.dtype)
                    for a in spec.token
                )
            caches.append(slots[place.slot])
    return caches


def taken(caches: Sequence[LayerCache], device: Device) -> Iterator[None]:
    """Take the memory of all of this, a piece at every step.

    Worth it for a size that was asked for, since a first write to a page costs a prompt up to a
    tenth of its time; a share of the machine is taken as it is used, as it may never be.
    """
    # By identity: layers share arrays.
    return devices.taken(device, list({id(a): a for layer in caches for a in layer}.values()))


def _agree(sizes: resolve.Sizes, mesh: Mesh, device: Device) -> resolve.Sizes:
    """The least of what the ranks found: a page that one of them lacks is no page."""
    found = (sizes.pages, sizes.states, sizes.max_model_len)
    every = ops.all_gather(torch.tensor([found], device=device.torch_device), mesh.world, 0)
    pages, states, max_model_len = every.amin(0).tolist()
    return replace(sizes, pages=pages, states=states, max_model_len=max_model_len)


def runner(
    model: Decoder,
    caches: list[LayerCache],
    tables: Sequence[int | None],
    config: RunnerConfig,
    scheduler: SchedulerConfig,
    max_model_len: int,
    device: Device,
) -> DeviceRunner:
    """Of requests of at most so many tokens, with recorded steps where there can be some."""
    steps = None
    if (records := recorder(model, config, device)) is not None:
        width = -(-max_model_len // config.block_size)
        most = scheduler.max_num_seqs, scheduler.max_num_batched_tokens
        how = records.record, records.arena()
        steps = Captured(model, caches, tables, config.block_size, width, *most, *how)
    return DeviceRunner(model, caches, tables, config.block_size, device.torch_device, steps)


def recorder(model: Decoder, config: RunnerConfig, device: Device) -> Recorder | None:
    """What records steps here; None if the device's kernels do not, or several ranks must talk."""
    kind = torch.device(device.torch_device).type
    record, arena = ops.service(kind, "record"), ops.service(kind, "Arena")
    if record is None or model.mesh.size > 1 or config.enforce_eager:
        return None
    return Recorder(record, arena)


def use_threads(asked: int | None, isa: str, device: str, ranks: int) -> tuple[Decision, ...]:
    """Threads of this rank, now in use: as asked, else its share of what the processor allows.

    isa: the instruction set of the device's kernels, where they have several; auto: the best one.
    """
    if asked is not None:
        decision = Decision("threads", str(asked), "asked for")
    else:
        allowed = cpu.threads(cpu.processor())
        count = max(1, int(allowed.value) // ranks)
        decision = Decision("threads", str(count), f"{allowed.source}, over {ranks} ranks")
    configure = ops.service(torch.device(device).type, "configure")
    if configure is None:
        cpu.use_threads(int(decision.value))
        return (decision,)
    # The kernels' own threads and torch's would wait for each other.
    cpu.use_threads(1)
    used = configure(int(decision.value), None if isa == "auto" else isa)
    reason = "the best of this processor" if isa == "auto" else "asked for"
    return decision, Decision("instruction set", used, reason)


def kv_cache_dtype(name: str) -> torch.dtype | None:
    """What keys and values are held in; None: the dtype that is computed in."""
    held = KV_CACHE_DTYPES[name]
    return None if held is None else getattr(torch, held)


def stored_dtype(checkpoint: Checkpoint) -> str | None:
    """The dtype that the files say they are in; None if they are quantized or silent."""
    stored = checkpoint.config.get("dtype", checkpoint.config.get("torch_dtype"))
    return stored if stored in DTYPES and stored != "auto" else None


def quantization(asked: str, checkpoint: Checkpoint) -> Decision:
    """In which format weights are held."""
    if asked != "auto":
        return Decision("quantize", asked, "asked for")
    if checkpoint.format != "gguf":
        return Decision("quantize", STORED, "as the files have them")
    tensors = checkpoint.tensors()
    kinds = Counter(found.name for n in tensors.names() if (found := tensors.blocks(n)))
    if not kinds:
        return Decision("quantize", NONE, "the file holds plain numbers")
    most = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    return Decision("quantize", STORED, f"as the file has its tensors: {most}")


def load_weights(
    checkpoint: Checkpoint, model: Decoder, device: str, quantize: str, total: int
) -> None:
    """Load and pack `total` bytes, with a progress bar on the first rank."""
    columns = (TextColumn("loading"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    console = Console(stderr=True)
    silent = model.mesh.rank > 0 or not console.is_terminal
    packed: list[Future[None]] = []

    def pack(module: Module) -> None:
        packed.append(packer.submit(module.pack))
        if len(packed) > BEHIND:
            packed[-BEHIND].result()

    with (
        Progress(*columns, console=console, disable=silent, transient=True) as progress,
        ThreadPoolExecutor(1) as packer,
        # Loading works on blocks so small that a second thread costs more than it gives.
        cpu.threads_within(1),
    ):
        task = progress.add_task("load", total=total)
        load(
            checkpoint,
            model,
            device,
            lambda size: progress.advance(task, size),
            pack,
            quantize,
        )
    for done in packed:
        done.result()
    memory.trim()
