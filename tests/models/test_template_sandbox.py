"""Templates that attack: none reaches Python, changes its input, or takes much time or memory."""

import itertools
import tracemalloc
from typing import Any

import pytest

from pieria.models import template_sandbox
from pieria.models.chat_template import ChatTemplate

MESSAGES: list[dict[str, Any]] = [{"role": "user", "content": "hello"}]

ESCAPES = [
    "{{ ''.__class__ }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__class__.__base__.__subclasses__() }}",
    "{{ self.__init__.__globals__ }}",
    "{{ range.__globals__ }}",
    "{{ raise_exception.__globals__ }}",
    "{{ strftime_now.__globals__ }}",
    "{{ strftime_now.__closure__ }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ dict.__class__ }}",
    "{{ cycler.__init__.__globals__.os }}",
    "{{ joiner.__init__.__globals__ }}",
    "{{ loop.__class__ }}",
    "{{ ''|attr('__class__') }}",
    "{{ ['x']|map(attribute='__class__')|list }}",
    "{{ ''['__class__'] }}",
    "{{ '{0.__class__}'.format(messages) }}",
    "{{ '{0.__class__.__mro__}'.format_map({'0': messages}) }}",
    "{% set f = '{0.__class__}'.format %}{{ f(messages) }}",
    "{{ messages|tojson.__class__ }}",
    "{% for x in [1] %}{{ loop._iterable }}{{ loop.__init__.__globals__ }}{% endfor %}",
    "{% macro m() %}{% endmacro %}{{ m.__globals__ }}{{ m._func.__globals__ }}",
    "{{ namespace(__class__=1) }}",
    "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
    "{{ ().__class__.__bases__[0] }}",
    "{{ (messages|batch(1)).gi_frame }}",
    "{{ messages.append({}) }}",
    "{{ messages.clear() }}",
    "{{ messages[0].update({'role': 'system'}) }}",
    "{{ messages[0].pop('role') }}",
    "{{ messages[0].setdefault('x', 1) }}",
    "{{ messages.sort() }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}{{ os }}",
    "{% extends 'x' %}",
    "{{ lipsum() }}",
]


@pytest.mark.parametrize("source", ESCAPES)
def test_there_is_no_way_out(source: str) -> None:
    try:
        text = ChatTemplate(source, None, None).render(MESSAGES)
    except ValueError:
        pass
    else:
        assert text.strip("[]") in ("", "Undefined")  # an attribute that is not there
    assert MESSAGES == [{"role": "user", "content": "hello"}]


def grown(start: str, step: str, end: str = "") -> str:
    """Sixty steps, so that doubling exceeds any memory."""
    return (
        f"{{% set ns = namespace(v={start}) %}}{{% for i in range(60) %}}"
        f"{{% set ns.v = {step} %}}{{% endfor %}}{end}"
    )


GREEDY = [
    "{% for i in range(10**9) %}{% endfor %}",
    "{{ range(10**9)|list }}",
    "{{ range(10**7)|sum }}",
    "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
    "{% for a in range(9) recursive %}{{ loop(range(9)) }}{% endfor %}",
    "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "{{ 'x' * 10**10 }}",
    "{{ 10**10 * 'x' }}",
    "{{ [0] * 10**10 }}",
    "{{ 10 ** 10000 }}",
    "{{ 2.0 ** 100000 }}",
    grown("2**60", "ns.v * ns.v"),
    grown("'ab'", "ns.v + ns.v"),
    grown("'ab'", "ns.v ~ ns.v"),
    grown("[1]", "ns.v + ns.v"),
    grown("[1]", "[ns.v, ns.v]", "{{ ns.v }}"),
    grown("[1]", "[ns.v, ns.v]", "{{ ns.v|tojson }}"),
    grown("[1]", "[ns.v, ns.v]", "{{ ns.v ~ '' }}"),
    grown("[1]", "[ns.v, ns.v]", "{{ '%s' % [ns.v] }}"),
    grown("[1]", "[ns.v, ns.v]", "{{ '{}'.format(ns.v) }}"),
    grown("{'a': 1}", "{'a': ns.v, 'b': ns.v}", "{{ ns.v|string }}"),
    "{% set s = 'x' * 10**6 %}{{ s.replace('', s) }}",
    "{% set s = 'x' * 10**6 %}{{ s|replace('x', s) }}",
    "{% set s = 'x' * 10**6 %}{{ s.join(s) }}",
    "{% set s = 'x' * 10**6 %}{{ s|join(s) }}",
    "{% set s = 'x' * 10**6 %}{{ ([s] * 10**4)|join }}",
    "{% set s = 'x' * 10**6 %}{{ ([s] * 10**4)|map('string')|join }}",
    "{% set s = 'x' * 10**6 %}{{ ''.join([s] * 10**4) }}",
    "{% set s = 'x' * 10**6 %}{{ s|wordwrap(1, true, s) }}",
    "{% set s = 'x' * 10**6 %}{{ '{0}' * 10**4 }}{{ ('{0}' * 10**4).format(s) }}",
    "{% set s = 'x' * 10**6 %}{{ ('%s' * 300) % ([s] * 300) }}",
    "{% set s = 'x' * 10**6 %}{% for i in range(10**4) %}{{ s }}{% endfor %}",
    "{{ 'x'|center(10**10) }}",
    "{{ 'x'.center(10**10) }}",
    "{{ 'x'.ljust(width=10**10) }}",
    "{{ '\t'.expandtabs(10**10) }}",
    "{{ '1'.zfill(10**10) }}",
    "{{ 'a\nb'|indent(10**10) }}",
    "{{ messages|tojson(indent=10**10) }}",
    "{{ messages|batch(10**10, 'x')|list }}",
    "{{ messages|slice(10**10)|list }}",
    "{{ '%9999999999d' % 1 }}",
    "{{ '%*d' % (10**10, 1) }}",
    "{{ '%9999999999d'|format(1) }}",
    "{{ '{:>9999999999}'.format('x') }}",
    "{{ '{:>{}}'.format('x', 10**10) }}",
    "{{ '{0:>9999999999}'.format_map({'0': 'x'}) }}",
]  # fmt: skip


@pytest.mark.parametrize("source", GREEDY, ids=itertools.count())
def test_work_is_bounded(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundredth of the budget, so that the test is quick."""
    monkeypatch.setattr(template_sandbox, "WORK", template_sandbox.WORK // 100)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="too much|takes no|bits|wide|Recursion"):
            ChatTemplate(source, None, None).render(MESSAGES)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def test_an_honest_long_conversation_is_within_the_budget() -> None:
    """A million tokens' worth of text in ten thousand messages, in a wasteful form."""
    source = (
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}"
        "{% if '</think>' in m.content %}{{ m.content.split('</think>')[-1] }}{% endif %}"
        "{{ '<|im_start|>' + m.role + '\\n' + m.content|trim + '<|im_end|>' + '\\n' }}"
        "{{ messages|length - loop.index }}{% endfor %}"
    )
    text = "All work and no play. " * 20
    rendered = ChatTemplate(source, None, None).render([{"role": "u", "content": text}] * 10_000)
    assert rendered.count("All work") == 200_000


def test_the_budget_is_each_renderings_own() -> None:
    template = ChatTemplate("{{ ('x' * 5 * 10**7)|length }}", None, None)
    for _ in range(5):
        assert template.render([]) == str(5 * 10**7)
