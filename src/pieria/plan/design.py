"""The design of a super-node as its author writes it: a YAML file of cards, ports, switches, power.

Knows the keys and their units, and where in the file each one stood. Does not know whether the
design holds together; `plan.check` does.
"""

from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError

Count = Annotated[int, Field(gt=0, lt=10**6, strict=True)]
Number = Annotated[float, Field(gt=0, lt=1e9, strict=True)]
Flag = Annotated[bool, Field(strict=True)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Card(_Part):
    """One card. Rates are one way; `bandwidth_gbytes` is what is claimed, both ways together."""

    ports: Count
    """How many ports of the interconnect it has."""
    port_gbits: Number
    """10^9 bits/s of a port, one way."""
    bandwidth_gbytes: Number | None = None
    """10^9 bytes/s that the design claims for a card, both ways together."""
    power_watts: Number | None = None


class Switches(_Part):
    """All switches of the interconnect, of one kind."""

    count: Count
    ports: Count
    port_gbits: Number
    capacity_tbits: Number | None = None
    """10^12 bits/s that one forwards, each bit counted once."""
    latency_ns: Number | None = None
    """Of one pass through one switch."""
    reduction: Flag | None = None
    """Whether it adds up what passes it."""
    power_watts: Number | None = None


class Design(_Part):
    """A super-node. What is None was not stated."""

    name: Annotated[str, Field(min_length=1, strict=True)]
    cards: Count
    cabinets: Count = 1
    card: Card
    switches: Switches | None = None
    """None: the cards are wired to each other, in a full mesh."""
    hops: Annotated[int, Field(ge=0, le=9, strict=True)]
    """Switches between the farthest two cards: 0, or 1, 3, 5 in one, two, three layers."""
    latency_ns: Number | None = None
    """Claimed from card to card, one way, the farthest two."""
    serdes_gbits: Number | None = None
    """The rate of a lane as its generation is called: 25, 56, 112, 224."""
    backplane: Literal["cable", "board", "optical"] | None = None
    semantics: tuple[Literal["load_store", "dma"], ...] | None = None
    retransmission: tuple[Literal["link", "transaction"], ...] | None = None
    flow_control: tuple[Literal["credit", "pfc"], ...] | None = None
    power_kilowatts: Number | None = None
    """Of all of it: cards, hosts, switches, and what cools them inside."""
    cooling: Literal["air", "liquid"] | None = None

    @model_validator(mode="after")
    def _mesh_or_switched(self) -> "Design":
        if (self.switches is None) != (self.hops == 0):
            raise PydanticCustomError(
                "hops",
                "hops={hops}: a full mesh, which has no `switches`, has 0; else 1 or more",
                {"hops": self.hops},
            )
        if self.cards == 1:
            raise PydanticCustomError("cards", "cards=1: there is nothing to join", {})
        return self


def load(path: Path) -> Design:
    """The design in a YAML file.

    ValueError, naming file, line and key, for YAML that cannot be read, keys that are unknown,
    missing or twice there, and values of a wrong kind.
    """
    yaml = YAML(typ="rt", pure=True)
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"))
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark is not None else ""
        raise ValueError(f"{path}{line}: {error.problem or error.context}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text file: {error}") from None
    if not isinstance(tree, CommentedMap):
        raise ValueError(f"{path}: a design is keys and values, such as `cards: 128`")
    try:
        return Design.model_validate(tree)
    except ValidationError as error:
        problems = [_problem(tree, problem) for problem in error.errors()]
        raise ValueError("\n".join(f"{path}, {problem}" for problem in problems)) from None


def _problem(tree: CommentedMap, problem: Any) -> str:
    """Line, key and what is wrong with it, of one of pydantic's errors."""
    where = problem["loc"]
    key = ".".join(str(part) for part in where)
    line = _line(tree, where)
    if problem["type"] == "extra_forbidden":
        known = _keys(where[:-1])
        close = get_close_matches(str(where[-1]), known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are: {', '.join(known)}"
        return f"line {line}: unknown key {key}; {hint}"
    if problem["type"] == "missing":
        return f"line {line}: {key} is missing"
    message = problem["msg"][0].lower() + problem["msg"][1:]
    value = "" if not key else f"{key}={problem['input']!r}: "
    return f"line {line}: {value}{message}"


def _line(tree: Any, where: tuple[int | str, ...]) -> int:
    """The line of a key or item, counted from 1; of what should hold it, where it is missing."""
    line = 1
    for part in where:
        if isinstance(tree, CommentedMap) and part in tree:
            line = tree.lc.key(part)[0] + 1
        elif isinstance(tree, CommentedSeq) and isinstance(part, int) and part < len(tree):
            line = tree.lc.item(part)[0] + 1
        else:
            return line
        tree = tree[part]
    return line


def _keys(where: tuple[int | str, ...]) -> list[str]:
    """The keys of the part of a design that stands there."""
    parts: dict[str, type[_Part]] = {"card": Card, "switches": Switches}
    return list(parts.get(str(where[0]) if where else "", Design).model_fields)
