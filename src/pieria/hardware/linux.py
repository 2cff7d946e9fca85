"""Reading Linux's /proc and /sys: lists of numbers, and the control groups of this process.

Knows where files are and how they are written, for both versions of control groups; what they mean
is for others. Everything takes the folder in which to look for /proc and /sys.
"""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/")


def read(root: Path, name: str) -> str | None:
    """A file's content without the final newline; None where there is no such file."""
    file = root / name
    return file.read_text().strip() if file.is_file() else None


def number_list(text: str) -> frozenset[int]:
    """The numbers in a list such as "0-3,8"."""
    numbers: set[int] = set()
    for part in text.strip().split(","):
        if part:
            first, _, last = part.partition("-")
            numbers.update(range(int(first), int(last or first) + 1))
    return frozenset(numbers)


def status(root: Path, name: str) -> str | None:
    """One entry of /proc/self/status."""
    for line in (root / "proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return line.partition(":")[2].strip()
    return None


@dataclass(frozen=True)
class ControlGroup:
    """One group's folder. version: 1 or 2, which name their files differently."""

    version: int
    folder: Path


def control_groups(controller: str, root: Path = ROOT) -> list[ControlGroup]:
    """The groups that limit this process in `controller` ("memory", "cpu"), inner before outer.

    A limit holds in each of them.
    """
    mounts, groups = read(root, "proc/self/mountinfo"), []
    paths = _paths(read(root, "proc/self/cgroup") or "")
    for line in (mounts or "").splitlines():
        fields, _, rest = line.partition(" - ")
        kind, _, options = rest.split(" ", 2)
        if kind == "cgroup2":
            version, path = 2, paths.get("")
        elif kind == "cgroup" and controller in options.split(","):
            version, path = 1, paths.get(controller)
        else:
            continue
        if path is not None:
            shown, mount = (_unescape(text) for text in fields.split(" ")[3:5])
            groups += [ControlGroup(version, f) for f in _folders(root, mount, shown, path)]
    return groups


def _paths(text: str) -> dict[str, str]:
    """This process's path by controller; "" is version 2's single tree."""
    paths = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            paths[controller] = path
    return paths


def _folders(root: Path, mount: str, shown: str, path: str) -> list[Path]:
    """From the process's folder up to the mount, which shows the tree below `shown`."""
    top = root / mount.lstrip("/")
    # In a container the tree may be mounted from the container's own group downwards, and a path
    # outside of it is written with "..": then only the mount itself is known to be above us.
    shown = shown.rstrip("/")
    inside = ".." not in path and (path == shown or path.startswith(shown + "/"))
    folder = top / path[len(shown) :].strip("/") if inside else top
    folders = [folder]
    while folder != top:
        folder = folder.parent
        folders.append(folder)
    return folders


def _unescape(text: str) -> str:
    """mountinfo writes spaces and such as octal escapes."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
