"""Spans of requests, as OpenTelemetry's own exporter takes them, in memory and over a socket."""

import http.server
import threading

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from pieria.server import traces
from pieria.server.course import Course
from pieria.server.traces import Traces
from tests.server.fakes import LiveServer, Toy, chat

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_parts_follow_each_other() -> None:
    course = Course(prepared=1.5, first_token=3.0, last_token=9.0)
    assert list(course.parts(1.0)) == [
        ("prepare", 1.0, 1.5),
        ("prompt", 1.5, 3.0),
        ("tokens", 3.0, 9.0),
    ]
    assert list(Course().parts(1.0)) == []


async def test_a_requests_spans_under_its_callers() -> None:
    exporter, toy = InMemorySpanExporter(), Toy("secret answer")
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    toy.state.traces = Traces(provider, "toy", toy.clock)
    before = toy.clock.wall() * 1e9
    async with toy.http() as client:
        headers = {"traceparent": PARENT}
        answer = await client.post(
            "/v1/chat/completions", json=chat("secret question"), headers=headers
        )
        await client.get("/health")
        await client.post("/v1/chat/completions", json={})
    spans = {span.name: span for span in exporter.get_finished_spans()}
    assert set(spans) == {"llm_request", "prepare", "prompt", "tokens"}
    whole = spans["llm_request"]
    assert whole.parent is not None
    assert f"{whole.parent.trace_id:032x}-{whole.parent.span_id:016x}" == PARENT[3:52]
    attributes = dict(whole.attributes or {})
    assert attributes["gen_ai.usage.output_tokens"] == len("secret answer") + 1
    assert attributes["gen_ai.usage.input_tokens"] == answer.json()["usage"]["prompt_tokens"]
    assert attributes["pieria.request_id"] == answer.headers["x-request-id"]
    assert attributes["http.response.status_code"] == 200
    assert "secret" not in repr(attributes)
    for span in spans.values():
        assert span.start_time is not None and span.end_time is not None
        assert before - 1e9 < span.start_time <= span.end_time
    order = [spans[name] for name in ("prepare", "prompt", "tokens")]
    for one, other in zip(order, order[1:], strict=False):
        assert one.end_time == other.start_time
    assert all(part.parent and part.parent.span_id == whole.context.span_id for part in order)


def test_spans_are_sent_before_the_server_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    got: list[ExportTraceServiceRequest] = []

    class Collector(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            got.append(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with http.server.HTTPServer(("127.0.0.1", 0), Collector) as collector:
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{collector.server_port}"
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        with LiveServer(Toy()) as live:
            httpx.post(live.url + "/v1/chat/completions", json=chat())
        collector.shutdown()
    names = {
        span.name
        for request in got
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    }
    assert {"llm_request", "prompt"} <= names


def test_nothing_is_sent_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in traces.STANDARD:
        monkeypatch.delenv(name, raising=False)
    assert not traces.wanted(None)
    assert traces.wanted("http://localhost:4318/v1/traces")
    with LiveServer(Toy()) as live:
        assert live.toy.state.traces is None
