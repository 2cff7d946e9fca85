"""Metrics: engine figures under vLLM's names, in a registry of the server's own."""

from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from pieria.clock import RealTime
from pieria.engine.messages import Stats
from pieria.server.keys import Key
from pieria.server.limits import Account
from pieria.server.metrics import Metrics


class Engine:
    stats = Stats(
        running=3,
        waiting=2,
        pages=8,
        pages_held=6,
        pages_cached=1,
        steps=40,
        split_prompts=4,
        preemptions=5,
        prompt_tokens=70,
        generated_tokens=30,
        prefix_queries=64,
        prefix_hits=16,
        repairs=1,
    )
    restarts = 5
    tokens_per_second = 12.5


def samples(metrics: Metrics) -> dict[str, float]:
    """Sample name, with the labels besides the model's -> value."""
    found = {}
    for family in text_string_to_metric_families(metrics.text().decode()):
        for sample in family.samples:
            labels = {k: v for k, v in sample.labels.items() if k != "model_name"}
            inner = ",".join(f"{k}={v}" for k, v in sorted(labels.items()))
            found[f"{sample.name}{{{inner}}}" if inner else sample.name] = sample.value
    return found


def test_engine_figures_are_read_when_asked_for() -> None:
    engine = Engine()
    metrics = Metrics("toy", engine)
    found = samples(metrics)
    expected = {
        "pieria:num_requests_running": 3,
        "pieria:num_requests_waiting": 2,
        "pieria:engine_restarts_total": 5,
        "pieria:generation_throughput": 12.5,
        "pieria:cache_repairs_total": 1,
        "pieria:kv_cache_usage_perc": 0.75,
        "pieria:kv_cache_reusable_perc": 0.125,
        "pieria:engine_steps_total": 40,
        "pieria:split_prompts_total": 4,
        "pieria:num_preemptions_total": 5,
        "pieria:prompt_tokens_total": 70,
        "pieria:generation_tokens_total": 30,
        "pieria:prefix_cache_queries_total": 64,
        "pieria:prefix_cache_hits_total": 16,
    }
    assert {name: found[name] for name in expected} == expected
    engine.stats = Stats(running=1)
    assert samples(metrics)["pieria:num_requests_running"] == 1
    assert samples(metrics)["pieria:kv_cache_usage_perc"] == 0


def test_what_is_measured_is_counted() -> None:
    metrics = Metrics("toy", Engine())
    metrics.first_token_seconds.observe(0.3)
    metrics.between_tokens_seconds.observe(0.03)
    metrics.request_seconds.observe(2.2)
    metrics.finished_as["stop"].inc()
    metrics.http_requests.labels("/health", "200").inc(2)
    found = samples(metrics)
    assert found["pieria:time_to_first_token_seconds_sum"] == 0.3
    assert found["pieria:time_to_first_token_seconds_bucket{le=0.25}"] == 0
    assert found["pieria:time_to_first_token_seconds_bucket{le=0.5}"] == 1
    assert found["pieria:inter_token_latency_seconds_bucket{le=0.025}"] == 0
    assert found["pieria:inter_token_latency_seconds_bucket{le=0.05}"] == 1
    assert found["pieria:e2e_request_latency_seconds_count"] == 1
    assert found["pieria:request_success_total{finished_reason=stop}"] == 1
    assert found["pieria:request_success_total{finished_reason=abort}"] == 0
    assert found["pieria:http_requests_total{route=/health,status=200}"] == 2


def test_nothing_is_global() -> None:
    first, second = Metrics("a", Engine()), Metrics("b", Engine())
    first.finished_as["stop"].inc()
    assert samples(second)["pieria:request_success_total{finished_reason=stop}"] == 0
    assert not any(family.name.startswith("pieria") for family in REGISTRY.collect())


VLLM_BOARD = """
e2e_request_latency_seconds_bucket e2e_request_latency_seconds_count e2e_request_latency_seconds_sum
generation_tokens_total inter_token_latency_seconds_bucket inter_token_latency_seconds_count
kv_cache_usage_perc num_requests_running num_requests_waiting prompt_tokens_total
request_decode_time_seconds_sum request_generation_tokens_bucket request_prompt_tokens_bucket
request_max_num_generation_tokens_sum request_success_total time_to_first_token_seconds_bucket
request_time_per_output_token_seconds_bucket
"""
SGLANG_BOARD = """
cache_hit_rate e2e_request_latency_seconds_bucket e2e_request_latency_seconds_count
e2e_request_latency_seconds_sum gen_throughput generation_tokens_total
inter_token_latency_seconds_bucket num_queue_reqs num_running_reqs prompt_tokens_total
time_to_first_token_seconds_bucket time_to_first_token_seconds_count time_to_first_token_seconds_sum
token_usage
"""


def test_boards_of_others_find_their_names() -> None:
    metrics = Metrics("toy", Engine())
    metrics.first_token_seconds.observe(0.3)
    metrics.finished_as["stop"].inc()
    text = metrics.text().decode()
    names = {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.labels.get("model_name") == "toy"
    }
    for prefix, board in (("vllm", VLLM_BOARD), ("sglang", SGLANG_BOARD)):
        assert {f"{prefix}:{name}" for name in board.split()} <= names.keys()
    assert names["vllm:num_requests_running"] == names["sglang:num_running_reqs"] == 3
    assert names["sglang:cache_hit_rate"] == 0.25
    assert names["sglang:gen_throughput"] == 12.5
    assert names["vllm:time_to_first_token_seconds_sum"] == 0.3
    declared = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(declared) == len(set(declared)), "no name is declared twice"


def test_each_keys_use() -> None:
    clock = RealTime()
    alice = Account(Key("alice", "0" * 64, requests_per_minute=1), clock)
    alice.begin()
    alice.take_prompt(5)
    alice.take_generated(2)
    metrics = Metrics("toy", Engine())
    metrics.add_accounts(lambda: [Account(None, clock), alice])
    found = samples(metrics)
    assert found["pieria:key_prompt_tokens_total{key=alice}"] == 5
    assert found["pieria:key_generated_tokens_total{key=alice}"] == 2
    assert found["pieria:key_requests_total{key=anonymous}"] == 0
