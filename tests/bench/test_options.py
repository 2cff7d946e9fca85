"""What the load benchmarks refuse, and how options become what is sent and reported."""

import math
from pathlib import Path
from typing import Any

import pytest

from pieria.bench.options import ReportOptions, TrafficOptions, WorkloadOptions


@pytest.mark.parametrize(
    ("made", "options", "message"),
    [
        (WorkloadOptions, {"num_prompts": 0}, "num_prompts=0 must be at least 1"),
        (WorkloadOptions, {"random_range_ratio": 1.0}, "random_range_ratio=1.0 must be from 0"),
        (WorkloadOptions, {"dataset_name": "trace"}, "a trace needs a file"),
        (WorkloadOptions, {"dataset_path": Path("t")}, "only a trace takes one"),
        (WorkloadOptions, {"slowdown_factor": 0.0}, "slowdown_factor=0.0 must be above 0"),
        (TrafficOptions, {"base_url": "localhost"}, "must begin with http"),
        (TrafficOptions, {"base_url": "http://a", "port": 1}, "not both"),
        (TrafficOptions, {"port": 0}, "port=0 must be from 1"),
        (TrafficOptions, {"max_concurrency": (4, 0)}, "must be at least 1"),
        (TrafficOptions, {"request_rate": 0.0}, "request_rate=0.0 must be above 0"),
        (TrafficOptions, {"request_rate": math.nan}, "request_rate=nan must be above 0"),
        (TrafficOptions, {"burstiness": 0.0}, "burstiness=0.0 must be above 0"),
        (TrafficOptions, {"header": ("x",)}, "header='x' must be KEY=VALUE"),
        (TrafficOptions, {"header": ("x=a\r\nb",)}, "must be KEY=VALUE on one line"),
        (TrafficOptions, {"temperature": -1.0}, "temperature=-1.0 must be at least 0"),
        (ReportOptions, {"percentile_metrics": "ttft,ttfb"}, "'ttfb'; there are: ttft, tpot"),
        (ReportOptions, {"metric_percentiles": "50,x"}, "must be numbers, such as 50,99"),
        (ReportOptions, {"metric_percentiles": "101"}, "must be from 0 to 100"),
        (ReportOptions, {"goodput": ("ttft",)}, "'ttft' must be NAME:MILLISECONDS"),
        (ReportOptions, {"goodput": ("speed:1",)}, "'speed:1' must be one of ttft"),
        (ReportOptions, {"goodput": ("ttft:-1",)}, "'ttft:-1' must be one of"),
        (ReportOptions, {"plot": Path("a.txt")}, "must end in .png or .svg"),
        (ReportOptions, {"save_detailed": True}, "are for save_result"),
    ],
)
def test_what_is_refused(made: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(**options)


@pytest.mark.parametrize(
    ("options", "url"),
    [
        ({}, ""),
        ({"base_url": "http://a:1/"}, "http://a:1"),
        ({"port": 9}, "http://127.0.0.1:9"),
        ({"host": "h"}, "http://h:8000"),
    ],
)
def test_where_the_server_is(options: dict[str, Any], url: str) -> None:
    assert TrafficOptions(**options).url == url


def test_what_every_request_says() -> None:
    asked = TrafficOptions(header=("A=b=c",), extra_body='{"top_k": 3, "temperature": 1}')
    assert asked.headers == (("A", "b=c"),)
    assert asked.body == {"temperature": 1, "ignore_eos": True, "top_k": 3}
    assert TrafficOptions(ignore_eos=False).body == {"temperature": 0.0}


def test_limits_in_either_form() -> None:
    expected = {"ttft": 1.0, "tpot": 0.05}
    assert ReportOptions(goodput=("ttft:1000", "tpot:50")).limits == expected
    assert ReportOptions(goodput=("ttft:1000,tpot:50",)).limits == expected
    assert ReportOptions().limits == {}
