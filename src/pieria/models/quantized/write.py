"""A checkpoint in fewer bits from another one, matrix by matrix, to the nearest number.

Reads through the loader's own places, so whatever it reads can be written; no more than one weight
is in memory, or the parts of one that files keep as one. Linear layers and experts are brought
into the format; embeddings, output layers and routers stay as they are.
"""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from pieria.models.checkpoint import TOKENIZERS, Checkpoint
from pieria.models.keys import Keys
from pieria.models.loader import build, hf_head, hf_places, load
from pieria.models.moe import Stack
from pieria.models.names import Place
from pieria.models.parts import Linear, Module
from pieria.models.quantized.layout import WRITABLE, quantization_config, tensors
from pieria.models.quantized.safetensors_writer import SafetensorsWriter
from pieria.ops.formats import QUANTIZED
from pieria.ops.weight import dense
from pieria.parallel.mesh import Mesh

BESIDE = (
    *TOKENIZERS,
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json"),
    *("merges.txt", "generation_config.json", "chat_template.jinja", "chat_template.json"),
)
"""Files that are copied as they are."""


def quantize(
    checkpoint: Checkpoint,
    format: str,
    output: Path,
    advance: Callable[[int], None] = lambda count: None,
) -> list[str]:
    """Write `checkpoint` in `format` into the folder `output`; the linear layers that stay as they
    are, by their names in files.

    `advance(bytes)` is called after each weight. config.json is written last: without it the
    folder is no checkpoint. ValueError for a format that the layout does not have, a folder that is
    not empty, a checkpoint that is quantized already, and numbers that are not finite.
    """
    if format not in WRITABLE:
        raise ValueError(f"format {format!r} cannot be written; there are: {', '.join(WRITABLE)}")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"{output} is there already; give a folder that is empty or not there")
    keys = Keys(checkpoint.config, str(checkpoint.path))
    if keys.has("quantization_config"):
        raise ValueError(f"{checkpoint.path} is quantized already (quantization_config)")
    model = build(checkpoint, Mesh(), dtype(checkpoint))
    places = hf_places(checkpoint, model)
    output.mkdir(parents=True, exist_ok=True)
    writer, kept = SafetensorsWriter(output), _Kept(format)
    joined: dict[str, Tensor] = {}
    left = Counter(place.name for where in places.values() for place in where)

    def write(module: Module) -> None:
        for kind in module.logical:
            where, part = places[f"{module.path}.{kind}"], dense(getattr(module, kind))
            matrices = [part] if len(where) == 1 else list(part.unbind(0))
            for place, matrix in zip(where, matrices, strict=True):
                whole = matrix
                if place.transposed or place.shape != tuple(matrix.shape):
                    whole = joined.setdefault(place.name, matrix.new_empty(place.stored))
                    _fill(place, whole, matrix)
                left[place.name] -= 1
                if not left[place.name]:
                    for name, tensor in kept.tensors(module, kind, place, whole):
                        writer.add(name, tensor)
                    joined.pop(place.name, None)
            setattr(module, kind, None)  # its memory is for the next one

    load(checkpoint, model, "cpu", advance, write)
    writer.close()
    if model.config.tied:  # others make a linear layer of the embedding, which is not in a format
        kept.ignored.add(hf_head(checkpoint))
    _write_beside(checkpoint, output)
    config = {**checkpoint.config, "torch_dtype": str(model.dtype).removeprefix("torch.")}
    config["quantization_config"] = quantization_config(format, kept.ignored)
    (output / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    return sorted(kept.ignored)


def nbytes(checkpoint: Checkpoint) -> int:
    """What `advance` adds up to."""
    model = build(checkpoint, Mesh(), dtype(checkpoint))
    return sum(p.numel() * p.element_size() for p in model.parameters())


def dtype(checkpoint: Checkpoint) -> torch.dtype:
    """Of what is not brought into a format: what the config says, else bfloat16."""
    said = checkpoint.config.get("dtype", checkpoint.config.get("torch_dtype"))
    return {"float32": torch.float32, "float16": torch.float16}.get(str(said), torch.bfloat16)


class _Kept:
    """Which matrices are in the format, and their tensors."""

    def __init__(self, format: str) -> None:
        self.format = QUANTIZED[format]
        self.ignored: set[str] = set()

    def tensors(
        self, module: Module, kind: str, place: Place, whole: Tensor
    ) -> list[tuple[str, Tensor]]:
        name = place.name.removesuffix(".weight")
        linear = isinstance(module, Linear | Stack) and kind == "weight"
        fits = whole.ndim == 2 and name != place.name and not place.transposed
        fits = fits and whole.shape[-1] % self.format.unit == 0 and min(whole.shape) > 1
        if not linear or not fits or module.path == "head":
            if linear or module.path.endswith("router"):
                self.ignored.add(name)
            return [(place.name, whole)]
        try:
            weight = self.format.quantize(whole)
        except ValueError as error:
            raise ValueError(f"tensor {place.name}: {error}") from None
        return [(f"{name}.{kind}", tensor) for kind, tensor in tensors(weight).items()]


def _fill(place: Place, whole: Tensor, part: Tensor) -> None:
    """Put a part where the file has it; the other direction of the loader's `_fill`."""
    seen = whole.mT if place.transposed else whole
    if place.every == place.shape[place.dim]:
        seen.narrow(place.dim, place.first, place.size).copy_(part)
        return
    turns = torch.unflatten(seen, place.dim, (-1, place.every))
    into = turns.narrow(place.dim + 1, place.first, place.size)
    into.copy_(torch.unflatten(part, place.dim, (-1, place.size)))


def _write_beside(checkpoint: Checkpoint, output: Path) -> None:
    """The tokenizer and what belongs to it; of a GGUF file, made of what it says."""
    if checkpoint.format == "safetensors":
        for name in BESIDE:
            if (checkpoint.path / name).is_file():
                shutil.copyfile(checkpoint.path / name, output / name)
        return
    tokenizer = checkpoint.tokenizer()
    tokenizer.save(output / "tokenizer.json")
    ends = {
        f"{end}_token": tokenizer.token_text(id)
        for end, id in (("bos", tokenizer.bos), ("eos", tokenizer.eos))
        if id is not None
    }
    said = {"tokenizer_class": "PreTrainedTokenizerFast", **ends}
    (output / "tokenizer_config.json").write_text(json.dumps(said, indent=1) + "\n")
    stops = {"eos_token_id": sorted(checkpoint.stop_ids)}
    (output / "generation_config.json").write_text(json.dumps(stops) + "\n")
    if checkpoint.chat_template is not None:
        (output / "chat_template.jinja").write_text(checkpoint.chat_template)
