"""DeepSeek against transformers, read from the files it writes; what its configs may say."""

import json
import math
import re
from math import prod
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from safetensors.torch import load_file, save_file

from pieria import ops
from pieria.models import deepseek, gguf_deepseek
from pieria.models.checkpoint import open_checkpoint
from pieria.models.config import LatentConfig, MlpConfig, ModelConfig, MoeConfig
from pieria.models.context import Packed
from pieria.models.decoder import Decoder
from pieria.models.keys import Keys
from pieria.parallel.mesh import Mesh
from tests.models import tiny
from tests.models.test_families import TOLERANCE, error, ours, read
from tests.models.traced import product_flops

LATENT: dict[str, Any] = {
    "num_key_value_heads": 4,
    "q_lora_rank": 28,
    "kv_lora_rank": 24,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8,
    "v_head_dim": 20,
}
DENSE = {**LATENT, "first_k_dense_replace": 3}
V2 = {
    **LATENT,
    "first_k_dense_replace": 1,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 40,
    "n_shared_experts": 2,
    "routed_scaling_factor": 1.7,
}
V3 = {**V2, "n_shared_experts": 1, "n_group": 4, "topk_group": 2, "num_mtp_layers": 0}
YARN = {
    "rope_parameters": {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "mscale": 0.707,
        "mscale_all_dim": 0.9,
        "beta_fast": 32,
        "beta_slow": 1,
        "original_max_position_embeddings": 16,
    }
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "v2 dense": ("DeepseekV2", DENSE),
    "v2 dense biases, yarn": (
        "DeepseekV2",
        {**DENSE, **YARN, "q_lora_rank": None, "attention_bias": True, "mlp_bias": True},
    ),
    "v2 lite": ("DeepseekV2", {**V2, "q_lora_rank": None, "topk_method": "greedy", **YARN}),
    "v2 groups": (
        "DeepseekV2",
        {**V2, "topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2},
    ),
    "v3 dense": ("DeepseekV3", {**DENSE, "num_mtp_layers": 0}),
    "v3 dense halves": (
        "DeepseekV3",
        {**DENSE, "num_mtp_layers": 0, "rope_interleave": False, "q_lora_rank": None},
    ),
    "v3": ("DeepseekV3", {**V3, **YARN}),
    "v3 biases": ("DeepseekV3", {**V3, "attention_bias": True, "rms_norm_eps": 1e-3}),
    "v3 not renormalised": (
        "DeepseekV3",
        {**V3, "norm_topk_prob": False, "n_group": 1, "topk_group": 1},
    ),
    "v3 tied": ("DeepseekV3", {**V3, "tie_word_embeddings": True, "q_lora_rank": None}),
}


@pytest.mark.parametrize("name", CASES)
def test_logits_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    kind, config = CASES[name]
    oracle = tiny.model(kind, **config)
    tokens = torch.randint(0, 203, (40,), generator=torch.Generator().manual_seed(1))
    found = ours(read(tiny.save(oracle, tmp_path), torch.float32), tokens)
    assert error(found, tiny.logits(oracle, tokens)) <= TOLERANCE[torch.float32]


def test_longer_contexts_sharpen_the_scores() -> None:
    """Else the cases with yarn would prove less."""
    tokens = torch.arange(40)
    plain, scaled = (
        {**YARN["rope_parameters"], "mscale_all_dim": whole, "mscale": whole} for whole in (0.1, 1)
    )
    found = [
        tiny.logits(tiny.model("DeepseekV3", **{**V3, "rope_parameters": rope}), tokens)
        for rope in (plain, scaled)
    ]
    assert error(*found) > 1e-2


PUBLISHED: dict[str, Any] = {
    "architectures": ["DeepseekV2ForCausalLM"],
    "first_k_dense_replace": 1,
    "hidden_act": "silu",
    "kv_lora_rank": 512,
    "max_position_embeddings": 163840,
    "moe_layer_freq": 1,
    "n_shared_experts": 2,
    "norm_topk_prob": False,
    "num_experts_per_tok": 6,
    "q_lora_rank": None,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "rms_norm_eps": 1e-06,
    "rope_scaling": {
        "beta_fast": 32,
        "beta_slow": 1,
        "factor": 40,
        "mscale": 0.707,
        "mscale_all_dim": 0.707,
        "original_max_position_embeddings": 4096,
        "type": "yarn",
    },
    "rope_theta": 10000,
    "scoring_func": "softmax",
    "tie_word_embeddings": False,
    "topk_method": "greedy",
    "v_head_dim": 128,
    "vocab_size": 102400,
}
LITE = {
    **PUBLISHED,
    "hidden_size": 2048,
    "intermediate_size": 10944,
    "moe_intermediate_size": 1408,
    "n_group": 1,
    "n_routed_experts": 64,
    "num_attention_heads": 16,
    "num_hidden_layers": 27,
    "routed_scaling_factor": 1.0,
    "topk_group": 1,
}
SECOND = {
    **PUBLISHED,
    "hidden_size": 5120,
    "intermediate_size": 12288,
    "moe_intermediate_size": 1536,
    "n_group": 8,
    "n_routed_experts": 160,
    "num_attention_heads": 128,
    "num_hidden_layers": 60,
    "q_lora_rank": 1536,
    "routed_scaling_factor": 16.0,
    "topk_group": 3,
    "topk_method": "group_limited_greedy",
}
THIRD = {
    **PUBLISHED,
    "architectures": ["DeepseekV3ForCausalLM"],
    "first_k_dense_replace": 3,
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "n_group": 8,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_attention_heads": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 61,
    "num_nextn_predict_layers": 1,
    "q_lora_rank": 1536,
    "rope_scaling": {**PUBLISHED["rope_scaling"], "mscale": 1.0, "mscale_all_dim": 1.0},
    "routed_scaling_factor": 2.5,
    "scoring_func": "sigmoid",
    "topk_group": 4,
    "topk_method": "noaux_tc",
    "vocab_size": 129280,
}
JIUTIAN_35B = {
    **LITE,
    "hidden_size": 2560,
    "intermediate_size": 8960,
    "moe_intermediate_size": 768,
    "n_routed_experts": 160,
    "num_attention_heads": 32,
    "num_hidden_layers": 36,
    "vocab_size": 152064,
}
"""The shape that Jiutian 35B would have if it were built like this."""


def config_of(keys: dict[str, Any]) -> ModelConfig:
    return deepseek.from_hf(Keys(keys, "config.json"))


@pytest.mark.parametrize(
    ("keys", "billions", "active", "cache_bytes"),
    [
        (LITE, 15.7, 2.66, 31_104),
        (SECOND, 235.7, 21.4, 69_120),
        (THIRD, 671.0, 37.55, 70_272),
        (JIUTIAN_35B, 35.45, 3.66, 41_472),
    ],
    ids=["v2 lite", "v2", "v3", "35b"],
)
def test_published_models_have_their_size(
    keys: dict[str, Any], billions: float, active: float, cache_bytes: int
) -> None:
    """Parameters, those that a token uses, and bfloat16 latents: 2 (rank + rope) a layer."""
    model = Decoder(config_of(keys), Mesh(), torch.bfloat16)
    sizes = {name: prod(logical.shape) for name, logical in model.logical().items()}
    share = keys["num_experts_per_tok"] / keys["n_routed_experts"]
    used = sum(size * (share if ".experts." in name else 1) for name, size in sizes.items())
    assert sum(sizes.values()) / 1e9 == pytest.approx(billions, abs=0.05)
    assert used / 1e9 == pytest.approx(active, abs=0.05)
    assert sum(spec.nbytes(1) for spec in model.cache_specs()) == cache_bytes


def test_what_the_third_version_says() -> None:
    config = config_of(THIRD)
    assert [type(layer.mlp) for layer in config.layers[:4]] == [MlpConfig] * 3 + [MoeConfig]
    assert config.layers[60].mlp == MoeConfig(
        experts=256,
        top=8,
        size=2048,
        score="sigmoid",
        renormalise=True,
        scale=2.5,
        groups=8,
        top_groups=4,
        group_score="top2",
        selection_bias=True,
        shared=MlpConfig(2048, "silu"),
    )
    mixer = config.layers[0].mixer
    assert isinstance(mixer, LatentConfig)
    assert mixer.scale == pytest.approx(192**-0.5 * (0.1 * math.log(40) + 1) ** 2)
    assert (mixer.rope.magnitude, mixer.rope.interleaved) == (1.0, True)


def test_experts_may_be_in_some_layers_only() -> None:
    config = config_of({**LITE, "moe_layer_freq": 3, "first_k_dense_replace": 4})
    mixed = [i for i, layer in enumerate(config.layers) if isinstance(layer.mlp, MoeConfig)]
    assert mixed == [6, 9, 12, 15, 18, 21, 24]
    dense = config_of({**LITE, "n_routed_experts": None})
    assert {type(layer.mlp) for layer in dense.layers} == {MlpConfig}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scoring_func": "relu"}, "scoring_func='relu' is not supported; there are: softmax, si"),
        ({"topk_method": "noaux_tc"}, "topk_method='noaux_tc' is not supported; there are: greedy"),
        ({"norm_topk_prob": True}, "norm_topk_prob=True: DeepSeek's code then leaves"),
        ({"kv_lora_rank": None}, "kv_lora_rank is missing"),
        ({"first_k_dense_replace": -1}, "first_k_dense_replace=-1 must be a positive integer or 0"),
        ({"qk_rope_head_dim": 63}, "layer 0: rope of 63 dimensions"),
        (
            {"topk_method": "group_limited_greedy", "n_group": 7},
            "experts=64 do not divide into groups=7",
        ),
    ],
)
def test_what_is_not_supported_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        config_of({**LITE, **changes})


def test_layers_that_predict_further_tokens_are_not_read(tmp_path: Path) -> None:
    oracle = tiny.model("DeepseekV3", **V3)
    tiny.save(oracle, tmp_path, num_nextn_predict_layers=1)
    file = tmp_path / "model.safetensors"
    further = {"eh_proj.weight": torch.ones(64, 128), "self_attn.o_proj.weight": torch.ones(64, 80)}
    there = {f"model.layers.3.{name}": tensor for name, tensor in further.items()}
    save_file({**load_file(file), **there}, file)
    assert "num_nextn_predict_layers" in open_checkpoint(tmp_path).notes[0]
    tokens = torch.arange(30)
    found = ours(read(tmp_path, torch.float32), tokens)
    assert error(found, tiny.logits(oracle, tokens)) <= TOLERANCE[torch.float32]
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_nextn_predict_layers": 0}))
    assert open_checkpoint(tmp_path).notes == ()
    with pytest.raises(ValueError, match=re.escape("left over: model.layers.3.eh_proj.weight")):
        read(tmp_path, torch.float32)


@pytest.mark.parametrize("name", ["v2 lite", "v3"])
def test_two_ranks_have_the_heads_between_them(name: str, tmp_path: Path) -> None:
    kind, config = CASES[name]
    folder = tiny.save(tiny.model(kind, **config), tmp_path)
    whole = read(folder, torch.float32)
    halves = [read(folder, torch.float32, Mesh(tp=2, rank=r)) for r in range(2)]
    cut_names = set()
    for name, weight in whole.named_parameters():
        parts = [dict(half.named_parameters())[name] for half in halves]
        cut = whole.logical()[name].shard.cut("tp")
        if cut is None:
            assert all(torch.equal(part, weight) for part in parts)
        else:
            cut_names.add(name.partition("mixer.")[2])
            assert torch.equal(torch.cat(parts, cut.dim), weight)
    q = "q.weight" if config["q_lora_rank"] is None else "q_b.weight"
    assert cut_names - {""} == {q, "kv_b.weight", "o.weight"}
    assert all(half.cache_specs() == whole.cache_specs() for half in halves)
    with pytest.raises(ValueError, match="80 rows in groups of 20.*sizes that work: 1, 2, 4"):
        read(folder, torch.float32, Mesh(tp=3))


def test_a_trace_on_the_meta_device_counts_every_product() -> None:
    """A dense model multiplies each token once with every weight but those that only look up."""
    model = Decoder(config_of({**LITE, "n_routed_experts": None}), Mesh(), torch.bfloat16)
    lengths = (5, 3)
    with ops.trace() as calls:
        hidden = model(torch.zeros(8, dtype=torch.int64, device="meta"), Packed.of(lengths, "meta"))
    assert (hidden.shape, hidden.device.type) == ((8, 2048), "meta")
    weights = sum(
        prod(logical.shape)
        for name, logical in model.logical().items()
        if name.startswith("layers.") and "norm" not in name
    )
    assert product_flops(calls) == 2 * 8 * weights
    attention = [c.cost for c in calls if c.op.name == "latent_attention"]
    pairs = 5 * 6 // 2 + 3 * 4 // 2
    assert len(attention) == 27
    assert {c.flops for c in attention} == {2 * 16 * (576 + 512) * pairs}
    assert {c.bytes for c in attention} == {2 * 8 * (576 + 16 * (576 + 512))}


def write_gguf(folder: Path, path: Path, *, joined: bool) -> None:
    """As llama.cpp's converter writes it, in F32; `joined`: as older ones did, without groups."""
    config = json.loads((folder / "config.json").read_text())
    heads, nope, turning = (
        config[key] for key in ("num_attention_heads", "qk_nope_head_dim", "qk_rope_head_dim")
    )
    value, rank, scaling = config["v_head_dim"], config["kv_lora_rank"], config["rope_parameters"]
    third = config["model_type"] == "deepseek_v3"
    writer = gguf.GGUFWriter(path, "deepseek2")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads if joined else 1)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(scaling["rope_theta"])
    writer.add_rope_dimension_count(turning)
    if scaling["rope_type"] == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(scaling["factor"])
        writer.add_rope_scaling_orig_ctx_len(scaling["original_max_position_embeddings"])
        writer.add_rope_scaling_yarn_beta_fast(scaling["beta_fast"])
        writer.add_rope_scaling_yarn_beta_slow(scaling["beta_slow"])
        writer.add_rope_scaling_yarn_log_mul(0.1 * scaling["mscale_all_dim"])
    if config.get("q_lora_rank") is not None:
        writer.add_q_lora_rank(config["q_lora_rank"])
    writer.add_kv_lora_rank(rank)
    if joined:
        writer.add_key_length(nope + turning)
        writer.add_value_length(value)
    else:
        writer.add_key_length(rank + turning)
        writer.add_value_length(rank)
        writer.add_key_length_mla(nope + turning)
        writer.add_value_length_mla(value)
        writer.add_expert_group_count(config["n_group"])
        writer.add_expert_group_used_count(config["topk_group"])
        writer.add_expert_gating_func(gguf.ExpertGatingFuncType(2 if third else 1))
    writer.add_leading_dense_block_count(config["first_k_dense_replace"])
    writer.add_expert_count(config["n_routed_experts"])
    writer.add_expert_used_count(config["num_experts_per_tok"])
    writer.add_expert_shared_count(config["n_shared_experts"])
    writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    writer.add_expert_weights_scale(config["routed_scaling_factor"])
    if config["norm_topk_prob"]:
        writer.add_expert_weights_norm(True)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([f"t{i}" for i in range(config["vocab_size"])])
    writer.add_token_types([1] * config["vocab_size"])
    writer.add_token_merges([])
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.DEEPSEEK2, config["num_hidden_layers"])
    tensors: dict[str, torch.Tensor] = {}
    experts: dict[str, dict[int, torch.Tensor]] = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        expert = re.search(r"\.experts\.(\d+)", name)
        if expert:
            stacked = name.replace(expert[0], ".experts")
            experts.setdefault(stacked, {})[int(expert[1])] = tensor
        elif name.endswith("kv_b_proj.weight") and not joined:
            kv_b = tensor.view(heads, nope + value, rank)
            k_b, v_b = kv_b.split([nope, value], 1)
            tensors[name.replace("kv_b_proj", "k_b_proj")] = k_b.transpose(1, 2)
            tensors[name.replace("kv_b_proj", "v_b_proj")] = v_b
        else:
            name = name.replace("e_score_correction_bias", "e_score_correction.bias")
            tensors[name] = tensor
    for name, found in experts.items():
        tensors[name] = torch.stack([found[i] for i in range(len(found))])
    for name, tensor in tensors.items():
        stored = names.get_name(name, (".weight", ".bias"))
        assert stored is not None, name
        writer.add_tensor(stored, tensor.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


EVEN = {"rope_parameters": {**YARN["rope_parameters"], "mscale": 0.707, "mscale_all_dim": 0.707}}


@pytest.mark.parametrize(
    ("name", "joined"),
    [("v2 lite", True), ("v2 lite", False), ("v2 groups", False), ("v3", False)],
)
def test_gguf_and_safetensors_give_equal_logits(name: str, joined: bool, tmp_path: Path) -> None:
    kind, config = CASES[name]
    if "rope_parameters" in config:
        config = {**config, **EVEN}
    if kind == "DeepseekV2" and "n_group" not in config:
        config = {**config, "n_group": 1, "topk_group": 1}
    oracle = tiny.model(kind, **config)
    folder = tiny.save(oracle, tmp_path / "plain")
    write_gguf(folder, tmp_path / "model.gguf", joined=joined)
    tokens = torch.arange(5, 45)
    found = ours(read(tmp_path / "model.gguf", torch.float32), tokens)
    assert error(found, ours(read(folder, torch.float32), tokens)) <= 1e-6
    assert error(found, tiny.logits(oracle, tokens)) <= TOLERANCE[torch.float32]
    halves = [read(tmp_path / "model.gguf", torch.float32, Mesh(tp=2, rank=r)) for r in range(2)]
    parts = [dict(half.named_parameters())["layers.2.mixer.kv_b.weight"] for half in halves]
    whole = dict(read(folder, torch.float32).named_parameters())["layers.2.mixer.kv_b.weight"]
    assert torch.equal(torch.cat(parts), whole)


def test_a_gguf_file_without_what_is_needed_is_named(tmp_path: Path) -> None:
    values = {"rope.dimension_count": 8, "attention.key_length": 20, "attention.value_length": 20}
    with pytest.raises(ValueError, match=r"model\.gguf: attention\.kv_lora_rank is missing"):
        gguf_deepseek.own_keys(Keys(values, "model.gguf"), None)
    values |= {"attention.kv_lora_rank": 24, "expert_count": 8, "expert_gating_func": 3}
    with pytest.raises(ValueError, match="expert_gating_func=3; there are: 1, 2"):
        gguf_deepseek.own_keys(Keys(values, "model.gguf"), None)
