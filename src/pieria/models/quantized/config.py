"""What quantization_config of a config.json says about how matrices are kept. Torch-free.

Knows the keys of compressed-tensors (quantization/quant_config.py), fp8 (transformers' FP8 config),
GPTQ, AWQ and gpt-oss's mxfp4. Does not know tensors.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pieria.models.keys import Keys

PACKED = "pack-quantized", "int-quantized", "naive-quantized", "float-quantized"
FORMATS = (*PACKED, "mxfp4-pack-quantized", "mixed-precision", "dense")

MAX_PATTERN = 500
"""Characters of a regular expression that names modules."""


@dataclass(frozen=True)
class Integers:
    """group: inputs that share a scale; None: all of an output's, or of the tensor's.

    reordered: a tensor says which group each input belongs to.
    """

    bits: int
    group: int | None
    per_tensor: bool
    symmetric: bool
    reordered: bool


@dataclass(frozen=True)
class Float8:
    """block: outputs and inputs that share a scale; None: of an output, or of the tensor."""

    block: tuple[int, int] | None


@dataclass(frozen=True)
class Mxfp4:
    """Four bits with an exponent for 32 inputs."""


@dataclass(frozen=True)
class Group:
    """What applies to modules with a name, or of a class, among `targets`."""

    targets: tuple[str, ...]
    numbers: Integers | Float8 | Mxfp4

    def holds(self, module: str) -> bool:
        return any(
            re.match(target[3:], module) is not None
            if target.startswith("re:")
            else target == "Linear" or module == target or module.endswith(f".{target}")
            for target in self.targets
        )


@dataclass(frozen=True)
class CompressedTensors:
    """The first group that holds for a module is its own."""

    groups: tuple[Group, ...]


@dataclass(frozen=True)
class Gptq:
    """As `Integers`. stored_less: what zeros in the file lack."""

    bits: int
    group: int | None
    symmetric: bool
    reordered: bool
    stored_less: int


@dataclass(frozen=True)
class Awq:
    """zeros: whether groups have zeros of their own."""

    group: int | None
    zeros: bool


Quantization = CompressedTensors | Float8 | Gptq | Awq | Mxfp4


def quantization(keys: Keys) -> Quantization | None:
    """Of a config.json. ValueError that names the key for what is not supported."""
    if not keys.has("quantization_config"):
        return None
    said = keys.part("quantization_config")
    parse = said.choice("quant_method", _METHODS)
    found: Quantization = parse(said)
    return found


def _compressed_tensors(keys: Keys) -> CompressedTensors:
    keys.refuse("sparsity_config", "sparse checkpoints are not supported", (None, {}))
    keys.choice("format", dict.fromkeys(FORMATS), "pack-quantized")
    groups = keys.part("config_groups")
    if not groups.values:
        raise ValueError(f"{groups.source}: there are no groups")
    return CompressedTensors(tuple(_group(groups.part(name)) for name in groups.values))


def _group(keys: Keys) -> Group:
    if keys.has("format"):
        keys.choice("format", dict.fromkeys(FORMATS))
    targets = keys.values.get("targets")
    if not isinstance(targets, list) or not all(isinstance(t, str) for t in targets):
        raise ValueError(f"{keys.source}: targets={targets!r} must be names of modules")
    for target in targets:
        if len(target) > MAX_PATTERN:
            raise ValueError(f"{keys.source}: a target is longer than {MAX_PATTERN} characters")
        try:
            re.compile(target.removeprefix("re:"))
        except re.error as error:
            raise ValueError(f"{keys.source}: target {target!r}: {error}") from None
    return Group(tuple(targets), _numbers(keys.part("weights")))


def _numbers(keys: Keys) -> Integers | Float8 | Mxfp4:
    bits, kind = keys.integer("num_bits", 8), keys.choice("type", {"int": "int", "float": "float"})
    named = {name: name for name in ("tensor", "channel", "group", "block")}
    implied = "group" if keys.has("group_size") else "tensor"
    strategy = keys.choice("strategy", named, implied)
    group = keys.integer("group_size", most=2**20) if strategy == "group" else None
    if kind == "float" and bits == 4 and group == 32:
        return Mxfp4()
    if kind == "float" and bits == 8 and group is None:
        return Float8(_block(keys, "block_structure") if strategy == "block" else None)
    if kind == "int" and bits in (4, 8) and strategy != "block":
        reordered = keys.values.get("actorder") in ("group", "dynamic", True)
        symmetric = keys.flag("symmetric", True)
        return Integers(bits, group, strategy == "tensor", symmetric, reordered)
    raise ValueError(
        f"{keys.source}: num_bits={bits}, type={kind!r}, strategy={strategy!r},"
        f" group_size={group} is not supported; there are: int of 4 and 8 bits for each tensor,"
        " channel or group; float of 8 bits for each tensor, channel or block; float of 4 bits for"
        " groups of 32"
    )


def _fp8(keys: Keys) -> Float8:
    keys.choice("fmt", dict.fromkeys(("e4m3", "e5m2", "float8_e4m3fn", "float8_e5m2")), "e4m3")
    keys.refuse("scale_fmt", "scales of other formats are not read", (None, "float", "ue8m0"))
    return Float8(_block(keys, "weight_block_size") if keys.has("weight_block_size") else None)


def _gptq(keys: Keys) -> Gptq:
    version = keys.choice("checkpoint_format", {"gptq": 1, "gptq_v2": 0}, "gptq")
    return Gptq(
        _bits(keys, 4, 8), _group_size(keys), keys.flag("sym", True),
        keys.flag("desc_act", False), version,
    )  # fmt: skip


def _awq(keys: Keys) -> Awq:
    keys.choice("version", {"gemm": None, "GEMM": None}, "gemm")
    _bits(keys, 4)
    return Awq(_group_size(keys), keys.flag("zero_point", True))


def _bits(keys: Keys, *allowed: int) -> int:
    bits = keys.integer("bits")
    if bits not in allowed:
        known = " or ".join(map(str, allowed))
        raise ValueError(f"{keys.source}: bits={bits} is not supported; there are: {known}")
    return bits


def _group_size(keys: Keys) -> int | None:
    if keys.values.get("group_size") in (None, -1):
        return None
    return keys.integer("group_size", most=2**20)


def _block(keys: Keys, name: str) -> tuple[int, int]:
    sizes = keys.values.get(name)
    if (
        not isinstance(sizes, list)
        or len(sizes) != 2
        or not all(type(size) is int and 0 < size <= 2**20 for size in sizes)
    ):
        raise ValueError(f"{keys.source}: {name}={sizes!r} must be two positive integers")
    return sizes[0], sizes[1]


_METHODS: Mapping[str, object] = {
    "compressed-tensors": _compressed_tensors,
    "fp8": _fp8,
    "gptq": _gptq,
    "awq": _awq,
    "mxfp4": lambda keys: Mxfp4(),
}
