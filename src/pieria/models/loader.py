"""Weights from a checkpoint into a `Decoder`: streamed, cut, converted, and none forgotten.

Knows names, shards and what a family's files do differently. Does not know file formats.
"""

import logging
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from pieria.models.checkpoint import Checkpoint, TensorFile
from pieria.models.config import AttentionConfig, ModelConfig
from pieria.models.decoder import Decoder
from pieria.models.gguf_delta import GroupedHeads
from pieria.models.gguf_latents import JoinedLatents
from pieria.models.keys import MAX_LAYERS, Keys, naming
from pieria.models.mxfp4_file import UnpackedExperts
from pieria.models.names import (
    Names,
    Place,
    Source,
    gguf_names,
    place,
    rooted,
    source,
    sources,
)
from pieria.models.parts import Logical, Module, Norm
from pieria.models.parts import replace as hold
from pieria.models.quantization import NONE, formats
from pieria.models.quantized.config import Mxfp4, quantization
from pieria.models.quantized.file import QuantizedFile
from pieria.models.quantized.held import held
from pieria.models.registry import Family, family, model_config
from pieria.models.stored_tensor import NumberFormat
from pieria.ops import Weight
from pieria.ops.formats import Blocks, Float8, Integer
from pieria.parallel.mesh import Mesh

log = logging.getLogger(__name__)

DERIVED = ("rotary_emb.inv_freq", "rope_freqs.weight", "masked_bias", "embeddings.position_ids")
"""Ends of the names of tensors that files carry and the config implies."""

MOST_PARTS = 4
"""Weights, or experts' parts of them, that any file keeps in one tensor."""

OTHER_PARTS = (
    *("vision_tower.", "multi_modal_projector.", "model.visual.", "visual."),
    *("pooler.", "mtp."),
)
"""Starts of the names of tensors that are not between text and logits or hidden states."""


def build(checkpoint: Checkpoint, mesh: Mesh, dtype: torch.dtype) -> Decoder:
    """The model of a checkpoint on the meta device: shapes without data."""
    keys = Keys(checkpoint.config, str(checkpoint.path))
    with naming(keys.source):
        return Decoder(model_config(keys), mesh, dtype)


def load(
    checkpoint: Checkpoint,
    model: Decoder,
    device: str,
    advance: Callable[[int], None] = lambda count: None,
    complete: Callable[[Module], None] = lambda module: None,
    quantize: str | None = None,
) -> None:
    """Give every parameter of `model` its data on `device`, one tensor at a time.

    quantize: the format of weights, as `quantization` names it; each is brought into it when read,
    unless the file has it so. None: as safetensors files have them, and numbers of GGUF files.
    Host memory beyond the weights stays below one tensor. `advance(bytes)` is called after each,
    `complete(module)` when a module has all of its own.
    ValueError that names the tensors if one is missing, left over, or of another shape than the
    config says.
    """
    with naming(str(checkpoint.path)):
        _load(checkpoint, model, device, advance, complete, quantize)


def _load(
    checkpoint: Checkpoint,
    model: Decoder,
    device: str,
    advance: Callable[[int], None],
    complete: Callable[[Module], None],
    quantize: str | None,
) -> None:
    files = _files(checkpoint, model)
    keys, tensors, logical, places = files.keys, files.tensors, files.logical, files.places
    gguf = checkpoint.format == "gguf"
    unread = (*OTHER_PARTS, *_further(keys, len(model.config.layers), files.names))
    _compare(checkpoint, tensors, places, model.config, files.names, unread)
    chosen = formats(quantize or NONE, model, logical, _stored(files))
    kept: Counter[str] = Counter()
    for module in model.declaring():
        for kind in module.logical:
            name, dtype = f"{module.path}.{kind}", getattr(module, kind).dtype
            format = chosen.get(name)
            few = None
            if isinstance(format, Blocks):
                few = _read_blocks(tensors, places[name][0], logical[name], model, format)
                blocks = _deinterleave(few.tensors[0], name, family(keys), model)
                few = replace(few, tensors=(blocks,))
            elif module.quantizable and kind == "weight" and quantize != NONE:
                few = held(tensors, places[name], logical[name], model.mesh, dtype)
                if few is not None and format not in (None, few.format):
                    few = None
            if few is not None:
                hold(module, kind, few.to(device))
                kept[few.format.name] += 1
                advance(few.nbytes)
                continue
            part = _read(tensors, places[name], logical[name], model, dtype)
            if gguf:
                part = _deinterleave(part, name, family(keys), model)
                if isinstance(module, Norm) and kind == "weight":
                    part = part - module.config.offset  # which these files have added
            part = part.to(device, dtype)
            if isinstance(format, Integer | Float8):
                try:
                    weight = format.quantize(part)
                except ValueError as error:
                    raise ValueError(f"{checkpoint.path}: {name}: {error}") from error
                hold(module, kind, weight)
                advance(weight.nbytes)
                continue
            setattr(module, kind, nn.Parameter(part, requires_grad=False))
            advance(part.numel() * part.element_size())
        complete(module)
    for few_bits, count in kept.items():
        log.info("%d weights are held as %s, as the files have them", count, few_bits)
    if chosen or kept:
        whole = Counter(module.why_dense for module in model.declaring() if module.why_dense)
        for why, count in whole.items():
            log.info("%d weights stay in %s: %s", count, model.dtype, why)
    for name, buffer in model.named_buffers():
        setattr(model, name, buffer.to(device))


def unpacked(checkpoint: Checkpoint) -> TensorFile:
    """The tensors of safetensors files, with matrices in place of what they are packed as."""
    said = quantization(Keys(checkpoint.config, str(checkpoint.path)))
    reader = checkpoint.tensors()
    packed = said is not None and not isinstance(said, Mxfp4)
    return UnpackedExperts(QuantizedFile(reader, said) if said and packed else reader)


def hf_places(checkpoint: Checkpoint, model: Decoder) -> dict[str, tuple[Place, ...]]:
    """Where safetensors files of this model have each weight, whatever its own files are."""
    names, logical = _hf_names(checkpoint), model.logical()
    return {name: _places(name, names, logical) for name in logical}


def hf_head(checkpoint: Checkpoint) -> str:
    """What safetensors files of this model call the output layer, which tied ones do not have."""
    return source("head.weight", _hf_names(checkpoint)).name.removesuffix(".weight")


def _hf_names(checkpoint: Checkpoint) -> Names:
    names = family(Keys(checkpoint.config, str(checkpoint.path))).NAMES
    if checkpoint.format == "safetensors":
        return rooted(names, checkpoint.tensors().names())
    return names


@dataclass(frozen=True)
class _Files:
    """A checkpoint's tensors, and where the weights of all stages lie in them."""

    keys: Keys
    tensors: TensorFile
    names: Names
    logical: Mapping[str, Logical]
    places: Mapping[str, tuple[Place, ...]]


def _files(checkpoint: Checkpoint, model: Decoder) -> _Files:
    keys = Keys(checkpoint.config, str(checkpoint.path))
    tensors: TensorFile = checkpoint.tensors()
    # All stages' weights, so that what another stage reads is not taken for left over.
    whole = model
    if model.mesh.size > 1:
        whole = Decoder(model.config, replace(model.mesh, pp=1, rank=0), model.dtype)
    logical = whole.logical()
    if checkpoint.format == "gguf":
        tensors = GroupedHeads(JoinedLatents(tensors), model.config)
        names: Names = gguf_names(model.config.family, tensors.names())
    else:
        tensors = unpacked(checkpoint)
        names = rooted(family(keys).NAMES, tensors.names())
    places = _all_places(checkpoint, names, logical, len(tensors.names()))
    return _Files(keys, tensors, names, logical, places)


def held_bytes(
    checkpoint: Checkpoint, model: Decoder, quantize: str, without: Collection[str] = ()
) -> int:
    """Bytes of this rank's weights, as `load` will hold them; `without` those of these names.

    ValueError as `load` raises.
    """
    with naming(str(checkpoint.path)):
        files = _files(checkpoint, model)
        held = formats(quantize, model, files.logical, _stored(files))
        return sum(
            held[name].nbytes(tuple(part.shape))
            if name in held
            else part.numel() * part.element_size()
            for module in model.declaring()
            for kind in module.logical
            for name, part in [(f"{module.path}.{kind}", getattr(module, kind))]
            if name not in without
        )


def _stored(files: _Files) -> dict[str, NumberFormat]:
    """What is kept in blocks of bytes that lie as the weight wants them."""
    found: dict[str, NumberFormat] = {}
    there = set(files.tensors.names())
    for name, (first, *others) in files.places.items():
        if (
            others
            or first.transposed
            or first.dim == len(first.shape) - 1
            or first.name not in there
        ):
            continue
        numbers = files.tensors.blocks(first.name)
        if numbers is not None:
            found[name] = numbers
    return found


def _read_blocks(
    tensors: TensorFile, kept: Place, logical: Logical, model: Decoder, format: Blocks
) -> Weight:
    """This rank's part, in the blocks that the file has."""
    spans = logical.shard.spans(logical.shape, model.mesh)
    begin, shape = [low for low, _ in spans], [high - low for low, high in spans]
    count = shape[-1] // format.block
    part = torch.empty((*shape[:-1], count * format.block_bytes), dtype=torch.uint8)
    _fill(tensors, kept, part, [*begin[:-1], begin[-1] // format.block * format.block_bytes])
    blocks = part.view(*shape[:-1], count, format.block_bytes)
    return Weight(format, tuple(shape), model.dtype, (blocks,))


def _compare(
    checkpoint: Checkpoint,
    tensors: TensorFile,
    places: Mapping[str, tuple[Place, ...]],
    config: ModelConfig,
    names: Names,
    unread: tuple[str, ...],
) -> None:
    pieces = [piece for several in places.values() for piece in several]
    there, used = set(tensors.names()), {piece.name for piece in pieces}
    missing = sorted(used - there)
    implied = (*DERIVED, source("head.weight", names).name) if config.tied else DERIVED
    left = sorted(n for n in there - used if not n.endswith(implied) and not n.startswith(unread))
    if missing or left:
        raise ValueError(
            f"{checkpoint.path}: the tensors do not fit the config, of family {config.family};"
            f" missing: {_some(missing)}; left over: {_some(left)}"
        )
    for piece in pieces:
        if tensors.shape(piece.name) != piece.stored:
            raise ValueError(
                f"{checkpoint.path}: tensor {piece.name} has shape {tensors.shape(piece.name)},"
                f" the config wants {piece.stored}"
            )


def _further(keys: Keys, layers: int, names: Names) -> tuple[str, ...]:
    """Starts of the names of layers that predict further tokens, numbered after the `layers`."""
    count = keys.integer("num_nextn_predict_layers", 0, least=0, most=MAX_LAYERS)
    if not count:
        return ()
    start = source("layers.0.mixer.o.weight", names).name.partition("0.")[0]
    return tuple(f"{start}{layers + i}." for i in range(count))


def _all_places(
    checkpoint: Checkpoint, names: Names, logical: Mapping[str, Logical], there: int
) -> dict[str, tuple[Place, ...]]:
    """Where each weight lies, of a file with so many tensors."""
    places: dict[str, tuple[Place, ...]] = {}
    count = 0
    for name in logical:
        places[name] = _places(name, names, logical)
        count += len(places[name])
        if count > MOST_PARTS * there:
            raise ValueError(
                f"{checkpoint.path}: there are {there} tensors, too few for the config's"
                f" {len(logical)} weights"
            )
    return places


def _places(name: str, names: Names, logical: Mapping[str, Logical]) -> tuple[Place, ...]:
    """The tensors that a weight is read from: one, or one for each of its experts."""
    whole = logical[name]
    module, _, kind = name.rpartition(".")
    beside = module.rpartition(".")[0]

    def lengths(kept: Source, length: int) -> list[int]:
        if isinstance(kept.of, int):
            return [length] * kept.of
        return [logical[f"{beside}.{part}.{kind}"].shape[kept.dim] for part in kept.of]

    found, shape = sources(name, names, whole.shape[0]), whole.shape
    if isinstance(found, tuple):
        return tuple(place(k, shape[1:], lengths(k, shape[1 + k.dim]), 1) for k in found)
    unit = next((cut.granularity for cut in whole.shard.cuts if cut.dim == found.dim), 1)
    return (place(found, shape, lengths(found, shape[found.dim]), unit),)


def _read(
    tensors: TensorFile,
    places: tuple[Place, ...],
    logical: Logical,
    model: Decoder,
    dtype: torch.dtype,
) -> Tensor:
    """This rank's part, as the file has it; vectors are widened, so that they can be changed."""
    spans = logical.shard.spans(logical.shape, model.mesh)
    first = [low for low, _ in spans]
    part = torch.empty(
        [high - low for low, high in spans], dtype=torch.float64 if len(spans) == 1 else dtype
    )
    if len(places[0].shape) == len(spans):
        _fill(tensors, places[0], part, first)
    else:
        for expert, matrix in zip(places[slice(*spans[0])], part, strict=True):
            _fill(tensors, expert, matrix, first[1:])
    return part


def _fill(tensors: TensorFile, kept: Place, out: Tensor, first: list[int]) -> None:
    """The box of out's shape that begins at `first` of a weight."""
    size, begin, dim = list(out.shape), list(first), kept.dim
    turning = kept.every != kept.shape[dim]
    if turning:
        assert size[dim] % kept.size == begin[dim] % kept.size == 0, "turns are not cut"
        size[dim] = size[dim] // kept.size * kept.every
        begin[dim] = begin[dim] // kept.size * kept.every
    else:
        begin[dim] += kept.first
    if not (turning or kept.transposed):
        tensors.read_into(kept.name, out, begin)
        return
    # Of a stack, one expert's matrix at a time is held as the file has it.
    stacked = out.ndim == 3 and not (turning and dim == 0)
    for i, matrix in enumerate(torch.split(out, 1) if stacked else [out]):
        box, at = ([1, *size[1:]], [begin[0] + i, *begin[1:]]) if stacked else (size, begin)
        if kept.transposed:
            box[-2:], at[-2:] = box[:-3:-1], at[:-3:-1]
        read = out.new_empty(box)
        tensors.read_into(kept.name, read, at)
        read = read.mT if kept.transposed else read
        if turning:
            turns = torch.unflatten(read, dim, (-1, kept.every))
            read = turns.narrow(dim + 1, kept.first, kept.size).flatten(dim, dim + 1)
        matrix.copy_(read)


def _deinterleave(part: Tensor, name: str, source: Family, model: Decoder) -> Tensor:
    """Rows of each head from pairs side by side to halves: 0, 2, 4, ... 1, 3, 5, ..."""
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
