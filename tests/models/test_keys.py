import re
from typing import Any

import pytest

from pieria.models.config import ModelConfig, Rope
from pieria.models.keys import Keys, naming
from pieria.models.registry import model_config
from tests.models.tiny import SHAPE

LLAMA = {**SHAPE, "architectures": ["LlamaForCausalLM"], "rms_norm_eps": 1e-5}


def config(**changes: Any) -> ModelConfig:
    keys = {**LLAMA, **changes}
    return model_config(Keys({k: v for k, v in keys.items() if v != "absent"}, "config.json"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["GPT2"]}, "architectures=['GPT2']; supported are: "),
        ({"architectures": "absent"}, "architectures=None"),
        ({"hidden_size": "absent"}, "hidden_size is missing"),
        ({"hidden_size": -1}, "hidden_size=-1 must be a positive integer"),
        ({"hidden_size": True}, "hidden_size=True must be a positive integer"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps='small' must be a positive number"),
        ({"hidden_act": "relu6"}, "hidden_act='relu6' is not supported; there are: silu"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings=1 must be true or false"),
        ({"quantization_config": {"bits": 4}}, "quantization_config: quant_method is missing"),
        ({"rope_scaling": {"rope_type": "dynamic"}}, "rope_type='dynamic' is not supported"),
        ({"rope_scaling": {"rope_type": "linear"}}, "rope_scaling: factor is missing"),
        ({"num_key_value_heads": 3}, "4 attention heads do not divide over 3 key heads"),
        (
            {"architectures": ["JiutianForCausalLM"]},
            "has none of the keys that tell which it is: num_local_experts, qkv_bias",
        ),
        (
            {"architectures": ["JiutianForCausalLM"], "num_local_experts": 4},
            "num_local_experts=4 must be 8 in JIUTIAN-139MoE",
        ),
    ],
)  # fmt: skip
def test_a_bad_config_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        config(**changes)


def test_old_and_new_rope_keys_mean_the_same() -> None:
    scaling = {"rope_type": "linear", "factor": 2.0}
    old = config(rope_theta=5e5, rope_scaling=scaling)
    new = config(rope_parameters={**scaling, "rope_theta": 5e5})
    assert old == new
    assert old.layers[0].mixer.rope == Rope(5e5, 16, "linear", 2.0)


def test_nothing_comes_from_anywhere_but_the_config() -> None:
    made = config(rms_norm_eps=0.25, intermediate_size=77, attention_bias=True, head_dim=32)
    layer = made.layers[0]
    assert (made.hidden, made.vocabulary, made.context, len(made.layers)) == (64, 204, 512, 3)
    assert (layer.norm.eps, layer.mlp.size, layer.mixer.qkv_bias) == (0.25, 77, True)
    assert (layer.mixer.head_dim, layer.mixer.scale) == (32, 32**-0.5)


def test_who_does_not_know_the_file_need_not_name_it() -> None:
    for message, wanted in (
        ("top=7 must be less", "a/b: top=7 must be less"),
        ("a/b: top=7 must be less", "a/b: top=7 must be less"),
        ("a/b/model.safetensors: cut short", "a/b/model.safetensors: cut short"),
        ("a/bc is another", "a/b: a/bc is another"),
    ):
        with pytest.raises(ValueError) as caught, naming("a/b"):
            raise ValueError(message)
        assert str(caught.value) == wanted
