"""A weight of the model in fewer bits, as files have it: its part, of one tensor or of several.

Knows where weights lie and how they are cut; reads through a `TensorFile`.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch

from pieria.models.checkpoint import TensorFile
from pieria.models.names import Place
from pieria.models.parts import Logical
from pieria.ops import Weight
from pieria.parallel.mesh import Mesh


def held(
    tensors: TensorFile,
    places: Sequence[Place],
    logical: Logical,
    mesh: Mesh,
    dtype: torch.dtype,
) -> Weight | None:
    """This rank's part; None if it is to be read as numbers.

    places: of the weight, or of each of its matrices. ValueError if a cut separates what shares a
    scale.
    """
    spans = logical.shard.spans(logical.shape, mesh)
    first, shape = [low for low, _ in spans], [high - low for low, high in spans]
    if len(places[0].shape) == len(spans):
        return _part(tensors, places[0], shape, first, dtype)
    stack: tuple[torch.Tensor, ...] = ()
    format = None
    for i, place in enumerate(places[slice(*spans[0])]):
        found = _part(tensors, place, shape[1:], first[1:], dtype)
        if found is None or format not in (None, found.format):
            return None
        format = found.format
        stack = stack or tuple(t.new_empty(shape[0], *t.shape) for t in found.tensors)
        for whole, tensor in zip(stack, found.tensors, strict=True):
            whole[i].copy_(tensor)
    return None if format is None else Weight(format, tuple(shape), dtype, stack)


def _part(
    tensors: TensorFile, place: Place, shape: list[int], first: list[int], dtype: torch.dtype
) -> Weight | None:
    """The box of a weight that begins at `first`."""
    size, begin, dim = list(shape), list(first), place.dim
    turning = place.every != place.shape[dim]
    if turning:
        assert size[dim] % place.size == begin[dim] % place.size == 0, "turns are not cut"
        size[dim] = size[dim] // place.size * place.every
        begin[dim] = begin[dim] // place.size * place.every
    else:
        begin[dim] += place.first
    if place.transposed:
        size[-2:], begin[-2:] = size[:-3:-1], begin[:-3:-1]
    weight = tensors.held(place.name, size, begin, dtype, place.transposed)
    if weight is None or not turning:
        return weight
    if any(t.shape[dim] != weight.shape[dim] for t in weight.tensors):
        return None  # rows share what is in one of the tensors

    def turns(tensor: torch.Tensor) -> torch.Tensor:
        every = torch.unflatten(tensor, dim, (-1, place.every))
        return every.narrow(dim + 1, place.first, place.size).flatten(dim, dim + 1)

    return replace(weight, shape=tuple(shape), tensors=tuple(map(turns, weight.tensors)))
