"""The files for running a server: valid where a tool can tell, and their options are real."""

import configparser
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from prometheus_client.parser import text_string_to_metric_families
from ruamel.yaml import YAML

from pieria import cli
from pieria.engine.messages import Stats
from pieria.server.api import ROUTES
from pieria.server.limits import Account
from pieria.server.metrics import Metrics
from tests.server.fakes import Toy

DEPLOY = Path(__file__).parents[2] / "deploy"


def manifests() -> list[dict[str, Any]]:
    return list(YAML(typ="safe").load_all(DEPLOY / "kubernetes.yaml"))


def docker(word: str) -> list[str]:
    """The rest of each line of a Dockerfile that begins with this word."""
    text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")
    return re.findall(rf"^\s*{word} (.*)$", text, re.MULTILINE)


def unit() -> dict[str, str]:
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(DEPLOY / "pieria.service")
    return dict(parser["Service"])


def is_command(words: list[str]) -> None:
    """SystemExit if an option is not one."""
    assert words[0].endswith("/pieria")
    options = cli._parser().parse_args(words[1:])
    assert options.run is cli.serve


@pytest.mark.parametrize("manifest", manifests(), ids=lambda m: m["kind"])
def test_manifests_are_kubernetes(manifest: dict[str, Any]) -> None:
    kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


def test_a_manifest_that_is_wrong_is_seen() -> None:
    wrong = manifests()[2]
    wrong["spec"]["templates"] = wrong["spec"].pop("template")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, kubernetes_validate.latest_version(), strict=True)


def test_pods_run_what_the_image_has_with_probes_that_are_routes() -> None:
    [deployment] = [m for m in manifests() if m["kind"] == "Deployment"]
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    is_command([*json.loads(docker("ENTRYPOINT")[0]), *container["args"]])
    public = {route.path for route in ROUTES if route.access == "public"}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["path"] in public
    [scaler] = [m for m in manifests() if m["kind"] == "HorizontalPodAutoscaler"]
    name = scaler["spec"]["metrics"][0]["pods"]["metric"]["name"]
    assert name.replace("_", ":", 1) in measured()


def test_the_image() -> None:
    assert docker("USER") == ["10001:10001"]
    is_command([*json.loads(docker("ENTRYPOINT")[0]), *json.loads(docker("CMD")[-1])])
    assert "/health" in docker("HEALTHCHECK")[0]


def test_the_service(tmp_path: Path) -> None:
    service = unit()
    is_command(shlex.split(service["ExecStart"]))
    tool = shutil.which("systemd-analyze")
    if tool is None:
        return
    # Its programs are not here; all else is looked at.
    text = re.sub(
        r"^ExecStart=.*",
        "ExecStart=/bin/true",
        (DEPLOY / "pieria.service").read_text(),
        flags=re.MULTILINE,
    )
    path = tmp_path / "pieria.service"
    path.write_text(text)
    done = subprocess.run(
        [tool, "verify", "--man=no", str(path)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def measured() -> set[str]:
    class Engine:
        stats = Stats()
        restarts = 0
        tokens_per_second = 0.0

    toy = Toy()
    metrics = Metrics("toy", Engine())
    metrics.add_accounts(lambda: [Account(None, toy.clock)])
    for value in vars(metrics).values():
        if hasattr(value, "observe"):
            value.observe(1)
    metrics.http_requests.labels("/health", "200").inc()
    return {
        sample.name
        for family in text_string_to_metric_families(metrics.text().decode())
        for sample in family.samples
    }


def test_the_board_shows_what_is_measured() -> None:
    board = json.loads((DEPLOY / "grafana.json").read_text())
    asked = re.findall(r"pieria:\w+", json.dumps(board))
    assert len(board["panels"]) > 10
    assert set(asked) <= measured()
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
