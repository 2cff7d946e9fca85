"""Measurements in Prometheus' text format, under vLLM's names: its boards and autoscalers fit.

Knows names and buckets. Engine figures are read when asked for; times come from who has a clock.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pieria.engine.messages import Stats
from pieria.server.aliases import Aliases
from pieria.server.limits import Account

CONTENT_TYPE = CONTENT_TYPE_LATEST

# vLLM's own bounds, in seconds.
_FIRST_TOKEN = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
)  # fmt: skip
_BETWEEN_TOKENS = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0,
    40.0, 80.0,
)  # fmt: skip
_END_TO_END = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
    480.0, 960.0, 1920.0, 7680.0,
)  # fmt: skip
_TOKENS = tuple(float(step * 10**power) for power in range(6) for step in (1, 2, 5))
_CHOICES = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)


class HasStats(Protocol):
    """Where the engine's figures are read."""

    @property
    def stats(self) -> Stats: ...

    @property
    def restarts(self) -> int: ...

    @property
    def tokens_per_second(self) -> float: ...


class Metrics:
    """All measurements of one server, in a registry of its own."""

    def __init__(self, model: str, engine: HasStats) -> None:
        registry = CollectorRegistry()
        registry.register(_EngineFigures(model, engine))
        self._registry = registry
        self._aliases = Aliases(registry)
        self.http_requests = Counter(
            "pieria:http_requests",
            "Answered HTTP requests; 499: the client left first.",
            ["route", "status"],
            registry=registry,
        )
        self.prepare_overdue = Gauge(
            "pieria:prepare_overdue",
            "Requests that templates and tokenizers work on though their time is up.",
            registry=registry,
        )
        self.prepare_timeouts = Counter(
            "pieria:prepare_timeouts",
            "Requests whose template and tokenizer took too long.",
            registry=registry,
        )
        self.prepare_refused = Counter(
            "pieria:prepare_refused",
            "Requests that were refused because of those that go on.",
            registry=registry,
        )
        self.finished = Counter(
            "pieria:request_success",
            "Choices that ended, by reason.",
            ["model_name", "finished_reason"],
            registry=registry,
        )
        self.finished_as = {
            reason: self.finished.labels(model, reason)
            for reason in ("stop", "length", "abort", "error")
        }

        def histogram(name: str, about: str, buckets: tuple[float, ...]) -> Histogram:
            made = Histogram(name, about, ["model_name"], buckets=buckets, registry=registry)
            return made.labels(model)

        self.first_token_seconds = histogram(
            "pieria:time_to_first_token_seconds",
            "From a request's arrival to a choice's first token.",
            _FIRST_TOKEN,
        )
        self.between_tokens_seconds = histogram(
            "pieria:inter_token_latency_seconds",
            "From one token of a choice to its next.",
            _BETWEEN_TOKENS,
        )
        self.request_seconds = histogram(
            "pieria:e2e_request_latency_seconds",
            "From a request's arrival to a choice's end.",
            _END_TO_END,
        )
        self.queue_seconds = histogram(
            "pieria:request_queue_time_seconds",
            "How long a choice waited for its first step.",
            _END_TO_END,
        )
        self.prefill_seconds = histogram(
            "pieria:request_prefill_time_seconds",
            "From a choice's first step to its first token.",
            _END_TO_END,
        )
        self.decode_seconds = histogram(
            "pieria:request_decode_time_seconds",
            "From a choice's first token to its last.",
            _END_TO_END,
        )
        self.per_token_seconds = histogram(
            "pieria:request_time_per_output_token_seconds",
            "Of each choice, the mean time between its tokens.",
            _BETWEEN_TOKENS,
        )
        self.prompt_tokens = histogram(
            "pieria:request_prompt_tokens", "Tokens of each prompt.", _TOKENS
        )
        self.generated_tokens = histogram(
            "pieria:request_generation_tokens", "Tokens of each choice that ended.", _TOKENS
        )
        self.most_tokens = histogram(
            "pieria:request_max_num_generation_tokens", "Tokens that a choice may have.", _TOKENS
        )
        self.choices = histogram("pieria:request_params_n", "Choices of each prompt.", _CHOICES)

    def add_accounts(self, accounts: Callable[[], Iterable[Account]]) -> None:
        """Tell what each key has used, too. Call it once."""
        self._registry.register(_KeyFigures(accounts))

    def text(self) -> bytes:
        """Everything, as `CONTENT_TYPE`."""
        return generate_latest(self._registry) + generate_latest(self._aliases)


class _KeyFigures(Collector):
    """What each key has used."""

    def __init__(self, accounts: Callable[[], Iterable[Account]]) -> None:
        self._accounts = accounts

    def collect(self) -> Iterator[Metric]:
        accounts = list(self._accounts())
        for name, about in (
            ("requests", "Requests for inference that were let in."),
            ("refused", "Requests beyond this key's limits."),
            ("prompt_tokens", "Prompt tokens of this key's requests."),
            ("cached_tokens", "Of those, how many were found in the cache."),
            ("generated_tokens", "Tokens generated for this key."),
        ):
            counter = CounterMetricFamily(f"pieria:key_{name}", about, labels=["key"])
            for account in accounts:
                counter.add_metric([account.name], getattr(account, name))
            yield counter


class _EngineFigures(Collector):
    """The engine's latest `Stats` under metric names."""

    def __init__(self, model: str, engine: HasStats) -> None:
        self._model = model
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        stats = self._engine.stats
        used, reusable = (
            count / stats.pages if stats.pages else 0.0
            for count in (stats.pages_held, stats.pages_cached)
        )
        for name, about, value in (
            ("num_requests_running", "Requests being computed.", stats.running),
            ("num_requests_waiting", "Requests that wait for room.", stats.waiting),
            ("kv_cache_usage_perc", "Share of cache pages that requests hold; 1 is all.", used),
            (
                "kv_cache_reusable_perc",
                "Share of cache pages that nobody holds and a later request may begin with.",
                reusable,
            ),
            (
                "prefix_cache_hit_rate",
                "Share of prompt tokens that were found in the cache, since the start.",
                stats.prefix_hits / max(1, stats.prefix_queries),
            ),
            (
                "generation_throughput",
                "Tokens generated a second, over the latest seconds.",
                self._engine.tokens_per_second,
            ),
        ):
            gauge = GaugeMetricFamily(f"pieria:{name}", about, labels=["model_name"])
            gauge.add_metric([self._model], value)
            yield gauge
        for name, about, count in (
            ("engine_steps", "Batches that were computed.", stats.steps),
            ("num_preemptions", "Times a request lost its pages to another.", stats.preemptions),
            ("split_prompts", "Prompts that took more than one step.", stats.split_prompts),
            ("prefix_cache_queries", "Prompt tokens looked up in the cache.", stats.prefix_queries),
            ("prefix_cache_hits", "Prompt tokens found in the cache.", stats.prefix_hits),
            ("prompt_tokens", "Prompt tokens taken in.", stats.prompt_tokens),
            ("generation_tokens", "Tokens generated.", stats.generated_tokens),
            ("engine_restarts", "Engines that were replaced.", self._engine.restarts),
            ("cache_repairs", "Times the cache's counts were found wrong.", stats.repairs),
            (
                "engine_aborts",
                "Requests given up while the engine had them.",
                stats.aborts,
            ),
            (
                "engine_late_aborts",
                "Of those, how many held their pages for more than one step after it.",
                stats.late_aborts,
            ),
        ):
            counter = CounterMetricFamily(f"pieria:{name}", about, labels=["model_name"])
            counter.add_metric([self._model], count)
            yield counter
