"""Number lists and control groups as different machines and containers show them."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pieria.hardware.linux import control_groups, number_list, read, status
from tests.hardware.tree import MOUNTS, plant


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("0", {0}), ("0-3,8\n", {0, 1, 2, 3, 8}), ("2,5-6", {2, 5, 6}), ("", set()), ("\n", set())],
)
def test_number_lists(text: str, numbers: set[int]) -> None:
    assert number_list(text) == numbers


@given(st.sets(st.integers(0, 200)))
def test_a_number_list_reads_back(numbers: set[int]) -> None:
    assert number_list(",".join(map(str, sorted(numbers)))) == numbers


def test_files_and_status_entries_that_are_missing_are_none(tmp_path: Path) -> None:
    root = plant(tmp_path, {})
    assert read(root, "sys/devices/system/cpu/online") == "0-1"
    assert read(root, "sys/absent") is None
    assert status(root, "Cpus_allowed_list") == "0-1"
    assert status(root, "Cpus_allowed") is None


def folders(root: Path, controller: str = "memory") -> list[tuple[int, str]]:
    groups = control_groups(controller, root)
    return [(g.version, str(g.folder.relative_to(root))) for g in groups]


def test_nested_groups_of_version_2(tmp_path: Path) -> None:
    root = plant(tmp_path, {"proc/self/cgroup": "0::/user.slice/a.service\n"})
    assert folders(root) == [
        (2, "sys/fs/cgroup/user.slice/a.service"),
        (2, "sys/fs/cgroup/user.slice"),
        (2, "sys/fs/cgroup"),
    ]


def test_nested_groups_of_version_1_by_controller(tmp_path: Path) -> None:
    mounts = [MOUNTS[1].format(shown="/", name=name) for name in ("cpu,cpuacct", "memory")]
    root = plant(
        tmp_path,
        {
            "proc/self/cgroup": "5:cpuacct,cpu:/b\n4:memory:/a/b\n3:pids:/\n",
            "proc/self/mountinfo": "\n".join(mounts),
        },
    )
    assert folders(root, "memory") == [
        (1, "sys/fs/cgroup/memory/a/b"),
        (1, "sys/fs/cgroup/memory/a"),
        (1, "sys/fs/cgroup/memory"),
    ]
    assert folders(root, "cpu") == [
        (1, "sys/fs/cgroup/cpu,cpuacct/b"),
        (1, "sys/fs/cgroup/cpu,cpuacct"),
    ]


def test_both_versions_mounted_at_once(tmp_path: Path) -> None:
    hybrid = MOUNTS[2].format(shown="/").replace("/sys/fs/cgroup", "/sys/fs/cgroup/unified")
    root = plant(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/a\n0::/\n",
            "proc/self/mountinfo": MOUNTS[1].format(shown="/", name="memory") + "\n" + hybrid,
        },
    )
    assert folders(root) == [
        (1, "sys/fs/cgroup/memory/a"),
        (1, "sys/fs/cgroup/memory"),
        (2, "sys/fs/cgroup/unified"),
    ]


@pytest.mark.parametrize(
    ("shown", "path", "below"),
    [
        ("/docker/abc", "/docker/abc", [""]),
        ("/docker/abc", "/docker/abc/inner", ["/inner", ""]),
        ("/docker/abc", "/docker/abcdef", [""]),
        ("/docker/abc", "/elsewhere", [""]),
        ("/", "/../sibling", [""]),
    ],
)
def test_a_container_sees_the_tree_from_its_own_group(
    tmp_path: Path, shown: str, path: str, below: list[str]
) -> None:
    root = plant(
        tmp_path,
        {
            "proc/self/cgroup": f"0::{path}\n",
            "proc/self/mountinfo": MOUNTS[2].format(shown=shown),
        },
    )
    assert folders(root) == [(2, f"sys/fs/cgroup{folder}") for folder in below]


def test_escaped_mount_points(tmp_path: Path) -> None:
    mount = MOUNTS[2].format(shown="/").replace("/sys/fs/cgroup", "/sys/c\\040g")
    root = plant(tmp_path, {"proc/self/mountinfo": mount})
    assert folders(root) == [(2, "sys/c g")]


def test_a_machine_without_control_groups(tmp_path: Path) -> None:
    root = plant(tmp_path, {"proc/self/mountinfo": "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n"})
    assert folders(root) == []
