"""Requests to a server, their tokens, and what may be wrong with them. Loopback only."""

import json
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from pieria.bench.process import Server

WORDS = ("the sea", "a red door", "winter", "seven", "music", "a long road", "bread", "night")


def request(number: int, max_tokens: int) -> dict[str, Any]:
    """The same number, the same request and the same tokens."""
    return {
        "model": "m",
        "prompt": f"Story {number}, about {WORDS[number % len(WORDS)]}:",
        "max_tokens": max_tokens - number % 7,
        "ignore_eos": True,
        "seed": number,
        "temperature": 0.0 if number % 4 == 0 else 0.8,
        "stream": True,
        "return_token_ids": True,
    }


def tokens(server: Server, body: dict[str, Any]) -> list[int] | str:
    """The tokens of an answer that came to its proper end, or what went wrong."""
    try:
        status, text = server.request("/v1/completions", json.dumps(body).encode())
    except OSError as error:
        return f"connection: {error}"
    if status != 200:
        return f"status {status}: {text[:200]}"
    events = [line.removeprefix("data: ") for line in text.splitlines() if line]
    if not events or events[-1] != "[DONE]":
        return f"the stream ended with {events[-1][:300] if events else 'nothing'}"
    found: list[int] = []
    for event in events[:-1]:
        said = json.loads(event)
        if "error" in said:
            return f"error event: {event[:300]}"
        found += said["choices"][0].get("token_ids", ())
    return found


@dataclass
class Verdict:
    """What came of many answers. wrong: the first of each kind, in words."""

    answered: int = 0
    lost: int = 0
    duplicated: int = 0
    changed: int = 0
    wrong: list[str] = field(default_factory=list)
    lock: Lock = field(default_factory=Lock)

    def take(self, number: int, found: list[int] | str, wanted: list[int]) -> None:
        """Count one answer."""
        with self.lock:
            self.answered += 1
            if found == wanted:
                return
            if isinstance(found, str) or len(found) < len(wanted):
                self.lost += 1
            elif len(found) > len(wanted):
                self.duplicated += 1
            else:
                self.changed += 1
            self.wrong.append(f"request {number}: {found}")

    def __str__(self) -> str:
        counts = f"lost {self.lost}, duplicated {self.duplicated}, changed {self.changed}"
        return "\n".join([f"{self.answered} answers: {counts}", *self.wrong[:10]])
