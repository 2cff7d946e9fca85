"""Designs against what is public of OISA, and against what their own numbers add up to."""

from pathlib import Path
from typing import Any

import pytest

from pieria.plan.check import Line, check
from pieria.plan.design import Card, Design, load

EXAMPLES = Path(__file__).parents[2] / "examples"
CABINET = load(EXAMPLES / "oisa_128.yaml")
NODE = load(EXAMPLES / "node_8.yaml")

NOT_PUBLIC = [
    *("power", "cooling", "latency of a switch", "ports of a card"),
    "share of payload on the wire",
]


def changed(design: Design, **changes: Any) -> Design:
    """With other values; "card.ports" is a key of a part."""
    tree = design.model_dump()
    for key, value in changes.items():
        *parts, last = key.split("__")
        part = tree
        for name in parts:
            part = part[name]
        part[last] = value
    return Design.model_validate(tree)


def verdicts(design: Design) -> dict[str, str]:
    lines = check(design)
    found = {line.subject: line.verdict for line in lines}
    assert len(found) == len(lines), "a subject stands twice"
    return found


def line(design: Design, subject: str) -> Line:
    return next(line for line in check(design) if line.subject == subject)


def test_the_cabinet_meets_all_that_is_public() -> None:
    found = verdicts(CABINET)
    assert [s for s, verdict in found.items() if verdict == "not public"] == NOT_PUBLIC
    assert {v for s, v in found.items() if s not in NOT_PUBLIC} == {"met"}
    assert len(found) == 30


def test_a_node_of_eight_is_no_super_node() -> None:
    found = verdicts(NODE)
    assert [s for s, verdict in found.items() if verdict == "not met"] == [
        "cards in a cabinet",
        "one card to one other, 1.1",
        "bandwidth of a card, 2.0",
    ]
    assert found["cards in a direct mesh"] == "met"
    assert found["claimed bandwidth"] == "met"
    assert found["ports for a full mesh"] == "met"
    assert found["latency card to card"] == "not stated"
    assert line(NODE, "one card to one other, 1.1").found == "112 GB/s"
    assert line(NODE, "bandwidth of a card, 2.0").found == "784 GB/s"


def test_every_line_has_all_its_parts() -> None:
    for design in (CABINET, NODE):
        for one in check(design):
            assert all((one.subject, one.asked, one.found, one.source)), one
            assert (one.found == "-") <= (one.verdict in ("not stated", "not public"))


def test_the_first_generations_figures_agree_with_each_other() -> None:
    """128 cards on 8 switches of 128 ports at 51.2 Tb/s do get 800 GB/s, in and out together."""
    design = changed(
        CABINET,
        card__ports=8,
        card__bandwidth_gbytes=800.0,
        switches__count=8,
        switches__capacity_tbits=51.2,
    )
    found = verdicts(design)
    assert found.pop("one card to one other, 1.1") == "not met"
    assert found.pop("bandwidth of a card, 2.0") == "not met"
    assert "not met" not in found.values()


def test_the_sites_example_holds_together() -> None:
    """256 cards of 8 ports at 200 Gb/s on switches of 51.2 Tb/s."""
    design = changed(
        CABINET,
        cards=256,
        cabinets=2,
        card__ports=8,
        card__port_gbits=200.0,
        card__bandwidth_gbytes=None,
        switches__count=8,
        switches__ports=256,
        switches__port_gbits=200.0,
        power_kilowatts=320.0,
    )
    found = verdicts(design)
    for subject in ("cards within reach", "ports of all switches", "capacity of a switch"):
        assert found[subject] == "met"
    assert line(design, "cards within reach").found.startswith("at most 256 ")


@pytest.mark.parametrize(
    ("changes", "broken"),
    [
        ({"cabinets": 2}, ["cards in a cabinet"]),
        ({"card__bandwidth_gbytes": 1200.0}, ["claimed bandwidth"]),
        ({"latency_ns": 1100.0}, ["latency card to card"]),
        ({"latency_ns": 250.0}, ["claimed latency"]),
        ({"latency_ns": 90.0, "switches__latency_ns": None}, ["claimed latency"]),
        ({"serdes_gbits": 40.0}, ["lanes"]),
        ({"serdes_gbits": 224.0}, []),
        ({"serdes_gbits": 25.0}, ["lanes of a port"]),
        ({"backplane": "board"}, ["backplane"]),
        ({"semantics": ("dma",)}, ["transactions"]),
        ({"retransmission": ("link",)}, ["retransmission"]),
        ({"flow_control": ()}, ["flow control"]),
        ({"switches__reduction": False}, ["collectives in the switch"]),
        ({"power_kilowatts": 120.0}, ["claimed power"]),
        (
            {"switches__capacity_tbits": 25.6},
            ["capacity of a switch, generation 1", "capacity of a switch"],
        ),
        (
            {"switches__port_gbits": 200.0, "switches__capacity_tbits": 51.2},
            ["rate of a switch's ports"],
        ),
        ({"switches__count": 9}, ["cards within reach", "ports of all switches"]),
        (
            {"switches__ports": 64, "switches__capacity_tbits": None},
            ["capacity of a switch, generation 1", "cards within reach", "ports of all switches"],
        ),
        ({"hops": 2}, ["layers of switches", "switches passed", "ports of all switches"]),
        ({"hops": 3}, ["layers of switches", "ports of all switches", "claimed latency"]),
        (
            {
                "cards": 2048,
                "cabinets": 16,
                "hops": 3,
                "switches__count": 480,
                "latency_ns": 999.0,
                "power_kilowatts": 4000.0,
            },
            ["cards in a domain"],
        ),
        (
            {
                "cards": 1024,
                "cabinets": 8,
                "hops": 3,
                "switches__count": 240,
                "latency_ns": 999.0,
                "power_kilowatts": 2000.0,
            },
            [],
        ),
        (
            {
                "cards": 16384,
                "cabinets": 128,
                "hops": 3,
                "switches__count": 4000,
                "latency_ns": 999.0,
                "power_kilowatts": 30000.0,
            },
            ["cards in a domain", "cards within reach"],
        ),
    ],
)
def test_what_a_change_breaks(changes: dict[str, Any], broken: list[str]) -> None:
    found = verdicts(changed(CABINET, **changes))
    assert [subject for subject, verdict in found.items() if verdict == "not met"] == broken


@pytest.mark.parametrize(
    ("cards", "ports", "divides", "public"),
    [(8, 14, True, True), (8, 16, False, True), (15, 14, True, False), (2, 14, True, True)],
)
def test_a_mesh_needs_as_many_ports_to_each_peer(
    cards: int, ports: int, divides: bool, public: bool
) -> None:
    found = verdicts(changed(NODE, cards=cards, card__ports=ports, power_kilowatts=40.0))
    assert (found["ports for a full mesh"] == "met") == divides
    assert (found["cards in a direct mesh"] == "met") == public


def test_what_is_not_stated() -> None:
    design = Design(name="bare", cards=4, card=Card(ports=3, port_gbits=100.0), hops=0)
    found = verdicts(design)
    assert [s for s, verdict in found.items() if verdict == "not stated"] == [
        *("latency card to card", "lanes", "backplane", "transactions", "retransmission"),
        "flow control",
    ]
    assert [s for s, verdict in found.items() if verdict == "not public"] == NOT_PUBLIC
    assert "claimed power" not in found and "claimed bandwidth" not in found


def test_power_is_set_beside_that_of_others() -> None:
    power = line(CABINET, "power")
    assert power.found == "160 kW, 1.25 a card"
    assert power.asked.endswith("1.34 to 2.73 kW a card")
