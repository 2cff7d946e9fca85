"""Gemma 2 and 3 against transformers, through both formats; what their configs may say."""

import re
from math import prod
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
import transformers
from torch import Tensor

from pieria import ops
from pieria.models import gemma
from pieria.models.checkpoint import open_checkpoint
from pieria.models.config import AttentionConfig, ModelConfig
from pieria.models.context import Packed
from pieria.models.decoder import Decoder
from pieria.models.gguf_config import hf_config
from pieria.models.keys import Keys
from pieria.parallel.mesh import Mesh
from tests.models import as_gguf, tiny
from tests.models.test_families import TOLERANCE, error, ours, read
from tests.models.test_gguf_config import opened
from tests.models.traced import norms

SECOND: dict[str, Any] = {
    "attn_implementation": "eager",  # the only one that caps scores
    "attn_logit_softcapping": 2.0,
    "final_logit_softcapping": 3.0,
    "head_dim": 24,
    "num_hidden_layers": 4,
    "query_pre_attn_scalar": 30,
    "sliding_window": 7,
}
ROPES = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e3},
}
THIRD: dict[str, Any] = {
    "head_dim": 24,
    "num_hidden_layers": 4,
    "query_pre_attn_scalar": 30,
    "rope_parameters": ROPES,
    "sliding_window": 7,
    "sliding_window_pattern": 3,
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "second": ("Gemma2", SECOND),
    "second without caps": (
        "Gemma2",
        {**SECOND, "attn_logit_softcapping": None, "final_logit_softcapping": None},
    ),
    "second untied, biases": (
        "Gemma2",
        {**SECOND, "tie_word_embeddings": False, "attention_bias": True, "rms_norm_eps": 1e-2},
    ),
    "third": ("Gemma3", THIRD),
    "third with a cap": ("Gemma3", {**THIRD, "final_logit_softcapping": 3.0}),
    "third untied": ("Gemma3", {**THIRD, "tie_word_embeddings": False, "rms_norm_eps": 1e-2}),
    "third with yarn": (
        "Gemma3",
        {
            **THIRD,
            "rope_parameters": {
                **ROPES,
                "full_attention": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4},
            },
        },
    ),
}
TOKENS = torch.randint(0, 203, (40,), generator=torch.Generator().manual_seed(1))


def saved(name: str, folder: Path, **changes: Any) -> tuple[Any, Path]:
    """The oracle of a case, and its folder. changes: of its config.json, whose nulls then go."""
    kind, config = CASES[name]
    oracle = tiny.model(kind, pad_token_id=0, **config)
    oracle.save_pretrained(folder)
    return oracle, tiny.save(oracle, folder, **changes) if changes else folder


@pytest.mark.parametrize("name", CASES)
def test_logits_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    oracle, folder = saved(name, tmp_path)
    found = ours(read(folder, torch.float32), TOKENS)
    assert error(found, tiny.logits(oracle, TOKENS)) <= TOLERANCE[torch.float32]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("second", {"attn_logit_softcapping": 50.0}),
        ("second", {"final_logit_softcapping": 30.0}),
        ("second", {"query_pre_attn_scalar": 24}),
        ("second", {"sliding_window": 40}),
        ("second", {"layer_types": ["full_attention", "sliding_attention"] * 2}),
        ("third", {"rope_parameters": {**ROPES, "full_attention": {"rope_theta": 1e6}}}),
        ("third", {"rope_parameters": {**ROPES, "sliding_attention": {"rope_theta": 1e4}}}),
        ("third", {"rms_norm_eps": 1e-1}),
    ],
)
def test_every_key_is_seen_in_the_logits(name: str, change: dict[str, Any], tmp_path: Path) -> None:
    """Else the cases above would prove less."""
    oracle, folder = saved(name, tmp_path, **change)
    found = ours(read(folder, torch.float32), TOKENS)
    assert error(found, tiny.logits(oracle, TOKENS)) > 5e-3


def test_older_files_state_two_thetas(tmp_path: Path) -> None:
    oracle, folder = saved(
        "third",
        tmp_path,
        layer_types=None,
        rope_parameters=None,
        rope_theta=1e6,
        rope_local_base_freq=1e3,
        rope_scaling={"rope_type": "linear", "factor": 8.0},
    )
    found = ours(read(folder, torch.float32), TOKENS)
    assert error(found, tiny.logits(oracle, TOKENS)) <= TOLERANCE[torch.float32]


def test_of_a_model_that_sees_the_text_part_is_read(tmp_path: Path) -> None:
    oracle = tiny.model("Gemma3", pad_token_id=0, **THIRD)
    vision = {"num_hidden_layers": 1, "hidden_size": 32, "intermediate_size": 32, "patch_size": 14}
    config = transformers.Gemma3Config(
        text_config=oracle.config.to_dict(),
        vision_config={**vision, "image_size": 28, "num_attention_heads": 2},
    )
    seeing = transformers.Gemma3ForConditionalGeneration(config)
    seeing.model.language_model.load_state_dict(oracle.model.state_dict())
    seeing.save_pretrained(tmp_path)
    assert "vision_config" in open_checkpoint(tmp_path).notes[0]
    found = ours(read(tmp_path, torch.float32), TOKENS)
    assert error(found, tiny.logits(oracle, TOKENS)) <= TOLERANCE[torch.float32]


def config_of(architecture: str, **keys: Any) -> ModelConfig:
    return gemma.from_hf(Keys({"architectures": [architecture], **keys}, "config.json"))


def second(**sizes: Any) -> ModelConfig:
    return config_of("Gemma2ForCausalLM", model_type="gemma2", **sizes)


def third(**sizes: Any) -> ModelConfig:
    """As files with a vision part have it, which leave out what is usual."""
    text = {"model_type": "gemma3_text", "sliding_window": 1024, **sizes}
    return config_of("Gemma3ForConditionalGeneration", model_type="gemma3", text_config=text)


GEMMA_2_2B = second(hidden_size=2304, intermediate_size=9216, num_hidden_layers=26)
GEMMA_2_27B = second(
    hidden_size=4608,
    intermediate_size=36864,
    num_hidden_layers=46,
    num_attention_heads=32,
    num_key_value_heads=16,
    head_dim=128,
    query_pre_attn_scalar=144,
)
GEMMA_3_4B = third(
    hidden_size=2560,
    intermediate_size=10240,
    num_hidden_layers=34,
    rope_scaling={"factor": 8.0, "rope_type": "linear"},
)
GEMMA_3_27B = third(
    hidden_size=5376,
    intermediate_size=21504,
    num_hidden_layers=62,
    num_attention_heads=32,
    num_key_value_heads=16,
    head_dim=128,
    query_pre_attn_scalar=168,
)


@pytest.mark.parametrize(
    ("config", "parameters", "rounding"),
    [
        (GEMMA_2_2B, 2_024_517_888, 0),
        (GEMMA_2_27B, 26_047_480_320, 0),
        (GEMMA_3_4B, 3_209_000_000, 500_000),
        (GEMMA_3_27B, 25_600_000_000, 1_000_000),
    ],
    ids=["2 2b", "2 27b", "3 4b", "3 27b"],
)
def test_published_models_have_their_size(
    config: ModelConfig, parameters: int, rounding: int
) -> None:
    """Without embeddings, as the reports' tables 2 and 1 count them."""
    logical = Decoder(config, Mesh(), torch.bfloat16).logical()
    assert config.tied
    found = sum(prod(w.shape) for name, w in logical.items() if name != "embed.weight")
    assert found == pytest.approx(parameters, abs=rounding)


def test_what_published_configs_say() -> None:
    assert GEMMA_2_27B.layers[0].mixer.scale == pytest.approx(144**-0.5)
    assert [layer.mixer.window for layer in GEMMA_2_2B.layers[:4]] == [4096, None] * 2
    assert GEMMA_2_2B.layers[0].mixer.soft_cap == 50.0
    assert (GEMMA_2_2B.logit_soft_cap, GEMMA_3_4B.logit_soft_cap) == (30.0, None)
    mixers = [layer.mixer for layer in GEMMA_3_4B.layers]
    assert [mixer.window for mixer in mixers] == ([1024] * 5 + [None]) * 5 + [1024] * 4
    assert all(isinstance(m, AttentionConfig) and m.qk_norm is not None for m in mixers)
    local, wide = mixers[0].rope, mixers[5].rope
    assert local is not None and wide is not None
    assert (local.theta, local.scaling) == (1e4, "none")
    assert (wide.theta, wide.scaling, wide.factor) == (1e6, "linear", 8.0)
    assert (GEMMA_3_4B.vocabulary, GEMMA_3_4B.context) == (262208, 131072)


@pytest.mark.parametrize(
    ("model_type", "changes", "message"),
    [
        ("gemma", {}, "model_type='gemma' is not supported; there are: gemma2, gemma3_text"),
        ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention=True: only"),
        ("gemma3_text", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping=50.0: Gemma 3"),
        ("gemma2", {"layer_types": ["full_attention"]}, "must be 3 of full_attention, sliding_"),
        ("gemma2", {"layer_types": ["linear"] * 3}, "must be 3 of full_attention, sliding_"),
        ("gemma2", {"layer_types": [["full_attention"]] * 3}, "must be 3 of full_attention"),
        ("gemma2", {"sliding_window": 0}, "sliding_window=0 must be a positive integer"),
        ("gemma2", {"hidden_activation": "silu2"}, "hidden_activation='silu2' is not supported"),
        ("gemma2", {"hidden_size": None}, "hidden_size is missing"),
    ],
)
def test_what_is_not_supported_is_named(
    model_type: str, changes: dict[str, Any], message: str
) -> None:
    base = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3}
    with pytest.raises(ValueError, match=re.escape(message)):
        config_of("Gemma2ForCausalLM", **{**base, "model_type": model_type, **changes})


def plus_one(name: str, tensor: Tensor) -> Tensor:
    return tensor + 1 if name.endswith("norm.weight") else tensor


def as_second(writer: gguf.GGUFWriter) -> None:
    writer.add_key_length(24)
    writer.add_value_length(24)
    writer.add_attn_logit_softcapping(2.0)
    writer.add_final_logit_softcapping(3.0)
    writer.add_sliding_window(7)


def as_third(writer: gguf.GGUFWriter) -> None:
    writer.add_key_length(24)
    writer.add_value_length(24)
    writer.add_sliding_window(7)
    writer.add_rope_freq_base(1e6)
    writer.add_rope_freq_base_swa(1e3)
    writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
    writer.add_rope_scaling_factor(8.0)


@pytest.mark.parametrize(
    ("name", "arch", "add"), [("second", "gemma2", as_second), ("third", "gemma3", as_third)]
)
def test_gguf_and_safetensors_give_equal_logits(
    name: str, arch: str, add: Any, tmp_path: Path
) -> None:
    """Files do not state the scale; of all but the largest models it is that of the head's size."""
    kind, config = CASES[name]
    config = {**config, "query_pre_attn_scalar": 24, "num_hidden_layers": 7}
    config = {key: value for key, value in config.items() if key != "sliding_window_pattern"}
    oracle = tiny.model(kind, pad_token_id=0, **config)
    path = as_gguf.write(tmp_path / "model.gguf", arch, oracle, add, plus_one)
    plain = tiny.save(oracle, tmp_path / "plain")
    found = ours(read(path, torch.float32), TOKENS)
    assert error(found, ours(read(plain, torch.float32), TOKENS)) <= 1e-6
    assert error(found, tiny.logits(oracle, TOKENS)) <= TOLERANCE[torch.float32]


def test_what_gguf_adds_to_norms_is_taken_away_before_they_are_rounded(tmp_path: Path) -> None:
    oracle = tiny.model("Gemma3", torch.bfloat16, pad_token_id=0, **THIRD)
    path = as_gguf.write(tmp_path / "model.gguf", "gemma3", oracle.float(), as_third, plus_one)
    plain = tiny.save(oracle.bfloat16(), tmp_path / "plain")
    found, wanted = (dict(read(p, torch.bfloat16).named_parameters()) for p in (path, plain))
    for name in wanted:
        assert torch.equal(found[name], wanted[name]), name


@pytest.mark.parametrize(
    ("arch", "layers", "scalar"), [("gemma2", 42, 16), ("gemma2", 46, 18), ("gemma3", 62, 18)]
)
def test_the_largest_models_scale_by_their_width(arch: str, layers: int, scalar: int) -> None:
    file = opened(
        **{
            "general.architecture": arch,
            f"{arch}.embedding_length": 72,
            f"{arch}.block_count": layers,
            f"{arch}.attention.head_count": 4,
            f"{arch}.attention.key_length": 16,
            f"{arch}.feed_forward_length": 96,
            f"{arch}.context_length": 512,
            f"{arch}.attention.layer_norm_rms_epsilon": 1e-6,
            f"{arch}.attention.sliding_window": 8,
        }
    )
    assert hf_config(file)["query_pre_attn_scalar"] == scalar
    config = gemma.from_hf(Keys(hf_config(file), "x"))
    assert config.layers[0].mixer.scale == pytest.approx(scalar**-0.5)
    assert config.layers[0].mixer.window == 8


def test_a_gguf_file_without_a_window_has_none() -> None:
    sizes = {
        "embedding_length": 64,
        "block_count": 7,
        "attention.head_count": 4,
        "feed_forward_length": 96,
        "context_length": 512,
        "attention.layer_norm_rms_epsilon": 1e-6,
    }
    keys = {f"gemma3.{key}": value for key, value in sizes.items()}
    file = opened(**{"general.architecture": "gemma3", **keys})
    config = gemma.from_hf(Keys(hf_config(file), "x"))
    assert {layer.mixer.window for layer in config.layers} == {None}
    assert {layer.mixer.rope.theta for layer in config.layers} == {10000.0}


@pytest.mark.parametrize("name", ["second untied, biases", "third"])
def test_two_ranks_have_the_weights_between_them(name: str, tmp_path: Path) -> None:
    _, folder = saved(name, tmp_path)
    whole = read(folder, torch.float32)
    halves = [read(folder, torch.float32, Mesh(tp=2, rank=r)) for r in range(2)]
    for name, weight in whole.named_parameters():
        parts = [dict(half.named_parameters())[name] for half in halves]
        cut = whole.logical()[name].shard.cut("tp")
        if cut is None:
            assert all(torch.equal(part, weight) for part in parts)
        else:
            assert torch.equal(torch.cat(parts, cut.dim), weight)


def test_a_trace_on_the_meta_device_counts_what_windows_hide() -> None:
    model = Decoder(GEMMA_3_4B, Mesh(), torch.bfloat16)
    with ops.trace() as calls:
        hidden = model(
            torch.zeros(3000, dtype=torch.int64, device="meta"), Packed.of((3000,), "meta")
        )
        logits = model.logits(hidden[-1:])
    assert (hidden.shape, logits.shape) == ((3000, 2560), (1, 262208))
    flops = [c.cost.flops for c in calls if c.op.name == "attention"]
    seen = 3000 * 3001 // 2
    windowed = 1024 * 1025 // 2 + (3000 - 1024) * 1024
    assert flops == [2 * 8 * 512 * (seen if i % 6 == 5 else windowed) for i in range(34)]
    assert norms(calls) == 34 * 6 + 1
    assert len([c for c in calls if c.op.name == "rotary"]) == 2
