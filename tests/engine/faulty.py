"""`pieria serve` with hooks at the named places on a request's way, which its cache_salt sets off.

    python -m tests.engine.faulty serve MODEL ...

A salt of "POINT:ERROR:AT" lets the request fail at that point with that error, from the AT-th time
on that it is looked at there: at those of `tests.engine.faults`, which lie in the engine's process,
at those of `FRONT`, which lie in the HTTP process, and at "nan" and "inf", which its logits are
then. The hooks exist in this program alone.
"""

import functools
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

FRONT = ("parse", "render", "encode", "text")
ERRORS: dict[str, type[Exception]] = {
    kind.__name__: kind for kind in (RuntimeError, MemoryError, AssertionError, KeyError)
}


class Hooks:
    """salts: of requests, by what else tells them: ids, and seeds. met: by salt and point."""

    def __init__(self) -> None:
        self.salts: dict[object, str] = {}
        self.met: Counter[tuple[str, str]] = Counter()

    def put(
        self, point: str, owner: Any, name: str, salts_of: Callable[..., Iterator[str]]
    ) -> None:
        """At this function, which requests with these salts come to."""
        call = getattr(owner, name)

        @functools.wraps(call)
        def hooked(*arguments: Any, **named: Any) -> Any:
            for salt in set(salts_of([*arguments, *named.values()])):
                self.meet(point, salt)
            return call(*arguments, **named)

        setattr(owner, name, hooked)

    def due(self, point: str, salt: str) -> bool:
        """Whether what the salt says is to happen here and now."""
        if salt.split(":")[0] != point:
            return False
        self.met[salt, point] += 1
        return self.met[salt, point] >= int(salt.split(":")[2])

    def meet(self, point: str, salt: str) -> None:
        if self.due(point, salt):
            raise ERRORS[salt.split(":")[1]]("a secret of the machine")

    def salts_in(self, value: Any) -> Iterator[str]:
        """Of the requests that are in some arguments of the engine's functions."""
        from pieria.engine.messages import Add
        from pieria.engine.plan import Chunk, Draw
        from pieria.engine.request import Request

        if isinstance(value, Request):
            value = value.add
        if isinstance(value, Add):
            self.salts[value.id] = self.salts[value.seed] = value.salt
            yield value.salt
        elif isinstance(value, Chunk):
            yield self.salts.get(value.request, "")
        elif isinstance(value, Draw):
            yield self.salts.get(value.seed, "")
        elif isinstance(value, str):
            yield value
        elif hasattr(value, "chunks"):
            yield from self.salts_in(value.chunks)
        elif isinstance(value, list | tuple):
            for item in value:
                if not isinstance(item, int):
                    yield from self.salts_in(item)


def prepare(settings: dict[str, Any]) -> Any:
    """The runner factory of `pieria serve`, after the hooks were put in the engine's places."""
    import torch

    from pieria.engine import ranks
    from pieria.engine.device_runner import DeviceRunner
    from tests.engine.faults import POINTS

    prepared = ranks.prepare(settings)  # a trial of the largest step is none of a request's
    hooks = Hooks()
    for point, (owner, name) in POINTS.items():
        hooks.put(point, owner, name, hooks.salts_in)
    drawn = DeviceRunner._drawn

    def poisoned(self: Any, chunks: Any, drawing: Any, logits_RV: Any, reports: Any) -> Any:
        for value in ("nan", "inf"):
            salts = [hooks.salts.get(chunks[i].request, "") for i in drawing]
            rows = [row for row, salt in enumerate(salts) if hooks.due(value, salt)]
            if rows:
                logits_RV = logits_RV.clone()
                logits_RV[torch.tensor(rows)] = float(value)
        return drawn(self, chunks, drawing, logits_RV, reports)

    DeviceRunner._drawn = poisoned  # type: ignore[method-assign]
    return prepared


def main(arguments: list[str]) -> None:
    from pieria import cli
    from pieria.engine import text
    from pieria.models.chat_template import ChatTemplate
    from pieria.models.tokenizer import Tokenizer
    from pieria.server import chat, completions

    hooks = Hooks()

    def written(values: Any) -> Iterator[str]:
        """A salt that stands in a text between stars."""
        for value in values:
            text = value.decode(errors="replace") if isinstance(value, bytes) else repr(value)
            yield from text.split("*")[1:2]

    def of_choice(values: Any) -> Iterator[str]:
        yield values[0].add.salt

    hooks.put("render", ChatTemplate, "render", written)
    hooks.put("encode", Tokenizer, "encode", written)
    hooks.put("text", text._Choice, "feed", of_choice)
    for module in (chat, completions):
        hooks.put("parse", module, "read", written)
    cli.FACTORY = f"{__spec__.name}:prepare"
    sys.exit(cli.main(arguments))


if __name__ == "__main__":
    main(sys.argv[1:])
