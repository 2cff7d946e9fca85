"""Designs are read as they are written; what is wrong in one is told by file, line and key."""

from pathlib import Path

import pytest

from pieria.plan.design import Card, Design, Switches, load

EXAMPLES = Path(__file__).parents[2] / "examples"

SMALL = """\
name: small
cards: 16
card:
  ports: 8
  port_gbits: 200
switches:
  count: 8
  ports: 64
  port_gbits: 200
hops: 1
"""


def refused(text: str, tmp_path: Path) -> str:
    path = tmp_path / "design.yaml"
    path.write_text(text)
    with pytest.raises(ValueError) as error:
        load(path)
    return str(error.value).replace(str(path), "design.yaml")


def test_a_design_is_read(tmp_path: Path) -> None:
    path = tmp_path / "design.yaml"
    path.write_text(SMALL + "latency_ns: 400\nsemantics: [dma]\n")
    switches = Switches(count=8, ports=64, port_gbits=200.0)
    assert load(path) == Design(
        name="small",
        cards=16,
        card=Card(ports=8, port_gbits=200.0),
        switches=switches,
        hops=1,
        latency_ns=400.0,
        semantics=("dma",),
    )


def test_the_examples_are_read() -> None:
    cabinet, node = (load(EXAMPLES / f"{name}.yaml") for name in ("oisa_128", "node_8"))
    assert (cabinet.cards, cabinet.hops, cabinet.card.ports) == (128, 1, 10)
    assert cabinet.switches is not None and cabinet.switches.reduction is True
    assert (node.cards, node.hops, node.switches) == (8, 0, None)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("cards: 16", "card_s: 16", "design.yaml, line 2: unknown key card_s; did you mean cards?"),
        (
            "  count: 8",
            "  count: 8\n  latencyns: 5",
            "design.yaml, line 8: unknown key switches.latencyns; did you mean latency_ns?",
        ),
        (
            "  ports: 8",
            "  ports: 8\n  colour: red",
            "design.yaml, line 5: unknown key card.colour; there are: ports, port_gbits,"
            " bandwidth_gbytes, power_watts",
        ),
        ("  port_gbits: 200\nhops", "hops", "line 6: switches.port_gbits is missing"),
        ("hops: 1\n", "", "design.yaml, line 1: hops is missing"),
        (
            "cards: 16",
            "cards: many",
            "design.yaml, line 2: cards='many': input should be a valid integer",
        ),
        ("cards: 16", "cards: 16.5", "line 2: cards=16.5: input should be a valid integer"),
        ("cards: 16", "cards: true", "line 2: cards=True: input should be a valid integer"),
        ("cards: 16", "cards: 0", "line 2: cards=0: input should be greater than 0"),
        ("cards: 16", "cards: 1", "cards=1: there is nothing to join"),
        ("cards: 16", "cards:", "line 2: cards=None: input should be a valid integer"),
        ("  port_gbits: 200\nsw", "  port_gbits: fast\nsw", "line 5: card.port_gbits='fast': "),
        ("  port_gbits: 200\nsw", "  port_gbits: .nan\nsw", "line 5: card.port_gbits=nan: "),
        ("  port_gbits: 200\nsw", "  port_gbits: true\nsw", "line 5: card.port_gbits=True: "),
        ("hops: 1", "hops: 0", "hops=0: a full mesh, which has no `switches`, has 0"),
        ("hops: 1", "hops: 1\nsemantics: [dma, rma]", "line 11: semantics.1='rma': input should"),
        (
            "hops: 1",
            "hops: 1\nbackplane: wood",
            "line 11: backplane='wood': input should be 'cable'",
        ),
        ("hops: 1", "hops: 1\ncard: {}", 'line 11: found duplicate key "card"'),
        ("hops: 1", "hops: [1", "line 11: "),
        ("hops: 1", "hops: !!python/object/apply:os.getcwd []", "line 10: hops="),
    ],
)
def test_mistakes(old: str, new: str, message: str, tmp_path: Path) -> None:
    assert SMALL.count(old) == 1
    assert message in refused(SMALL.replace(old, new), tmp_path)


def test_every_mistake_is_told(tmp_path: Path) -> None:
    told = refused(SMALL.replace("cards: 16", "cards: x").replace("hops: 1", "hop: 1"), tmp_path)
    lines = told.splitlines()
    assert [line.split(":")[1] for line in lines] == [
        " cards='x'",
        " hops is missing",
        " unknown key hop; did you mean hops?",
    ]


@pytest.mark.parametrize("text", ["", "- 1\n- 2\n", "just words", "3"])
def test_what_is_no_design(text: str, tmp_path: Path) -> None:
    assert (
        refused(text, tmp_path) == "design.yaml: a design is keys and values, such as `cards: 128`"
    )


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.yaml")
    (tmp_path / "design.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="not a text file"):
        load(tmp_path / "design.yaml")
