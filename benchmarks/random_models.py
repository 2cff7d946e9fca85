"""Models with random weights, some 400 MB of each kind, for benchmarks that take a path.

    python -m benchmarks.random_models FOLDER

FOLDER/moe, FOLDER/mla and FOLDER/delta become a mixture of experts, one with latent attention
besides, and one with the gated delta rule. Their tokens are bytes. Needs transformers.
"""

import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

SHAPE: dict[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 1024,
    "num_hidden_layers": 8,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "intermediate_size": 3072,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
}
EXPERTS = {"num_experts_per_tok": 4, "moe_intermediate_size": 256}
CONFIGS: dict[str, transformers.PretrainedConfig] = {
    "moe": transformers.Qwen3MoeConfig(**SHAPE, **EXPERTS, num_experts=32),
    "mla": transformers.DeepseekV3Config(
        **{**SHAPE, **EXPERTS, "num_key_value_heads": 16},
        q_lora_rank=512,
        kv_lora_rank=512,
        qk_nope_head_dim=64,
        qk_rope_head_dim=32,
        v_head_dim=64,
        first_k_dense_replace=1,
        n_routed_experts=32,
        n_shared_experts=1,
        n_group=4,
        topk_group=2,
    ),
    "delta": transformers.Qwen3_5TextConfig(
        **{**SHAPE, "num_hidden_layers": 12},
        linear_num_key_heads=16,
        linear_num_value_heads=16,
        linear_key_head_dim=128,
        linear_value_head_dim=128,
    ),
}


def main(folder: str) -> None:
    torch.manual_seed(0)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({byte: i for i, byte in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    for name, config in CONFIGS.items():
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        model.save_pretrained(Path(folder) / name)
        tokenizer.save(str(Path(folder) / name / "tokenizer.json"))


if __name__ == "__main__":
    main(*sys.argv[1:])
