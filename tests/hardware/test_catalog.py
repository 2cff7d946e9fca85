"""Names as users write them become devices, clusters and counts."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pieria.hardware import catalog

NAMES = [*catalog.device_names(), *catalog.cluster_names()]


def test_what_the_project_promises_is_there() -> None:
    promised = "mtt-s5000 mtt-s5000-air mtt-s5000-56 mtt-s5000-56-air mtt-s4000 h100 h200 h800 h20"
    promised += " a100-sxm-80 a100-sxm-40 a100-pcie-80 a100-pcie-40 b200 b300 gb200 gb300 rtx-4090"
    promised += " rtx-pro-6000 ascend-910c"
    assert set(catalog.device_names()) == set(promised.split())
    clusters = {"oisa-128", "oisa-256", "oisa-1024", "cloudmatrix-384"}
    assert set(catalog.cluster_names()) == clusters


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("mtt-s5000", "mtt-s5000"),
        ("MTT S5000", "mtt-s5000"),
        ("s5000", "mtt-s5000"),
        ("Moore Threads MTT_S5000", "mtt-s5000"),
        ("S5000 56 air", "mtt-s5000-56-air"),
        ("h200", "h200"),
        ("h200_sxm", "h200"),
        ("NVIDIA H200", "h200"),
        ("H100-80GB SXM", "h100"),
        ("H100-80GB SXM (700W)", "h100"),
        ("H100 80GB HBM3", "h100"),
        ("H100-80GB 8x node", "h100"),
        ("a100", "a100-sxm-80"),
        ("A100-SXM4-40GB", "a100-sxm-40"),
        ("A100-PCIe 80GB", "a100-pcie-80"),
        ("A100 80GB PCIe", "a100-pcie-80"),
        ("B200 180GB", "b200"),
        ("DGX-GB200", "gb200"),
        ("GeForce RTX 4090", "rtx-4090"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "rtx-pro-6000"),
        ("910C", "ascend-910c"),
    ],
)
def test_names(written: str, name: str) -> None:
    assert catalog.counted(written) == (name, None)
    assert catalog.device(written) is catalog.device(name)


def test_a_device_stands_for_what_it_usually_comes_in() -> None:
    for name in catalog.device_names():
        assert catalog.cluster(name).device is catalog.device(name)
    assert catalog.cluster("OISA 128").device is catalog.device("mtt-s5000")


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("virtual:mtt-s5000", ("mtt-s5000", None)),
        ("virtual:mtt-s5000x8", ("mtt-s5000", 8)),
        ("Virtual:S5000 X 16", ("mtt-s5000", 16)),
        ("8x H100", ("h100", 8)),
        ("h200-x2", ("h200", 2)),
        ("cloudmatrix384", ("cloudmatrix-384", None)),
        ("cloudmatrix384x1000", ("cloudmatrix-384", 1000)),
    ],
)
def test_counts(written: str, found: tuple[str, int | None]) -> None:
    assert catalog.counted(written) == found


@given(st.sampled_from(NAMES), st.integers(1, 10**5), st.sampled_from(["", "virtual:"]), st.data())
def test_any_spelling(name: str, count: int, prefix: str, data: st.DataObject) -> None:
    """Whatever the case, and whatever stands between the words."""
    between = data.draw(st.text(" -_./", min_size=1, max_size=2))
    written = re.sub(r"[^a-z0-9]", between, name)
    written = data.draw(st.sampled_from([written, written.upper(), written.title()]))
    assert catalog.counted(f"{prefix}{written}") == (name, None)
    assert catalog.counted(f"{prefix}{written}x{count}") == (name, count)


def test_unknown_names_are_told_with_close_ones() -> None:
    with pytest.raises(ValueError) as refused:
        catalog.device("h2000")
    assert str(refused.value) == "no device is called 'h2000'; did you mean h200, h20, h800"
    with pytest.raises(ValueError) as refused:
        catalog.cluster("abacus")
    told = str(refused.value)
    assert told.startswith("no device or cluster is called 'abacus'; there are: mtt-s5000, ")
    assert all(name in told for name in NAMES)
    with pytest.raises(ValueError, match="'S5000x0' asks for no cards; mtt-s5000x8 would be eight"):
        catalog.counted("S5000x0")
    for name in ("", "x8", "virtual:", "8x"):
        with pytest.raises(ValueError, match="no device or cluster is called"):
            catalog.counted(name)
    with pytest.raises(ValueError, match="no device is called 'oisa-128'"):
        catalog.device("oisa-128")
