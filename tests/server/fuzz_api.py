"""schemathesis against a server: our own description of the API, and OpenAI's of the same routes.

    python -m tests.server.fuzz_api --shards 8 --folder build/fuzz-api     (make fuzz-api)

A shard is one seed, all phases, right and wrong data, NUL bytes among them, with a server of its
own that computes a tiny model. Its result is a file; shards that have one are not run again.
openai.json is made from OpenAI's specification (MIT) by `cut_openai`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

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


def of_openai(model: str) -> dict[str, Any]:
    """Their description, for a model that is served here: other names would all be refused."""
    found: dict[str, Any] = json.loads(OPENAI.read_text())
    found["components"]["schemas"]["ModelIdsShared"] = {"enum": [model]}
    completion = found["components"]["schemas"]["CreateCompletionRequest"]
    completion["properties"]["model"] = {"enum": [model]}
    return found


def schemathesis(
    url: str, spec: str, model: str, folder: Path, seed: int, examples: int, *options: str
) -> dict[str, Any]:
    """One run; how many cases there were, and what was found."""
    folder.mkdir(parents=True, exist_ok=True)
    folder = folder.resolve()
    events = folder / f"{spec}-{seed}.ndjson"
    where = [f"{url}/openapi.json", f"--checks={','.join(CHECKS)}"]
    if spec == "openai":
        described = folder / "openai.json"
        described.write_text(json.dumps(of_openai(model)))
        where = [str(described), f"--url={url}/v1", f"--checks={','.join(OF_OPENAI)}"]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "run", *where),
            *("--phases=examples,coverage,fuzzing,stateful", "--mode=all"),
            *("--generation-allow-x00=true", "--generation-database=none"),
            *(f"--seed={seed}", f"--max-examples={examples}", "--continue-on-failure"),
            *("--request-timeout=60", "--suppress-health-check=all", "--no-color"),
            *("--warnings=off", "--report=ndjson", f"--report-ndjson-path={events}"),
            *(f"--header=Authorization: Bearer {KEY}", *options),
        ],
        cwd=folder,  # where it keeps what it finds
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    cases, statuses = 0, {}
    for case in _cases(events):
        cases += 1
        statuses[case] = statuses.get(case, 0) + 1
    events.unlink(missing_ok=True)
    return {
        "spec": spec,
        "seed": seed,
        "cases": cases,
        "statuses": dict(sorted(statuses.items())),
        "failed": done.returncode != 0,
        "output": done.stdout[-20000:] + done.stderr[-2000:] if done.returncode else "",
    }


def _cases(events: Path) -> Iterator[str]:
    """The status of each request that was sent; "none" without an answer."""
    for line in events.read_text().splitlines():
        yield from _found(json.loads(line))


def _found(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if "status_code" in value:
            yield str(value["status_code"])
        for inner in value.values():
            yield from _found(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _found(inner)


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
    parser.add_argument("--shards", type=int, default=8, help="of each description")
    parser.add_argument("--examples", type=int, default=700, help="most of an operation and phase")
    parser.add_argument("--folder", type=Path, default=Path("build/fuzz-api"))
    options = parser.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    for seed in range(1, options.shards + 1):
        for spec in SPECS:
            path = options.folder / f"{spec}-{seed}.json"
            if path.exists():
                continue
            with tempfile.TemporaryDirectory() as temporary, server(options.folder) as (url, one):
                args = (url, spec, MODEL, Path(temporary), seed, options.examples)
                result = schemathesis(*args)
                result["died"] = one.poll() is not None
                result["healthy"] = httpx.get(url + "/health").status_code == 200
            path.write_text(json.dumps(result, indent=1))
            print({name: value for name, value in result.items() if name != "output"}, flush=True)
    results = [json.loads(p.read_text()) for p in sorted(options.folder.glob("*-[0-9]*.json"))]
    bad = [r for r in results if r["failed"] or r["died"] or not r["healthy"]]
    print(f"{sum(r['cases'] for r in results)} cases in {len(results)} shards; {len(bad)} failed")
    for result in bad:
        print(result["output"])
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
