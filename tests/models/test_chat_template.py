"""Against transformers, on templates as published and in their forms."""

import copy
import re
import threading
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from pieria.models import chat_template
from pieria.models.chat_template import ChatTemplate
from pieria.models.checkpoint import open_checkpoint

CHATML = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.content is string %}
        {{- message.content | trim }}
    {%- else %}
        {%- for part in message.content if part.type == 'text' %}
            {{- part.text }}
        {%- endfor %}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""
LLAMA3 = """\
{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}
    {{- "Environment: ipython\\n" }}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
{%- endif %}
{{- system_message ~ "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
        {{- message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("This model only supports single tool-calls at once!") }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '{"name": "%s", "parameters": ' % tool_call.name }}
        {{- tool_call.arguments | tojson }}
        {{- "}<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
MISTRAL = """\
{{ bos_token }}{% set ns = namespace(index=0) %}{% for message in messages %}
{% if (message['role'] == 'user') != (ns.index % 2 == 0) %}
{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
{% endif %}
{% if message['role'] == 'user' %}
{{ '[INST] ' + message['content'] + ' [/INST]' }}
{% elif message['role'] == 'assistant' %}
{% generation %}{{ message['content'] + eos_token}}{% endgeneration %}
{% else %}
{{ raise_exception('Only user and assistant roles are supported!') }}
{% endif %}
{% set ns.index = ns.index + 1 %}
{% endfor %}
"""
ODDS = """\
{% macro show(x, n=2) %}<{{ x | string | upper }}{{ '!' * n }}>{% endmacro %}
{%- for m in messages %}
{%- if loop.index > 3 %}{% break %}{% endif %}
{%- if m.role == 'system' %}{% continue %}{% endif %}
{{ loop.index }}/{{ loop.length }} {{ loop.cycle('a', 'b') }} {{ show(m.role, n=loop.index) }}
{{- m.content.split(' ') | join(', ') }} {{ m.content.replace('e', 'ee') | length }}
{{- m.keys() | list }} {{ m.items() | list | tojson }} {{ "%s-%05d" % (m.role, 7) }}
{{- "{:>9}|{role}".format(loop.index0, role=m.role) }} {{ m.content | indent(2) | center(20) }}
{{- m.get('absent') }}{{ m.absent }}{{ [1, 2] + [3] }} {{ 2 ** 10 }} {{ 7 // 2 }} {{ 1.5 * 2 }}
{%- else %}nothing{% endfor %}
{% for i in range(3, 0, -1) %}{{ i }}{% endfor %}{{ dict(a=1) | tojson }}{{ (1, 2) | list }}
{%- set pairs = messages | map(attribute='role') | unique | list %}{{ pairs }}
{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | join('+') }}
{{ messages | tojson(indent=2, ensure_ascii=True, sort_keys=True, separators=(',', ' : ')) }}
"""
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Wëather <b>&'\"",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]
CALL = {"type": "function", "function": {"name": "get_weather", "arguments": {"city": "X", "n": 1}}}
CHATS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": "Hello <there> & 你好 🎉"}],
    [
        {"role": "system", "content": " Be brief.\n"},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b  "},
        {"role": "user", "content": " c \n d"},
    ],
    [{"role": "user", "content": "x"}, {"role": "user", "content": "y"}],
    [{"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "image"}]}],
    [{"role": "user", "content": "w"}, {"role": "assistant", "content": "", "tool_calls": [CALL]}],
    [{"role": "user", "content": "w"}, {"role": "assistant", "content": "", "tool_calls": []}],
    [{"role": "user", "content": "q"}, {"role": "assistant", "content": "unfinished "}],
    [{"role": "user"}],
]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"add_generation_prompt": False},
    {"tools": TOOLS},
    {"enable_thinking": False},
    {"add_generation_prompt": False, "continue_final_message": True},
    {"continue_final_message": True},
]
REFERENCE = transformers.PreTrainedTokenizerFast(
    tokenizer_object=tokenizers.Tokenizer(tokenizers.models.BPE(vocab={"a": 0}, merges=[])),
    bos_token="<s>",
    eos_token="</s>",
)


def compare(source: str, messages: list[dict[str, Any]], options: dict[str, Any]) -> str | None:
    """Both must render the same, or both refuse. Returns the text."""
    try:
        expected = REFERENCE.apply_chat_template(
            messages,
            chat_template=source,
            tokenize=False,
            **{"add_generation_prompt": True, **options},
        )
    except Exception:  # whatever transformers lets through
        with pytest.raises(ValueError, match=r"\S"):
            ChatTemplate(source, "<s>", "</s>").render(messages, **options)
        return None
    assert ChatTemplate(source, "<s>", "</s>").render(messages, **options) == expected
    return str(expected)


@pytest.mark.parametrize("source", [CHATML, LLAMA3, MISTRAL, ODDS], ids=["ml", "3", "mi", "odd"])
def test_as_transformers_renders(source: str) -> None:
    texts = [compare(source, chat, options) for chat in CHATS for options in OPTIONS]
    assert sum(text is not None for text in texts) >= 10
    assert sum(text is None for text in texts) >= 5


def test_the_template_of_smollm2(smollm2: Path) -> None:
    source = open_checkpoint(smollm2).chat_template
    assert source is not None
    for chat in CHATS:
        for options in OPTIONS:
            compare(source, chat, options)
    assert compare(source, CHATS[0], {}) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
        "<|im_end|>\n<|im_start|>user\nHello <there> & 你好 🎉<|im_end|>\n<|im_start|>assistant\n"
    )


@settings(deadline=None, max_examples=100)
@given(st.lists(st.text(), min_size=1, max_size=4), st.booleans())
def test_any_text_as_transformers_renders_it(contents: list[str], last_open: bool) -> None:
    roles = ["user", "assistant"] * 2
    chat = [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)]
    options = {"add_generation_prompt": not last_open, "continue_final_message": last_open}
    for source in (CHATML, LLAMA3, MISTRAL):
        compare(source, chat, options)


def test_the_last_message_stays_open() -> None:
    chat = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "It is "}]
    options: dict[str, Any] = {"add_generation_prompt": False, "continue_final_message": True}
    open_ended = ChatTemplate("{% for m in messages %}[{{ m.content }}]{% endfor %}", None, None)
    assert open_ended.render(chat, **options) == "[q][It is "
    trimming = ChatTemplate("{% for m in messages %}[{{ m.content|trim }}]{% endfor %}", None, None)
    assert trimming.render(chat, **options) == "[q][It is"
    parts = [{"role": "user", "content": [{"type": "text", "text": "a "}, {"type": "image"}]}]
    text = ChatTemplate("{% for p in messages[0].content %}<{{ p.text }}>{% endfor %}", None, None)
    assert text.render(parts, **options) == "<a "


@pytest.mark.parametrize(
    ("source", "chat", "message"),
    [
        ("{{ messages[0].content }}", [], "there is no final message with content"),
        ("{{ messages[0].content }}", [{"role": "user"}], "there is no final message with content"),
        ("{{ messages }}", [{"content": "a"}], "there is no final message with content"),
        ("{{ messages[0].content }}", [{"content": [{"type": "image"}]}], "has no text"),
        ("{{ messages[0].content }}", [{"content": 3}], "has no text"),
        ("{# content #}x", [{"content": "a"}], "does not show the final message as it is"),
        ("{{ messages[0].content[:3] }}", [{"content": "abcdef"}], "does not show the final"),
    ],
)
def test_what_cannot_be_continued(source: str, chat: list[Any], message: str) -> None:
    template = ChatTemplate(source, None, None)
    with pytest.raises(ValueError, match=message):
        template.render(chat, add_generation_prompt=False, continue_final_message=True)


def test_messages_are_left_as_they_are() -> None:
    for chat in CHATS:
        before = copy.deepcopy(chat)
        for options in OPTIONS:
            compare(ODDS, chat, options)
        assert chat == before


class Stopped:
    """A clock that stands."""

    def now(self) -> float:
        return 0.0

    def wall(self) -> float:
        return 1_700_000_000.0

    def sleep(self, seconds: float) -> None:
        raise AssertionError("a template does not sleep")


def test_the_date_comes_from_the_clock() -> None:
    template = ChatTemplate("{{ strftime_now('%d %b %Y') }}", None, None, Stopped())
    assert template.render([]) == datetime.fromtimestamp(1_700_000_000).strftime("%d %b %Y")


def test_missing_special_tokens_are_undefined() -> None:
    source = "{{ bos_token is defined }}{{ eos_token }}"
    assert ChatTemplate(source, None, "</s>").render([]) == "False</s>"


def test_reasoning_under_every_name() -> None:
    source = "{{ messages[0].reasoning_content }}/{{ messages[0].thinking }}"
    for name in ("reasoning", "reasoning_content", "thinking"):
        assert ChatTemplate(source, None, None).render([{name: "hm"}]) == "hm/hm"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ raise_exception('Only two roles!') }}", "Only two roles!"),
        ("{{ messages[0].absent.deeper }}", "has no attribute 'absent'"),
        ("{{ absent.deeper }}", "'absent' is undefined"),
        ("{{ 1 // 0 }}", "the chat template failed: ZeroDivisionError"),
        ("{{ 'a' + 1 }}", "the chat template failed: TypeError"),
        ("{{ messages | tojson(indent='x', bad=1) }}", "the chat template failed: TypeError"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
    ],
)
def test_failures_carry_their_message(source: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        ChatTemplate(source, None, None).render([{"role": "user"}])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{% if %}", "chat template, line 1: "),
        ("\n\n{{ a b }}", "chat template, line 3: "),
        ("{% nonsense %}", "unknown tag 'nonsense'"),
        ("{% include 'x' %}{% for %}", "chat template, line 1"),
        ("{{ " + "(" * 100_000 + " }}", "nested too deeply"),
        ("{% if x %}" * 3000 + "{% endif %}" * 3000, "nested too deeply"),
        ("x" * (chat_template.MAX_TEMPLATE + 1), "the chat template has 1048577 characters"),
    ],
    ids=range(7),
)
def test_templates_that_are_none(source: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        ChatTemplate(source, None, None)


def test_only_plain_values_go_in() -> None:
    template = ChatTemplate("{{ messages }}{{ x }}", None, None)
    with pytest.raises(ValueError, match="must be plain JSON values, not object"):
        template.render([{"role": object()}])
    with pytest.raises(ValueError, match="must be plain JSON values, not set"):
        template.render([], x={1})
    with pytest.raises(ValueError, match="a message must be an object, not str"):
        template.render(["hi"])  # type: ignore[list-item]
    deep: Any = "x"
    for _ in range(200):
        deep = [deep]
    with pytest.raises(ValueError, match="nested 100 deep at most"):
        template.render([], x=deep)


def test_output_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_template, "MAX_OUTPUT", 100)
    template = ChatTemplate("{% for m in messages %}{{ m.content }}{% endfor %}", None, None)
    assert len(template.render([{"content": "x" * 100}])) == 100
    with pytest.raises(ValueError, match="more than 100 characters of output"):
        template.render([{"content": "x" * 60}] * 2)


def test_threads_may_share_one() -> None:
    source = (
        "{% set ns = namespace(t='') %}{% for m in messages %}{% set ns.t = ns.t + m.content %}"
        "{% endfor %}{{ ns.t }}"
    )
    template = ChatTemplate(source, None, None)
    results: dict[int, str] = {}

    def work(i: int) -> None:
        results[i] = template.render([{"content": f"{i} "}] * 200)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {i: f"{i} " * 200 for i in range(8)}
