"""schemathesis against a server: our own description of the API, and OpenAI's of the same routes.

    python -m tests.server.fuzz_api --cases 100000 --folder build/fuzz-api     (make fuzz-api)

Right and wrong data, NUL bytes among them, in shards, each with a server of its own that computes a
tiny model. What follows from a description alone is sent once, by the shards with seed 0; the
others draw, each with its own seed, until there were as many cases as are asked for. A shard's
result is a file; shards that have one are not run again. openai.json is made from OpenAI's
specification (MIT) by `cut_openai`.

A case is a request that the server counted as answered: what never reached it is none.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from pieria.clock import RealTime

OPENAI = Path(__file__).with_name("openai.json")
SPECS = ("ours", "openai")
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
    "allow_header_conformance",
)
"""Fields depend on each other and on the model, so not all that fits the description is served."""

OF_OPENAI = ("not_a_server_error",)
"""Their description allows what is not supported here, and does not list our refusals."""

MODEL, KEY = "tiny", "key"
READY_SECONDS = 300
PREPARE_SECONDS = 50
"""Instead of 10: a shard runs for long on a machine that others use, and where the server stood
still for 10 s, it said so with 503. Less than a request's own limit of 60, which is a failure."""

WORKERS = 4
"""Requests that are in work at once; the same seed sends the same ones in another order."""

ENUMERATED, DRAWN = "examples,coverage", "fuzzing,stateful"
"""Phases: the first two make the same requests whatever the seed."""


def of_openai(model: str) -> dict[str, Any]:
    """Their description, for a model that is served here: other names would all be refused."""
    found: dict[str, Any] = json.loads(OPENAI.read_text())
    found["components"]["schemas"]["ModelIdsShared"] = {"enum": [model]}
    completion = found["components"]["schemas"]["CreateCompletionRequest"]
    completion["properties"]["model"] = {"enum": [model]}
    return found


def schemathesis(
    url: str, spec: str, model: str, folder: Path, seed: int, *options: str
) -> dict[str, Any]:
    """One run; how many cases there were, and what was found."""
    folder.mkdir(parents=True, exist_ok=True)
    folder = folder.resolve()
    where = [f"{url}/openapi.json", f"--checks={','.join(CHECKS)}"]
    if spec == "openai":
        described = folder / "openai.json"
        described.write_text(json.dumps(of_openai(model)))
        where = [str(described), f"--url={url}/v1", f"--checks={','.join(OF_OPENAI)}"]
    before = _answered(url)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "run", *where, "--mode=all"),
            *("--generation-allow-x00=true", "--generation-database=none"),
            *(f"--seed={seed}", "--continue-on-failure", f"--workers={WORKERS}"),
            *("--request-timeout=60", "--suppress-health-check=all", "--no-color"),
            *("--warnings=off", f"--header=Authorization: Bearer {KEY}", *options),
        ],
        cwd=folder,  # where it keeps what it finds
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    statuses = _answered(url) - before
    return {
        "spec": spec,
        "seed": seed,
        "cases": statuses.total(),
        "statuses": dict(sorted(statuses.items())),
        "failed": done.returncode != 0,
        "output": done.stdout[-20000:] + done.stderr[-2000:] if done.returncode else "",
    }


def _answered(url: str) -> Counter[str]:
    """Requests so far by their status, as the server counts them; "499" without an answer."""
    text = httpx.get(url + "/metrics", headers={"Authorization": f"Bearer {KEY}"}).text
    found: Counter[str] = Counter()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            # Not this look itself.
            if sample.name == "pieria:http_requests_total" and sample.labels["route"] != "/metrics":
                found[sample.labels["status"]] += int(sample.value)
    return found


@contextmanager
def server(folder: Path) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """A server of a tiny model, and its process."""
    from tests.models import tiny

    model = folder / "model"
    if not model.exists():
        tiny.write_tokenizer(tiny.save(tiny.model("Llama"), model))
        template = "{% for m in messages %}{{ m.role }}:{{ m.content }}\n{% endfor %}a:"
        (model / "chat_template.jinja").write_text(template)
    log = (folder / "server.log").open("ab")
    began = log.tell()
    options = ("--device=cpu", "--threads=1", "--dtype=float32", "--kv-cache-memory-bytes=4MiB")
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "pieria.cli", "serve", str(model), "--port=0", *options),
            *(
                f"--served-model-name={MODEL}",
                f"--api-key={KEY}",
                "--max-num-seqs=32",
                "--max-model-len=96",
                f"--prepare-timeout-seconds={PREPARE_SECONDS}",
            ),
        ],
        stdout=log,
        stderr=log,
    )
    try:
        yield _url(folder / "server.log", began), process
    finally:
        process.terminate()
        process.wait(timeout=60)
        log.close()


def _url(log: Path, began: int) -> str:
    clock = RealTime()
    deadline = clock.now() + READY_SECONDS
    while clock.now() < deadline:
        text = log.read_bytes()[began:].decode(errors="replace")
        if " on http://" in text:
            return "http://" + text.partition(" on http://")[2].split()[0]
        clock.sleep(0.05)
    raise RuntimeError(f"the server did not start: {log}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=100_000, help="at least, of both descriptions")
    parser.add_argument("--examples", type=int, default=400, help="most of an operation and phase")
    parser.add_argument("--folder", type=Path, default=Path("build/fuzz-api"))
    options = parser.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    clock = RealTime()
    results: list[dict[str, Any]] = []
    for seed, spec in ((seed, spec) for seed in itertools.count() for spec in SPECS):
        if seed and sum(result["cases"] for result in results) >= options.cases:
            break
        path = options.folder / f"{spec}-{seed}.json"
        if not path.exists():
            phases = DRAWN if seed else ENUMERATED
            told = (f"--phases={phases}", f"--max-examples={options.examples}")
            began = clock.now()
            with tempfile.TemporaryDirectory() as temporary, server(options.folder) as (url, one):
                result = schemathesis(url, spec, MODEL, Path(temporary), seed, *told)
                result["died"] = one.poll() is not None or "another takes its place" in (
                    options.folder / "server.log"
                ).read_text(errors="replace")
                result["healthy"] = httpx.get(url + "/health").status_code == 200
            result["seconds"] = round(clock.now() - began)
            path.write_text(json.dumps(result, indent=1))
            print({name: value for name, value in result.items() if name != "output"}, flush=True)
        results.append(json.loads(path.read_text()))
    bad = [r for r in results if r["failed"] or r["died"] or not r["healthy"]]
    statuses: Counter[str] = sum((Counter(r["statuses"]) for r in results), Counter())
    print(f"{statuses.total()} cases in {len(results)} shards: {dict(sorted(statuses.items()))}")
    print(f"{len(bad)} shards failed")
    for result in bad:
        print(result["output"])
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
