"""The least of the limits, on machines made up for the purpose and on this one."""

from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pieria.hardware import memory
from tests.hardware.tree import MOUNTS, plant

GIB = 2**30
GROUP = "sys/fs/cgroup"


def test_without_limits_the_kernels_own_estimate_counts(tmp_path: Path) -> None:
    root = plant(tmp_path, {})
    assert memory.total(root).value == 8 * GIB
    assert memory.available(root).value == 6 * GIB
    assert memory.available(root).source == "MemAvailable in /proc/meminfo"


def test_the_outer_group_can_be_the_narrow_one(tmp_path: Path) -> None:
    root = plant(
        tmp_path,
        {
            "proc/self/cgroup": "0::/outer/inner\n",
            f"{GROUP}/outer/inner/memory.max": "max\n",
            f"{GROUP}/outer/inner/memory.current": f"{GIB}\n",
            f"{GROUP}/outer/memory.max": f"{4 * GIB}\n",
            f"{GROUP}/outer/memory.current": f"{3 * GIB}\n",
            f"{GROUP}/outer/memory.stat": f"anon 5\ninactive_file {GIB // 2}\n",
        },
    )
    least = memory.available(root)
    assert least.value == 1.5 * GIB
    assert least.source == "what is left of the limit of /sys/fs/cgroup/outer"


def test_version_2_high_counts_as_a_limit(tmp_path: Path) -> None:
    root = plant(
        tmp_path,
        {
            f"{GROUP}/memory.max": f"{4 * GIB}",
            f"{GROUP}/memory.high": f"{3 * GIB}",
            f"{GROUP}/memory.current": f"{2 * GIB}",
        },
    )
    assert memory.available(root).value == GIB


@pytest.mark.parametrize(
    ("limit", "left"), [(9223372036854771712, 6 * GIB), (5 * GIB, 4 * GIB), (GIB // 2, 0)]
)
def test_version_1(tmp_path: Path, limit: int, left: int) -> None:
    folder = f"{GROUP}/memory/job"
    root = plant(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/job\n",
            "proc/self/mountinfo": MOUNTS[1].format(shown="/", name="memory"),
            f"{folder}/memory.limit_in_bytes": f"{limit}",
            f"{folder}/memory.usage_in_bytes": f"{3 * GIB}",
            f"{folder}/memory.stat": f"inactive_file 0\ntotal_inactive_file {2 * GIB}\n",
        },
    )
    assert memory.available(root).value == left


def test_only_the_nodes_it_may_use_count(tmp_path: Path) -> None:
    amounts = {
        "MemTotal": "4194304 kB",
        "MemFree": "1048576 kB",
        "Active(file)": "99 kB",
        "Inactive(file)": "524288 kB",
        "SReclaimable": "1024 kB",
        "HugePages_Free": "7",
    }
    files = {
        "proc/self/status": "Mems_allowed_list:\t1\n",
        "sys/devices/system/node/has_memory": "0-1\n",
        "sys/devices/system/node/node1/meminfo": "".join(
            f"Node 1 {name}: {amount}\n" for name, amount in amounts.items()
        ),
    }
    least = memory.available(plant(tmp_path, files))
    assert least.value == 1.5 * GIB + 2**20
    assert least.source == "free on the NUMA nodes it may use: 1"


def test_a_process_that_may_use_every_node_is_not_limited_by_them(tmp_path: Path) -> None:
    files = {
        "proc/self/status": "Mems_allowed_list:\t0-1\n",
        "sys/devices/system/node/has_memory": "0-1\n",
        "sys/devices/system/node/node0/meminfo": "Node 0 MemFree: 1 kB\n",
        "sys/devices/system/node/node1/meminfo": "Node 1 MemFree: 1 kB\n",
    }
    assert memory.available(plant(tmp_path, files)).value == 6 * GIB


@settings(max_examples=30)
@given(
    st.lists(
        st.tuples(
            st.one_of(st.none(), st.integers(0, 8 * GIB)),
            st.integers(0, 8 * GIB),
            st.integers(0, 8 * GIB),
        ),
        max_size=4,
    )
)
def test_the_least_of_any_chain(chain: list[tuple[int | None, int, int]]) -> None:
    """chain: (limit, use, reclaimable part) of each group, outermost first."""
    expected = [6 * GIB]
    files, path = {}, ""
    for depth, (limit, usage, inactive) in enumerate(chain):
        path += f"/{depth}"
        files[f"{GROUP}{path}/memory.max"] = "max" if limit is None else str(limit)
        files[f"{GROUP}{path}/memory.current"] = str(usage)
        files[f"{GROUP}{path}/memory.stat"] = f"inactive_file {inactive}"
        if limit is not None:
            expected.append(max(0, limit - max(0, usage - inactive)))
    files["proc/self/cgroup"] = f"0::{path or '/'}\n"
    with TemporaryDirectory() as folder:
        root = plant(Path(folder), files)
        assert memory.available(root).value == min(expected)
        assert len(memory.limits(root)) == len(expected)


def test_this_machine() -> None:
    assert memory.total().value == psutil.virtual_memory().total
    assert 0 < memory.available().value <= memory.total().value


def test_memory_is_taken_before_it_is_written_to(caplog: pytest.LogCaptureFixture) -> None:
    small, big = memory.zeros(3 << 20), memory.zeros(64 << 20)
    big[5 << 20] = 7
    before = memory.resident()
    pieces = memory.taken([small, big, memory.zeros(0)])
    with caplog.at_level("INFO"):
        count = sum(1 for _ in pieces)
    if caplog.text:
        pytest.skip("this system takes memory only when it is written to")
    assert count == 2 + 32
    assert 60 << 20 <= memory.resident() - before <= 68 << 20
    assert big[5 << 20] == 7 and int(big.sum()) == 7


def test_memory_that_cannot_be_taken_before(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(memory, "POPULATE_WRITE", 9999)
    with caplog.at_level("INFO"):
        assert list(memory.taken([memory.zeros(8 << 20)])) == []
    assert "taken as it is written to, since not before: Invalid argument" in caplog.text


def test_the_peak_of_some_work() -> None:
    """Also where the process had more before, and where less is left after."""
    big = bytearray(b"x") * (96 << 20)
    del big
    size = 48 << 20

    def work() -> None:
        made = bytearray(b"x") * size
        del made

    found = memory.peak(work)
    if found is None:
        pytest.skip("this system does not begin to count anew")
    assert size - (4 << 20) <= found <= size + (32 << 20)
    assert memory.peak(lambda: None) < 16 << 20  # type: ignore[operator]


def test_a_peak_that_cannot_be_told(tmp_path: Path) -> None:
    assert memory.peak(lambda: None, tmp_path) is None
