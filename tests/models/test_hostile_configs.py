"""Configs with one value that makes no sense: a model, or an error that names the file; soon, and
without memory for what is not there.
"""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from pieria.models.checkpoint import Checkpoint
from pieria.models.gguf import GgufFile
from pieria.models.gguf_config import hf_config
from pieria.models.loader import build
from pieria.parallel.mesh import Mesh
from tests.models.small_configs import CONFIGS, GGUF_CONFIGS, GGUF_SIZES

SOURCE = "a.file"
ODD: list[Any] = [
    *(None, True, False, 0, 1, -1, 3, 2**31, 2**39, 2**70, 0.5, -1.0, 1e-300, 1e29, 1e300),
    *(math.nan, math.inf, "", "x", [], [1], ["x"], [None], {}, {"factor": 0}, {"x": {}}),
]
ROPES: list[dict[str, Any]] = [
    {"rope_type": kind, "factor": 2.0, "original_max_position_embeddings": 8, **own}
    for kind, own in (
        ("linear", {}),
        ("ntk", {}),
        ("llama3", {"low_freq_factor": 1.0, "high_freq_factor": 4.0}),
        ("yarn", {"mscale": 0.7, "mscale_all_dim": 0.7, "beta_fast": 32, "beta_slow": 1}),
        ("factors", {"factors": [1.0, 2.0]}),
    )
]


class Read(dict[str, Any]):
    """Knows which keys were asked for."""

    def __init__(self, values: dict[str, Any]) -> None:
        super().__init__(values)
        self.asked = set(values)

    def get(self, key: str, default: Any = None) -> Any:
        self.asked.add(key)
        return super().get(key, default)


def tried(config: dict[str, Any]) -> bool:
    """Whether there is such a model."""
    try:
        build(Checkpoint(Path(SOURCE), "safetensors", config, {}, None), Mesh(), torch.float32)
    except ValueError as error:
        assert str(error).startswith(SOURCE), error
        return False
    return True


@pytest.mark.parametrize("name", CONFIGS)
def test_any_key_may_have_any_value(name: str) -> None:
    config = Read(CONFIGS[name])
    assert tried(config)
    assert len(config.asked) > len(config)
    refused = [
        (key, value)
        for key in sorted(config.asked - {"architectures"})
        for value in ODD
        if not tried({**config, key: value})
    ]
    assert ("num_hidden_layers", 2**31) in refused and ("hidden_size", 2**70) in refused
    assert ("vocab_size", "x") in refused


@pytest.mark.parametrize("scaling", ROPES, ids=lambda scaling: scaling["rope_type"])
def test_so_may_any_key_of_a_rope(scaling: dict[str, Any]) -> None:
    config = CONFIGS["qwen3"]
    read = Read(scaling)
    assert tried({**config, "rope_parameters": read})
    for key in sorted(read.asked | {"rope_theta"}):
        for value in ODD:
            tried({**config, "rope_parameters": {**scaling, key: value}})


@pytest.mark.parametrize("arch", GGUF_CONFIGS)
def test_so_may_any_key_of_a_gguf_file(arch: str) -> None:
    plain = {f"{arch}.{k}": v for k, v in {**GGUF_SIZES, **GGUF_CONFIGS[arch]}.items()}
    plain |= {"general.architecture": arch, "tokenizer.ggml.tokens": ["a", "b", "c"]}

    def opened(**changes: Any) -> bool:
        try:
            config = hf_config(GgufFile(Path(SOURCE), 3, {**plain, **changes}, {}))
        except ValueError as error:
            assert str(error).startswith(SOURCE), error
            return False
        return tried(config)

    assert opened()
    assert not opened(**{f"{arch}.block_count": 2**31})
    for key in plain:
        for value in ODD:
            opened(**{key: value})
