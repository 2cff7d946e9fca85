"""Typed access to a model's config.json, with errors that name file, key and value."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from pieria.models.config import Rope

MOST = 2**40 - 1
"""Of any count or size."""

MAX_LAYERS = 1024
"""Each takes memory before anything is read. Published models have up to some hundred."""


@contextmanager
def naming(source: str) -> Iterator[None]:
    """Puts the source before the errors of those who do not know it, as a file or a folder."""
    try:
        yield
    except ValueError as error:
        if str(error).startswith((f"{source}:", f"{source}/")):
            raise
        raise ValueError(f"{source}: {error}") from error


class Keys:
    """The keys of one config.

    Every getter raises ValueError where the value is missing or of a wrong kind.
    """

    def __init__(self, values: Mapping[str, Any], source: str) -> None:
        self.values = values
        self.source = source

    def has(self, key: str) -> bool:
        """Whether the key is there and not null."""
        return self.values.get(key) is not None

    def integer(
        self, key: str, default: int | None = None, least: Literal[0, 1] = 1, most: int = MOST
    ) -> int:
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            wanted = "a positive integer" if least else "a positive integer or 0"
            bound = "" if most == MOST else f", at most {most}"
            raise ValueError(f"{self.source}: {key}={value!r} must be {wanted}{bound}")
        return value

    def layers(self) -> int:
        return self.integer("num_hidden_layers", most=MAX_LAYERS)

    def number(self, key: str, default: float | None = None) -> float:
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e30:
            raise ValueError(f"{self.source}: {key}={value!r} must be a positive number")
        return float(value)

    def numbers(self, key: str, count: int) -> tuple[float, ...]:
        """A list of `count` positive numbers."""
        values = self._get(key, None)
        if not isinstance(values, list) or len(values) != count:
            raise ValueError(f"{self.source}: {key} must be {count} numbers")
        each = Keys({f"{key}[{i}]": value for i, value in enumerate(values)}, self.source)
        return tuple(each.number(name) for name in each.values)

    def flag(self, key: str, default: bool | None = None) -> bool:
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise ValueError(f"{self.source}: {key}={value!r} must be true or false")
        return value

    def choice(self, key: str, allowed: Mapping[str, Any], default: str | None = None) -> Any:
        """What `allowed` maps the value to."""
        value = self._get(key, default)
        if not isinstance(value, str) or value not in allowed:
            known = ", ".join(allowed)
            raise ValueError(f"{self.source}: {key}={value!r} is not supported; there are: {known}")
        return allowed[value]

    def choices(
        self, key: str, count: int, allowed: Mapping[str, Any], default: Sequence[str]
    ) -> tuple[Any, ...]:
        """What `allowed` maps each of the `count` values of a list to, such as one for a layer."""
        values = self._get(key, default)
        known = isinstance(values, Sequence) and all(
            isinstance(v, str) and v in allowed for v in values
        )
        if not known or len(values) != count:
            raise ValueError(
                f"{self.source}: {key}={values!r} must be {count} of {', '.join(allowed)}"
            )
        return tuple(allowed[v] for v in values)

    def part(self, key: str) -> "Keys":
        """The keys of a nested object."""
        value = self._get(key, None)
        if not isinstance(value, Mapping):
            raise ValueError(f"{self.source}: {key}={value!r} must be an object")
        return Keys(value, f"{self.source}: {key}")

    def refuse(self, key: str, why: str, harmless: tuple[Any, ...] = (None, False)) -> None:
        """ValueError if the key asks for something that is not there."""
        value = self.values.get(key)
        if value not in harmless:
            raise ValueError(f"{self.source}: {key}={value!r}: {why}")

    def rope(self, dim: int, default_theta: float = 10000.0) -> Rope:
        """The rope of heads with `dim` rotated dimensions.

        From `rope_theta` and `rope_scaling`, or from `rope_parameters`, which newer files have
        instead.
        """
        if self.has("rope_parameters"):
            scaling = self.part("rope_parameters")
            theta = scaling.number("rope_theta", default_theta)
        else:
            theta = self.number("rope_theta", default_theta)
            scaling = (
                self.part("rope_scaling") if self.has("rope_scaling") else Keys({}, self.source)
            )
        kind = scaling.values.get("rope_type", scaling.values.get("type", "default"))
        if kind == "default":
            return Rope(theta, dim)
        if kind in ("linear", "ntk"):
            return Rope(theta, dim, kind, scaling.number("factor"))
        if kind == "llama3":
            return Rope(
                theta,
                dim,
                "llama3",
                scaling.number("factor"),
                scaling.number("low_freq_factor"),
                scaling.number("high_freq_factor"),
                scaling.integer("original_max_position_embeddings"),
            )
        if kind == "yarn":
            return self._yarn(scaling, theta, dim)
        if kind == "factors":
            return Rope(theta, dim, factors=scaling.numbers("factors", dim // 2))
        raise ValueError(
            f"{scaling.source}: rope_type={kind!r} is not supported;"
            " there are: default, linear, ntk, llama3, yarn"
        )

    def _yarn(self, scaling: "Keys", theta: float, dim: int) -> Rope:
        """`mscale` and `mscale_all_dim` are DeepSeek's way to state the magnitude."""
        factor = scaling.number("factor")
        if scaling.has("attention_factor"):
            magnitude = scaling.number("attention_factor")
        elif scaling.values.get("mscale") and scaling.values.get("mscale_all_dim"):
            whole = yarn_magnitude(factor, scaling.number("mscale_all_dim"))
            magnitude = yarn_magnitude(factor, scaling.number("mscale")) / whole
        else:
            magnitude = yarn_magnitude(factor)
        return Rope(
            theta,
            dim,
            "yarn",
            factor,
            original_context=scaling.integer(
                "original_max_position_embeddings", self.integer("max_position_embeddings")
            ),
            beta_fast=scaling.number("beta_fast", 32.0),
            beta_slow=scaling.number("beta_slow", 1.0),
            truncate=scaling.flag("truncate", True),
            magnitude=magnitude,
        )

    def _get(self, key: str, default: Any) -> Any:
        value = self.values.get(key)
        if value is None:
            value = default
        if value is None:
            raise ValueError(f"{self.source}: {key} is missing")
        return value


def yarn_magnitude(factor: float, scale: float = 1.0) -> float:
    """0.1 scale ln(factor) + 1 for a factor above 1, else 1 (arXiv:2309.00071, equation 22)."""
    return 0.1 * scale * math.log(factor) + 1.0 if factor > 1 else 1.0
