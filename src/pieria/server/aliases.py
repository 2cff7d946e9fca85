"""Our measurements under the names that vLLM and SGLang give them, so that their boards fit.

Knows names only. What has no counterpart has no alias, and where two mean different things neither.
"""

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

OURS = "pieria"

VLLM = (
    "num_requests_running",
    "num_requests_waiting",
    "kv_cache_usage_perc",
    "num_preemptions",
    "prefix_cache_queries",
    "prefix_cache_hits",
    "prompt_tokens",
    "generation_tokens",
    "request_success",
    "time_to_first_token_seconds",
    "inter_token_latency_seconds",
    "request_time_per_output_token_seconds",
    "e2e_request_latency_seconds",
    "request_queue_time_seconds",
    "request_prefill_time_seconds",
    "request_decode_time_seconds",
    "request_prompt_tokens",
    "request_generation_tokens",
    "request_max_num_generation_tokens",
    "request_params_n",
)
SGLANG = {
    "num_requests_running": "num_running_reqs",
    "num_requests_waiting": "num_queue_reqs",
    "kv_cache_usage_perc": "token_usage",
    "prefix_cache_hit_rate": "cache_hit_rate",
    "generation_throughput": "gen_throughput",
    "prompt_tokens": "prompt_tokens",
    "generation_tokens": "generation_tokens",
    "time_to_first_token_seconds": "time_to_first_token_seconds",
    "request_queue_time_seconds": "queue_time_seconds",
    "inter_token_latency_seconds": "inter_token_latency_seconds",
    "e2e_request_latency_seconds": "e2e_request_latency_seconds",
}
NAMES = (("vllm", {name: name for name in VLLM}), ("sglang", SGLANG))


class Aliases(CollectorRegistry):
    """The same measurements as those of another registry, under their other names."""

    def __init__(self, of: CollectorRegistry) -> None:
        super().__init__()
        self._of = of

    def collect(self) -> Iterator[Metric]:
        found = list(self._of.collect())
        for prefix, names in NAMES:
            yield from _renamed(found, prefix, names)


def _renamed(metrics: Iterable[Metric], prefix: str, names: dict[str, str]) -> Iterator[Metric]:
    for metric in metrics:
        name = metric.name.removeprefix(f"{OURS}:")
        if name in names:
            alias = f"{prefix}:{names[name]}"
            made = Metric(alias, f"{metric.documentation} As {metric.name}.", metric.type)
            made.samples = [
                sample._replace(name=alias + sample.name[len(metric.name) :])
                for sample in metric.samples
            ]
            yield made
