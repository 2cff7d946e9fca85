"""What `pieria quantize` writes: as the safetensors and compressed-tensors libraries read it, and
as what is quantized while it is loaded.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pieria import LLM, SamplingParams
from pieria.models.checkpoint import open_checkpoint
from pieria.models.context import Packed
from pieria.models.decoder import Decoder
from pieria.models.loader import build, load
from pieria.models.quantized.layout import WRITABLE
from pieria.models.quantized.safetensors_writer import SafetensorsWriter
from pieria.models.quantized.write import quantize
from pieria.ops import Weight
from pieria.ops.formats import QUANTIZED
from pieria.ops.weight import dense
from pieria.parallel.mesh import Mesh
from tests.models import tiny

SIZES: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_key_value_heads": 4,
}


def read(folder: Path, quantize: str | None = None) -> Decoder:
    checkpoint = open_checkpoint(folder)
    model = build(checkpoint, Mesh(), torch.float32)
    load(checkpoint, model, "cpu", quantize=quantize)
    return model


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain")
    tiny.write_tokenizer(tiny.save(tiny.model("Llama", **SIZES), folder))
    return folder


@pytest.mark.parametrize("format", WRITABLE)
def test_weights_are_those_quantized_here(format: str, plain: Path, tmp_path: Path) -> None:
    """Bit for bit, codes and scales; and all else is as it was."""
    ignored = quantize(open_checkpoint(plain), format, tmp_path / "out")
    assert ignored == ["lm_head"]
    exact, found = read(plain), read(tmp_path / "out")
    names = set()
    for module in found.declaring():
        for kind in module.logical:
            held = getattr(module, kind)
            wanted = getattr(exact.get_submodule(module.path), kind)
            if isinstance(held, Weight):
                names.add(held.format.name)
                wanted = QUANTIZED[format].quantize(wanted.data)
                pairs = zip(held.tensors, wanted.tensors, strict=True)
                assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in pairs)
            else:
                assert torch.equal(held, wanted)
    assert names == {format}
    assert (tmp_path / "out" / "tokenizer.json").is_file()


@pytest.mark.parametrize("format", ["int8", "int4-g32-zp"])
def test_tokens_are_those_of_the_option(format: str, plain: Path, tmp_path: Path) -> None:
    """With --quantize on both, so that embedding and output layer, which are written as they are,
    are brought into the format too; what is in it already is not rounded again.
    """
    quantize(open_checkpoint(plain), format, tmp_path / "out")
    prompts = [[3, 40, 5, 66, 7], [90, 8, 100]]
    params = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True, logprobs=0)
    options = {"dtype": "float32", "threads": 1, "kv_cache_memory_bytes": 1 << 20}
    found = []
    for folder in (plain, tmp_path / "out"):
        with LLM(str(folder), quantize=format, **options) as llm:
            outputs = llm.generate(prompts, params, progress=False)
        found.append([(o.outputs[0].token_ids, o.outputs[0].logprobs) for o in outputs])
    assert found[0] == found[1]


@pytest.mark.parametrize("format", ["int8", "int4-g64", "fp8"])
def test_codes_are_kept_where_the_format_is_asked_for(
    format: str, plain: Path, tmp_path: Path
) -> None:
    quantize(open_checkpoint(plain), format, tmp_path / "out")
    wanted, found = read(plain, format), read(tmp_path / "out", format)
    names = [m.path for m in found.declaring() if m.quantizable]
    assert "embed" in names and "layers.0.mlp.gate" in names
    for name in names:
        one, other = (m.get_submodule(name).weight for m in (wanted, found))
        assert isinstance(one, Weight) and isinstance(other, Weight)
        assert one.format == other.format
        assert all(torch.equal(a, b) for a, b in zip(one.tensors, other.tensors, strict=True))
    other = read(tmp_path / "out", "int8-g32").get_submodule("layers.0.mlp.gate").weight
    assert isinstance(other, Weight) and other.format.name == "int8-g32"


@pytest.mark.parametrize("format", ["int8", "int4-g32", "int4-g64", "fp8"])
def test_transformers_reads_it(format: str, plain: Path, tmp_path: Path) -> None:
    """Beside 4 bits it rounds no activations, so that the weights' numbers give its logits; beside
    8 it rounds them with scales of amax / 127.5 where ours are amax / 127, so that its error is
    another one of equal size. (Of zeros it expects another shape than its library writes.)
    """
    pytest.importorskip("compressed_tensors")
    from transformers import AutoModelForCausalLM

    quantize(open_checkpoint(plain), format, tmp_path / "out")
    tokens = torch.arange(3, 131)
    made = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    theirs, exact = tiny.logits(made, tokens), logits(read(plain), tokens)
    model = read(tmp_path / "out")
    if format.startswith("int4"):
        for module in model.declaring():
            if isinstance(weight := getattr(module, "weight", None), Weight):
                del module.weight
                module.weight = torch.nn.Parameter(dense(weight))
        assert error(logits(model, tokens), theirs) < 1e-5
        return
    ours = error(logits(model, tokens), exact)
    assert error(theirs, exact) / ours == pytest.approx(1, abs=0.1)
    assert error(logits(model, tokens), theirs) < 1.1 * ours


def test_transformers_reads_a_tied_model(tmp_path: Path) -> None:
    pytest.importorskip("compressed_tensors")
    from transformers import AutoModelForCausalLM

    made = tiny.model("Llama", **SIZES, tie_word_embeddings=True)
    tiny.save(made, tmp_path / "plain")
    ignored = quantize(open_checkpoint(tmp_path / "plain"), "int8", tmp_path / "out")
    assert ignored == ["lm_head"]
    tokens = torch.arange(3, 35)
    exact = tiny.logits(made, tokens)
    read_back = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    assert 0 < error(tiny.logits(read_back, tokens), exact) < 0.1


def logits(model: Decoder, tokens: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.logits(model(tokens, Packed.of((len(tokens),))))
    return found


def error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("format", WRITABLE)
def test_compressed_tensors_reads_it(format: str, plain: Path, tmp_path: Path) -> None:
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationConfig

    quantize(open_checkpoint(plain), format, tmp_path / "out")
    said = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    config = QuantizationConfig.model_validate(said)
    scheme = config.config_groups["group_0"]
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    model = read(tmp_path / "out")
    names = {"q": "self_attn.q_proj", "o": "self_attn.o_proj"}
    for ours, theirs in names.items():
        start = f"model.layers.1.{theirs}."
        state = {n.removeprefix(start): t for n, t in tensors.items() if n.startswith(start)}
        state["weight_scale"] = state["weight_scale"].float()
        compressor = BaseCompressor.get_value_from_registry(config.format)
        weight = compressor.decompress(state, scheme)["weight"]
        held = model.get_submodule(f"layers.1.mixer.{ours}").weight
        assert isinstance(held, Weight)
        assert torch.allclose(weight.float(), dense(held), rtol=1e-6, atol=1e-7)


def test_experts_are_written_one_by_one(tmp_path: Path) -> None:
    config = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
    made = tiny.model("Qwen3Moe", **SIZES, **config, head_dim=32)
    plain = tiny.write_tokenizer(tiny.save(made, tmp_path / "plain"))
    quantize(open_checkpoint(tmp_path / "plain"), "int4-g64", tmp_path / "out")
    assert plain is None or plain
    exact, found = read(tmp_path / "plain"), read(tmp_path / "out")
    for part in ("gate", "up", "down"):
        path = f"layers.1.mlp.experts.{part}"
        held, weight = found.get_submodule(path).weight, exact.get_submodule(path).weight
        assert isinstance(held, Weight) and held.format.name == "int4-g64"
        assert torch.equal(dense(held), dense(QUANTIZED["int4-g64"].quantize(weight.data)))
    assert not isinstance(found.get_submodule("layers.1.mlp.router").weight, Weight)


def test_many_files(tmp_path: Path) -> None:
    tensors = {f"t{i}": torch.randn(16, 8 + i) for i in range(5)} | {"b": torch.ones(3).bfloat16()}
    writer = SafetensorsWriter(tmp_path, most=1200)
    for name, tensor in tensors.items():
        writer.add(name, tensor)
    with pytest.raises(ValueError, match="t1 is there twice"):
        writer.add("t1", torch.ones(1))
    writer.close()
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 1
    for name, file in index["weight_map"].items():
        assert torch.equal(load_file(tmp_path / file)[name], tensors[name])


@pytest.mark.parametrize(
    ("format", "there", "message"),
    [
        ("fp8-e5m2", False, "format 'fp8-e5m2' cannot be written; there are: int8, "),
        ("int8", True, "is there already; give a folder that is empty"),
    ],
)
def test_what_cannot_be_is_refused(
    format: str, there: bool, message: str, plain: Path, tmp_path: Path
) -> None:
    if there:
        (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=re.escape(message)):
        quantize(open_checkpoint(plain), format, tmp_path)


def test_what_is_quantized_is_not_again(plain: Path, tmp_path: Path) -> None:
    quantize(open_checkpoint(plain), "int8", tmp_path / "once")
    with pytest.raises(ValueError, match="is quantized already"):
        quantize(open_checkpoint(tmp_path / "once"), "int8", tmp_path / "twice")
