"""From a weight's name here to the tensors in files that it is read from."""

import pytest

from pieria.models.names import Names, Source, place, source, sources

NAMES: Names = {
    "embed": "wte",
    "layers.{}.mlp.up": Source("h.{}.gate_up", 1, 2),
    "layers.{}.mixer.sinks.weight": "h.{}.attn.sinks",
    "layers.{}.mlp.experts.up": "h.{}.experts.{e}.up",
    "layers.{}.mlp.experts.down": Source("h.{}.experts.{e}.both", 1, 2, dim=1),
    "layers.{}.mlp.experts.gate.weight": (Source("h.{}.wide", 0, 2), Source("h.{}.wide", 1, 2)),
    "layers.{}.mlp.router": "h.{}.gate",
    "layers.{}.mlp.router.selection_bias": "h.{}.gate.correction",
}


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("embed.weight", Source("wte.weight")),
        ("layers.12.mlp.up.bias", Source("h.12.gate_up.bias", 1, 2)),
        ("layers.3.mixer.sinks.weight", Source("h.3.attn.sinks")),
        ("layers.0.mlp.router.weight", Source("h.0.gate.weight")),
        ("layers.0.mlp.router.selection_bias", Source("h.0.gate.correction")),
    ],
)
def test_a_module_has_its_weights_and_a_weight_may_have_its_own_name(
    name: str, wanted: Source
) -> None:
    assert source(name, NAMES) == wanted


def test_each_expert_has_a_source() -> None:
    found = sources("layers.7.mlp.experts.up.weight", NAMES, 3)
    assert found == tuple(Source(f"h.7.experts.{e}.up.weight") for e in range(3))
    found = sources("layers.7.mlp.experts.down.weight", NAMES, 2)
    assert found == tuple(Source(f"h.7.experts.{e}.both.weight", 1, 2, dim=1) for e in range(2))
    halves = sources("layers.7.mlp.experts.gate.weight", NAMES, 2)
    assert halves == (Source("h.7.wide", 0, 2), Source("h.7.wide", 1, 2))


@pytest.mark.parametrize(
    ("kept", "stored", "rows"),
    [
        (Source("a"), (4, 6, 8), range(4)),
        (Source("a", 1, 3), (12, 6, 8), range(4, 8)),
        (Source("a", 0, 2, dim=1), (4, 12, 8), range(6)),
        (Source("a", 1, 2, dim=1, interleaved=True), (4, 12, 8), range(1, 12, 2)),
        (Source("a", transposed=True), (4, 8, 6), range(4)),
        (Source("a", 1, 2, dim=1, transposed=True), (4, 8, 12), range(6, 12)),
    ],
)
def test_places_in_files(kept: Source, stored: tuple[int, ...], rows: range) -> None:
    """Of a weight of 4 x 6 x 8: the tensor's shape, and which of its rows are this weight's."""
    shape = (4, 6, 8)
    assert isinstance(kept.of, int)
    found = place(kept, shape, [shape[kept.dim]] * kept.of, 1)
    assert found.stored == stored
    whole = found.shape[found.dim]
    turns = range(0, whole, found.every)
    assert [t + found.first + i for t in turns for i in range(found.size)] == list(rows)
