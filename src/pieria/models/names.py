"""What a weight of `Decoder` is called in files, and how it lies there.

Families publish under names of their own, which their files here list; GGUF has one naming for all.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Source:
    """Where files keep a weight, or one expert's: the `part`-th of the parts of `name`.

    of: how many parts there are, of equal length, or the modules beside the weight's own that they
    belong to. dim: the weight's dimension along which they lie, one behind the other, or, if
    `interleaved`, in turns of what a cut leaves together. transposed: the file has the last two
    dimensions the other way round.
    """

    name: str
    part: int = 0
    of: int | tuple[str, ...] = 1
    dim: int = 0
    interleaved: bool = False
    transposed: bool = False


@dataclass(frozen=True)
class Place:
    """Where a weight lies in a tensor: `size` of every `every` rows of `dim`, from `first` on.

    shape: the tensor's, with the last two dimensions as the weight has them.
    """

    name: str
    shape: tuple[int, ...]
    dim: int
    first: int
    size: int
    every: int
    transposed: bool

    @property
    def stored(self) -> tuple[int, ...]:
        """The shape that the tensor has in the file."""
        return (*self.shape[:-2], *self.shape[:-3:-1]) if self.transposed else self.shape


def parts(
    start: str, modules: tuple[str, ...], name: str, interleaved: bool = False
) -> dict[str, Source]:
    """The names of modules whose weights files keep as one, in this order; `start` before each."""
    return {
        start + module: Source(name, i, modules, interleaved=interleaved)
        for i, module in enumerate(modules)
    }


def place(source: Source, shape: tuple[int, ...], lengths: Sequence[int], unit: int) -> Place:
    """Where a weight of `shape` lies in a tensor.

    lengths: of all parts of the tensor. unit: rows of this weight in a turn, if they lie in turns.
    """
    turns = shape[source.dim] // unit if source.interleaved else 1
    whole, before = sum(lengths), sum(lengths[: source.part])
    return Place(
        source.name,
        (*shape[: source.dim], whole, *shape[source.dim + 1 :]),
        source.dim,
        before // turns,
        shape[source.dim] // turns,
        whole // turns,
        source.transposed,
    )


Names = Mapping[str, str | Source | tuple[Source, ...]]
"""Module of `Decoder` -> module in files, or weight of `Decoder` -> tensor in files.

{} stands for the layer's number. Of a stack of experts, a name with {e}, the expert's number, or a
tuple has a source for each.
"""

GGUF_NAMES: Names = {
    "embed": "token_embd",
    "layers.{}.mixer_norm": "blk.{}.attn_norm",
    "layers.{}.mixer.q": "blk.{}.attn_q",
    "layers.{}.mixer.k": "blk.{}.attn_k",
    "layers.{}.mixer.v": "blk.{}.attn_v",
    "layers.{}.mixer.o": "blk.{}.attn_output",
    "layers.{}.mixer.q_norm": "blk.{}.attn_q_norm",
    "layers.{}.mixer.k_norm": "blk.{}.attn_k_norm",
    "layers.{}.mixer.q_a": "blk.{}.attn_q_a",
    "layers.{}.mixer.q_a_norm": "blk.{}.attn_q_a_norm",
    "layers.{}.mixer.q_b": "blk.{}.attn_q_b",
    "layers.{}.mixer.kv_a": "blk.{}.attn_kv_a_mqa",
    "layers.{}.mixer.kv_a_norm": "blk.{}.attn_kv_a_norm",
    "layers.{}.mixer.kv_b": "blk.{}.attn_kv_b",
    "layers.{}.mixer.sinks": "blk.{}.attn_sinks",
    "layers.{}.mixer_post_norm": "blk.{}.post_attention_norm",
    "layers.{}.mlp_norm": "blk.{}.ffn_norm",
    "layers.{}.mlp.gate": "blk.{}.ffn_gate",
    "layers.{}.mlp.up": "blk.{}.ffn_up",
    "layers.{}.mlp.down": "blk.{}.ffn_down",
    "layers.{}.mlp.router": "blk.{}.ffn_gate_inp",
    "layers.{}.mlp.router.selection_bias": "blk.{}.exp_probs_b.bias",
    "layers.{}.mlp.experts.gate": "blk.{}.ffn_gate_exps",
    "layers.{}.mlp.experts.up": "blk.{}.ffn_up_exps",
    "layers.{}.mlp.experts.down": "blk.{}.ffn_down_exps",
    "layers.{}.mlp.shared.gate": "blk.{}.ffn_gate_shexp",
    "layers.{}.mlp.shared.up": "blk.{}.ffn_up_shexp",
    "layers.{}.mlp.shared.down": "blk.{}.ffn_down_shexp",
    "layers.{}.mlp.shared_gate": "blk.{}.ffn_gate_inp_shexp",
    "layers.{}.mlp_post_norm": "blk.{}.post_ffw_norm",
    "norm": "output_norm",
    "head": "output",
}


GGUF_DELTA: Names = {
    **parts("layers.{}.mixer.", ("q", "gate"), "blk.{}.attn_q", interleaved=True),
    **parts("layers.{}.mixer.", ("query", "key", "value"), "blk.{}.attn_qkv"),
    "layers.{}.mixer.z": "blk.{}.attn_gate",
    **parts("layers.{}.mixer.", ("query_taps", "key_taps", "value_taps"), "blk.{}.ssm_conv1d"),
    "layers.{}.mixer.rates.log": "blk.{}.ssm_a",
    "layers.{}.mixer.rates.bias": "blk.{}.ssm_dt.bias",
    "layers.{}.mixer.norm": "blk.{}.ssm_norm",
    "layers.{}.mixer.out": "blk.{}.ssm_out",
    "layers.{}.mlp_norm": "blk.{}.post_attention_norm",
}

GGUF_OWN: Mapping[str, Names] = {
    "bert": {
        "positions": "position_embd",
        "types": "token_types",
        "embed_norm": "token_embd_norm",
        "layers.{}.mixer_norm": "blk.{}.attn_output_norm",
        "layers.{}.mlp_norm": "blk.{}.layer_output_norm",
    },
    "glm4": {
        "layers.{}.mlp.gate": Source("blk.{}.ffn_up", 0, 2),
        "layers.{}.mlp.up": Source("blk.{}.ffn_up", 1, 2),
    },
    "gpt_oss": {"layers.{}.mlp_norm": "blk.{}.post_attention_norm"},
    "qwen3_next": {
        **GGUF_DELTA,
        **parts("layers.{}.mixer.", ("beta", "decay"), "blk.{}.ssm_ba", interleaved=True),
    },
    "qwen3_5": {
        **GGUF_DELTA,
        "layers.{}.mixer.beta": "blk.{}.ssm_beta",
        "layers.{}.mixer.decay": "blk.{}.ssm_alpha",
    },
}
"""What some families' GGUF files keep otherwise, by family."""

GGUF_FUSED: Mapping[tuple[str, str], Names] = {
    ("attn_q", "attn_qkv"): parts("layers.{}.mixer.", ("q", "k", "v"), "blk.{}.attn_qkv"),
    ("ffn_gate_exps", "ffn_gate_up_exps"): {
        "layers.{}.mlp.experts.gate": Source("blk.{}.ffn_gate_up_exps", 0, 2, dim=1),
        "layers.{}.mlp.experts.up": Source("blk.{}.ffn_gate_up_exps", 1, 2, dim=1),
    },
}
"""What any GGUF file may keep as one, by a tensor that it then lacks and the one that it has."""

ROOTS = ("model.", "language_model.model.", "model.language_model.", "")
"""What may stand before the names of a model's own modules, which leaves out its head."""


def gguf_names(family: str, there: Collection[str]) -> Names:
    """What a GGUF file with these tensors calls a family's modules and weights."""
    kinds = {name.removesuffix(".weight").rpartition(".")[2] for name in there}
    found = {**GGUF_NAMES, **GGUF_OWN.get(family, {})}
    for (lacking, whole), names in GGUF_FUSED.items():
        if lacking not in kinds and whole in kinds:
            found.update(names)
    return found


def source(name: str, names: Names) -> Source:
    """Where files keep the weight that `Decoder` calls `name`, such as layers.3.mixer.q.weight."""
    found = sources(name, names, 1)
    assert isinstance(found, Source), f"{name} has several sources"
    return found


def sources(name: str, names: Names, count: int) -> Source | tuple[Source, ...]:
    """Where files keep the whole weight, or each of its `count` experts."""
    module, _, kind = name.rpartition(".")
    layer = re.search(r"\d+", module)
    pattern = re.sub(r"\d+", "{}", module, count=1)
    weight = f"{pattern}.{kind}"
    found, end = (names[weight], "") if weight in names else (names[pattern], f".{kind}")

    def placed(kept: str | Source, expert: int = 0) -> Source:
        kept = Source(kept) if isinstance(kept, str) else kept
        return replace(kept, name=kept.name.format(layer and layer[0], e=expert) + end)

    if isinstance(found, tuple):
        assert len(found) == count, f"{weight} has {len(found)} sources for {count} experts"
        return tuple(placed(kept) for kept in found)
    if "{e}" in (found if isinstance(found, str) else found.name):
        return tuple(placed(found, expert) for expert in range(count))
    return placed(found)


def rooted(names: Names, there: Collection[str]) -> Names:
    """The names under the root that these tensors have.

    It depends on what was saved: a bare model, one with a head, or one that also sees or hears.
    """
    embed = source("embed.weight", names).name
    own = next(root for root in ROOTS if embed.startswith(root))
    found = next((r for r in ROOTS if r + embed.removeprefix(own) in there), own)

    def moved(name: str) -> str:
        return found + name.removeprefix(own) if name.startswith(own) else name

    def under(kept: Source) -> Source:
        return replace(kept, name=moved(kept.name))

    return {
        ours: tuple(map(under, kept))
        if isinstance(kept, tuple)
        else under(Source(kept) if isinstance(kept, str) else kept)
        for ours, kept in names.items()
        if not _elsewhere(ours, names, there)
    }


def _elsewhere(ours: str, names: Names, there: Collection[str]) -> bool:
    """Whether files that keep this weight under its module's name lack its own."""
    kept = names[ours]
    module, _, kind = ours.rpartition(".")
    if isinstance(kept, tuple) or kind != "weight" or module not in names:
        return False
    end = (kept if isinstance(kept, str) else kept.name).rpartition("{}")[2]
    return not any(name.endswith(end) for name in there)
