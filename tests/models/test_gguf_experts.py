"""Models with experts from GGUF files, against the same weights in safetensors."""

from pathlib import Path
from typing import Any

import gguf
import numpy
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from pieria.parallel.mesh import Mesh
from tests.models import tiny
from tests.models.test_families import CASES, error, ours, read

ARCHITECTURES = {
    "mistral": "llama",
    "mixtral": "llama",
    "qwen2 moe": "qwen2moe",
    "qwen3": "qwen3",
    "qwen3 moe": "qwen3moe",
    "gpt-oss": "gpt-oss",
}
SIZES = {
    "qwen2 moe": {
        "moe_intermediate_size": 64,  # whole blocks
        "shared_expert_intermediate_size": 96,
        "norm_topk_prob": False,  # which these files do not say
    },
    "qwen3 moe": {"moe_intermediate_size": 64},
    "gpt-oss": {"swiglu_limit": 7.0},  # which these files do not say
}
TOKENS = torch.arange(5, 45)


def rounded(oracle: Any, kind: Any) -> Any:
    """The model with every matrix as `kind` rounds it; rows of experts as these files have them."""
    with torch.no_grad():
        for name, parameter in oracle.named_parameters():
            if parameter.ndim > 1 and not name.endswith("bias"):
                # gpt-oss keeps experts' matrices the other way round.
                turned = hasattr(oracle.config, "swiglu_limit") and parameter.ndim == 3
                values = parameter.mT if turned else parameter
                stored = gguf.quants.quantize(values.contiguous().numpy(), kind)
                back = torch.from_numpy(gguf.quants.dequantize(stored, kind))
                parameter.copy_(back.mT if turned else back)
    return oracle


def converted(folder: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint as llama.cpp's converter reorders them before it names them."""
    made: dict[str, Tensor] = {}
    stacks: dict[str, dict[int, Tensor]] = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        before, _, after = name.partition(".experts.")
        number, _, rest = after.partition(".")
        if number.isdigit():
            stacks.setdefault(f"{before}.experts.{rest}", {})[int(number)] = tensor
        elif "gate_up_proj" in name:
            for part, half in (("gate", slice(0, None, 2)), ("up", slice(1, None, 2))):
                values = tensor[..., half]
                bias = name.endswith("bias")
                made[f"{before}.experts.{part}_proj.{'bias' if bias else 'weight'}"] = (
                    values if bias else values.mT
                )
        elif name.endswith("experts.down_proj"):
            made[f"{name}.weight"] = tensor.mT
        elif name.endswith("experts.down_proj_bias"):
            made[name.replace("_bias", ".bias")] = tensor
        elif name.endswith("sinks"):
            made[f"{name}.weight"] = tensor
        elif name.endswith("shared_expert_gate.weight"):
            made[name] = tensor.squeeze()
        else:
            made[name] = tensor
    for name, experts in stacks.items():
        made[name] = torch.stack([experts[e] for e in range(len(experts))])
    return made


FUSED = {
    "attn_qkv.weight": ("attn_q.weight", "attn_k.weight", "attn_v.weight"),
    "attn_qkv.bias": ("attn_q.bias", "attn_k.bias", "attn_v.bias"),
}
"""Tensors that the converter makes of several if it is asked to."""


def fused(tensors: dict[str, Any], layers: int) -> dict[str, Any]:
    made = dict(tensors)
    for layer in range(layers):
        for name, parts in FUSED.items():
            if all(f"blk.{layer}.{part}" in made for part in parts):
                found = [made.pop(f"blk.{layer}.{part}") for part in parts]
                made[f"blk.{layer}.{name}"] = numpy.concatenate(found)
    return made


def write(
    oracle: Any,
    folder: Path,
    path: Path,
    arch: str,
    kind: Any,
    *,
    experts: Any = None,
    fuse: bool = False,
) -> None:
    """kind: of matrices. experts: of those of experts, if they have one of their own."""
    config = oracle.config
    key = next(k for k, v in gguf.MODEL_ARCH_NAMES.items() if v == arch)
    names = gguf.get_tensor_name_map(key, config.num_hidden_layers)
    writer = gguf.GGUFWriter(path, arch)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    rope = config.rope_parameters
    writer.add_rope_freq_base(rope["rope_theta"])
    if stated := getattr(config, "head_dim", None):
        writer.add_key_length(stated)
        writer.add_value_length(stated)
    if arch == "llama":
        head_dim = stated or config.hidden_size // config.num_attention_heads
        writer.add_rope_dimension_count(head_dim)
    if rope["rope_type"] == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    if arch == "gpt-oss":
        writer.add_sliding_window(config.sliding_window)
        writer.add_expert_feed_forward_length(config.intermediate_size)
    if hasattr(config, "moe_intermediate_size"):
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)
    if hasattr(config, "shared_expert_intermediate_size"):
        writer.add_expert_shared_feed_forward_length(config.shared_expert_intermediate_size)
    if hasattr(config, "num_experts_per_tok"):
        count = "num_experts" if arch == "qwen2moe" else "num_local_experts"
        writer.add_expert_count(getattr(config, count))
        writer.add_expert_used_count(config.num_experts_per_tok)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([f"t{i}" for i in range(config.vocab_size)])
    writer.add_token_types([1] * config.vocab_size)
    writer.add_token_merges([])
    tensors: dict[str, Any] = {}
    for name, tensor in converted(folder).items():
        values = tensor.float().contiguous().numpy()
        for part, heads in (
            ("q_proj.weight", config.num_attention_heads),
            ("k_proj.weight", config.num_key_value_heads),
        ):
            if arch == "llama" and name.endswith(part):
                halves = values.reshape(heads, 2, -1, values.shape[1])
                values = numpy.ascontiguousarray(halves.swapaxes(1, 2).reshape(values.shape))
        tensors[names.get_name(name, (".weight", ".bias"))] = values
    for name, values in (fused(tensors, config.num_hidden_layers) if fuse else tensors).items():
        matrix = values.ndim > 1 and not name.endswith("bias")
        stored = kind if matrix else gguf.GGMLQuantizationType.F32
        if experts is not None and values.ndim == 3:
            stored = experts
        writer.add_tensor(name, gguf.quants.quantize(values, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("kind", ["F32", "Q8_0"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_gguf_and_safetensors_give_equal_logits(name: str, kind: str, tmp_path: Path) -> None:
    family, config = CASES[name]
    type_ = gguf.GGMLQuantizationType[kind]
    config = {**config, **SIZES.get(name, {})}
    oracle = rounded(tiny.model(family, **config), type_)
    folder = tiny.save(oracle, tmp_path / "plain")
    write(oracle, folder, tmp_path / "model.gguf", ARCHITECTURES[name], type_)
    found = ours(read(tmp_path / "model.gguf", torch.float32), TOKENS)
    assert error(found, ours(read(folder, torch.float32), TOKENS)) <= 1e-6
    assert error(found, tiny.logits(oracle, TOKENS)) <= 1e-4


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_what_a_file_keeps_as_one(name: str, tmp_path: Path) -> None:
    """On one rank, and on several, which read their part of each."""
    family, config = CASES[name]
    type_ = gguf.GGMLQuantizationType.F32
    oracle = tiny.model(family, **{**config, **SIZES.get(name, {})})
    folder = tiny.save(oracle, tmp_path / "plain")
    write(oracle, folder, tmp_path / "model.gguf", ARCHITECTURES[name], type_, fuse=True)
    for mesh in (None, Mesh(tp=2, rank=1)):
        found = dict(read(tmp_path / "model.gguf", torch.float32, mesh).named_parameters())
        wanted = dict(read(folder, torch.float32, mesh).named_parameters())
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("name", ["mixtral", "gpt-oss"])
def test_ranks_read_their_part_of_a_stack(name: str, tmp_path: Path) -> None:
    """Of experts and of their features at once, from whole blocks."""
    family, config = CASES[name]
    type_ = gguf.GGMLQuantizationType.Q8_0
    oracle = tiny.model(family, **config)
    folder = tiny.save(oracle, tmp_path / "plain")
    write(oracle, folder, tmp_path / "model.gguf", ARCHITECTURES[name], type_)
    whole = dict(read(tmp_path / "model.gguf", torch.float32).named_parameters())
    for rank in range(4):
        mesh = Mesh(tp=2, ep=2, rank=rank)
        part = read(tmp_path / "model.gguf", torch.float32, mesh)
        for weight, held in part.named_parameters():
            logical = part.logical()[weight]
            wanted = whole[weight]
            for dim, (first, last) in enumerate(logical.shard.spans(logical.shape, mesh)):
                wanted = wanted.narrow(dim, first, last - first)
            assert torch.equal(held, wanted), weight
