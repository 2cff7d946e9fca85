"""Models by name, without their weights: configs as published, which the models' registry reads.

Knows names and config files. A new model is an entry in `presets.json`.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from pieria.models.config import ModelConfig
from pieria.models.jiutian_35b import CONFIGS as JIUTIAN_35B
from pieria.models.keys import Keys
from pieria.models.registry import model_config

IGNORED = re.compile(
    r"^(instruct|chat|it|base|hf|meta|preview|prefill|decode|production|offline|submission|v\d\.\d"
    r"|fp8|bf16|fp16|fp4|nvfp4|mxfp4|int4|int8|awq|gptq|dynamic|0528|0324|0905|2507|1t|nvidia)$"
)
"""Words of a name that say nothing about the model's sizes."""


@dataclass(frozen=True)
class Preset:
    """names: the first is the usual one. config: as config.json. note: where it is not quite so."""

    names: tuple[str, ...]
    source: str
    config: Mapping[str, Any]
    note: str = ""

    def model(self) -> ModelConfig:
        return model_config(Keys(self.config, f"preset {self.names[0]}"))


@lru_cache(maxsize=1)
def presets() -> tuple[Preset, ...]:
    """All of them."""
    text = (files("pieria.plan") / "presets.json").read_text(encoding="utf-8")
    found = [
        Preset(tuple(e["names"]), e["source"], e["config"], e.get("note", ""))
        for e in json.loads(text)
    ]
    note = "sizes are inferred; only 35 billion parameters and 256K of context are published"
    inferred = [
        Preset((name,), "pieria.models.jiutian_35b", config, note)
        for name, config in JIUTIAN_35B.items()
    ]
    return (*inferred, *found)


def preset(name: str) -> Preset:
    """Whatever the case, organisation, punctuation and format in the name. ValueError if none."""
    known = {key(alias): made for made in presets() for alias in made.names}
    for spelling in (name.rpartition("/")[2], name):
        if key(spelling) in known:
            return known[key(spelling)]
    names = ", ".join(made.names[0] for made in presets())
    raise ValueError(f"no preset is called {name!r}; there are: {names}")


def key(name: str) -> str:
    """What two names of one model have in common."""
    words = re.split(r"[^a-z0-9.]+", name.casefold())
    kept = [word for word in words if word and not IGNORED.match(word)]
    return re.sub(r"[^a-z0-9]", "", "".join(kept))


def model(name: str) -> ModelConfig:
    """Of a preset, or of a path to a config.json or a folder with one.

    ValueError for a name that is neither, and for what a config says that is not supported.
    """
    path = Path(name)
    file = path / "config.json" if path.is_dir() else path
    if file.suffix == ".json" and file.exists():
        values = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError(f"{file} must hold an object")
        values.pop("quantization_config", None)
        return model_config(Keys(values, str(file)))
    return preset(name).model()
