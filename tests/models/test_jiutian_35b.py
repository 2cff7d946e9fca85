"""The proposed shapes add up to what is known of the model."""

import pytest
import torch

from pieria import ops
from pieria.models.config import ModelConfig, MoeConfig
from pieria.models.context import Packed
from pieria.models.decoder import Decoder
from pieria.models.jiutian_35b import CONFIGS, tiny
from pieria.models.keys import Keys
from pieria.models.registry import model_config
from pieria.parallel.mesh import Mesh
from tests.engine.real import fill


def parameters(config: ModelConfig) -> tuple[int, int]:
    """(all, those that a token goes through)."""
    total = active = 0
    for name, logical in Decoder(config, Mesh(), torch.bfloat16).logical().items():
        count = torch.Size(logical.shape).numel()
        total += count
        if ".experts." in name:
            moe = config.layers[int(name.split(".")[1])].mlp
            assert isinstance(moe, MoeConfig)
            count = count * moe.top // moe.experts
        active += count
    return total, active


@pytest.mark.parametrize(
    ("name", "total", "active", "cached"),
    [
        ("jiutian-35b-moe", 35.36, 3.66, 98304),
        ("jiutian-35b-mla", 35.45, 3.66, 41472),
        ("jiutian-35b-dense", 34.71, 34.71, 294912),
    ],
)
def test_sizes(name: str, total: float, active: float, cached: int) -> None:
    """Billions of parameters, and bytes remembered of a token in bfloat16."""
    config = model_config(Keys(CONFIGS[name], name))
    assert tuple(round(n / 1e9, 2) for n in parameters(config)) == (total, active)
    specs = Decoder(config, Mesh(), torch.bfloat16).cache_specs()
    assert sum(array.nbytes for spec in specs for array in spec.token) == cached
    assert config.context == 262144


@pytest.mark.parametrize("name", CONFIGS)
def test_flops_are_two_for_each_active_parameter(name: str) -> None:
    """Of all products with weights, in a trace on the meta device; embedding costs none."""
    config = model_config(Keys(CONFIGS[name], name))
    model = Decoder(config, Mesh(), torch.bfloat16)
    tokens = torch.empty(64, dtype=torch.int64, device="meta")
    with ops.trace() as calls:
        model.logits(model(tokens, Packed(tokens, (64,))))
    products = ("linear", "head_linear", "experts")
    flops = sum(call.cost.flops for call in calls if call.op.name in products)
    used = parameters(config)[1] - config.vocabulary * config.hidden
    assert flops == pytest.approx(2 * 64 * used, rel=1e-3)


@pytest.mark.parametrize("name", CONFIGS)
def test_tiny_forms_compute(name: str) -> None:
    config = model_config(Keys(tiny(name), name))
    large = model_config(Keys(CONFIGS[name], name))
    assert config.family == large.family
    assert [type(layer.mlp) for layer in config.layers] == [
        type(layer.mlp) for layer in large.layers[:2]
    ]
    model = fill(Decoder(config, Mesh(), torch.float64))
    with torch.no_grad():
        logits = model.logits(model(torch.arange(20), Packed.of((20,))))
    assert logits.isfinite().all() and logits.std() > 0.1
