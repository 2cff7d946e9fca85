"""BERT against transformers, read from the files it writes; what its configs may say."""

import re
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from pieria import ops
from pieria.models import bert
from pieria.models.config import ModelConfig
from pieria.models.context import Packed
from pieria.models.decoder import Decoder
from pieria.models.keys import Keys
from pieria.parallel.mesh import Mesh
from tests.models import tiny
from tests.models.test_families import TOLERANCE, error, read
from tests.models.traced import norms, product_flops

CASES: dict[str, dict[str, Any]] = {
    "bert": {},
    "tanh": {"hidden_act": "gelu_new", "layer_norm_eps": 1e-2},
    "one kind of token": {"type_vocab_size": 1, "num_attention_heads": 2},
}
TOKENS = torch.randint(0, 203, (40,), generator=torch.Generator().manual_seed(1))


def made(**config: Any) -> Any:
    """A random transformers model. Biases and norms are random too."""
    shape = {key: tiny.SHAPE[key] for key in tiny.SHAPE if key != "num_key_value_heads"}
    torch.manual_seed(0)
    oracle = transformers.BertModel(transformers.BertConfig(**{**shape, **config})).eval()
    with torch.no_grad():
        for name, parameter in oracle.named_parameters():
            if name.endswith("bias") or "LayerNorm" in name:
                parameter.add_(torch.randn_like(parameter) * 0.3)
            else:
                parameter.copy_(torch.randn_like(parameter) * 0.2)
    return oracle


def hidden(oracle: Any, tokens: Tensor) -> Tensor:
    """[T, D] of one sequence."""
    with torch.no_grad():
        found: Tensor = oracle(tokens[None]).last_hidden_state[0]
    return found


def ours(model: Decoder, tokens: Tensor, lengths: tuple[int, ...]) -> Tensor:
    with torch.no_grad():
        return model(tokens, Packed.of(lengths))


@pytest.mark.parametrize("name", CASES)
def test_hidden_states_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    oracle = made(**CASES[name])
    found = ours(read(tiny.save(oracle, tmp_path), torch.float32), TOKENS, (40,))
    assert error(found, hidden(oracle, TOKENS)) <= TOLERANCE[torch.float32]


def test_packed_texts_do_not_see_each_other(tmp_path: Path) -> None:
    oracle = made().double()
    model = read(tiny.save(oracle, tmp_path), torch.float64)
    wanted = torch.cat([hidden(oracle, part) for part in TOKENS.split([17, 1, 22])])
    assert error(ours(model, TOKENS, (17, 1, 22)), wanted) <= TOLERANCE[torch.float64]


def test_what_hidden_states_do_not_depend_on_is_not_read(tmp_path: Path) -> None:
    oracle = made()
    tiny.save(oracle, tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    assert "pooler.dense.weight" in tensors
    save_file({**tensors, "embeddings.position_ids": torch.arange(512)[None]}, file)
    found = ours(read(tmp_path, torch.float32), TOKENS, (40,))
    assert error(found, hidden(oracle, TOKENS)) <= TOLERANCE[torch.float32]


BASE: dict[str, Any] = {
    "architectures": ["BertModel"],
    "hidden_act": "gelu",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "type_vocab_size": 2,
    "vocab_size": 30522,
}


def config_of(**changes: Any) -> ModelConfig:
    return bert.from_hf(Keys({**BASE, **changes}, "config.json"))


def test_the_published_model_has_its_size() -> None:
    """bert-base-uncased has 109,482,240 parameters, 768 * 769 of them in the pooler."""
    model = Decoder(config_of(), Mesh(), torch.bfloat16)
    sizes = [prod(w.shape) for w in model.logical().values()]
    assert sum(sizes) == 109_482_240 - 768 * 769
    assert not model.config.generates


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"is_decoder": True}, "is_decoder=True: only encoders are supported"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type='relative_key': on"),
        ({"hidden_act": "relu"}, "hidden_act='relu' is not supported; there are: gelu, gelu_new"),
        ({"num_attention_heads": 7}, "hidden_size=768 does not divide over 7 heads"),
        ({"vocab_size": None}, "config.json: vocab_size is missing"),
    ],
)
def test_what_is_not_supported_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        config_of(**changes)


def test_two_ranks_have_the_weights_between_them(tmp_path: Path) -> None:
    folder = tiny.save(made(), tmp_path)
    whole = read(folder, torch.float32)
    halves = [read(folder, torch.float32, Mesh(tp=2, rank=r)) for r in range(2)]
    for name, weight in whole.named_parameters():
        parts = [dict(half.named_parameters())[name] for half in halves]
        cut = whole.logical()[name].shard.cut("tp")
        if cut is None:
            assert all(torch.equal(part, weight) for part in parts)
        else:
            assert torch.equal(torch.cat(parts, cut.dim), weight)


def test_a_trace_on_the_meta_device_counts_all_pairs() -> None:
    model = Decoder(config_of(), Mesh(), torch.bfloat16)
    with ops.trace() as calls:
        found = model(torch.zeros(8, dtype=torch.int64, device="meta"), Packed.of((5, 3), "meta"))
    assert (found.shape, found.device.type) == ((8, 768), "meta")
    flops = {c.cost.flops for c in calls if c.op.name == "attention"}
    assert flops == {2 * 12 * 128 * (5 * 5 + 3 * 3)}
    assert product_flops(calls) == 2 * 8 * 12 * (4 * 768 * 768 + 2 * 768 * 3072)
    assert norms(calls) == 1 + 2 * 12
