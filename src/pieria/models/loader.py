"""Weights from a checkpoint into a `Decoder`: streamed, cut for this rank, converted, and none
forgotten.

Knows names, shards and what a family's files do differently. Does not know file formats.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from pieria.models.checkpoint import Checkpoint, TensorFile
from pieria.models.decoder import Decoder
from pieria.models.keys import Keys
from pieria.models.parts import Logical
from pieria.models.names import GGUF_NAMES, file_name
from pieria.models.registry import Family, family
from pieria.parallel.mesh import Mesh

DERIVED = ("rotary_emb.inv_freq", "rope_freqs.weight", "masked_bias")
"""Ends of the names of tensors that files carry and the config implies."""


def build(checkpoint: Checkpoint, mesh: Mesh, dtype: torch.dtype) -> Decoder:
    """The model of a checkpoint on the meta device: shapes without data."""
    keys = Keys(checkpoint.config, str(checkpoint.path))
    return Decoder(family(keys).from_hf(keys), mesh, dtype)


def load(
    checkpoint: Checkpoint,
    model: Decoder,
    device: str,
    advance: Callable[[int], None] = lambda count: None,
) -> None:
    """Give every parameter of `model` its data on `device`, one tensor at a time.

    Host memory beyond the weights stays below one tensor. `advance(elements)` is called after each.
    ValueError that names the tensors if one is missing, left over, or of another shape than the
    config says.
    """
    keys = Keys(checkpoint.config, str(checkpoint.path))
    tensors = checkpoint.tensors()
    logical = model.logical()
    gguf = checkpoint.format == "gguf"
    names = GGUF_NAMES if gguf else family(keys).NAMES
    wanted = {file_name(name, names): name for name in logical}
    _compare(checkpoint, tensors, wanted, logical, model.config.tied, names)
    for source, name in wanted.items():
        part = _read(tensors, source, logical[name], model, device)
        if gguf:
            part = _deinterleave(part, name, family(keys), model)
        path, _, kind = name.rpartition(".")
        setattr(model.get_submodule(path), kind, nn.Parameter(part, requires_grad=False))
        advance(part.numel())
    for name, buffer in model.named_buffers():
        setattr(model, name, buffer.to(device))


def _compare(
    checkpoint: Checkpoint,
    tensors: TensorFile,
    wanted: dict[str, str],
    logical: dict[str, Logical],
    tied: bool,
    names: Mapping[str, str],
) -> None:
    there = set(tensors.names())
    missing = sorted(set(wanted) - there)
    implied = (*DERIVED, file_name("head.weight", names)) if tied else DERIVED
    left = sorted(n for n in there - set(wanted) if not n.endswith(implied))
    if missing or left:
        raise ValueError(
            f"{checkpoint.path}: the tensors do not fit the config;"
            f" missing: {_some(missing)}; left over: {_some(left)}"
        )
    for source, name in wanted.items():
        if tensors.shape(source) != logical[name].shape:
            raise ValueError(
                f"{checkpoint.path}: tensor {source} has shape {tensors.shape(source)},"
                f" the config wants {logical[name].shape}"
            )


def _read(
    tensors: TensorFile, source: str, logical: Logical, model: Decoder, device: str
) -> Tensor:
    spans = logical.shard.spans(logical.shape, model.mesh)
    cut = next((d for d, s in enumerate(spans) if s != (0, logical.shape[d])), 0)
    part = torch.empty([last - first for first, last in spans], dtype=model.dtype)
    tensors.read_into(source, part, cut, spans[cut][0])
    return part.to(device)


def _deinterleave(part: Tensor, name: str, source: Family, model: Decoder) -> Tensor:
    """Rows of each head from pairs side by side (0, 1), (2, 3) to halves:

    0, 2, 4, ... 1, 3, 5, ...
    """
    module = name.rpartition(".")[0]
    if not module.endswith(source.GGUF_INTERLEAVED):
        return part
    layer = int(module.split(".")[1])
    pairs = model.config.layers[layer].mixer.head_dim // 2
    heads = part.view(-1, pairs, 2, *part.shape[1:])
    return heads.transpose(1, 2).reshape(part.shape)


def _some(names: list[str], limit: int = 8) -> str:
    shown = ", ".join(names[:limit]) or "none"
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
