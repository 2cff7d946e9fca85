"""What the front (tokenizer, HTTP) and the engine say to each other. Torch-free.

A fixed, typed, pickle-free schema. Token ids only; text belongs to the front.
"""

from typing import Any

import msgspec

from pieria.engine.plan import Logprob
from pieria.engine.sampling_params import SamplingParams


class Add(msgspec.Struct, frozen=True, tag=True):
    """A request with one choice. params.n is ignored: the front sends one `Add` per choice.

    id: unique among live requests. seed: fixed by the front. leader: id of an earlier request with
    the same prompt, whose pages this one waits for. salt, adapter: requests share cached pages only
    where both are equal. max_tokens: already resolved against the model's length. priority: lower
    is served earlier. tenant, share: seats are divided between tenants by their shares. output,
    prompt_logprobs_sent: what another engine had computed of it; this one goes on after it.
    stream_interval: of how many tokens at a time the front wants news, after the first.
    """

    id: str
    tokens: tuple[int, ...]
    params: SamplingParams
    seed: int
    max_tokens: int
    choice: int = 0
    leader: str | None = None
    priority: int = 0
    salt: str = ""
    adapter: str = ""
    tenant: str = ""
    share: float = 1.0
    output: tuple[int, ...] = ()
    prompt_logprobs_sent: int = 0
    stream_interval: int = 1


class Abort(msgspec.Struct, frozen=True, tag=True):
    """Forget these requests and free what they hold, before the next step.

    Unknown ids are ignored.
    """

    ids: tuple[str, ...]


class Shutdown(msgspec.Struct, frozen=True, tag=True):
    """End the engine at once."""


class Command(msgspec.Struct, frozen=True, tag=True):
    """Something for the engine to do before its next step; a `Reply` of that number follows."""

    number: int
    name: str
    path: str = ""


class Output(msgspec.Struct, frozen=True, gc=False):
    """News of one request.

    finish_reason: None while it runs, else "stop", "length", "abort" or "error".
    stop_reason: the stop token id that ended it; None for end-of-text. error: the cause of "error".
    cached_tokens: prompt tokens found in the prefix cache; sent with the first news.
    queued_seconds: how long it waited for its first step; with its first news, else None.
    """

    id: str
    tokens: tuple[int, ...] = ()
    logprobs: tuple[Logprob, ...] = ()
    prompt_logprobs: tuple[Logprob, ...] = ()
    cached_tokens: int = 0
    finish_reason: str | None = None
    stop_reason: int | None = None
    error: str | None = None
    queued_seconds: float | None = None


class Stats(msgspec.Struct, frozen=True):
    """Gauges at the end of a step, and counters since the engine started.

    repairs: times that pages, states and requests did not agree and were set right. aborts: of
    requests that the engine still had. late_aborts: of those, for how many more than one step ended
    between the abort's arrival and the moment at which what they held was free.
    """

    running: int = 0
    waiting: int = 0
    pages: int = 0
    pages_held: int = 0
    pages_cached: int = 0
    steps: int = 0
    preemptions: int = 0
    split_prompts: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0
    repairs: int = 0
    aborts: int = 0
    late_aborts: int = 0

    def then(self, later: "Stats") -> "Stats":
        """The gauges of a later engine, and the counters of both."""
        counted = {name: getattr(self, name) + getattr(later, name) for name in COUNTERS}
        return msgspec.structs.replace(later, **counted)


COUNTERS = Stats.__struct_fields__[5:]
"""Those of `Stats` that only grow."""


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The engine can take requests, of token ids below `vocabulary`.

    decisions: (what, value, reason) of everything it resolved by itself.
    """

    max_model_len: int
    vocabulary: int
    stats: Stats
    decisions: tuple[tuple[str, str, str], ...] = ()


class Progress(msgspec.Struct, frozen=True, tag=True):
    """Sent after every step that there is news of, and after one a second; while idle, each second.

    idle: no request is waiting or running.
    """

    outputs: tuple[Output, ...]
    stats: Stats
    idle: bool


class Reply(msgspec.Struct, frozen=True, tag=True):
    """What came of a `Command`. error: why nothing did."""

    number: int
    told: str = ""
    error: str | None = None


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The engine ends. reason: the root cause, in one line.

    refused: it never began, because of what it was asked to be.
    """

    reason: str
    refused: bool = False


class Start(msgspec.Struct, frozen=True, tag=True):
    """The first message to an engine process.

    settings, JSON-like: `scheduler`, its Config; `stop_ids`, the tokens that end a text; and what
    the runner factory asks for.
    """

    settings: dict[str, Any]


ToEngine = Start | Add | Abort | Command | Shutdown
FromEngine = Ready | Progress | Reply | Failed
