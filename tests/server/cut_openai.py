"""Makes openai.json: what OpenAI's specification says of the routes that are here, without prose.

    python -m tests.server.cut_openai openapi.yaml

The specification: github.com/openai/openai-openapi, MIT licence, which openai.LICENSE holds.
"""

import json
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROUTES = {
    "/chat/completions": "post",
    "/completions": "post",
    "/models": "get",
    "/models/{model}": "get",
}
PROSE = {"description", "title", "example", "examples", "summary", "tags"}


def main(arguments: list[str]) -> None:
    whole = YAML(typ="safe", pure=False).load(Path(arguments[0]))
    paths = {path: {method: whole["paths"][path][method]} for path, method in ROUTES.items()}
    made = {
        "openapi": whole["openapi"],
        "info": {name: whole["info"][name] for name in ("title", "version", "license")},
        "paths": _bare(paths, names=True),
        "components": {},
    }
    _complete(made, made["paths"], whole["components"])
    for responses in [made["components"].get("responses", {})] + [
        operation["responses"] for at in made["paths"].values() for operation in at.values()
    ]:
        for response in responses.values():
            response.setdefault("description", "")
    text = json.dumps(made, separators=(",", ":"), sort_keys=True)
    Path(__file__).with_name("openai.json").write_text(text + "\n")


def _bare(value: Any, names: bool = False) -> Any:
    """Without prose and extensions. names: the keys are names, which may be any word."""
    if isinstance(value, dict):
        return {
            str(key): _bare(inner, key == "properties")
            for key, inner in value.items()
            if names or not (str(key).startswith("x-") or key in PROSE)
        }
    if isinstance(value, list):
        return [_bare(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _complete(made: dict[str, Any], value: Any, components: dict[str, Any]) -> None:
    """Take along all that is referred to."""
    if isinstance(value, list):
        for item in value:
            _complete(made, item, components)
    if not isinstance(value, dict):
        return
    reference = value.get("$ref")
    if isinstance(reference, str):
        _, _, kind, name = reference.split("/")
        known = made["components"].setdefault(kind, {})
        if name not in known:
            known[name] = _bare(components[kind][name])
            _complete(made, known[name], components)
    for inner in value.values():
        _complete(made, inner, components)


if __name__ == "__main__":
    main(sys.argv[1:])
