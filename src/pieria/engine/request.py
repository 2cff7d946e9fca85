"""A request as the scheduler sees it: changed by the scheduler alone. Torch-free."""

import msgspec

from pieria.engine.history import History
from pieria.engine.messages import Add
from pieria.engine.plan import Draw
from pieria.engine.prefix_cache import Table


class Account:
    """What a tenant has of the engine.

    waiting: its requests that wait, in the order of their ranks. running: how many run. served:
    tokens that were computed for it, divided by its share.
    """

    def __init__(self) -> None:
        self.share = 1.0
        self.served = 0.0
        self.running = 0
        self.waiting: list[Request] = []

    @property
    def present(self) -> bool:
        return self.running > 0 or len(self.waiting) > 0


class Request:
    """Tokens known, tokens computed, and the pages that hold what was computed.

    Each step lets `computed` catch up with len(tokens); a prompt, a generated token, a prefix hit
    and a resumption after preemption differ in nothing else.

        tokens  [0 ............. prompt_length ............. len)
                [0 .... computed)   what is remembered of it lies in `tables`, and in `states`

    The full pages of [0, computed) were offered to the prefix cache. `tables` is empty while the
    request waits, and only then. If the model keeps a state per request, `states` has the one of
    [0, computed), unless computed is 0, and after it, during a step, the one that the step leaves.
    """

    def __init__(self, add: Add, arrival: int, account: Account | None = None) -> None:
        self.add = add
        self.account = account or Account()
        self.id = add.id
        self.key = add.salt, add.adapter
        self.arrival = arrival
        self.tokens = [*add.tokens, *add.output]
        self.prompt_length = len(add.tokens)
        self.computed = 0
        self.tables: list[Table] = []
        self.states: list[int] = []
        self.cached_tokens = 0
        self.prompt_logprobs_sent = add.prompt_logprobs_sent
        self.announced = bool(add.output or add.prompt_logprobs_sent)
        p = add.params
        self.stops = frozenset(p.stop_token_ids or ())
        self.most_tokens = self.prompt_length + add.max_tokens
        self._history: History | None = None
        if p.repetition_penalty != 1:
            self._history = History(self.tokens, self.prompt_length, of_prompt=True)
        elif p.presence_penalty != 0 or p.frequency_penalty != 0:
            self._history = History(self.tokens, self.prompt_length, of_prompt=False)
        self._first_to_stop = self.prompt_length + p.min_tokens
        self._draw = Draw(
            seed=add.seed,
            choice=add.choice,
            temperature=p.temperature,
            top_k=max(p.top_k, 0),
            top_p=p.top_p,
            min_p=p.min_p,
            presence_penalty=p.presence_penalty,
            frequency_penalty=p.frequency_penalty,
            repetition_penalty=p.repetition_penalty,
            bias=tuple((p.logit_bias or {}).items()),
            logprobs=p.logprobs,
        )

    @property
    def pending(self) -> int:
        """Tokens that are known and not computed."""
        return len(self.tokens) - self.computed

    @property
    def output_length(self) -> int:
        return len(self.tokens) - self.prompt_length

    @property
    def wants_prompt_logprobs(self) -> bool:
        """Whether log-probabilities of prompt positions are wanted that were not sent yet."""
        asked = self.add.params.prompt_logprobs is not None
        return asked and self.prompt_logprobs_sent < self.prompt_length - 1

    def draw(self, stop_ids: frozenset[int]) -> Draw:
        """How to draw the token after the last known one."""
        early = len(self.tokens) < self._first_to_stop
        if not early and self._history is None:
            return self._draw
        seen, times = (b"", b"") if self._history is None else self._history.counted()
        return msgspec.structs.replace(
            self._draw,
            seen=seen,
            times=times,
            banned=tuple(sorted(stop_ids | self.stops)) if early else (),
        )

    def finish_reason(self, stop_ids: frozenset[int]) -> tuple[str | None, int | None]:
        """Why the last token ends the request, and the stop token id that did.

        (None, None) if it goes on.
        """
        token, length = self.tokens[-1], len(self.tokens) - self.prompt_length
        if token in self.stops or token in stop_ids:
            p = self.add.params
            if length >= max(p.min_tokens, 1):
                if token in self.stops:
                    return "stop", token
                if not p.ignore_eos:
                    return "stop", None
        return ("length", None) if len(self.tokens) >= self.most_tokens else (None, None)
