"""What may stand where in src/pieria, read off the syntax trees; only the last test imports it.

The rules are data; the checker is shown to fail on small trees that break them.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "pieria"

LEFT = {
    "clock": (),
    "logs": (),
    "config": (),
    "hardware": (),
    "parallel": (),
    "ops": ("hardware", "parallel", "config"),
    "kernels": ("ops",),
    "models": ("ops", "parallel"),
    "engine": ("models",),
    "train": ("models",),
    "plan": ("hardware", "models", "engine", "train"),
}
"""What stands left of a part: it may import that and what that may import, clock and logs too."""

LIBRARY = set(LEFT) | {"server"}
TOPS = {"__init__", "llm", "cli", "bench"}
"""These may import everything, and nobody else imports them."""

TORCH_FREE = (
    "",
    "bench.cli",
    "cli",
    "clock",
    "config",
    "llm",
    "logs",
    "engine.black_box",
    "engine.cause",
    "engine.child",
    "engine.client",
    "engine.drain",
    "engine.engine",
    "engine.history",
    "engine.in_flight",
    "engine.link",
    "engine.messages",
    "engine.orphan",
    "engine.pages",
    "engine.plan",
    "engine.policies",
    "engine.prefix_cache",
    "engine.process",
    "engine.request",
    "engine.resolve",
    "engine.runner_config",
    "engine.sampling_params",
    "engine.scheduler",
    "engine.tenants",
    "engine.text",
    "engine.throughput",
    "hardware.catalog",
    "hardware.listing",
    "models.catalog",
    "models.chat_template",
    "models.checkpoint",
    "models.config",
    "models.gguf",
    "models.gguf_config",
    "models.gguf_deepseek",
    "models.gguf_experts",
    "models.gguf_gemma",
    "models.gguf_parts",
    "models.gguf_qwen3_next",
    "models.gguf_vocabulary",
    "models.jiutian_35b",
    "models.json_file",
    "models.keys",
    "models.pre_tokenizers",
    "models.pull",
    "models.registry",
    "models.rerank",
    "models.safetensors_file",
    "models.sentencepiece_file",
    "models.stored_tensor",
    "models.template_sandbox",
    "models.tokenizer",
    "models.vocabularies",
    "plan.check",
    "plan.cli",
)
"""Besides all of the server: what a process that computes nothing can import in a moment."""

SERVER_MAY = {"server", "engine", "config", "clock", "logs"}

FORBIDDEN_MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
FORBIDDEN_CALLS = {"eval", "exec"}
PICKLING = {("torch", "load"), ("torch", "save")}
DEVICE_NAME = re.compile(r"(?<![a-z])(cuda|musa|rocm|hip|xpu|mps|npu)(?![a-z])", re.IGNORECASE)
DEVICE_FOLDERS = {"hardware", "kernels"}


def allowed(part: str) -> set[str]:
    """The parts that `part` may import."""
    if part in TOPS:
        return LIBRARY | TOPS
    if part == "server":
        return SERVER_MAY | {"models"}
    found = {part, "clock", "logs"} if part != "logs" else {part}
    for left in LEFT[part]:
        found |= allowed(left)
    return found


def modules(package: Path) -> dict[str, Path]:
    """Dotted name below the package -> file; the package itself is ""."""
    return {
        ".".join(path.relative_to(package).with_suffix("").parts)
        .removesuffix("__init__")
        .rstrip("."): path
        for path in package.rglob("*.py")
    }


def part_of(module: str) -> str:
    return module.split(".")[0] or "__init__"


def imports(
    module: str, tree: ast.AST, known: set[str], is_package: bool
) -> Iterator[tuple[int, str]]:
    """(line, module) of everything that is imported anywhere in the file, in functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                here = ["pieria", *filter(None, module.split("."))]
                up = here[: len(here) - node.level + is_package]
                base = ".".join([*up, base]).rstrip(".")
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                ours = whole.startswith("pieria.") and whole.removeprefix("pieria.") in known
                yield node.lineno, whole if ours else base


def words(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, text) of every identifier and every string but docstrings."""
    documentation = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Constant):
            if isinstance(node.value, str) and id(node) not in documentation:
                yield line, node.value
        else:
            for field in ("id", "attr", "arg", "name", "module", "asname"):
                text = getattr(node, field, None)
                if isinstance(text, str):
                    yield line, text


def check(package: Path) -> list[str]:
    """Every breach of the rules, as "file:line: what"."""
    known = modules(package)
    breaches = []
    for module, path in known.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        where = path.relative_to(package)
        for line, breach in _breaches(module, tree, set(known), path.name == "__init__.py"):
            breaches.append(f"{where}:{line}: {breach}")
    return sorted(breaches)


def _breaches(
    module: str, tree: ast.AST, known: set[str], is_package: bool
) -> Iterator[tuple[int, str]]:
    part = part_of(module)
    if part not in LIBRARY | TOPS:
        yield 1, f"no rule says what {part} may import"
        return
    for line, name in imports(module, tree, known, is_package):
        top = name.split(".")[0]
        if top == "pieria":
            inner = name.removeprefix("pieria").lstrip(".")
            if part_of(inner) not in allowed(part):
                yield line, f"{part} must not import {part_of(inner)}"
            elif part == "server" and part_of(inner) == "models" and inner not in TORCH_FREE:
                yield line, f"server must not import {inner}, which needs torch"
        elif top == "time" and module != "clock":
            yield line, "only clock.py imports time"
        elif top in FORBIDDEN_MODULES:
            yield line, f"{top} runs code from data"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = node.func
            if isinstance(called, ast.Name) and called.id in FORBIDDEN_CALLS:
                yield node.lineno, f"{called.id} runs code from data"
            if (
                isinstance(called, ast.Attribute)
                and isinstance(called.value, ast.Name)
                and (called.value.id, called.attr) in PICKLING
            ):
                yield node.lineno, f"{called.value.id}.{called.attr} pickles"
    if part not in DEVICE_FOLDERS:
        for line, text in words(tree):
            if DEVICE_NAME.search(text):
                yield line, f"device name in {text!r}"


def test_the_tree_keeps_the_rules() -> None:
    assert check(PACKAGE) == []


FILES = {
    "__init__.py": "def f():\n    from pieria.llm import LLM\n    return LLM",
    "clock.py": "import time",
    "config.py": "",
    "cli.py": "from pieria.server import http\nimport pieria.plan.search, pieria.train.loop",
    "llm.py": "from pieria.engine import engine",
    "hardware/cuda.py": "NAME = 'cuda'\nfrom pieria.clock import Clock",
    "parallel/mesh.py": "",
    "ops/__init__.py": "from pieria.ops.linear import linear",
    "ops/linear.py": "from pieria.hardware import spec\nfrom .. import config",
    "kernels/musa/linear.py": "from pieria import ops\nDEVICES = ('musa',)",
    "models/decoder.py": '"""Not just cuda."""\nfrom pieria.ops import linear\nx.exec(); m.eval()',
    "models/tokenizer.py": "import pieria.config",
    "engine/engine.py": "from pieria.models.decoder import Decoder\nfrom . import plan",
    "engine/plan.py": "from pieria.hardware import spec as device_facts",
    "hardware/spec.py": "",
    "train/loop.py": "from pieria.models import decoder",
    "server/http.py": "from pieria.engine.plan import Plan\nfrom pieria.models import tokenizer",
    "plan/search.py": "from pieria.engine import engine\nfrom pieria.train import loop",
    "bench/ops.py": "from pieria import kernels, llm\nimport pieria.plan.search",
}


def write(package: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        for folder in path.relative_to(package).parents:
            (package / folder / "__init__.py").touch()
    return package


def test_a_tree_that_keeps_the_rules_passes(tmp_path: Path) -> None:
    assert check(write(tmp_path, FILES)) == []


@pytest.mark.parametrize(
    ("file", "line", "breach"),
    [
        ("ops/linear.py", "from pieria.models import decoder", "ops must not import models"),
        ("ops/linear.py", "import pieria.kernels.native.linear", "ops must not import kernels"),
        ("ops/linear.py", "def f():\n    from pieria import engine", "ops must not import engine"),
        ("ops/linear.py", "from ..engine.plan import Plan", "ops must not import engine"),
        ("ops/__init__.py", "from ..models import decoder", "ops must not import models"),
        ("hardware/spec.py", "from pieria.ops import linear", "hardware must not import ops"),
        ("hardware/spec.py", "from pieria import config", "hardware must not import config"),
        ("config.py", "import pieria.parallel.mesh", "config must not import parallel"),
        ("clock.py", "from pieria import config", "clock must not import config"),
        ("models/decoder.py", "from pieria import kernels", "models must not import kernels"),
        ("models/decoder.py", "from pieria.engine import plan", "models must not import engine"),
        ("engine/plan.py", "from pieria.train.loop import f", "engine must not import train"),
        ("engine/plan.py", "from pieria.plan import search", "engine must not import plan"),
        ("engine/plan.py", "from pieria.server import http", "engine must not import server"),
        ("engine/plan.py", "from pieria import LLM", "engine must not import __init__"),
        ("engine/plan.py", "import pieria", "engine must not import __init__"),
        ("engine/plan.py", "import pieria.llm", "engine must not import llm"),
        ("engine/plan.py", "from pieria import cli", "engine must not import cli"),
        ("train/loop.py", "from pieria.engine import plan", "train must not import engine"),
        ("plan/search.py", "from pieria.server import http", "plan must not import server"),
        ("plan/search.py", "from pieria.bench import ops", "plan must not import bench"),
        ("server/http.py", "from pieria import ops", "server must not import ops"),
        (
            "server/http.py",
            "from pieria.models.decoder import D",
            "server must not import models.decoder",
        ),
        (
            "server/http.py",
            "from pieria.models import decoder",
            "server must not import models.decoder",
        ),
        ("server/http.py", "from pieria.hardware import spec", "server must not import hardware"),
        ("new.py", "", "no rule says what new may import"),
        ("engine/plan.py", "import time", "only clock.py imports time"),
        ("engine/plan.py", "def f():\n    from time import sleep", "only clock.py imports time"),
        ("cli.py", "import time as t", "only clock.py imports time"),
        ("engine/plan.py", "import pickle", "pickle runs code from data"),
        ("engine/plan.py", "from marshal import loads", "marshal runs code from data"),
        ("bench/ops.py", "import os, shelve", "shelve runs code from data"),
        ("models/decoder.py", "x = eval('1')", "eval runs code from data"),
        ("kernels/musa/linear.py", "exec('1')", "exec runs code from data"),
        ("train/loop.py", "torch.load('f')", "torch.load pickles"),
        ("models/decoder.py", "if device == 'cuda': pass", "device name in 'cuda'"),
        ("models/decoder.py", "x = f'musa:{i}'", "device name in 'musa:'"),
        ("engine/plan.py", "torch.cuda.synchronize()", "device name in 'cuda'"),
        ("engine/plan.py", "def is_cuda(): pass", "device name in 'is_cuda'"),
        ("train/loop.py", "f(musa=1)", "device name in 'musa'"),
        ("train/loop.py", "def f(rocm): pass", "device name in 'rocm'"),
        ("cli.py", "help = 'auto, cpu or CUDA'", "device name in 'auto, cpu or CUDA'"),
        ("cli.py", "from pieria.hardware import cuda", "device name in 'cuda'"),
    ],
)
def test_each_breach_is_found(tmp_path: Path, file: str, line: str, breach: str) -> None:
    text = f"{FILES.get(file, '')}\n{line}\n"
    found = check(write(tmp_path, {**FILES, file: text}))
    assert len(found) == 1, found
    assert found[0].startswith(f"{file}:")
    assert breach in found[0]


def test_words_with_a_device_name_inside_are_other_words(tmp_path: Path) -> None:
    text = "relationships = 'hippopotamus'\nchips = membership = 'barracuda'\n"
    assert check(write(tmp_path, {**FILES, "engine/plan.py": text})) == []


def test_torch_is_not_imported_where_nothing_is_computed() -> None:
    server = sorted(name for name in modules(PACKAGE) if part_of(name) == "server")
    names = [f"pieria.{name}".rstrip(".") for name in (*TORCH_FREE, *server)]
    program = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
        "    if 'torch' in sys.modules:\n"
        "        sys.exit(f'{name} imports torch')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *names], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
