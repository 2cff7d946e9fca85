"""Writes the table of errors that comes with the planner.

    python -m benchmarks.published_errors CSV

CSV: published measurements, as `pieria.plan.published` reads them.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import pieria.plan
from pieria.plan.compare import compare
from pieria.plan.errors import FILE, summed
from pieria.plan.published import rows


def main(arguments: list[str]) -> None:
    (csv,) = arguments
    found = [asdict(row) for row in summed(compare(rows(Path(csv))))]
    lines = ",\n  ".join(json.dumps(row) for row in found)
    (Path(pieria.plan.__path__[0]) / FILE).write_text(f"[\n  {lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
