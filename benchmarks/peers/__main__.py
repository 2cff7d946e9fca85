"""`python -m benchmarks.peers`: set the peers up, run the same work on each, and write the table.

Everything that is installed or made is kept in a cache folder outside of the repository, so that
the next run only measures. The machine must have nothing else to do meanwhile.
"""

import argparse
import json
import sys
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from benchmarks.peers import engines, models, precisions, report, run, work
from benchmarks.peers.costs import Costs
from benchmarks.peers.environments import LLAMA, TRANSFORMERS, set_up, version
from pieria import __version__
from pieria.bench.process import end_when_told
from pieria.clock import RealTime
from pieria.config import add_arguments, collect, option
from pieria.hardware import cpu
from pieria.models.checkpoint import open_checkpoint
from pieria.models.pull import default_cache


@dataclass(frozen=True)
class PeersOptions:
    """Engines side by side"""

    model: tuple[str, ...] = option(
        (models.REAL,), choices=models.NAMES, help="real weights, or a shape with random ones"
    )
    precision: tuple[str, ...] = option(
        (precisions.SIXTEEN.name,),
        choices=precisions.NAMES,
        help="16bit, the engines' own int8 and int4, or one GGUF file in Pieria and llama.cpp",
    )
    engine: tuple[str, ...] = option(engines.NAMES, choices=engines.NAMES, help="which engines")
    work: tuple[str, ...] = option(work.NAMES, choices=work.NAMES, help="which works")
    repeats: int = option(5, help="how often each work is done by each engine")
    patience: float = option(
        300.0, help="seconds; who takes longer for a work is not asked for it again"
    )
    settle: float = option(
        30.0, help="seconds for which an engine that has loaded is let be before it is asked"
    )
    threads: int | None = option(None, help="of each engine; default: one per physical core")
    cache: Path = option(
        default_cache() / "peers", help="folder of the environments and converted models"
    )
    output: Path = option(Path("peers"), help="folder of the results")
    resume: bool = option(False, help="keep the results that are there, and add those missing")
    set_up_only: bool = option(False, help="install and convert, and measure nothing")
    pip_option: tuple[str, ...] = option(
        (), help="given to pip, such as --pip-option=--no-cache-dir"
    )

    def __post_init__(self) -> None:
        if self.repeats < 1 or not self.patience > 0 or (self.threads or 1) < 1:
            raise ValueError("repeats, patience and threads must be positive")
        if not 0 <= self.settle <= 3600:
            raise ValueError(f"settle={self.settle} must be from 0 to 3600 seconds")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    add_arguments(parser, PeersOptions)
    try:
        [options] = collect(parser.parse_args(), None, PeersOptions)
    except ValueError as error:
        parser.error(str(error))
    end_when_told()
    chosen = [engine for engine in engines.ENGINES if engine.name in options.engine]
    formats = [each for each in precisions.PRECISIONS if each.name in options.precision]
    needed = [e for e in chosen if any(e.name in precision.weights for precision in formats)]
    wanted = {e.environment for e in needed if e.environment is not None} | {TRANSFORMERS}
    if any(precision.same_file for precision in formats):
        wanted.add(LLAMA)
    pythons = {"pieria": Path(sys.executable)} | {
        environment.name: set_up(environment, options.cache, options.pip_option)
        for environment in sorted(wanted, key=lambda environment: environment.name)
    }
    for name in options.model:
        for precision in formats:
            model = models.prepare(name, precision, options.engine, options.cache, pythons)
            having = [engine for engine in chosen if engine.name in model.paths]
            if having and not options.set_up_only:
                _measure(options, having, pythons, model)
    return 0


def _measure(
    options: PeersOptions,
    chosen: list[engines.Engine],
    pythons: dict[str, Path],
    model: models.Model,
) -> None:
    clock = RealTime()
    precision = model.precision
    folder = options.output / model.name / precision.name
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "results.json"
    results = run.Results()
    if options.resume and file.exists():
        results = run.Results(**json.loads(file.read_text())["results"])
    checkpoint = open_checkpoint(model.folder)
    costs = Costs.of(open_checkpoint(model.paths.get("pieria", model.folder)), precision.quantize)
    processor = cpu.processor()
    threads = options.threads or int(cpu.threads(processor).value)
    facts = {
        "model": model.name,
        "precision": precision.name,
        "machine": f"{processor.name}, {processor.allowed_cores} cores",
        "date": datetime.fromtimestamp(clock.wall(), timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "threads": threads,
        "repeats": options.repeats,
        "settle": options.settle,
        "engines": {
            engine.name: {
                "version": _version(engine, pythons),
                "settings": f"weights: {precision.weights[engine.name]}; {engine.settings}",
            }
            for engine in chosen
        },
    }

    def save() -> None:
        content = {**facts, "results": run.as_json(results)}
        file.write_text(json.dumps(content, indent=1) + "\n")
        (folder / "README.md").write_text(report.markdown(facts, results, costs, precision.aims))
        report.plot(results, folder, f"{model.name}, {precision.name}")

    run.Bench(
        engines=chosen,
        pythons=pythons,
        model=model,
        tokenizer=checkpoint.tokenizer(),
        threads=threads,
        repeats=options.repeats,
        patience_seconds=options.patience,
        settle_seconds=options.settle,
        cache_tokens=costs.cache_tokens,
        logs=options.cache / "logs" / model.name / precision.name,
        clock=clock,
        results=results,
        save=save,
    ).run([each for each in work.WORKS if each.name in options.work])
    print((folder / "README.md").read_text())


def _version(engine: engines.Engine, pythons: dict[str, Path]) -> str:
    if engine.environment is None:
        return f"pieria {__version__}"
    return version(engine.environment, pythons[engine.name])


if __name__ == "__main__":
    sys.exit(main())
