"""What formats cost here and elsewhere: `python -m benchmarks.quality_peers [--formats Q8_0 int8]`.

On the same tokens and against float32 in the same arithmetic, keys and values in float32: a GGUF
file of llama-quantize in Pieria and in llama.cpp; Pieria's own rounding beside llama.cpp's of the
same kind; and what `pieria quantize` writes in Pieria, beside transformers with compressed-tensors,
which computes the same file or rounds the same weights.
What is installed and made is shared with `benchmarks.peers`. Knows no speeds.

Tokens are counted as llama-perplexity does: of windows of 512, those after the first half.
"""

import argparse
import json
import re
import struct
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.peers import models
from benchmarks.peers.environments import LLAMA, TRANSFORMERS, llama_program, set_up
from benchmarks.peers.precisions import SIXTEEN
from pieria import ops
from pieria.bench.quality import TEXT, Computes, Reference, distance, loaded, reference
from pieria.clock import Clock, RealTime
from pieria.config import add_arguments, collect, option
from pieria.engine.place import use_threads
from pieria.hardware import devices
from pieria.hardware.spec import Device
from pieria.models.checkpoint import open_checkpoint
from pieria.models.pull import default_cache
from pieria.models.quantization import STORED

FILES = (
    *("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_M", "Q6_K"),
    *("IQ4_NL", "IQ4_XS", "MXFP4"),
)
ROUNDED = {"int8-g32": "Q8_0"}
"""Formats of --quantize, beside files that round weights and activations in the same way."""
WRITTEN = ("int8", "fp8")
"""Formats of `pieria quantize` whose activations have scales by token."""
GROUPED = {"int4-g32": True, "int4-g32-zp": False}
"""Others, of which activations are rounded here only, and whether they are symmetric."""
FORMATS = (*FILES, *ROUNDED, *WRITTEN, *GROUPED)

WINDOW = 512
MOST = 1.02


@dataclass(frozen=True)
class QualityPeersOptions:
    """Formats here and elsewhere"""

    formats: tuple[str, ...] = option(FORMATS, choices=FORMATS, help="which formats")
    windows: int = option(16, help=f"windows of {WINDOW} tokens, from the text's beginning")
    threads: int = option(1, help="of each engine")
    cache: Path = option(
        default_cache() / "peers", help="folder of the environments and converted models"
    )
    output: Path = option(
        Path("quality_peers.json"), help="results; those of the same windows in it are kept"
    )

    def __post_init__(self) -> None:
        if self.windows < 1 or self.threads < 1:
            raise ValueError("windows and threads must be positive")


@dataclass(frozen=True)
class Cost:
    """kl: mean, in nats a token, from float32 of the same engine."""

    perplexity: float
    kl: float


@dataclass(frozen=True)
class Row:
    peer: str
    theirs: Cost
    ours: Cost

    @property
    def ratio(self) -> float:
        return self.ours.kl / self.theirs.kl


@dataclass(frozen=True)
class Llama:
    """llama-perplexity over a text, against what it found in float32."""

    program: Path
    base: Path
    text: Path
    threads: int

    def start(self, exact: Path, windows: int) -> list[list[int]]:
        """The tokens of each window, once `base` is written."""
        self._run(exact, "--chunks", str(windows))
        return read_windows(self.base)

    def cost(self, file: Path) -> Cost:
        return read_cost(self._run(file, "--kl-divergence"))

    def _run(self, file: Path, *options: str) -> str:
        command = [
            *(str(self.program), "--model", str(file), "--file", str(self.text)),
            *("--ctx-size", str(WINDOW), "--batch-size", str(WINDOW)),
            *("--cache-type-k", "f32", "--cache-type-v", "f32", "--threads", str(self.threads)),
            *("--kl-divergence-base", str(self.base), *options),
        ]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{command} ended with {done.returncode}: {done.stdout[-2000:]}")
        return done.stdout


def read_windows(base: Path) -> list[list[int]]:
    """Of the file that llama-perplexity keeps float32's distributions in.

    That is "_logits_", three int32 (tokens of a window, vocabulary, windows), the tokens as int32,
    and then the distributions.
    """
    with base.open("rb") as file:
        head = file.read(20)
        size, _, count = struct.unpack("<iii", head[8:])
        if head[:8] != b"_logits_" or size != WINDOW:
            raise ValueError(f"{base} does not begin as llama-perplexity writes it: {head!r}")
        tokens = np.frombuffer(file.read(4 * size * count), dtype="<i4")
    return [list(map(int, window)) for window in tokens.reshape(count, size)]


def read_cost(said: str) -> Cost:
    """What llama-perplexity prints."""
    found = [
        re.search(rf"{what}\s*:\s*([-+.\d]+)", said) for what in (r"Mean PPL\(Q\)", r"Mean\s+KLD")
    ]
    if None in found:
        raise ValueError(f"llama-perplexity printed no perplexity or divergence: {said[-2000:]}")
    perplexity, kl = (float(match[1]) for match in found if match)
    return Cost(perplexity, kl)


class Transformers:
    """A checkpoint as transformers and compressed-tensors compute it, activations rounded too."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForCausalLM

        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def hidden(self, tokens: list[int]) -> Tensor:
        """[T, V], the logits already: weights are unpacked when the model as a whole is called."""
        found: Tensor = self._model(torch.tensor([tokens])).logits[0]
        return found

    @torch.no_grad()
    def round(self, format: str) -> None:
        """Give all matrices but the output layer's the values of one of GROUPED."""
        from compressed_tensors.quantization import QuantizationArgs
        from compressed_tensors.quantization.lifecycle.forward import fake_quantize
        from compressed_tensors.quantization.utils import compute_dynamic_scales_and_zp

        how = QuantizationArgs(
            num_bits=4, strategy="group", group_size=32, symmetric=GROUPED[format]
        )
        for name, module in self._model.named_modules():
            if isinstance(module, torch.nn.Linear) and name != "lm_head":
                scales, zeros = compute_dynamic_scales_and_zp(module.weight, how, module)
                module.weight.copy_(fake_quantize(module.weight, scales, zeros, how))

    def logits(self, hidden_RV: Tensor) -> Tensor:
        return hidden_RV


@dataclass(frozen=True)
class Here:
    """Pieria, and what its float32 found on the same windows."""

    exact: Reference
    device: Device
    clock: Clock

    def computes(self, path: Path, quantize: str) -> Computes:
        return loaded(open_checkpoint(path), quantize, torch.float32, WINDOW, self.device)

    def cost(self, other: Computes) -> Cost:
        found = distance(self.exact, other, self.clock, begin=WINDOW // 2)
        return Cost(found.perplexity, found.kl)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality_peers", description=__doc__)
    add_arguments(parser, QualityPeersOptions)
    try:
        [options] = collect(parser.parse_args(), None, QualityPeersOptions)
    except ValueError as error:
        parser.error(str(error))
    rows = _kept(options)
    wanted = [name for name in options.formats if name not in rows]
    if wanted:
        _measure(options, wanted, rows)
    print(table(rows))
    return 0


def _measure(options: QualityPeersOptions, wanted: list[str], rows: dict[str, Row]) -> None:
    """Adds to `rows`, and writes the file after each."""
    pythons = {"pieria": Path(sys.executable)} | {
        environment.name: set_up(environment, options.cache)
        for environment in (LLAMA, TRANSFORMERS)
    }
    home = options.cache / "models" / models.REAL
    sixteen = models.prepare(models.REAL, SIXTEEN, ("pieria",), options.cache, pythons).folder
    program = llama_program("llama-perplexity", pythons[LLAMA.name])
    options.output.parent.mkdir(parents=True, exist_ok=True)
    llama = Llama(program, options.output.with_suffix(".base"), TEXT, options.threads)
    try:
        windows = llama.start(models.gguf_file("F32", home, pythons), options.windows)
        device = devices.find("cpu")
        ops.use(*device.backends)
        use_threads(options.threads, "auto", device.torch_device, 1)
        exact = loaded(open_checkpoint(sixteen), "float32", torch.float32, WINDOW, device)
        here = Here(reference(exact, windows), device, RealTime())
        theirs: dict[str, Cost] = {}
        for name in wanted:
            if name in (*WRITTEN, *GROUPED):
                folder = models.compressed(name, home)
                other = Transformers(folder if name in WRITTEN else sixteen)
                if name in GROUPED:
                    other.round(name)
                peer, cost = "compressed-tensors", here.cost(other)
                ours = here.computes(folder, STORED)
            else:
                type = ROUNDED.get(name, name)
                file = models.gguf_file(type, home, pythons)
                if type not in theirs:
                    theirs[type] = llama.cost(file)
                peer, cost = f"llama.cpp {type}", theirs[type]
                ours = here.computes(*((sixteen, name) if name in ROUNDED else (file, STORED)))
            rows[name] = Row(peer, cost, here.cost(ours))
            print(f"{name}: {rows[name]}", file=sys.stderr, flush=True)
            content = {"windows": options.windows, "rows": {n: asdict(r) for n, r in rows.items()}}
            options.output.write_text(json.dumps(content, indent=1) + "\n")
    finally:
        llama.base.unlink(missing_ok=True)


def _kept(options: QualityPeersOptions) -> dict[str, Row]:
    if not options.output.exists():
        return {}
    content = json.loads(options.output.read_text())
    if content["windows"] != options.windows:
        raise SystemExit(
            f"{options.output} has results of {content['windows']} windows, not {options.windows};"
            " give another --output"
        )
    return {
        name: Row(row["peer"], Cost(**row["theirs"]), Cost(**row["ours"]))
        for name, row in content["rows"].items()
    }


def table(rows: dict[str, Row]) -> str:
    lines = [
        "| format | beside | perplexity there | here | KL there | here | here / there |",
        "|---" * 7 + "|",
    ]
    for name, row in rows.items():
        over = "" if row.ratio <= MOST else " *"
        lines.append(
            f"| {name} | {row.peer} | {row.theirs.perplexity:.3f} | {row.ours.perplexity:.3f}"
            f" | {row.theirs.kl:.5f} | {row.ours.kl:.5f} | {row.ratio:.3f}{over} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
