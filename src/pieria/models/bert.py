"""BERT (arXiv:1810.04805): an encoder, whose tokens see the whole text.

It gives hidden states to be pooled; heads for other tasks are left out. Source: transformers'
models/bert.
"""

from pieria.models.config import (
    AttentionConfig,
    FeedForwardConfig,
    LayerConfig,
    ModelConfig,
    NormConfig,
)
from pieria.models.keys import Keys

NAMES = {
    "embed": "embeddings.word_embeddings",
    "positions": "embeddings.position_embeddings",
    "types": "embeddings.token_type_embeddings",
    "embed_norm": "embeddings.LayerNorm",
    "layers.{}.mixer.q": "encoder.layer.{}.attention.self.query",
    "layers.{}.mixer.k": "encoder.layer.{}.attention.self.key",
    "layers.{}.mixer.v": "encoder.layer.{}.attention.self.value",
    "layers.{}.mixer.o": "encoder.layer.{}.attention.output.dense",
    "layers.{}.mixer_norm": "encoder.layer.{}.attention.output.LayerNorm",
    "layers.{}.mlp.up": "encoder.layer.{}.intermediate.dense",
    "layers.{}.mlp.down": "encoder.layer.{}.output.dense",
    "layers.{}.mlp_norm": "encoder.layer.{}.output.LayerNorm",
}
GGUF_INTERLEAVED: tuple[str, ...] = ()

TANH = {"gelu": False, "gelu_new": True, "gelu_pytorch_tanh": True}


def from_hf(keys: Keys) -> ModelConfig:
    keys.refuse("is_decoder", "only encoders are supported")
    keys.refuse(
        "position_embedding_type", "only absolute positions are supported", (None, "absolute")
    )
    hidden, heads = keys.integer("hidden_size"), keys.integer("num_attention_heads")
    if hidden % heads:
        raise ValueError(f"{keys.source}: hidden_size={hidden} does not divide over {heads} heads")
    norm = NormConfig(keys.number("layer_norm_eps", 1e-12), centered=True)
    attention = AttentionConfig(
        heads,
        heads,
        hidden // heads,
        rope=None,
        scale=(hidden // heads) ** -0.5,
        qkv_bias=True,
        out_bias=True,
        causal=False,
    )
    mlp = FeedForwardConfig(
        keys.integer("intermediate_size"), keys.choice("hidden_act", TANH, "gelu")
    )
    layer = LayerConfig(attention, mlp, norm, norms_last=True)
    return ModelConfig(
        family="bert",
        hidden=hidden,
        vocabulary=keys.integer("vocab_size"),
        context=keys.integer("max_position_embeddings"),
        layers=(layer,) * keys.layers(),
        norm=None,
        tied=False,
        generates=False,
        learned_positions=True,
        token_types=keys.integer("type_vocab_size", 2),
        embed_norm=norm,
    )
