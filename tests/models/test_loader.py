"""Loading:

Every tensor where it belongs, cut as its shard says, none missing, none left over, in bounded
memory.
"""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy
import pytest
import torch
from safetensors.torch import load_file, save_file

from pieria.models.checkpoint import open_checkpoint
from pieria.models.loader import build, load
from pieria.models.parts import Module
from pieria.parallel.mesh import Mesh
from tests.models import tiny
from tests.models.test_families import error, ours, read


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.save(tiny.model("Llama"), tmp_path)


def change(folder: Path, **changes: torch.Tensor | None) -> None:
    """Tensors of the file replaced, added, or (None) taken out."""
    file = folder / "model.safetensors"
    tensors: dict[str, Any] = {**load_file(file), **changes}
    save_file({k: v for k, v in tensors.items() if v is not None}, file)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model.layers.1.mlp.up_proj.weight": None, "model.norm.weight": None},
            "missing: model.layers.1.mlp.up_proj.weight, model.norm.weight; left over: none",
        ),
        (
            {"model.layers.9.mlp.up_proj.weight": torch.ones(2), "extra": torch.ones(2)},
            "missing: none; left over: extra, model.layers.9.mlp.up_proj.weight",
        ),
        (
            {"model.norm.weight": torch.ones(63)},
            "tensor model.norm.weight has shape (63,), the config wants (64,)",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(folder: Path, changes: Any, message: str) -> None:
    change(folder, **changes)
    with pytest.raises(ValueError, match=re.escape(message)):
        read(folder, torch.float32)


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [("Llama", "num_hidden_layers", 1000), ("Mixtral", "num_local_experts", 60_000)],
)
def test_a_config_of_a_much_larger_model_is_refused(
    kind: str, key: str, value: int, tmp_path: Path
) -> None:
    """Without a look for each tensor that it would have."""
    folder = tiny.save(tiny.model(kind), tmp_path, **{key: value})
    with pytest.raises(ValueError, match=r"there are \d+ tensors, too few for the config's \d+"):
        read(folder, torch.float32)


def test_what_the_config_implies_may_be_there(folder: Path) -> None:
    change(folder, **{"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)})
    read(folder, torch.float32)


def test_sharded_files_are_one_model(tmp_path: Path) -> None:
    oracle = tiny.model("Qwen2")
    oracle.save_pretrained(tmp_path, max_shard_size="60KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    tokens = torch.arange(30)
    assert error(ours(read(tmp_path, torch.float32), tokens), tiny.logits(oracle, tokens)) <= 1e-4


def test_each_rank_reads_its_part(folder: Path) -> None:
    whole = read(folder, torch.float32)
    halves = [read(folder, torch.float32, Mesh(tp=2, rank=r)) for r in range(2)]
    logical = whole.logical()
    cuts = set()
    for name, weight in whole.named_parameters():
        parts = [dict(half.named_parameters())[name] for half in halves]
        shard = logical[name].shard
        cuts.add(shard.kind)
        cut = shard.cut("tp")
        if cut is None:
            assert all(torch.equal(part, weight) for part in parts)
        else:
            assert torch.equal(torch.cat(parts, cut.dim), weight)
    assert cuts == {"column", "row", "vocabulary", "replicated"}


def test_a_cut_that_does_not_divide_names_the_weight(tmp_path: Path) -> None:
    folder = tiny.save(tiny.model("Llama"), tmp_path)
    message = (
        "layers.0.mixer.k.weight: 32 rows in groups of 16 (column cut, dimension 0 of (32, 64))"
    )
    with pytest.raises(ValueError, match=re.escape(message) + ".*sizes that work: 1, 2"):
        build(open_checkpoint(folder), Mesh(tp=4), torch.float32)


def write_gguf(oracle: Any, path: Path, arch: str, kind: Any, *, permuted: bool) -> None:
    """As llama.cpp's converter writes it; matrices in `kind`, the rest in F32."""
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[arch.upper()], 3)
    config = oracle.config
    writer = gguf.GGUFWriter(path, arch)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([f"t{i}" for i in range(config.vocab_size)])
    writer.add_token_types([1] * config.vocab_size)
    writer.add_token_merges([])
    for name, tensor in oracle.state_dict().items():
        values = tensor.float().numpy()
        for part, heads in (
            ("q_proj", config.num_attention_heads),
            ("k_proj", config.num_key_value_heads),
        ):
            if permuted and f".{part}." in name:
                shape = values.shape
                halves = values.reshape(heads, 2, shape[0] // heads // 2, *shape[1:])
                values = numpy.ascontiguousarray(halves.swapaxes(1, 2).reshape(shape))
        stored = kind if values.ndim == 2 else gguf.GGMLQuantizationType.F32
        data = gguf.quants.quantize(values, stored)
        writer.add_tensor(names.get_name(name, (".weight", ".bias")), data, raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1"])
@pytest.mark.parametrize(("family", "arch"), [("Llama", "llama"), ("Qwen2", "qwen2")])
def test_gguf_and_safetensors_give_equal_logits(
    family: str, arch: str, kind: str, tmp_path: Path
) -> None:
    """The same weights, rounded as `kind` does, through both formats and in transformers."""
    oracle = tiny.model(family)
    type_ = gguf.GGMLQuantizationType[kind]
    with torch.no_grad():
        for parameter in oracle.parameters():
            if parameter.ndim == 2:
                rounded = gguf.quants.quantize(parameter.numpy(), type_)
                parameter.copy_(torch.from_numpy(gguf.quants.dequantize(rounded, type_)))
    write_gguf(oracle, tmp_path / "model.gguf", arch, type_, permuted=arch == "llama")
    tokens = torch.arange(5, 45)
    found = ours(read(tmp_path / "model.gguf", torch.float32), tokens)
    plain = ours(read(tiny.save(oracle, tmp_path / "plain"), torch.float32), tokens)
    assert error(found, plain) <= 1e-6
    assert error(found, tiny.logits(oracle, tokens)) <= 1e-4


def test_biases_in_gguf(tmp_path: Path) -> None:
    """Those of queries and keys are permuted too."""
    oracle = tiny.model("Llama", attention_bias=True, mlp_bias=True)
    kind = gguf.GGMLQuantizationType.F32
    write_gguf(oracle, tmp_path / "model.gguf", "llama", kind, permuted=True)
    found = ours(read(tmp_path / "model.gguf", torch.float32), torch.arange(5, 45))
    assert error(found, tiny.logits(oracle, torch.arange(5, 45))) <= 1e-4


def test_modules_are_complete_and_bytes_are_counted(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    model = build(checkpoint, Mesh(), torch.float32)
    found: list[str] = []
    counts: list[int] = []

    def complete(module: Module) -> None:
        assert not any(getattr(module, kind).is_meta for kind in module.logical)
        found.append(module.path)

    load(checkpoint, model, "cpu", counts.append, complete)
    assert sorted(found) == sorted({name.rpartition(".")[0] for name in model.logical()})
    assert sum(counts) == sum(4 * p.numel() for p in model.parameters())


PEAK = """
import resource, sys, torch
from pathlib import Path
from pieria.models.checkpoint import open_checkpoint
from pieria.models.loader import build, load
from pieria.parallel.mesh import Mesh

def anonymous(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(l.split()[1]) for l in lines if l.startswith(field)) * 1024

checkpoint = open_checkpoint(Path(sys.argv[1]))
model = build(checkpoint, Mesh(), torch.float32)
torch.ones(8) @ torch.ones(8)
before = anonymous("VmRSS")
Path("/proc/self/clear_refs").write_text("5")
load(checkpoint, model, "cpu")
weights = sum(p.numel() * 4 for p in model.parameters())
largest = max(p.numel() * 4 for p in model.parameters())
print(weights, largest, anonymous("VmHWM") - before)
"""


def test_peak_memory_is_below_weights_and_one_tensor(smollm2: Path) -> None:
    command = [sys.executable, "-c", PEAK, str(smollm2)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    weights, largest, peak = (int(word) for word in done.stdout.split())
    assert weights > 500 << 20
    assert weights <= peak < weights + largest
