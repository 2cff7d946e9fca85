"""Devices and clusters by name, as users write them; their specs are in `specs/`.

    device("h200_sxm")               -> DeviceSpec
    cluster("mtt-s5000")             -> ClusterSpec: what this device usually comes in
    cluster("oisa-128")              -> ClusterSpec
    counted("virtual:mtt-s5000x8")   -> ("mtt-s5000", 8)

Names match whatever their case and punctuation, the order of their words, and vendors in them.
"""

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Protocol, TypeVar

from pieria.hardware import VIRTUAL
from pieria.hardware.cluster import ClusterSpec
from pieria.hardware.spec import DeviceSpec
from pieria.hardware.specs import ampere, ascend, blackwell, hopper, mtt, oisa, rtx

T = TypeVar("T")


class Family(Protocol):
    """What a file of `specs/` offers. ALIASES may name devices and clusters."""

    @property
    def DEVICES(self) -> Mapping[str, DeviceSpec]: ...
    @property
    def ALIASES(self) -> Mapping[str, str]: ...
    @property
    def CLUSTERS(self) -> Mapping[str, ClusterSpec]: ...


_FAMILIES: tuple[Family, ...] = (mtt, oisa, hopper, ampere, blackwell, rtx, ascend)

_IGNORED = frozenset(
    {
        *("nvidia", "geforce", "moore", "threads", "huawei", "blackwell", "hopper", "gpu"),
        *("tensor", "core", "dgx", "hgx", "kuae", "node", "server", "edition", "roce"),
        *("hbm2", "hbm2e", "hbm3", "hbm3e"),
    }
)
"""Words that tell no two specs apart; counts ("8x") and watts ("700w") do not either."""


def device_names() -> list[str]:
    """Each device once, by its first name."""
    return [name for family in _FAMILIES for name in family.DEVICES]


def cluster_names() -> list[str]:
    """Clusters with a name other than their device's."""
    devices = set(device_names())
    return [name for family in _FAMILIES for name in family.CLUSTERS if name not in devices]


def device(name: str) -> DeviceSpec:
    """ValueError naming what is close, or all that there are."""
    return _find(name, "device", (family.DEVICES for family in _FAMILIES))


def cluster(name: str) -> ClusterSpec:
    """By its own name or its device's. ValueError naming what is close, or all that there are."""
    return _find(name, "device or cluster", (family.CLUSTERS for family in _FAMILIES))


def counted(text: str) -> tuple[str, int | None]:
    """The device's or cluster's first name, and how many cards of it; None: it does not say.

    "virtual:" may stand before it, and a count with an "x" before or after it. ValueError for
    unknown names and for a count of 0.
    """
    known = _known(family.CLUSTERS for family in _FAMILIES)
    asked = text.strip()
    if asked.lower().startswith(VIRTUAL):
        asked = asked[len(VIRTUAL) :]
    for form in (r"(?P<name>.+?)[\s_:*-]*x\s*(?P<count>\d+)", r"(?P<count>\d+)\s*x\s*(?P<name>.+)"):
        split = re.fullmatch(form, asked, re.IGNORECASE)
        found = split and _match(split["name"], known)
        if split and found:
            if int(split["count"]) == 0:
                raise ValueError(f"{text!r} asks for no cards; {found}x8 would be eight")
            return found, int(split["count"])
    return _name(asked, "device or cluster", known), None


def _find(name: str, what: str, tables: Iterable[Mapping[str, T]]) -> T:
    merged = {key: value for table in tables for key, value in table.items()}
    return merged[_name(name, what, _known([merged]))]


def _known(tables: "Iterable[Mapping[str, object]]") -> dict[str, str]:
    """Every spelling of every name in the tables -> the name."""
    names = {name: name for table in tables for name in table}
    for family in _FAMILIES:
        for alias, name in family.ALIASES.items():
            if name in names:
                names[alias] = name
    return {spelling: name for alias, name in names.items() for spelling in _spellings(alias)}


def _spellings(name: str) -> tuple[str, str]:
    """What a name is compared by: its words together, as they stand and in order."""
    words = [
        word
        for word in re.findall(r"[a-z0-9]+", name.casefold())
        if word not in _IGNORED and not re.fullmatch(r"\d+[xw]", word)
    ]
    return "".join(words), "".join(sorted(words))


def _match(name: str, known: Mapping[str, str]) -> str | None:
    return next((known[spelling] for spelling in _spellings(name) if spelling in known), None)


def _name(name: str, what: str, known: Mapping[str, str]) -> str:
    found = _match(name, known)
    if found is not None:
        return found
    close = get_close_matches(_spellings(name)[0], known, n=4, cutoff=0.6)
    names = list(dict.fromkeys(known[spelling] for spelling in close))
    hint = "did you mean " if names else "there are: "
    names = names or list(dict.fromkeys(known.values()))
    raise ValueError(f"no {what} is called {name!r}; {hint}{', '.join(names)}")
