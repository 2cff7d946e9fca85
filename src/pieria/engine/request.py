"""A request as the scheduler sees it: changed by the scheduler alone. Torch-free."""

from pieria.engine.messages import Add
from pieria.engine.plan import Draw
from pieria.engine.prefix_cache import Table


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

    def __init__(self, add: Add, arrival: int) -> None:
        self.add = add
        self.arrival = arrival
        self.tokens = list(add.tokens)
        self.prompt_length = len(add.tokens)
        self.computed = 0
        self.tables: list[Table] = []
        self.states: list[int] = []
        self.cached_tokens = 0
        self.prompt_logprobs_sent = 0
        self.announced = False

    @property
    def id(self) -> str:
        return self.add.id

    @property
    def key(self) -> tuple[str, str]:
        return self.add.salt, self.add.adapter

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
        p = self.add.params
        penalised = p.presence_penalty or p.frequency_penalty or p.repetition_penalty != 1
        early = self.output_length < p.min_tokens
        return Draw(
            position=len(self.tokens),
            seed=self.add.seed,
            choice=self.add.choice,
            temperature=p.temperature,
            top_k=max(p.top_k, 0),
            top_p=p.top_p,
            min_p=p.min_p,
            presence_penalty=p.presence_penalty,
            frequency_penalty=p.frequency_penalty,
            repetition_penalty=p.repetition_penalty,
            prompt=self.add.tokens if penalised else (),
            output=tuple(self.tokens[self.prompt_length :]) if penalised else (),
            bias=tuple((p.logit_bias or {}).items()),
            banned=tuple(sorted(stop_ids | set(p.stop_token_ids or ()))) if early else (),
            logprobs=p.logprobs,
        )

    def finish_reason(self, stop_ids: frozenset[int]) -> tuple[str | None, int | None]:
        """Why the last token ends the request, and the stop token id that did.

        (None, None) if it goes on.
        """
        token, p = self.tokens[-1], self.add.params
        if self.output_length >= max(p.min_tokens, 1):
            if token in (p.stop_token_ids or ()):
                return "stop", token
            if token in stop_ids and not p.ignore_eos:
                return "stop", None
        return ("length", None) if self.output_length >= self.add.max_tokens else (None, None)
