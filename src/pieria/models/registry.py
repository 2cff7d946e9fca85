"""Which family a config belongs to. A new family is a file beside this one and a line here."""

from dataclasses import replace
from typing import Protocol

from pieria.models import (
    bert,
    deepseek,
    gemma,
    glm4,
    gpt_oss,
    jiutian,
    jiutian_moe,
    llama,
    mistral,
    mixtral,
    qwen2,
    qwen2_moe,
    qwen3,
    qwen3_5,
    qwen3_moe,
    qwen3_next,
)
from pieria.models.config import ModelConfig
from pieria.models.keys import Keys, naming
from pieria.models.names import Names
from pieria.models.quantized.config import quantization


class Family(Protocol):
    """What a family's file says.

    NAMES: module of `Decoder` -> module in published files, {} standing for the layer's number.
    GGUF_INTERLEAVED: modules whose rows GGUF files keep in interleaved rotary order.
    """

    @property
    def NAMES(self) -> Names: ...  # noqa: N802
    @property
    def GGUF_INTERLEAVED(self) -> tuple[str, ...]: ...  # noqa: N802

    def from_hf(self, keys: Keys) -> ModelConfig:
        """ValueError, naming key and value, for what is not supported."""


ARCHITECTURES: dict[str, Family] = {
    "DeepseekV2ForCausalLM": deepseek,
    "DeepseekV3ForCausalLM": deepseek,
    "GptOssForCausalLM": gpt_oss,
    "LlamaForCausalLM": llama,
    "MistralForCausalLM": mistral,
    "MixtralForCausalLM": mixtral,
    "Qwen2ForCausalLM": qwen2,
    "Qwen2MoeForCausalLM": qwen2_moe,
    "Qwen3ForCausalLM": qwen3,
    "Qwen3MoeForCausalLM": qwen3_moe,
    "Qwen3NextForCausalLM": qwen3_next,
    "Qwen3_5ForCausalLM": qwen3_5,
    "Qwen3_5ForConditionalGeneration": qwen3_5,
    "Qwen3_5MoeForCausalLM": qwen3_5,
    "Qwen3_5MoeForConditionalGeneration": qwen3_5,
    "BertModel": bert,
    "GlmForCausalLM": glm4,
    "Glm4ForCausalLM": glm4,
    "Gemma2ForCausalLM": gemma,
    "Gemma3ForCausalLM": gemma,
    "Gemma3ForConditionalGeneration": gemma,
}


SHARED_NAMES: dict[str, dict[str, Family]] = {
    "JiutianForCausalLM": {"num_local_experts": jiutian_moe, "qkv_bias": jiutian},
}
"""Architectures that several families publish under, with the key that only one of them has."""


def family(keys: Keys) -> Family:
    """The file of the family that the config belongs to.

    ValueError if none of the config's architectures is known, or if several families are called so
    and no key tells which it is.
    """
    names = keys.values.get("architectures")
    known = {**ARCHITECTURES, **SHARED_NAMES}
    asked = [_headed(str(n)) for n in names] if isinstance(names, list) else []
    found = [n for n in asked if n in known]
    if not found:
        raise ValueError(
            f"{keys.source}: architectures={names!r}; supported are: {', '.join(known)}"
        )
    if found[0] in ARCHITECTURES:
        return ARCHITECTURES[found[0]]
    telling = SHARED_NAMES[found[0]]
    named = [made for key, made in telling.items() if keys.has(key)]
    if not named:
        raise ValueError(
            f"{keys.source}: architectures={names!r} has none of the keys that tell which it is:"
            f" {', '.join(telling)}"
        )
    return named[0]


def model_config(keys: Keys) -> ModelConfig:
    """What the model is. ValueError, naming key and value, for what is not supported.

    What was saved without its head, such as Qwen3Model, does not generate.
    """
    quantization(keys)
    with naming(keys.source):
        config = family(keys).from_hf(keys)
    known = {*ARCHITECTURES, *SHARED_NAMES}
    headless = not any(name in known for name in keys.values["architectures"])
    return replace(config, generates=False) if headless else config


def _headed(name: str) -> str:
    """The architecture with a head, of one that may be saved without."""
    known = name in ARCHITECTURES or not name.endswith("Model")
    return name if known else f"{name.removesuffix('Model')}ForCausalLM"
