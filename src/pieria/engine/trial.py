"""The largest step tried out at the start: what it takes, and which of its ops are slow here.

Knows a placed model, its caches and its device. Does not know what follows from that.
"""

import logging
from collections.abc import Sequence

import torch

from pieria import ops
from pieria.engine.batch import LayerCache, pack
from pieria.engine.capture import Recorder
from pieria.engine.device_runner import DeviceRunner
from pieria.engine.plan import StepPlan
from pieria.engine.resolve import Sizes
from pieria.engine.runner_config import RunnerConfig
from pieria.engine.scheduler import SchedulerConfig
from pieria.engine.step_memory import logits_rows, one_of_each_kind, worst_step
from pieria.hardware import devices
from pieria.hardware.spec import Device
from pieria.models.decoder import Decoder

log = logging.getLogger(__name__)


def tried(
    model: Decoder,
    caches: list[LayerCache],
    tables: Sequence[int | None],
    config: RunnerConfig,
    scheduler: SchedulerConfig,
    sizes: Sizes,
    device: Device,
    recorder: Recorder | None,
) -> int | None:
    """Bytes that the largest step took beside weights and cache, on the rank where it took most.

    With a recorder also what recorded steps keep, which is there while others run. None where no
    rank's device tells.
    """
    longest = min(scheduler.max_num_batched_tokens, sizes.max_model_len)
    windows = 1 + max((table for table in tables if table is not None), default=0)

    def step(tokens: int, rows: int) -> StepPlan:
        wanted = logits_rows(model.config.vocabulary, model.dtype.itemsize)
        held = sizes.pages, config.block_size, windows, sizes.states
        return worst_step(tokens, rows, min(wanted, tokens - 1), *held)

    runner = DeviceRunner(model, caches, tables, config.block_size, device.torch_device)
    largest = step(longest, scheduler.max_num_seqs)
    arena = None if recorder is None else recorder.arena()

    @torch.inference_mode()
    def work() -> None:
        if recorder is not None:
            where = config.block_size, caches, tables, device.torch_device
            tokens_T, context = pack(largest.chunks, *where)
            with recorder.record(arena, lambda: 0):
                model.logits(model(tokens_T, context)[: len(largest.chunks)])
        runner.run(largest)

    with one_of_each_kind(model):
        # What is made once, and weights that are read for the first time, are not the step's.
        with ops.trace() as calls:
            runner.run(step(1, 1))
        if model.mesh.rank == 0:
            tell_slow(calls, device, model.dtype, config.kv_cache_dtype)
        took = devices.peak(device, work)
    found = torch.tensor([-1 if took is None else took], device=device.torch_device)
    most = int(ops.all_gather(found, model.mesh.world, 0).max())
    return None if most < 0 else most


def tell_slow(
    calls: Sequence[ops.Call], device: Device, dtype: torch.dtype, kv_cache_dtype: str
) -> None:
    """Log which ops have kernels here, but none for such calls: references may be far slower."""
    kind = torch.device(device.torch_device).type
    slow = {c.op.name for c in calls if c.backend == ops.REFERENCE and c.op.implemented(kind)}
    if slow:
        log.warning(
            "references, which may be far slower, compute %s: no kernel for %s takes them as this"
            " model has them in %s with --kv-cache-dtype %s",
            ", ".join(sorted(slow)),
            device.name,
            str(dtype).removeprefix("torch."),
            kv_cache_dtype,
        )
