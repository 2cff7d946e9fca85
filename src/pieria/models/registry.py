"""Which family a config belongs to. A new family is a file beside this one and a line here."""

from collections.abc import Mapping
from typing import Protocol

from pieria.models import deepseek, gemma, jiutian, llama, qwen2
from pieria.models.config import ModelConfig
from pieria.models.keys import Keys


class Family(Protocol):
    """What a family's file says.

    NAMES: module of `Decoder` -> module in published files, {} standing for the layer's number.
    GGUF_INTERLEAVED: modules whose rows GGUF files keep in interleaved rotary order.
    """

    @property
    def NAMES(self) -> Mapping[str, str]: ...  # noqa: N802
    @property
    def GGUF_INTERLEAVED(self) -> tuple[str, ...]: ...  # noqa: N802

    def from_hf(self, keys: Keys) -> ModelConfig:
        """ValueError, naming key and value, for what is not supported."""


ARCHITECTURES: dict[str, Family] = {
    "DeepseekV2ForCausalLM": deepseek,
    "DeepseekV3ForCausalLM": deepseek,
    "LlamaForCausalLM": llama,
    "Qwen2ForCausalLM": qwen2,
    "JiutianForCausalLM": jiutian,
    "Gemma2ForCausalLM": gemma,
    "Gemma3ForCausalLM": gemma,
    "Gemma3ForConditionalGeneration": gemma,
}


def family(keys: Keys) -> Family:
    """The family's file. ValueError if none of the config's architectures is known."""
    names = keys.values.get("architectures")
    found = [n for n in names if n in ARCHITECTURES] if isinstance(names, list) else []
    if not found:
        known = ", ".join(ARCHITECTURES)
        raise ValueError(f"{keys.source}: architectures={names!r}; supported are: {known}")
    return ARCHITECTURES[found[0]]


def model_config(keys: Keys) -> ModelConfig:
    """What the model is. ValueError, naming key and value, for what is not supported."""
    return family(keys).from_hf(keys)
