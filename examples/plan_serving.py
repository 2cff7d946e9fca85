"""Which layout of two cards serves an 8B model best, and what that rests on.

python examples/plan_serving.py [PAGE.html]
"""

import sys
from pathlib import Path

from pieria.plan.page import page
from pieria.plan.serve import serve
from pieria.plan.serve_options import EngineOptions, LayoutOptions, PlanOptions


def main(file: Path | None = None) -> None:
    wanted = PlanOptions(
        "llama-3.1-8b",
        device="mtt-s5000x2",
        workload="rate=4,input=uniform:500:1500,output=exponential:150,requests=100",
        slo="ttft=500ms,tpot=40ms",
    )
    reports = {
        str(layout): serve(wanted, layout, EngineOptions(quantize=("fp8",)))
        for layout in (LayoutOptions(tp=2), LayoutOptions(tp=1, dp=2))
    }
    for report in reports.values():
        (one,) = report.evaluated
        found, worst = one.summary, report.detail.worst
        assert worst is not None
        print(
            f"{one.label}:"
            f" TTFT {1e3 * found.ttft.p50:.0f} ms (at worst {1e3 * worst.ttft.p50:.0f}),"
            f" TPOT {1e3 * found.tpot.p50:.1f} ms (at worst {1e3 * worst.tpot.p50:.1f}),"
            f" {found.good_share:.0%} within {report.slo}"
        )
    best = max(reports.values(), key=lambda report: report.evaluated[0].summary.goodput)
    for number in best.assumptions:
        if number.inferred and number.low:
            print(f"inferred: {number.what} {number.value}, from {number.low} to {number.high}")
    if file is not None:
        file.write_text(page(best), encoding="utf-8")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
