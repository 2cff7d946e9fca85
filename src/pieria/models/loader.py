"""Weights from a checkpoint into a `Decoder`: streamed, cut for this rank, converted, and none
forgotten.

Knows names, shards and what a family's files do differently. Does not know file formats.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from pieria.models.checkpoint import Checkpoint, TensorFile
from pieria.models.config import AttentionConfig
from pieria.models.decoder import Decoder
from pieria.models.gguf_latents import JoinedLatents
from pieria.models.keys import Keys
from pieria.models.names import GGUF_NAMES, GGUF_OWN, Names, Source, rooted, source, sources
from pieria.models.parts import Logical, Norm
from pieria.models.registry import Family, family, model_config
from pieria.parallel.mesh import Mesh

DERIVED = ("rotary_emb.inv_freq", "rope_freqs.weight", "masked_bias", "embeddings.position_ids")
"""Ends of the names of tensors that files carry and the config implies."""

OTHER_PARTS = ("vision_tower.", "multi_modal_projector.", "pooler.")
"""Starts of the names of tensors that are not between text and logits or hidden states."""


def build(checkpoint: Checkpoint, mesh: Mesh, dtype: torch.dtype) -> Decoder:
    """The model of a checkpoint on the meta device: shapes without data."""
    keys = Keys(checkpoint.config, str(checkpoint.path))
    return Decoder(model_config(keys), mesh, dtype)


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
    # All stages' weights, so that what another stage reads is not taken for left over.
    logical = Decoder(model.config, replace(model.mesh, pp=1, rank=0), model.dtype).logical()
    gguf = checkpoint.format == "gguf"
    if gguf:
        tensors = JoinedLatents(tensors)
        names = {**GGUF_NAMES, **GGUF_OWN.get(model.config.family, {})}
    else:
        names = rooted(family(keys).NAMES, tensors.names())
    wanted = {name: sources(name, names, whole.shape[0]) for name, whole in logical.items()}
    unread = (*OTHER_PARTS, *_further(keys, len(model.config.layers), names))
    _compare(checkpoint, tensors, wanted, logical, model.config.tied, names, unread)
    for name in model.logical():
        kept = wanted[name]
        path, _, kind = name.rpartition(".")
        module = model.get_submodule(path)
        dtype = getattr(module, kind).dtype
        part = _read(tensors, kept, logical[name], model, dtype)
        if gguf:
            part = _deinterleave(part, name, family(keys), model)
            if isinstance(module, Norm) and kind == "weight":
                part = part - module.config.offset  # which these files have added
        part = part.to(device, dtype)
        setattr(module, kind, nn.Parameter(part, requires_grad=False))
        advance(part.numel())
    for name, buffer in model.named_buffers():
        setattr(model, name, buffer.to(device))


def _compare(
    checkpoint: Checkpoint,
    tensors: TensorFile,
    wanted: dict[str, Source | tuple[Source, ...]],
    logical: dict[str, Logical],
    tied: bool,
    names: Names,
    unread: tuple[str, ...],
) -> None:
    pieces = [p for name, kept in wanted.items() for p in _pieces(kept, logical[name].shape)]
    there, used = set(tensors.names()), {kept.name for kept, _ in pieces}
    missing = sorted(used - there)
    implied = (*DERIVED, source("head.weight", names).name) if tied else DERIVED
    left = sorted(n for n in there - used if not n.endswith(implied) and not n.startswith(unread))
    if missing or left:
        raise ValueError(
            f"{checkpoint.path}: the tensors do not fit the config;"
            f" missing: {_some(missing)}; left over: {_some(left)}"
        )
    for kept, shape in pieces:
        if tensors.shape(kept.name) != shape:
            raise ValueError(
                f"{checkpoint.path}: tensor {kept.name} has shape {tensors.shape(kept.name)},"
                f" the config wants {shape}"
            )


def _further(keys: Keys, layers: int, names: Names) -> tuple[str, ...]:
    """Starts of the names of the layers that predict further tokens, numbered after the `layers`."""
    count = keys.integer("num_nextn_predict_layers", 0, least=0)
    start = source("layers.0.mixer.o.weight", names).name.partition("0.")[0]
    return tuple(f"{start}{layers + i}." for i in range(count))


def _pieces(
    kept: Source | tuple[Source, ...], shape: tuple[int, ...]
) -> list[tuple[Source, tuple[int, ...]]]:
    """The tensors that a weight of `shape` is read from, with their shapes."""
    if isinstance(kept, Source):
        return [(kept, kept.shape(shape))]
    return [(expert, expert.shape(shape[1:])) for expert in kept]


def _read(
    tensors: TensorFile,
    kept: Source | tuple[Source, ...],
    logical: Logical,
    model: Decoder,
    dtype: torch.dtype,
) -> Tensor:
    """This rank's part, as the file has it; vectors are widened, so that they can be changed."""
    spans, shape = logical.shard.spans(logical.shape, model.mesh), logical.shape
    first = [low for low, _ in spans]
    part = torch.empty(
        [high - low for low, high in spans], dtype=torch.float64 if len(spans) == 1 else dtype
    )
    if isinstance(kept, Source):
        _fill(tensors, kept, shape, part, first)
    else:
        for expert, matrix in zip(kept[slice(*spans[0])], part, strict=True):
            _fill(tensors, expert, shape[1:], matrix, first[1:])
    return part


def _fill(
    tensors: TensorFile, kept: Source, shape: tuple[int, ...], out: Tensor, first: list[int]
) -> None:
    """The box of out's shape that begins at `first` of a weight of `shape`."""
    size, begin, dim = list(out.shape), list(first), kept.dim
    if kept.interleaved:
        size[dim] *= kept.of
        begin[dim] *= kept.of
    else:
        begin[dim] += kept.part * shape[dim]
    if not (kept.interleaved or kept.transposed):
        tensors.read_into(kept.name, out, begin)
        return
    # Of a stack, one expert's matrix at a time is held as the file has it.
    for i, matrix in enumerate(out.split(1) if out.ndim == 3 else [out]):
        box, at = [len(matrix), *size[1:]], [begin[0] + i, *begin[1:]]
        if kept.transposed:
            box[-2:], at[-2:] = box[:-3:-1], at[:-3:-1]
        read = out.new_empty(box)
        tensors.read_into(kept.name, read, at)
        read = read.mT if kept.transposed else read
        if kept.interleaved:
            read = read.unflatten(dim, (-1, kept.of)).select(dim + 1, kept.part)
        matrix.copy_(read)


def _deinterleave(part: Tensor, name: str, source: Family, model: Decoder) -> Tensor:
    """Rows of each head from pairs side by side (0, 1), (2, 3) to halves:

    0, 2, 4, ... 1, 3, 5, ...
    """
    module = name.rpartition(".")[0]
    if not module.endswith(source.GGUF_INTERLEAVED):
        return part
    layer = int(module.split(".")[1])
    mixer = model.config.layers[layer].mixer
    assert isinstance(mixer, AttentionConfig), f"{name} is not cut into heads"
    pairs = mixer.head_dim // 2
    heads = part.view(-1, pairs, 2, *part.shape[1:])
    return heads.transpose(1, 2).reshape(part.shape)


def _some(names: list[str], limit: int = 8) -> str:
    shown = ", ".join(names[:limit]) or "none"
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
