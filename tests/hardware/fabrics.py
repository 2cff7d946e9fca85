"""A mesh of eight cards and a network of switches, for tests."""

from dataclasses import replace

from pieria.hardware.fabric import Fabric
from pieria.hardware.spec import Fact, Link, Quantity

YES, NO = Fact(True, "a test"), Fact(False, "a test")
LINK = Link(
    "Wire",
    Quantity(392e9, "B/s", "a test"),
    Quantity(0.5e-6, "s", "a test"),
    Quantity(0.5, "", "a guess", 0.25, 0.75, inferred=True),
    NO,
)
MESH = Fabric(
    "mesh",
    mesh=YES,
    link=LINK,
    cards=Quantity(8, "", "a test"),
    hops=Quantity(0, "", "a test"),
    switch_latency=Quantity(0, "s", "a test"),
    reduction=NO,
)
SWITCHED = replace(
    MESH,
    name="switched",
    mesh=NO,
    cards=None,
    hops=Quantity(3, "", "a guess", 1, 5, inferred=True),
    switch_latency=Quantity(0.2e-6, "s", "a test", 0.1e-6, 0.3e-6),
    reduction=YES,
)
