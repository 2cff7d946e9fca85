"""A real engine on a tiny model in float64, and the naive loop that it must agree with token for
token.
"""

from typing import Any

import torch

from pieria import ops
from pieria.engine.capture import Captured
from pieria.engine.device_runner import DeviceRunner
from pieria.engine.engine import Engine
from pieria.engine.layout import layout
from pieria.engine.messages import Add, Output
from pieria.engine.place import allocate
from pieria.engine.prefix_cache import PrefixCache
from pieria.engine.request import Request
from pieria.engine.sampler import draw
from pieria.engine.sampling_params import SamplingParams
from pieria.engine.scheduler import Scheduler, SchedulerConfig
from pieria.hardware import devices
from pieria.models.config import (
    AttentionConfig,
    LayerConfig,
    MlpConfig,
    ModelConfig,
    NormConfig,
    Rope,
)
from pieria.models.context import Packed
from pieria.models.decoder import Decoder
from pieria.parallel.mesh import Mesh

VOCABULARY = 97
STOP = 5


def tiny_config(windows: tuple[int | None, ...] = (None, 6, None), **attention: Any) -> ModelConfig:
    layers = tuple(
        LayerConfig(
            AttentionConfig(
                **{
                    "heads": 4,
                    "kv_heads": 2,
                    "head_dim": 8,
                    "rope": Rope(10000.0, 8),
                    "scale": 0.4,
                    "qkv_bias": True,
                    "window": window,
                    **attention,
                }
            ),
            MlpConfig(40, "silu"),
            NormConfig(1e-5),
        )
        for window in windows
    )
    return ModelConfig("tiny", 32, VOCABULARY, 512, layers, NormConfig(1e-5), tied=False)


def fill(model: Decoder, seed: int = 0) -> Decoder:
    """Random weights, the same whole weights however the model is cut."""
    generator = torch.Generator().manual_seed(seed)
    for name, logical in model.logical().items():
        scale = 1.0 if "norm" in name else 0.35
        whole = torch.randn(logical.shape, generator=generator, dtype=torch.float64) * scale
        for dim, (first, last) in enumerate(logical.shard.spans(logical.shape, model.mesh)):
            whole = whole.narrow(dim, first, last - first)
        path, _, kind = name.rpartition(".")
        module = model.get_submodule(path)
        part = torch.nn.Parameter(whole.to(getattr(module, kind).dtype), requires_grad=False)
        setattr(module, kind, part)
    return model


def tiny_model(mesh: Mesh | None = None, **config: Any) -> Decoder:
    return fill(Decoder(tiny_config(**config), mesh or Mesh(), torch.float64))


def engine(
    model: Decoder,
    *,
    pages: int = 256,
    page_tokens: int = 4,
    states: int = 24,
    records: bool = False,
    held: torch.dtype | None = None,
    **options: Any,
) -> Engine:
    """An engine whose step checks all that `Scheduler.check` knows. records: steps are captured.
    held: what keys and values are held in; None: the model's dtype.
    """
    config = SchedulerConfig(**{"max_num_seqs": 16, "max_num_batched_tokens": 64, **options})
    arranged = layout(model.cache_specs(held))
    pages *= len(arranged.windows)
    states = states if any(spec.state for spec in arranged.specs) else 0
    cache = PrefixCache(pages, page_tokens, config.enable_prefix_caching, arranged.windows, states)
    scheduler = Scheduler(config, cache, frozenset({STOP}), model.config.context)
    caches = allocate(
        arranged, range(len(arranged.specs)), pages, states, page_tokens, devices.find("cpu")
    )
    captured = None
    if records:
        captured = Captured(
            model,
            caches,
            arranged.tables,
            page_tokens,
            -(-model.config.context // page_tokens),
            config.max_num_seqs,
            config.max_num_batched_tokens,
            ops.service("cpu", "record"),
            ops.service("cpu", "Arena")(),
        )
    runner = DeviceRunner(model, caches, arranged.tables, page_tokens, "cpu", captured)
    return Engine(scheduler, runner)


def add(id: str, tokens: list[int], max_tokens: int = 12, **options: Any) -> Add:
    names = ("choice", "leader", "priority", "salt", "adapter")
    message = {name: options.pop(name) for name in names if name in options}
    seed = options.pop("seed", 0)
    params = SamplingParams(**{"temperature": 0.0, **options})
    return Add(id, tuple(tokens), params, seed, max_tokens, **message)


def run(engine: Engine, limit: int = 10_000) -> dict[str, list[Output]]:
    """Step until idle, checking invariants after every step; the news of each request."""
    news: dict[str, list[Output]] = {}
    for _ in range(limit):
        if engine.idle:
            return news
        for output in engine.step():
            news.setdefault(output.id, []).append(output)
        engine.scheduler.check()
    raise AssertionError(f"not idle after {limit} steps")


def tokens_of(news: list[Output]) -> list[int]:
    return [token for output in news for token in output.tokens]


def naive(model: Decoder, message: Add) -> list[int]:
    """The loop that needs no proof: the whole sequence through the model for every token."""
    request = Request(message, 0)
    stop_ids = frozenset({STOP})
    while True:
        sequence = torch.tensor(request.tokens)
        with torch.no_grad():
            hidden = model(sequence, Packed.of((len(sequence),)))
            logits = model.logits(hidden[-1:])
        request.tokens.append(int(draw(logits, [request.draw(stop_ids)], [len(request.tokens)])))
        if request.finish_reason(stop_ids)[0] is not None:
            return request.tokens[request.prompt_length :]
