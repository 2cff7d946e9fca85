"""Chat templates: messages to text in the form a model was trained on. Torch-free.

Does what transformers does (utils/chat_template_utils.py), so that a model's template renders the
same. Knows messages; does not know tokenizers, requests, or how Jinja is kept within bounds.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Template, TemplateError, TemplateSyntaxError

from pieria.clock import Clock, RealTime
from pieria.models.template_sandbox import Sandbox

MAX_TEMPLATE = 1 << 20
"""Characters of a template; the longest published ones have some 30 thousand."""

MAX_OUTPUT = 1 << 25
"""Characters of a rendered conversation."""

MAX_DEPTH = 100
"""Of nested lists and objects in messages and variables."""

REASONING = ("reasoning_content", "thinking", "reasoning")
"""Names under which a message's reasoning is passed; the first is what most templates read."""

CONTINUE = "CONTINUE_FINAL_MESSAGE_TAG "


class ChatTemplate:
    """One template, compiled once; threads may share it. bos, eos: those tokens' texts, if any."""

    def __init__(
        self,
        source: str,
        bos: str | None,
        eos: str | None,
        clock: Clock | None = None,
        seconds: float = float("inf"),
    ) -> None:
        """clock: what `strftime_now` shows. seconds: that one rendering may take.

        ValueError for bad syntax or a template too long.
        """
        if len(source) > MAX_TEMPLATE:
            raise ValueError(
                f"the chat template has {len(source)} characters; {MAX_TEMPLATE} are allowed"
            )
        self.source = source
        self._tokens = {"bos_token": bos, "eos_token": eos}
        self._clock = clock or RealTime()
        self._seconds = seconds
        try:
            self._code = Sandbox(self._clock).compiled(source)
        except TemplateSyntaxError as error:
            raise ValueError(f"chat template, line {error.lineno}: {error.message}") from None
        except (RecursionError, MemoryError, SyntaxError) as error:
            raise ValueError(f"the chat template is nested too deeply: {error}") from None

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        **variables: Any,
    ) -> str:
        """The conversation as text.

        continue_final_message leaves the last message open instead of starting a new one.
        ValueError, with the template's own message, if it refuses the messages or fails.
        """
        chat = [_with_reasoning(_plain(message)) for message in messages]
        if not continue_final_message:
            return self._run(chat, add_generation_prompt, tools, documents, variables)
        if add_generation_prompt:
            raise ValueError(
                "continue_final_message and add_generation_prompt cannot both be true: the first"
                " leaves the last message open, the second starts a new one"
            )
        final = _mark_end(chat, self.source)
        text = self._run(chat, False, tools, documents, variables)
        if final.strip() not in text or CONTINUE.strip() not in text:
            raise ValueError(
                "continue_final_message: the chat template does not show the final message as it is"
            )
        end = text.rindex(CONTINUE.strip())
        kept = text[end : end + len(CONTINUE)] == CONTINUE
        # A template that trims messages has trimmed the mark's own space, then also the message's.
        return text[:end] if kept else text[:end].rstrip()

    def _run(
        self,
        chat: list[dict[str, Any]],
        add_generation_prompt: bool,
        tools: Any,
        documents: Any,
        variables: Mapping[str, Any],
    ) -> str:
        sandbox = Sandbox(self._clock, self._seconds)
        template = Template.from_code(sandbox, self._code, sandbox.globals)
        tokens = {name: text for name, text in self._tokens.items() if text is not None}
        parts: list[str] = []
        length = 0
        try:
            for part in template.generate(
                messages=chat,
                tools=_plain(tools),
                documents=_plain(documents),
                add_generation_prompt=add_generation_prompt,
                **tokens | _plain(variables),
            ):
                length += len(part)
                if length > MAX_OUTPUT:
                    raise TemplateError(f"more than {MAX_OUTPUT} characters of output")
                parts.append(part)
        except TemplateError as error:
            raise ValueError(error.message or type(error).__name__) from error
        except Exception as error:  # a template can raise whatever an expression in it can
            raise ValueError(
                f"the chat template failed: {type(error).__name__}: {error}"
            ) from error
        return "".join(parts)


def _plain(value: Any, depth: int = 0) -> Any:
    """A copy in exact JSON types, so that a template meets no object with methods of its own."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    if depth > MAX_DEPTH:
        raise ValueError(f"messages and variables may be nested {MAX_DEPTH} deep at most")
    if isinstance(value, Mapping):
        return {_plain(k, depth + 1): _plain(v, depth + 1) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, depth + 1) for item in value]
    raise ValueError(
        f"messages and variables must be plain JSON values, not {type(value).__name__}"
    )


def _with_reasoning(message: Any) -> dict[str, Any]:
    """The message with its reasoning under the names that templates read."""
    if not isinstance(message, dict):
        raise ValueError(f"a message must be an object, not {type(message).__name__}")
    found = [message[name] for name in REASONING if message.get(name) is not None]
    if not found:
        return message
    return {"thinking": found[0], **message, "reasoning_content": found[0]}


def _mark_end(chat: list[dict[str, Any]], source: str) -> str:
    """Put a mark at the end of the final message's text and return that text without it."""
    content = chat[-1].get("content") if chat else None
    if content is None or "content" not in source:
        raise ValueError("continue_final_message: there is no final message with content")
    if isinstance(content, str):
        chat[-1]["content"] = content + CONTINUE
        return content
    for block in reversed(content if isinstance(content, list) else []):
        if isinstance(block, dict) and isinstance(block.get("text"), str):
            text: str = block["text"]
            block["text"] = text + CONTINUE
            return text
    raise ValueError("continue_final_message: the final message has no text")
