"""A model with made-up weights on the machine at hand, behind the scheduler that serves; and the
same, predicted.

Knows configs and devices. Does not know loads; nothing is read from a disk.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pieria import ops
from pieria.engine.device_runner import DeviceRunner
from pieria.engine.layout import layout
from pieria.engine.place import allocate, runner, use_threads
from pieria.engine.plan import Chunk, Draw
from pieria.engine.runner_config import RunnerConfig
from pieria.engine.scheduler import SchedulerConfig
from pieria.hardware import cpu, devices
from pieria.models.config import ModelConfig, MoeConfig
from pieria.models.decoder import Decoder
from pieria.models.keys import Keys
from pieria.models.moe import Stack
from pieria.models.registry import model_config
from pieria.parallel.mesh import Mesh
from pieria.plan.memory import weight_bytes
from pieria.plan.practice import PIERIA
from pieria.plan.precision import PRECISIONS
from pieria.plan.predict import Predictor
from pieria.plan.record import Record
from pieria.plan.recorded import RecordedTiming, Weights
from pieria.plan.replica import Replica
from pieria.plan.spread import Spread
from pieria.plan.trace import Glue, Traced

PAGE_TOKENS = 16
CONTEXT = 4096
SCALE = 0.02
"""Standard deviation of weights: small enough that nothing overflows on the way."""


@dataclass(frozen=True)
class Standing:
    """runner: on the device. replica: what its scheduler must know."""

    runner: DeviceRunner
    replica: Replica


def described(name: str, config: Mapping[str, Any]) -> ModelConfig:
    """As a config.json says it."""
    return model_config(Keys(dict(config), name))


def stand(
    config: ModelConfig, dtype: str, scheduler: SchedulerConfig, cache_tokens: int
) -> Standing:
    """The model on the processor, with room for so many tokens at once."""
    device = devices.find("cpu")
    ops.use(*device.backends)
    cpu.use_threads(1)
    model = Decoder(config, Mesh(), getattr(torch, dtype))
    _fill(model)
    use_threads(None, "auto", device.torch_device, 1)
    model.pack()
    arranged = layout(model.cache_specs())
    pages = len(arranged.windows) * (-(-cache_tokens // PAGE_TOKENS))
    runner_config = RunnerConfig("-", dtype=dtype, block_size=PAGE_TOKENS)
    states = 4 * scheduler.max_num_seqs if any(s.state for s in arranged.specs) else 0
    caches = allocate(arranged, range(len(arranged.specs)), pages, states, PAGE_TOKENS, device)
    made = runner(model, caches, arranged.tables, runner_config, scheduler, CONTEXT, device)
    replica = Replica(scheduler, pages, PAGE_TOKENS, CONTEXT, arranged.windows, states)
    return Standing(made, replica)


def _fill(model: Decoder) -> None:
    """Random matrices, and norms of ones."""
    generator = torch.Generator().manual_seed(0)
    for name in model.logical():
        path, _, kind = name.rpartition(".")
        module = model.get_submodule(path)
        like = getattr(module, kind)
        if like.ndim == 1:
            made = torch.ones(like.shape, dtype=like.dtype)
        else:
            made = torch.empty(like.shape, dtype=like.dtype).normal_(
                0.0, SCALE, generator=generator
            )
        setattr(module, kind, nn.Parameter(made, requires_grad=False))
    for name, buffer in model.named_buffers():
        setattr(model, name, buffer.to("cpu"))


def predictor(config: ModelConfig, record: Record, scheduler: SchedulerConfig) -> Predictor:
    """Of the same, from what was recorded of the machine."""
    traced = Traced(config, Mesh(), getattr(torch, record.dtype), PAGE_TOKENS)
    precision = PRECISIONS[record.dtype]
    experts = weight_bytes(traced, precision, Spread(), Stack)
    dense = weight_bytes(traced, precision, Spread()) - experts
    weights, most = Weights(dense, experts, _chosen(config)), scheduler.max_num_batched_tokens
    timing = RecordedTiming(record, weights, _records(traced), most)
    return Predictor(config, Mesh(), timing, precision, practice=PIERIA, page_tokens=PAGE_TOKENS)


def _chosen(config: ModelConfig) -> float:
    """Share of a layer's experts that a token goes to."""
    found = [layer.mlp for layer in config.layers if isinstance(layer.mlp, MoeConfig)]
    return found[0].top / found[0].experts if found else 1.0


def _records(traced: Traced) -> bool:
    """Whether a step of one token each can be replayed: nothing in it happens between ops."""
    pages = ((0,),) * len(traced.layout.windows)
    chunk = Chunk("", 1, (0,), pages, draw=Draw(0))
    return not any(isinstance(call, Glue) for part in traced.step([chunk]) for call in part)
