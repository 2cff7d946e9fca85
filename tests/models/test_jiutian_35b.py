"""The proposed shapes add up to what is known of the model."""

from functools import partial
from pathlib import Path

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
from tests.models import tiny as oracles
from tests.models.test_families import error, ours, read
from tests.models.traced import product_flops


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
    used = parameters(config)[1] - config.vocabulary * config.hidden
    assert product_flops(calls) == pytest.approx(2 * 64 * used, rel=1e-3)


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    """Of the published families whose forms these are; of the dense one with the vendor's norm."""
    config = tiny(name)
    own = {k: v for k, v in config.items() if k not in ("architectures", "model_type")}
    if name == "jiutian-35b-mla":
        own["num_key_value_heads"] = own["num_attention_heads"]
    make = {
        "jiutian-35b-moe": partial(oracles.model, "Qwen3Moe"),
        "jiutian-35b-mla": partial(oracles.model, "DeepseekV2"),
        "jiutian-35b-dense": oracles.jiutian,
    }
    made = make[name](**own)
    folder = oracles.save(made, tmp_path, **{**config, "rope_parameters": None})
    tokens = torch.randint(0, 203, (40,), generator=torch.Generator().manual_seed(1))
    assert error(ours(read(folder, torch.float32), tokens), oracles.logits(made, tokens)) <= 1e-4


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
