"""OpenTelemetry spans of requests: the whole, its preparation, its prompt, its tokens.

Knows OpenTelemetry, which is imported only where traces are wanted. Spans are made when a request
has ended, from the times that were noted on its way, so that tokens cost nothing more.
"""

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pieria.clock import Clock
from pieria.server.course import Course

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

STANDARD = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
"""OpenTelemetry's own variables; its exporter reads them and others, such as OTEL_SERVICE_NAME."""


def wanted(endpoint: str | None) -> bool:
    """Whether spans go anywhere, by option or by OpenTelemetry's own variables."""
    return endpoint is not None or any(name in os.environ for name in STANDARD)


def provider(endpoint: str | None, version: str) -> "TracerProvider":
    """What sends spans over OTLP. ValueError if the packages for it are not here."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        message = f"traces need more packages: pip install 'pieria[otel]' ({error})"
        raise ValueError(message) from None
    named = {"service.name": os.environ.get("OTEL_SERVICE_NAME", "pieria")}
    made = TracerProvider(resource=Resource.create({**named, "service.version": version}))
    made.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
    return made


class Traces:
    """Makes a request's spans."""

    def __init__(self, provider: "TracerProvider", model: str, clock: Clock) -> None:
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("pieria.server")
        self._kind = SpanKind.SERVER
        self._propagator = TraceContextTextMapPropagator()
        self._model = model
        self._clock = clock

    def add(
        self,
        course: Course,
        headers: Iterable[tuple[bytes, bytes]],
        began: float,
        attributes: dict[str, Any],
    ) -> None:
        """Spans of a request that has just ended, under its caller's if it names one."""
        ended = self._clock.now()
        now = self._clock.wall() * 1e9

        def at(moment: float) -> int:
            return int(now - (ended - moment) * 1e9)

        carrier = {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in headers
            if name in (b"traceparent", b"tracestate")
        }
        whole = self._tracer.start_span(
            "llm_request",
            context=self._propagator.extract(carrier),
            kind=self._kind,
            start_time=at(began),
            attributes=attributes | self._of(course),
        )
        from opentelemetry.trace import set_span_in_context

        inside = set_span_in_context(whole)
        for name, start, end in course.parts(began):
            self._tracer.start_span(name, context=inside, start_time=at(start)).end(at(end))
        whole.end(at(ended))

    def close(self) -> None:
        """Send what was not sent yet."""
        self._provider.shutdown()

    def _of(self, course: Course) -> dict[str, Any]:
        """In the words of OpenTelemetry's conventions for generative models."""
        return {
            "gen_ai.operation.name": "chat" if course.chat else "text_completion",
            "gen_ai.request.model": self._model,
            "gen_ai.usage.input_tokens": course.prompt_tokens,
            "gen_ai.usage.output_tokens": course.generated_tokens,
            "gen_ai.usage.cache_read.input_tokens": course.cached_tokens,
        }
