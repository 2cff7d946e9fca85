import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pieria.parallel.mesh import AXES, Group, Mesh

sizes = st.integers(1, 3)


@st.composite
def meshes(draw: st.DrawFn) -> Mesh:
    made = Mesh(**{axis: draw(sizes) for axis in AXES})
    return replace(made, rank=draw(st.integers(0, made.size - 1)))


@given(meshes(), st.sampled_from(AXES))
def test_groups_along_an_axis_partition_the_ranks(mesh: Mesh, axis: str) -> None:
    groups = {replace(mesh, rank=r).ranks(axis) for r in range(mesh.size)}
    assert sorted(r for group in groups for r in group) == list(range(mesh.size))
    assert {len(group) for group in groups} == {getattr(mesh, axis)}


@given(meshes())
def test_a_rank_is_where_its_groups_say(mesh: Mesh) -> None:
    for axis in AXES:
        group = mesh.group(axis)
        assert group.ranks[group.index] == mesh.rank
    shared = [set(mesh.ranks(axis)) for axis in AXES]
    assert set.intersection(*shared) == {mesh.rank}


def test_neighbours_share_tensors() -> None:
    mesh = Mesh(dp=2, pp=2, tp=2, rank=5)
    assert mesh.ranks("tp") == (4, 5)
    assert mesh.ranks("pp") == (5, 7)
    assert mesh.ranks("dp") == (1, 5)
    assert mesh.group("tp") == Group("tp", (4, 5), 1)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"tp": 0}, "mesh size tp=0 must be at least 1"),
        ({"tp": 2, "ep": 2, "rank": 4}, "rank 4 is outside of a mesh of 4 ranks"),
    ],
)
def test_a_bad_mesh_is_refused(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Mesh(**sizes)
