"""Qwen3-Next and Qwen3.5 from GGUF files, against the same weights in safetensors."""

import re
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from torch import Tensor

from pieria.parallel.mesh import Mesh
from tests.models import test_qwen3_next, tiny
from tests.models.test_families import error, ours, read
from tests.models.test_gguf_experts import converted

DELTA = {
    "num_hidden_layers": 4,
    "head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 6,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 32,  # whole blocks
}
EXPERTS = {
    "num_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 64,
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3next": ("Qwen3Next", {**DELTA, **EXPERTS}),
    "qwen35": ("Qwen3_5", {**DELTA, "tie_word_embeddings": True}),
    "qwen35moe": ("Qwen3_5Moe", {**DELTA, **EXPERTS}),
}
TOKENS = torch.arange(5, 85)


def tiled(tensor: Tensor, dim: int, size: int, groups: int = 2) -> Tensor:
    """Heads that share a key head apart from each other."""
    heads = tensor.unflatten(dim, (groups, -1, size))
    return heads.transpose(dim, dim + 1).flatten(dim, dim + 2).contiguous()


def renamed(folder: Path, config: Any) -> dict[str, Tensor]:
    """Tensors by their names in the GGUF file, as llama.cpp's converter makes them."""
    arch = config.model_type
    key = {"qwen3_next": gguf.MODEL_ARCH.QWEN3NEXT, "qwen3_5_text": gguf.MODEL_ARCH.QWEN35}
    names = gguf.get_tensor_name_map(key.get(arch, gguf.MODEL_ARCH.QWEN35MOE), 4)
    size = config.linear_value_head_dim
    keys = 2 * config.linear_num_key_heads * config.linear_key_head_dim
    made: dict[str, Tensor] = {}
    for name, tensor in converted(folder).items():
        if name.endswith("A_log"):
            tensor = -tensor.exp()
        elif name.endswith("dt_bias"):
            name = name.replace("dt_bias", "dt_proj.bias")
        elif "conv1d" in name:
            tensor = tensor.squeeze()
        elif name.endswith("norm.weight") and "linear_attn" not in name:
            tensor = tensor + 1
        elif name.endswith("shared_expert_gate.weight"):
            tensor = tensor.squeeze()
        if "in_proj_qkvz" in name:
            start = name.replace("linear_attn.in_proj_qkvz.weight", "")
            own = config.linear_key_head_dim
            q, k, v, z = torch.split(
                tensor.unflatten(0, (2, -1)), [own, own, 3 * size, 3 * size], 1
            )
            made[start + "qkv"] = torch.cat([x.flatten(0, 1) for x in (q, k, v)])
            made[start + "z"] = z.flatten(0, 1)
            continue
        if arch != "qwen3_next" and "linear_attn" in name:
            if "in_proj_qkv" in name or "conv1d" in name:
                tensor = torch.cat([tensor[:keys], tiled(tensor[keys:], 0, size)])
            elif "in_proj_z" in name:
                tensor = tiled(tensor, 0, size)
            elif "out_proj" in name:
                tensor = tiled(tensor, 1, size)
            elif not name.endswith("norm.weight"):
                tensor = tiled(tensor, 0, 1)
        made[name] = tensor
    found = {}
    for name, tensor in made.items():
        layer = re.sub(r"\D", "", name.partition("layers.")[2].partition(".")[0])
        own_names = {"qkv": f"blk.{layer}.attn_qkv.weight", "z": f"blk.{layer}.attn_gate.weight"}
        stored = own_names.get(name.rpartition(".")[2]) or names.get_name(
            name, (".weight", ".bias")
        )
        assert stored is not None, name
        found[stored] = tensor
    return found


def write(made: Any, folder: Path, path: Path, arch: str, kind: Any, further: bool = False) -> Path:
    """further: with the block of a layer that predicts further tokens."""
    config = made.config
    writer = gguf.GGUFWriter(path, arch)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers + further)
    if arch != "qwen35moe":
        writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim // 4)
    writer.add_ssm_conv_kernel(config.linear_conv_kernel_dim)
    writer.add_ssm_state_size(config.linear_key_head_dim)
    writer.add_ssm_group_count(config.linear_num_key_heads)
    writer.add_ssm_time_step_rank(config.linear_num_value_heads)
    writer.add_ssm_inner_size(config.linear_value_head_dim * config.linear_num_value_heads)
    writer.add_full_attention_interval(4)
    if further:
        writer.add_nextn_predict_layers(1)
    if arch != "qwen35":
        writer.add_expert_count(config.num_experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)
        writer.add_expert_shared_feed_forward_length(config.shared_expert_intermediate_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([f"t{i}" for i in range(config.vocab_size)])
    writer.add_token_types([1] * config.vocab_size)
    writer.add_token_merges([])
    for name, tensor in renamed(folder, config).items():
        # llama.cpp keeps the convolution as it is in every kind of file.
        stored = kind if tensor.ndim > 1 and "conv1d" not in name else gguf.GGMLQuantizationType.F32
        data = gguf.quants.quantize(tensor.float().contiguous().numpy(), stored)
        writer.add_tensor(name, data, raw_dtype=stored)
    if further:
        writer.add_tensor("blk.4.nextn.eh_proj.weight", torch.ones(64, 128).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def made_of(arch: str, kind: Any, tmp_path: Path, further: bool = False) -> tuple[Any, Path, Path]:
    """(oracle, folder of safetensors, GGUF file), both with matrices as `kind` rounds them."""
    family, config = CASES[arch]
    oracle = test_qwen3_next.varied(tiny.model(family, **config))
    for name, parameter in oracle.named_parameters():
        if parameter.ndim > 1 and "conv1d" not in name:
            stored = gguf.quants.quantize(parameter.detach().numpy(), kind)
            parameter.data = torch.from_numpy(gguf.quants.dequantize(stored, kind))
    folder = test_qwen3_next.save(oracle, tmp_path / "plain")
    return oracle, folder, write(oracle, folder, tmp_path / "model.gguf", arch, kind, further)


@pytest.mark.parametrize("kind", ["F32", "Q8_0"])
@pytest.mark.parametrize("arch", CASES)
def test_gguf_and_safetensors_give_equal_logits(arch: str, kind: str, tmp_path: Path) -> None:
    type_ = gguf.GGMLQuantizationType[kind]
    oracle, folder, file = made_of(arch, type_, tmp_path)
    found = ours(read(file, torch.float32), TOKENS)
    # Rates went through an exponential in float32.
    assert error(found, ours(read(folder, torch.float32), TOKENS)) <= 1e-5
    assert error(found, tiny.logits(oracle, TOKENS)) <= 1e-4


@pytest.mark.parametrize("arch", CASES)
def test_ranks_read_their_part(arch: str, tmp_path: Path) -> None:
    """Also of heads that lie apart in the file."""
    _, folder, file = made_of(arch, gguf.GGMLQuantizationType.Q8_0, tmp_path)
    whole = dict(read(file, torch.float32).named_parameters())
    plain = dict(read(folder, torch.float32).named_parameters())
    for name, weight in whole.items():
        torch.testing.assert_close(weight, plain[name], atol=1e-6, rtol=1e-6, msg=name)
    for rank in range(2):
        mesh = Mesh(tp=2, rank=rank)
        part = read(file, torch.float32, mesh)
        for name, held in part.named_parameters():
            logical = part.logical()[name]
            wanted = whole[name]
            for dim, (first, last) in enumerate(logical.shard.spans(logical.shape, mesh)):
                wanted = wanted.narrow(dim, first, last - first)
            assert torch.equal(held, wanted), name


def test_layers_that_predict_further_tokens_are_not_read(tmp_path: Path) -> None:
    _, folder, file = made_of("qwen35moe", gguf.GGMLQuantizationType.F32, tmp_path, further=True)
    model = read(file, torch.float32)
    assert len(model.config.layers) == 4
    assert error(ours(model, TOKENS), ours(read(folder, torch.float32), TOKENS)) <= 1e-5


@pytest.mark.parametrize("arch", ["qwen3next", "qwen35moe"])
def test_what_enters_experts_may_be_one(
    arch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the converter makes it if it is asked to."""
    oracle, folder, _ = made_of(arch, gguf.GGMLQuantizationType.F32, tmp_path)
    tensors = renamed(folder, oracle.config)
    for layer in range(4):
        start = f"blk.{layer}.ffn_"
        parts = [tensors.pop(f"{start}{part}_exps.weight") for part in ("gate", "up")]
        tensors[f"{start}gate_up_exps.weight"] = torch.cat(parts, 1)
    monkeypatch.setitem(globals(), "renamed", lambda *a: tensors)
    file = write(oracle, folder, tmp_path / "one.gguf", arch, gguf.GGMLQuantizationType.F32)
    for mesh in (None, Mesh(tp=2, ep=2, rank=3)):
        found = dict(read(file, torch.float32, mesh).named_parameters())
        for name, weight in read(folder, torch.float32, mesh).named_parameters():
            torch.testing.assert_close(found[name], weight, atol=1e-6, rtol=1e-6, msg=name)


def test_a_rate_that_is_not_below_zero_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no logarithm."""
    oracle, folder, _ = made_of("qwen35", gguf.GGMLQuantizationType.F32, tmp_path)
    tensors = renamed(folder, oracle.config)
    tensors["blk.1.ssm_a"][3] = 0.0
    monkeypatch.setitem(globals(), "renamed", lambda *a: tensors)
    file = write(oracle, folder, tmp_path / "bad.gguf", "qwen35", gguf.GGMLQuantizationType.F32)
    with pytest.raises(ValueError, match=r"blk\.1\.ssm_a holds rates that are not below 0"):
        read(file, torch.float32)
