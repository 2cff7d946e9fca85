"""Two reports that several tests look at: of one way, and of a search."""

import pytest

from pieria.plan.serve import serve
from pieria.plan.serve_options import EngineOptions, LayoutOptions, PlanOptions
from pieria.plan.serve_report import ServeReport
from tests.plan import small

LOAD = "rate=30,input=200,output=20,requests=60"
SLO = "ttft=1s,tpot=50ms"


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The path of a small model's config."""
    return str(small.write(tmp_path_factory.mktemp("small")))


@pytest.fixture(scope="session")
def report(model: str) -> ServeReport:
    """On two cards, cut by tp."""
    return serve(PlanOptions(model, "mtt-s5000x2", workload=LOAD, slo=SLO), LayoutOptions())


@pytest.fixture(scope="session")
def searched(model: str) -> ServeReport:
    """All ways on two cards, in two formats."""
    options = PlanOptions(model, "mtt-s5000x2", workload=LOAD, slo=SLO, search=True)
    return serve(options, engine=EngineOptions(quantize=("bfloat16", "fp8")))
