"""How one request goes: its tokens, and the moments at which it got on. Knows nothing else."""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass
class Course:
    """So far. Moments are a clock's seconds, None while they have not come.

    prepared: template and tokenizer were done. scheduled: the engine began with the first prompt.
    """

    chat: bool = False
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    prepared: float | None = None
    scheduled: float | None = None
    first_token: float | None = None
    last_token: float | None = None

    def parts(self, began: float) -> Iterator[tuple[str, float, float]]:
        """(name, start, end) of each part that was come through, one after the other."""
        start = began
        for name, end in (
            ("prepare", self.prepared),
            ("queue", self.scheduled),
            ("prompt", self.first_token),
            ("tokens", self.last_token),
        ):
            if end is not None:
                yield name, start, end
                start = end
