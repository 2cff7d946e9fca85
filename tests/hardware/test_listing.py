"""Specs as rows and as JSON lose nothing of a number."""

import json
from dataclasses import replace

from pieria.hardware import catalog, listing
from pieria.hardware.spec import Fact, Quantity


def test_cells() -> None:
    inferred = Quantity(500e12, "FLOP/s", "half", 385e12, 1024e12, inferred=True)
    assert listing.Row("peak", inferred).cells() == (
        *("peak", "500 TFLOP/s", "385 TFLOP/s", "1024 TFLOP/s", "inferred", "half"),
    )
    said = Quantity(80 * 2**30, "B", "a sheet")
    assert listing.Row("memory", said).cells() == ("memory", "80 GiB", "", "", "", "a sheet")
    fact = listing.Row("mesh", Fact(True, "a test", inferred=True))
    assert fact.cells() == ("mesh", "yes", "", "", "inferred", "a test")
    assert len(listing.HEADINGS) == 6


def test_json_of_a_device_has_every_number() -> None:
    spec = catalog.device("mtt-s5000")
    found = json.loads(json.dumps(listing.device_json(spec)))
    assert found["name"] == "MTT S5000 (60 MPs, liquid)"
    numbers = {row["label"]: row for row in found["numbers"]}
    assert numbers["bfloat16 peak"] == {
        "label": "bfloat16 peak",
        "value": 500e12,
        "unit": "FLOP/s",
        "low": 385e12,
        "high": 1024e12,
        "inferred": True,
        "source": spec.flops["bfloat16"].source,
    }
    assert numbers["MTLink: copy engines"]["holds"] is True
    assert numbers["launch of a kernel"]["value"] == 6.258e-6
    assert all(row["source"] for row in found["numbers"])


def test_what_is_not_known_has_no_row() -> None:
    spec = replace(catalog.device("h100"), cache=None, links=())
    labels = [row.label for row in listing.device_rows(spec)]
    assert "last-level cache" not in labels
    assert labels[-1] == "power"


def test_a_cluster_tells_the_links_that_its_device_has_not() -> None:
    labels = [row.label for row in listing.cluster_rows(catalog.cluster("oisa-128"))]
    assert "OISA cabinet: bandwidth one way" in labels
    assert "OISA cabinet: latency of a switch" in labels
    node = [row.label for row in listing.cluster_rows(catalog.cluster("mtt-s5000"))]
    assert "MTLink mesh of 8: full mesh" in node
    assert "MTLink mesh of 8: bandwidth one way" not in node
    assert "RoCE, 400G network: bandwidth one way" in node
