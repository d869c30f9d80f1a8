"""Traces by OpenTelemetry's own SDK, in memory and to a collector."""

import asyncio
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from infill.pipeline.serving.http.app import create_app
from infill.pipeline.serving.http.inpaint_service import HttpConfig
from infill.pipeline.serving.http.tracing import Tracing, tracing_to

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def test_stages_are_spans_in_the_trace_of_the_caller(replica, make, request_of):
    memory = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(memory))

    async def main():
        app = create_app(replica, HttpConfig(), Tracing(provider))
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
            await client.post("/v1/inpaint", headers=headers, **request_of(60, 60))
            await client.post("/v1/inpaint", files={"image": b"none"})

    asyncio.run(main())
    *stages, request, refused = memory.get_finished_spans()
    assert [span.name for span in stages] == ["decode", "plan", "queue", "predict", "encode"]
    assert request.name == refused.name == "POST /v1/inpaint"
    assert request.kind == SpanKind.SERVER
    assert f"{request.context.trace_id:032x}" == TRACE
    assert f"{request.parent.span_id:016x}" == PARENT
    for span in stages:
        assert span.parent.span_id == request.context.span_id
        assert span.attributes["infill.model"] == "spn@1"
        assert span.attributes["infill.pixels"] == 3600
    for before, after in zip(stages, stages[1:], strict=False):
        assert before.end_time == after.start_time
    assert request.attributes["http.response.status_code"] == 200
    assert refused.attributes["http.response.status_code"] == 415
    assert refused.parent is None


def test_spans_arrive_at_a_collector():
    got, arrived = [], threading.Event()

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self):  # noqa: N802
            got.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.end_headers()
            arrived.set()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        tracing = tracing_to(f"http://127.0.0.1:{server.server_port}/v1/traces")
        tracing.record([("decode", 1.0, 2.0)], {"infill.model": "spn@1"})
        tracing.close()
        assert arrived.is_set()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    [resource] = ExportTraceServiceRequest.FromString(got[0]).resource_spans
    [span] = resource.scope_spans[0].spans
    assert span.name == "decode"
    assert span.end_time_unix_nano - span.start_time_unix_nano == 10**9
