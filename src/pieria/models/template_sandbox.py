"""Jinja as transformers sets it up for chat templates, in a sandbox where work has a limit.

Source of the set-up: transformers, utils/chat_template_utils.py. Knows nothing of messages.

A template comes with a model and is not trusted. Jinja's immutable sandbox keeps it from Python's
internals and from changing what it is given. Here, moreover, loops, calls and new strings are paid
from a budget before they are made, so that no template runs or grows without end.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from functools import wraps
from string import Formatter
from types import CodeType
from typing import Any, NoReturn, cast

from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from pieria.clock import Clock

WORK = 1 << 27
"""The budget of one rendering: 1 for a character; some seconds and some hundred MB at most."""

ELEMENT, TURN, CALL = 8, 64, 256
"""What an element of a list, a loop's turn and a call cost, about as characters would."""

MAX_EXPONENT = 64

MAX_WIDTH = 1 << 12
"""The largest width or count for a function that pads, fills or repeats."""

MAX_BITS = 1 << 12
"""Of an integer that a template computes."""

WIDTH_TAKERS = frozenset(
    {
        *("batch", "center", "expandtabs", "indent", "ljust", "rjust", "round", "slice", "tojson"),
        *("truncate", "wordwrap", "zfill"),
    }
)
"""Filters and string methods whose integer arguments are widths or counts."""

FOUR_DIGITS = re.compile(r"\d{4}")
WIDE_PERCENT = re.compile(r"%[^a-zA-Z%]*(\*|\d{4})")
"""In formats: a width (or precision) that is computed, or has four digits and more."""

GLANCES = frozenset({"count", "d", "default", "first", "length"})
"""Filters that cost the same however long their arguments are."""

WRITERS = frozenset(
    {"format", "join", "pprint", "string", "tojson", "urlencode", "wordwrap", "xmlattr"}
)
"""Those that write all of their arguments out, lists in lists too."""


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment of one rendering, with its budget. SecurityError when that is spent."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, clock: Clock, seconds: float = float("inf")) -> None:
        """clock: what `strftime_now` tells, as local time. seconds: from now, that it may take."""
        self._left = WORK
        self._clock = clock
        self._end = clock.now() + seconds
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_Generation, LoopControlExtension],
            finalize=self._written,
        )
        self.filters["tojson"] = _to_json
        self.filters = {name: self._metered(name, f) for name, f in self.filters.items()}
        self.filters["metered_turns"] = self._turns
        self.filters["metered_concat"] = self._concat
        self.globals.pop("lipsum")
        self.globals["range"] = self._range
        self.globals["dict"] = _dict
        self.globals["namespace"] = _Namespace
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = lambda form: _local_time(clock).strftime(form)

    def compiled(self, source: str) -> CodeType:
        """Bytecode that any Sandbox can run. TemplateSyntaxError for bad syntax."""
        tree = _Metered().visit(self.parse(source))
        return self.compile(tree.set_environment(self))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        numbers = isinstance(left, int | float) and isinstance(right, int | float)
        if operator == "**" and not (numbers and abs(right) <= MAX_EXPONENT):
            raise SecurityError(f"** takes no exponent above {MAX_EXPONENT}")
        if operator == "%" and isinstance(left, str):
            self._pay_percent(left, [right])
        if operator == "*" and not numbers:
            items, count = (left, right) if isinstance(right, int) else (right, left)
            self._paid(items, max(count, 0))
        if operator == "+" and not numbers:
            self._paid(left)
            self._paid(right)
        value = super().call_binop(context, operator, left, right)
        if isinstance(value, int) and value.bit_length() > MAX_BITS:
            raise SecurityError(f"{operator} makes an integer of more than {MAX_BITS} bits")
        return value

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: B902
        owner = getattr(__obj, "__self__", None)
        text = [owner] if isinstance(owner, str) else []
        __self._pay_for(getattr(__obj, "__name__", ""), [*text, *args, *kwargs.values()])
        value = super().call(__context, __obj, *args, **kwargs)
        return __self._paid(value)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None

        def metered(*args: Any, **kwargs: Any) -> str:
            fields = [
                spec for _, _, spec, _ in Formatter().parse(value.__self__) if spec is not None
            ]
            if any("{" in spec or FOUR_DIGITS.search(spec) for spec in fields):
                raise SecurityError(f"a format whose fields are computed or too wide: {fields}")
            for _ in fields:
                self._written([*args, *kwargs.values()])
            return wrapped(*args, **kwargs)

        return metered

    def pay(self, amount: int) -> None:
        self._left -= amount
        if self._left < 0:
            raise SecurityError("the chat template does too much: it loops or grows without end")
        if self._clock.now() > self._end:
            raise SecurityError("the chat template takes too long")

    def _paid(self, value: Any, times: int = 1) -> Any:
        """Pay for what is as large as the value."""
        if isinstance(value, str):
            self.pay(len(value) * times)
        elif isinstance(value, list | tuple | dict):
            self.pay(len(value) * times * ELEMENT)
        return value

    def _written(self, value: Any) -> Any:
        """Pay for the value as text, before it is made: a list may hold another many times."""
        if isinstance(value, str):
            self.pay(len(value))
        elif isinstance(value, dict):
            self._written(list(value.items()))
        elif isinstance(value, list | tuple):
            self.pay(TURN * len(value))
            for item in value:
                self._written(item)
        return value

    def _pay_for(self, name: str, values: list[Any]) -> None:
        """Pay for a call with these arguments, a method's owner among them."""
        self.pay(CALL)
        for value in () if name in GLANCES else values:
            self._written(value) if name in WRITERS else self._paid(value)
            if name in WIDTH_TAKERS and isinstance(value, int) and abs(value) > MAX_WIDTH:
                raise SecurityError(f"{name} takes no number above {MAX_WIDTH}, not {value}")
        texts = [value for value in values if isinstance(value, str)]
        if name == "format" and texts:
            self._pay_percent(texts[0], values)
        if name == "replace" and len(texts) > 2:
            self.pay(texts[0].count(texts[1]) * len(texts[2]))
        elif name in ("join", "wordwrap"):  # a text between the pieces of another value
            pieces = max((len(v) for v in values if isinstance(v, str | list | tuple)), default=0)
            self.pay(pieces * min((len(text) for text in texts), default=0))

    def _pay_percent(self, form: str, values: list[Any]) -> None:
        if WIDE_PERCENT.search(form):
            raise SecurityError(f"a format whose fields are computed or too wide: {form[:80]!r}")
        for _ in range(form.count("%")):
            self._written(values)

    def _metered(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def metered(*args: Any, **kwargs: Any) -> Any:
            if name == "join":  # what a generator yields has to be seen to be paid
                args = tuple(list(a) if isinstance(a, Iterator) else a for a in args)
            self._pay_for(name, [*args, *kwargs.values()])
            return self._paid(function(*args, **kwargs))

        return metered

    def _turns(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            self.pay(TURN)
            yield item

    def _concat(self, parts: list[Any]) -> str:
        self._written(parts)
        return "".join(str(part) for part in parts)

    def _range(self, *args: int) -> range:
        numbers = range(*args)
        self.pay(len(numbers) * TURN)
        return numbers


class _Metered(NodeTransformer):
    """Sends loops and `~` through filters that pay, because Jinja gives no other hook for them."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = _through("metered_turns", node.iter)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _through("metered_concat", nodes.List(node.nodes, lineno=node.lineno))


def _through(name: str, value: nodes.Node) -> nodes.Filter:
    return nodes.Filter(cast(nodes.Expr, value), name, [], [], None, None, lineno=value.lineno)


class _Generation(Extension):
    """{% generation %} marks what the model said, for training masks; here it is only a scope."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        lineno = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=lineno)


class _Namespace(Namespace):
    """Refuses names that begin with an underscore, the way into Python's internals."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # no name for self: it may be among kwargs
        self, args = args[0], args[1:]
        values = dict(*args, **kwargs)
        for name in values:
            _check_name(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace has no names that begin with an underscore: {name!r}")


def _local_time(clock: Clock) -> datetime:
    return datetime.fromtimestamp(clock.wall())


def _dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    return dict(*args, **kwargs)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own escapes what HTML needs escaped; a prompt wants it as it is."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )
