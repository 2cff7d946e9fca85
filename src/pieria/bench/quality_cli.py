"""`pieria quality`: from options to what is printed and written."""

from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress

from pieria import ops
from pieria.bench import gaussian, quality_report
from pieria.bench.quality import TEXT, fits, known, loaded, measure, reference
from pieria.bench.quality_options import QualityOptions
from pieria.clock import Clock
from pieria.engine.place import use_threads
from pieria.engine.runner_config import DTYPES
from pieria.hardware import devices
from pieria.models.checkpoint import Checkpoint, open_checkpoint
from pieria.models.jiutian_35b import CONFIGS
from pieria.models.pull import pull
from pieria.ops.formats import QUANTIZED

EXACT = "float32"


def run(options: QualityOptions, clock: Clock, out: Console, progress: Console) -> None:
    """Measure, print, write. ValueError for a format, text or model that is not right."""
    device = devices.find("cpu")
    ops.use(*device.backends)
    use_threads(options.threads, "auto", device.torch_device, 1)
    names = options.formats or (*DTYPES[1:], *QUANTIZED)
    settings = {**asdict(options), "formats": names}
    if options.model in CONFIGS:
        _gaussian(options, names, out, progress)
        return
    checkpoint = open_checkpoint(pull(options.model))
    chosen = {name: known(name, checkpoint) for name in names}
    for name, (file, format) in tuple(chosen.items()):
        try:
            fits(file, format)
        except ValueError as error:
            if options.formats:
                raise
            progress.log(f"{name} is left out: {error}")
            del chosen[name]
    text = windows(checkpoint, options)
    exact = loaded(checkpoint, EXACT, torch.float32, options.context, device)
    found = []
    with Progress(console=progress, transient=True, disable=not progress.is_terminal) as bar:
        ways = [(name, kv) for name in chosen for kv in options.kv_cache_dtypes]
        task = bar.add_task("measuring", total=(1 + len(ways)) * len(text))
        first = reference(exact, text, lambda: bar.advance(task))
        for name, kv in ways:
            file, format = chosen[name]
            shown = name if file is checkpoint else Path(name).name.removesuffix(".gguf")
            shown += "" if kv == "auto" else f", keys and values {kv}"
            bar.update(task, description=shown)
            dtype = getattr(torch, options.dtype)
            other = loaded(file, format, dtype, options.context, device, kv)
            found.append(measure(shown, first, other, clock, lambda: bar.advance(task)))
            progress.log(f"{shown}: {found[-1].kl:.3g} nats")
            if options.output_json is not None:  # after each, as a run may take hours
                quality_report.save(options.output_json, settings, found)
    title = f"{options.model} on {sum(map(len, text))} tokens, against float32"
    out.print(quality_report.table(found, title))
    if options.output_plot is not None:
        quality_report.plot(options.output_plot, found, title)


def windows(checkpoint: Checkpoint, options: QualityOptions) -> list[list[int]]:
    """The text's tokens, as many together as are computed together."""
    path = options.text or TEXT
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8: {error}") from None
    tokens = checkpoint.tokenizer().encode(text, add_special_tokens=False)[: options.tokens]
    size = options.context
    made = [tokens[i : i + size] for i in range(0, len(tokens), size)]
    made = [window for window in made if len(window) > 1]
    if not made:
        raise ValueError(f"{path}: {len(tokens)} tokens are too few to measure on")
    return made


def _gaussian(
    options: QualityOptions, names: tuple[str, ...], out: Console, progress: Console
) -> None:
    wrong = [name for name in names if name not in QUANTIZED and name not in DTYPES[1:]]
    if options.kv_cache_dtypes != ("auto",):
        raise ValueError(f"--kv-cache-dtypes: {options.model} has no keys and values to measure")
    if wrong:
        there = ", ".join((*DTYPES[1:], *QUANTIZED))
        raise ValueError(f"format {wrong[0]!r} is none of {there}")
    with Progress(console=progress, transient=True, disable=not progress.is_terminal) as bar:
        task = bar.add_task("measuring", total=len(names))
        found = gaussian.measure(options.model, names, lambda: bar.advance(task))
    title = f"{options.model}, Gaussian weights: relative error of a product"
    out.print(gaussian.table(found, title))
    if options.output_json is not None:
        quality_report.save(options.output_json, asdict(options), found)
    if options.output_plot is not None:
        raise ValueError(f"--output-plot: there is nothing to plot of {options.model}")
