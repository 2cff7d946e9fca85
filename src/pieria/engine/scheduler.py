"""Which tokens of which requests are computed in the next step. Torch-free.

There is no prefill phase and no decode phase. Each request has `tokens` and `computed`, and each
step lets `computed` catch up under a token budget: running requests first, in rank order, then
waiting ones while pages last, one tenant's after another's. When pages run out, the running request
of the highest rank gives all of its pages back and waits again; what it had published is usually
found when it resumes. So does one of a tenant who has more than its part of the seats, when another
tenant waits for its own.

What fails while one request is looked at ends that request. Owns requests and pages. Does not know
devices, text or time.
"""

import logging
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pieria.config import option
from pieria.engine.cause import cause
from pieria.engine.messages import Add, Output, Stats
from pieria.engine.pages import most_pages
from pieria.engine.plan import Chunk, ChunkResult, StepPlan, StepResult
from pieria.engine.policies import POLICIES, Rank, fcfs, longest_prefix, priority
from pieria.engine.prefix_cache import ABSENT, PrefixCache, Table
from pieria.engine.request import Request
from pieria.engine.tenants import Tenants

RANKED_WAITERS = 256
"""How many waiting requests, the first to come, `longest_prefix` ranks in one step; each costs a
walk through the prefix tree."""

EVENTS = 64
"""How many of the latest things that happened to requests are kept, for when something is wrong."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SchedulerConfig:
    """Scheduling"""

    max_num_seqs: int = option(128, help="most requests that are computed in one step")
    max_num_batched_tokens: int = option(
        512,
        help="most tokens that are computed in one step; longer prompts are split. As a processor"
        " computes no faster with more, the first token of others need not wait; a GPU wants some"
        " thousands",
    )
    max_mixed_tokens: int | None = option(
        None,
        help="most tokens of a step in which answers go on, whose next tokens wait for the prompts"
        " beside them; default: three quarters of max_num_batched_tokens",
    )
    scheduling_policy: str = option(
        "fcfs", choices=tuple(POLICIES), help="which waiting request is admitted first"
    )
    enable_prefix_caching: bool = option(
        True, help="reuse the keys and values of beginnings of text that were seen before"
    )

    def __post_init__(self) -> None:
        for name in ("max_num_seqs", "max_num_batched_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise ValueError(
                f"max_num_batched_tokens={self.max_num_batched_tokens} must not be less than"
                f" max_num_seqs={self.max_num_seqs}, or some requests would never get a token"
            )
        least, most = self.max_num_seqs, self.max_num_batched_tokens
        if self.max_mixed_tokens is not None and not least <= self.max_mixed_tokens <= most:
            raise ValueError(
                f"max_mixed_tokens={self.max_mixed_tokens} must be from max_num_seqs={least} to"
                f" max_num_batched_tokens={most}"
            )
        if self.scheduling_policy not in POLICIES:
            raise ValueError(
                f"scheduling_policy={self.scheduling_policy!r}; there are: {', '.join(POLICIES)}"
            )

    @property
    def mixed_tokens(self) -> int:
        """Most tokens of a step in which answers go on."""
        if self.max_mixed_tokens is not None:
            return self.max_mixed_tokens
        return max(self.max_num_seqs, self.max_num_batched_tokens * 3 // 4)


class Scheduler:
    """`plan` says what the next step computes, `commit` takes what came of it.

    stop_ids: tokens that end a text. max_model_len: most tokens of one request, prompt and output.
    steps: how many were committed.
    """

    def __init__(
        self,
        config: SchedulerConfig,
        cache: PrefixCache,
        stop_ids: frozenset[int],
        max_model_len: int,
    ) -> None:
        self.config = config
        self.cache = cache
        self.stop_ids = stop_ids
        self.max_model_len = max_model_len
        # A request in a step has a state that it goes on from and one that it leaves.
        states = cache.states.count
        self._seats = min(config.max_num_seqs, states // 2) if states else config.max_num_seqs
        self._policy = POLICIES[config.scheduling_policy]
        self._fixed_policy = fcfs if self._policy is longest_prefix else self._policy
        self._requests: dict[str, Request] = {}
        # In the order of `_rank`.
        self._running: list[Request] = []
        self._waiting = self._no_tenants()
        self._shares_seats = self._policy is not priority
        self._arrivals = 0
        self._failed: list[Output] = []
        self._events: deque[str] = deque(maxlen=EVENTS)
        self._unchecked = False
        self.steps = 0
        self._preemptions = self._split_prompts = 0
        self._aborts = self._late_aborts = 0
        self._prompt_tokens = self._generated_tokens = 0
        self._prefix_queries = self._prefix_hits = 0
        self._repairs = 0

    @property
    def idle(self) -> bool:
        return not self._requests

    def add(self, add: Add) -> None:
        """Queue a request. ValueError if it could never be served."""
        if add.id in self._requests:
            raise ValueError(f"request id {add.id!r} is in use")
        if not add.tokens:
            raise ValueError("the prompt has no tokens; at least 1 is needed")
        if add.max_tokens < 1:
            raise ValueError(
                f"max_tokens={add.max_tokens} must be at least 1; the prompt has"
                f" {len(add.tokens)} tokens and the model's limit is {self.max_model_len}"
            )
        tokens = len(add.tokens) + add.max_tokens
        if tokens > self.max_model_len:
            raise ValueError(
                f"{len(add.tokens)} prompt tokens and max_tokens={add.max_tokens} make {tokens};"
                f" the model's limit is {self.max_model_len}"
            )
        if self._most_pages(tokens) > self.cache.pages.count:
            raise ValueError(
                f"{tokens} tokens need {self._most_pages(tokens)} pages; the cache has"
                f" {self.cache.pages.count} of {self.cache.page_tokens} tokens"
            )
        request = Request(add, self._arrivals, self._waiting.account(add.tenant, add.share))
        self._waiting.add(request)
        self._arrivals += 1
        self._requests[add.id] = request
        self._unchecked = True
        self._events.append(f"{add.id} came")

    def abort(self, ids: Iterable[str], asked_at: int | None = None) -> None:
        """Forget requests and free what they hold; unknown ids are ignored.

        asked_at: `steps` when that was asked for; None: now. More than one step since is late.
        """
        late = asked_at is not None and self.steps - asked_at > 1
        for id in ids:
            request = self._requests.get(id)
            if request is not None:
                self._events.append(f"{id} aborted")
                self._remove(request)
                self._aborts += 1
                self._late_aborts += late

    def plan(self) -> StepPlan:
        """The next step. Takes pages for it; empty only if nothing can be computed."""
        chunks: list[Chunk] = []
        failed: list[tuple[Request, Exception]] = []
        budget = self._budget()
        if len(self._waiting) and self._shares_seats:
            self._share_seats(budget)
        preemptions = self._preemptions
        page_tokens, stateful = self.cache.page_tokens, self.cache.states.count > 0
        for position, request in enumerate(self._running):  # preemption shortens it from the end
            try:
                computed, count = request.computed, len(request.tokens) - request.computed
                room = len(request.tables[0].pages) * page_tokens - computed
                # Most requests of most steps have one token to compute, and room for it.
                if count > 1 or room < 1 or stateful:
                    # Each request after this one gets a token at least: no prompt stalls others.
                    later = len(self._running) - position - 1
                    count = self._aligned(request, min(count, budget - later))
                    if not self._make_room(request, count):
                        continue
                chunks.append(self._chunk(request, count))
                budget -= count
            except Exception as error:  # ends this request
                failed.append((request, error))
        for request, wrong in failed:
            self._fail(request, "planning a step of it", wrong)
        if self._preemptions == preemptions and self._has_room(budget):
            self._admit(chunks, budget)
        return StepPlan(tuple(chunks))

    def commit(self, plan: StepPlan, result: StepResult) -> list[Output]:
        """Take a step's result: append tokens, publish full pages, end requests.

        Returns the news of each request in the plan that was not aborted since, and of those that
        could not be planned.
        """
        self.steps += 1
        outputs, self._failed = self._failed, []
        for chunk, outcome in zip(plan.chunks, result.chunks, strict=True):
            request = self._requests.get(chunk.request)
            # Aborted, and perhaps another waits under the same id by now.
            if request is not None and request.tables:
                try:
                    outputs.append(self._commit(request, chunk, outcome))
                except Exception as error:  # ends this request
                    self._fail(request, "taking its token", error)
        if self._failed:
            outputs += self._failed
            self._failed = []
        return outputs

    @property
    def stats(self) -> Stats:
        return Stats(
            running=len(self._running),
            waiting=len(self._waiting),
            pages=self.cache.pages.count,
            pages_held=self.cache.pages.held,
            pages_cached=self.cache.pages.cached,
            steps=self.steps,
            preemptions=self._preemptions,
            split_prompts=self._split_prompts,
            prompt_tokens=self._prompt_tokens,
            generated_tokens=self._generated_tokens,
            prefix_queries=self._prefix_queries,
            prefix_hits=self._prefix_hits,
            repairs=self._repairs,
            aborts=self._aborts,
            late_aborts=self._late_aborts,
        )

    def repair(self) -> None:
        """When idle: count everything, and begin anew if it does not agree. Says what led to it."""
        if not self._unchecked or not self.idle:
            return
        self._unchecked = False
        try:
            self.check()
        except Exception as error:  # whatever counting trips over is wrong
            self._repairs += 1
            log.error(
                "pages, states and requests do not agree (%s); all that was cached is forgotten."
                " The latest events: %s",
                error or "an invariant does not hold",
                "; ".join(self._events),
                exc_info=error,
            )
            cache = self.cache
            counts = cache.pages.count, cache.page_tokens, cache.enabled
            self.cache = PrefixCache(*counts, cache.windows, cache.states.count)
            self._running, self._waiting = [], self._no_tenants()

    def check(self) -> None:
        """Requests, pages and the prefix tree agree; AssertionError otherwise. Between steps."""
        self.cache.check()
        assert set(self._requests) == {r.id for r in [*self._running, *self._waiting]}
        assert len(self._requests) == len(self._running) + len(self._waiting)
        assert len(self._running) <= self._seats
        ranks = [self._rank(r) for r in self._running]
        assert ranks == sorted(ranks)
        self._waiting.check(self._running)
        holders = [0] * self.cache.pages.count
        state_holders = [0] * self.cache.states.count
        for request in self._running:
            assert 0 <= request.computed < len(request.tokens)
            assert len({len(table.pages) for table in request.tables}) == 1
            full = request.computed // self.cache.page_tokens
            for table, window in zip(request.tables, self.cache.windows, strict=True):
                assert self._pages_for(request.computed) <= len(table.pages)
                assert table.first == self.cache.first_visible(window, full)
                assert all((p == ABSENT) == (i < table.first) for i, p in enumerate(table.pages))
                for page in table.pages[table.first :]:
                    holders[page] += 1
            for state in request.states:
                state_holders[state] += 1
            assert len(request.states) == (self.cache.states.count > 0 and request.computed > 0)
        assert holders == self.cache.pages._holders
        assert state_holders == self.cache.states._holders
        assert not any(r.tables or r.states or r.computed for r in self._waiting)

    def _no_tenants(self) -> Tenants:
        urgent = self._policy is priority
        return Tenants(self._rank, lambda r: r.add.priority if urgent else 0)

    def _budget(self) -> int:
        """Tokens of the next step: fewer where a running request waits for only one."""
        if any(len(r.tokens) - r.computed == 1 for r in self._running):
            return self.config.mixed_tokens
        return self.config.max_num_batched_tokens

    def _has_room(self, budget: int) -> bool:
        """Whether one more request may find a seat, a token and pages.

        A page in each table stays free for each running request: they need it soon, and would
        preempt the new one for it.
        """
        running = len(self._running)
        pages = (running + 1) * len(self.cache.windows)
        return budget > 0 and running < self._seats and pages <= self.cache.pages.available

    def _share_seats(self, budget: int) -> None:
        """Make room for tenants who have less than their part, at the cost of who has most more."""
        while not self._has_room(budget):
            needy = self._waiting.entitled(self._seats)
            greedy = self._waiting.greediest(self._seats)
            if needy is None or greedy is None or needy is greedy:
                return
            self._preempt(next(r for r in reversed(self._running) if r.account is greedy))

    def _in_order(self, waiting: Sequence[Request]) -> Sequence[Request]:
        """One tenant's, as the policy has them."""
        if self._policy is longest_prefix:
            return sorted(waiting[:RANKED_WAITERS], key=lambda r: self._policy(r, self.cache))
        return waiting

    def _admit(self, chunks: list[Chunk], budget: int) -> None:
        admitted: list[Request] = []
        failed: list[tuple[Request, Exception]] = []
        for request in self._waiting.in_turn(self._in_order):
            if not self._has_room(budget):
                break
            if self._follows_a_prompt(request):
                continue
            try:
                self._begin(request)
                count = self._aligned(request, min(request.pending, budget))
                if not self._reserve(request, count, spare=len(self._running)):
                    self._give_back(request)
                    break
                chunk = self._chunk(request, count)
            except Exception as error:  # ends this request
                self._give_back(request)
                failed.append((request, error))
                continue
            admitted.append(request)
            insort(self._running, request, key=self._rank)
            if not request.announced:
                request.cached_tokens = request.computed
                self._prefix_queries += request.prompt_length
                self._prefix_hits += request.computed
                self._split_prompts += count < request.pending
            chunks.append(chunk)
            budget -= count
        for request in admitted:
            self._waiting.remove(request)
            request.account.running += 1
        for request, wrong in failed:
            self._fail(request, "admitting it", wrong)

    def _follows_a_prompt(self, request: Request) -> bool:
        """Whether its leader is about to publish its prompt, so that waiting is cheaper."""
        if request.add.leader is None or not self.cache.enabled or request.wants_prompt_logprobs:
            return False
        leader = self._requests.get(request.add.leader)
        # A leader came earlier, so no circle of requests waits for itself.
        return leader is not None and leader.arrival < request.arrival and leader.output_length == 0

    def _chunk(self, request: Request, count: int) -> Chunk:
        start, tokens, states = request.computed, request.tokens, request.states
        tables, end = request.tables, start + count
        request.account.served += count / request.account.share
        targets: tuple[int, ...] = ()
        if start < request.prompt_length and request.wants_prompt_logprobs:
            targets = tuple(tokens[start + 1 : min(end + 1, request.prompt_length)])
        return Chunk(
            request.id,
            start,
            (tokens[start],) if count == 1 else tuple(tokens[start:end]),
            (tables[0].pages,) if len(tables) == 1 else tuple([table.pages for table in tables]),
            states[0] if start and states else ABSENT,
            states[-1] if states else ABSENT,
            request.draw(self.stop_ids) if end == len(tokens) else None,
            targets,
            request.add.params.prompt_logprobs if targets else None,
        )

    def _commit(self, request: Request, chunk: Chunk, outcome: ChunkResult) -> Output:
        if outcome.error is not None:
            self._events.append(f"{request.id} failed: {outcome.error}")
            self._remove(request)
            return Output(request.id, finish_reason="error", error=outcome.error)
        token, logprob, prompt_logprobs = outcome.token, outcome.logprob, outcome.prompt_logprobs
        assert (token is None) == (chunk.draw is None)
        start, count = chunk.start, len(chunk.tokens)
        end = start + count
        if start < request.prompt_length:
            self._prompt_tokens += min(end, request.prompt_length) - start
        # Most steps of most requests are a token that fills no page.
        if count == 1 and end % self.cache.page_tokens and not request.states:
            request.computed = end
        else:
            self._remember(request, end)
        if prompt_logprobs or chunk.targets:
            assert len(prompt_logprobs) == len(chunk.targets)
            # After a preemption the prompt is computed again; what was sent is not sent twice.
            prompt_logprobs = prompt_logprobs[max(0, request.prompt_logprobs_sent - start) :]
            request.prompt_logprobs_sent += len(prompt_logprobs)
        reason, stop_token = None, None
        if token is not None:
            request.tokens.append(token)
            self._generated_tokens += 1
            is_stop = token in self.stop_ids or token in request.stops
            if is_stop or len(request.tokens) >= request.most_tokens:
                reason, stop_token = request.finish_reason(self.stop_ids)
                if reason is not None:
                    self._remove(request)
        cached_tokens = 0 if request.announced else request.cached_tokens
        request.announced = True
        return Output(
            request.id,
            () if token is None else (token,),
            () if logprob is None else (logprob,),
            prompt_logprobs,
            cached_tokens,
            reason,
            stop_token,
        )

    def _begin(self, request: Request) -> None:
        """Give a waiting request its tables, with what is found in the prefix cache."""
        if request.wants_prompt_logprobs:
            request.tables = [Table() for _ in self.cache.windows]
            return
        found = self.cache.match(request.key, request.tokens)
        request.tables = found.tables
        request.states = [] if found.state == ABSENT else [found.state]
        request.computed = found.pages * self.cache.page_tokens

    def _aligned(self, request: Request, count: int) -> int:
        """At most `count` tokens: with states, a chunk that crosses a page's end ends at one.

        They can be published there only, and only as they are after a chunk.
        """
        if self.cache.states.count and self.cache.enabled:
            end = (request.computed + count) // self.cache.page_tokens * self.cache.page_tokens
            return end - request.computed if end > request.computed else count
        return count

    def _remember(self, request: Request, end: int) -> None:
        """Its tokens up to `end` are computed: publish full pages, let go of what is not seen."""
        first, last = request.computed // self.cache.page_tokens, end // self.cache.page_tokens
        request.computed = end
        if request.states:
            self.cache.states.release(request.states[:-1])
            request.states = request.states[-1:]
        if first == last:
            return
        tables, states = request.tables, request.states
        state = states[0] if states and end % self.cache.page_tokens == 0 else ABSENT
        state = self.cache.publish(request.key, request.tokens, tables, first, last, state)
        if state != ABSENT:
            request.states = [state]
        self.cache.slide(tables, end)

    def _reserve(self, request: Request, count: int, spare: int = 0) -> bool:
        """Take pages and a state for `count` more tokens.

        False if there would not be a page left then for each table of `spare` other requests.
        """
        tables = request.tables
        missing = self._pages_for(request.computed + count) - len(tables[0].pages)
        if missing > 0:
            if (missing + spare) * len(tables) > self.cache.pages.available:
                return False
            self.cache.extend(tables, missing)
        if self.cache.states.count:
            # Never the one that is read: a step that fails is run again.
            request.states += self.cache.states.take(1)
        return True

    def _make_room(self, request: Request, count: int) -> bool:
        """Reserve, preempting from the end of the ranks; False if this request itself had to go."""
        while not self._reserve(request, count):
            victim = self._running[-1]
            self._preempt(victim)
            if victim is request:
                return False
        return True

    def _preempt(self, request: Request) -> None:
        self._preemptions += 1
        self._events.append(f"{request.id} preempted")
        self._take_out(request)
        self._give_back(request)
        self._waiting.add(request)

    def _fail(self, request: Request, what: str, error: Exception) -> None:
        """End a request that an error came from."""
        log.error("request %s: %s failed", request.id, what, exc_info=error)
        reason = cause(what, error)
        self._events.append(f"{request.id} failed: {reason}")
        if self._requests.get(request.id) is request:
            self._remove(request)
        self._failed.append(Output(request.id, finish_reason="error", error=reason))

    def _remove(self, request: Request) -> None:
        del self._requests[request.id]
        if request.tables:
            self._take_out(request)
            self._give_back(request)
        else:
            self._waiting.remove(request)

    def _give_back(self, request: Request) -> None:
        self.cache.release(request.tables)
        self.cache.states.release(request.states)
        request.tables = []
        request.states = []
        request.computed = 0

    def _take_out(self, request: Request) -> None:
        """Of those that run."""
        del self._running[bisect_left(self._running, self._rank(request), key=self._rank)]
        request.account.running -= 1

    def _rank(self, request: Request) -> Rank:
        return self._fixed_policy(request, self.cache)

    def _pages_for(self, tokens: int) -> int:
        return -(-tokens // self.cache.page_tokens)

    def _most_pages(self, tokens: int) -> int:
        """Pages that a request of so many tokens may need at once, in all tables."""
        step = self.config.max_num_batched_tokens
        return most_pages(self.cache.windows, self.cache.page_tokens, tokens, step)
