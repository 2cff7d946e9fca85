"""A model in bfloat16 as a Hugging Face folder, and from it a GGUF file. Needs transformers.

    make_model.py convert SOURCE.gguf FOLDER CONTEXT
    make_model.py random SOURCE.gguf FOLDER CONTEXT CONFIG.json
    make_model.py gguf SOURCE.gguf FOLDER FILE.gguf

SOURCE is where the weights come from, or the tokenizer alone.
"""

import json
import sys
from pathlib import Path

import gguf
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig

SPECIAL = ("bos_token_id", "eos_token_id", "unknown_token_id", "padding_token_id")


def convert(source: Path, folder: Path, context: int) -> None:
    """The numbers of a quantized file, each rounded to bfloat16 once."""
    model = AutoModelForCausalLM.from_pretrained(
        source.parent,
        gguf_file=source.name,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
    )
    _save(model, source, folder, context)


def random(source: Path, folder: Path, context: int, config: Path) -> None:
    """Weights as transformers begins a training, from a fixed seed; any vocabulary size."""
    keys = json.loads(config.read_text())
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**keys), dtype=torch.float32)
    _save(model, source, folder, context)


def _save(model: torch.nn.Module, source: Path, folder: Path, context: int) -> None:
    model.to(torch.bfloat16).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    # Older versions of transformers, and what reads as they do, know these keys alone.
    config |= {"torch_dtype": "bfloat16", "max_position_embeddings": context}
    config |= {"rope_theta": config["rope_parameters"]["rope_theta"]}
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    tokenizer.save_pretrained(folder)
    named = json.loads((folder / "tokenizer_config.json").read_text())
    named |= {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": context}
    (folder / "tokenizer_config.json").write_text(json.dumps(named, indent=1))
    whole = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = whole["model"]["vocab"]
    vocabulary |= {_filler(id): id for id in range(len(vocabulary), config["vocab_size"])}
    (folder / "tokenizer.json").write_text(json.dumps(whole, ensure_ascii=False))


def _filler(id: int) -> str:
    return f"[PAD{id}]"


def write_gguf(source: Path, folder: Path, file: Path) -> None:
    """As llama.cpp's converter writes it: matrices in BF16, vectors in F32."""
    config = AutoConfig.from_pretrained(folder)
    architecture = {"llama": gguf.MODEL_ARCH.LLAMA, "qwen3": gguf.MODEL_ARCH.QWEN3}[
        config.model_type
    ]
    writer = gguf.GGUFWriter(file, config.model_type)
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    _write_tokenizer(writer, gguf.GGUFReader(source), config.vocab_size)
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    for path in sorted(folder.glob("*.safetensors")):
        for name, tensor in load_file(path).items():
            if name == "lm_head.weight" and config.tie_word_embeddings:
                continue
            if config.model_type == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
                tensor = _interleave(tensor, head)
            called = names.get_name(name, try_suffixes=(".weight", ".bias"))
            if tensor.ndim == 1:
                writer.add_tensor(called, tensor.float().numpy())
            else:
                data = tensor.to(torch.bfloat16).contiguous().view(torch.uint8).numpy()
                writer.add_tensor(called, data, raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _interleave(weight: torch.Tensor, head: int) -> torch.Tensor:
    """Rows of each head from halves to pairs side by side, as that architecture rotates them."""
    return weight.view(-1, 2, head // 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def _write_tokenizer(writer: gguf.GGUFWriter, source: gguf.GGUFReader, size: int) -> None:
    def field(name: str) -> object:
        found = source.get_field(f"tokenizer.{name}")
        return None if found is None else found.contents()

    tokens, kinds = list(field("ggml.tokens")), list(field("ggml.token_type"))
    more = range(len(tokens), size)
    writer.add_tokenizer_model(field("ggml.model"))
    writer.add_tokenizer_pre(field("ggml.pre"))
    writer.add_token_list(tokens + [_filler(id) for id in more])
    writer.add_token_types(kinds + [gguf.TokenType.UNUSED for _ in more])
    writer.add_token_merges(field("ggml.merges"))
    for name in SPECIAL:
        if (id := field(f"ggml.{name}")) is not None:
            writer.add_uint32(f"tokenizer.ggml.{name}", id)
    if (begins := field("ggml.add_bos_token")) is not None:
        writer.add_add_bos_token(begins)
    if (template := field("chat_template")) is not None:
        writer.add_chat_template(template)


if __name__ == "__main__":
    what, source, folder, *rest = sys.argv[1:]
    if what == "convert":
        convert(Path(source), Path(folder), int(rest[0]))
    elif what == "random":
        random(Path(source), Path(folder), int(rest[0]), Path(rest[1]))
    else:
        write_gguf(Path(source), Path(folder), Path(rest[0]))
