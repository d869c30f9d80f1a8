"""OpenTelemetry traces: a span for each request, and in it one for each stage of each image.

A request's ``traceparent`` (W3C Trace Context) is taken over, so its spans belong to the caller's
trace. Spans hold sizes and names, never content. Needs ``infill[traces]``.
"""

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from infill.pipeline.errors import UserError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

Stage = tuple[str, float, float]
"""A stage's name, begin and end, as of ``time.perf_counter``."""


class Tracing:
    """Records spans of requests and of their stages.

    Args:
        provider: records the spans.
    """

    def __init__(self, provider: "TracerProvider") -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("infill")
        self._propagator = TraceContextTextMapPropagator()

    def request(self, scope: Scope) -> Any:
        """Return a context in which a request's span is the current one; it yields the span."""
        from opentelemetry.trace import SpanKind

        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        return self._tracer.start_as_current_span(
            scope["method"],
            context=self._propagator.extract(headers),
            kind=SpanKind.SERVER,
            attributes={"http.request.method": scope["method"]},
        )

    def close(self) -> None:
        """Send the spans that wait, and end."""
        self._provider.shutdown()

    def record(self, stages: Sequence[Stage], attributes: Mapping[str, Any]) -> None:
        """Record stages that are over, as children of the current span."""
        offset_ns = time.time_ns() - int(1e9 * time.perf_counter())
        for name, begin, end in stages:
            span = self._tracer.start_span(
                name, start_time=offset_ns + int(1e9 * begin), attributes=attributes
            )
            span.end(offset_ns + int(1e9 * max(end, begin)))


class TracingMiddleware:
    """ASGI middleware that gives each request its span."""

    def __init__(self, app: ASGIApp, tracing: Tracing) -> None:
        self._app, self._tracing = app, tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on within its span."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 0

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        with self._tracing.request(scope) as span:
            try:
                await self._app(scope, receive, observed)
            finally:
                route = str(getattr(scope.get("route"), "path", "other"))
                span.update_name(f"{scope['method']} {route}")
                span.set_attribute("http.route", route)
                span.set_attribute("http.response.status_code", status)
                if status >= 500:
                    from opentelemetry.trace import StatusCode

                    span.set_status(StatusCode.ERROR)


def tracing_to(endpoint: str) -> Tracing:
    """Return traces that are sent to a collector, in batches and in the background.

    Args:
        endpoint: address for OTLP over HTTP, such as ``http://127.0.0.1:4318/v1/traces``.

    Raises:
        UserError: if OpenTelemetry is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise UserError("traces need OpenTelemetry: pip install 'infill[traces]'") from error
    provider = TracerProvider(resource=Resource.create({"service.name": "infill"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
    return Tracing(provider)
