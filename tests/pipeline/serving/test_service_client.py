"""The clients' retries, against a server that answers from a script."""

import asyncio
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from infill.pipeline.config import RENAMED_FIELDS
from infill.pipeline.serving import (
    AsyncInpaintClient,
    ClientConfig,
    InpaintClient,
    JobsClient,
    ServiceError,
)

INPAINTED = {"X-Infill-Model": "spn@1 (abc)", "X-Infill-Hole-Ratio": "0.5"}
STATE = {"id": "a", "status": "done", "error": "", "progress": {"total": 2, "done": 2, "failed": 0}}
NOWHERE = "http://127.0.0.1:9"


class Scripted(BaseHTTPRequestHandler):
    """Answers with one status after the other, the last one for ever; 0 breaks the connection."""

    statuses: list[int]
    retry_after = ""
    seen: list[tuple[str, float, str | None]]

    def respond(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.seen.append((self.path, time.monotonic(), self.headers.get("idempotency-key")))
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        if not status:
            self.close_connection = True
            return
        body = b"proxy"
        if status == 200:
            body = b"data" if self.path == "/v1/inpaint" else json.dumps(STATE).encode()
        self.send_response(status)
        for name, value in INPAINTED.items():
            self.send_header(name, value)
        if self.retry_after:
            self.send_header("Retry-After", self.retry_after)
        self.send_header("Content-Type", "image/png")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_DELETE = respond  # noqa: N815

    def log_message(self, *arguments) -> None:
        """Log nothing."""


@pytest.fixture
def serve():
    """Return what starts such a server, and returns its URL and what it has seen."""
    servers = []

    def start(*statuses: int, retry_after: str = ""):
        scripted = {"statuses": list(statuses), "retry_after": retry_after, "seen": []}
        handler = type("Once", (Scripted,), scripted)
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}", handler.seen

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


def inpaint(config: ClientConfig):
    with InpaintClient(config) as client:
        return client.inpaint(b"image", b"mask")


def inpaint_asynchronously(config: ClientConfig):
    async def main():
        async with AsyncInpaintClient(config, 1) as client:
            return await client.inpaint(b"image", b"mask")

    return asyncio.run(main())


def create(config: ClientConfig):
    with JobsClient(config) as client:
        return client.create([("a", b"image", b"mask")])


def test_client_waits_as_long_as_the_service_asks(serve):
    url, seen = serve(503, 200, retry_after="1")
    answer = inpaint(ClientConfig(url=url))
    assert (answer.data, answer.model, answer.hole_ratio) == (b"data", "spn@1 (abc)", 0.5)
    (_, first, _), (_, second, _) = seen
    assert second - first >= 1


@pytest.mark.parametrize("call", [inpaint, inpaint_asynchronously])
def test_temporary_failures_are_retried(serve, call):
    url, seen = serve(502, 0, 504, 200)
    assert call(ClientConfig(url=url)).data == b"data"
    assert len(seen) == 4


@pytest.mark.parametrize("call", [inpaint, inpaint_asynchronously])
def test_defect_is_retried_a_few_times(serve, call):
    url, seen = serve(500)
    with pytest.raises(ServiceError, match="status 500") as raised:
        call(ClientConfig(url=url))
    assert (raised.value.status, len(seen)) == (500, 3)


@pytest.mark.parametrize("call", [inpaint, inpaint_asynchronously, create])
def test_client_gives_up_after_its_timeout(serve, call):
    url, seen = serve(503)
    with pytest.raises(ServiceError, match="status 503"):
        call(ClientConfig(url=url, retry_timeout_s=0.2))
    assert len(seen) >= 1
    with pytest.raises(ServiceError, match="no answer"):
        call(ClientConfig(url=NOWHERE, retry_timeout_s=0.2))


@pytest.mark.parametrize("retry_after", ["9" * 30, "\xb2"], ids=["longer", "superscript"])
def test_client_does_not_sleep_beyond_its_timeout(serve, retry_after):
    url, seen = serve(503, retry_after=retry_after)
    with pytest.raises(ServiceError, match="status 503"):
        inpaint(ClientConfig(url=url, retry_timeout_s=0.2))
    assert len(seen) >= 1


def test_creation_of_a_job_is_repeated_with_the_same_key(serve):
    url, seen = serve(503, 429, 0, 500, 504, 200)
    assert create(ClientConfig(url=url)).id == "a"
    keys = [key for _, _, key in seen]
    assert keys == keys[:1] * 6
    create(ClientConfig(url=url))
    assert seen[-1][2] not in (None, keys[0])


@pytest.mark.parametrize(("status", "sentence"), [(0, "no answer"), (500, "500"), (504, "504")])
def test_job_that_may_be_deleted_is_not_deleted_twice(serve, status, sentence):
    url, seen = serve(status, 200)
    client = JobsClient(ClientConfig(url=url))
    with client, pytest.raises(ServiceError, match=sentence):
        client.delete("a")
    assert len(seen) == 1


def test_state_of_a_job_is_asked_for_again_after_a_broken_connection(serve):
    url, seen = serve(0, 500, 200)
    with JobsClient(ClientConfig(url=url)) as client:
        assert client.get("a").ended
    assert [path for path, _, _ in seen] == ["/v1/jobs/a"] * 3


def test_results_without_a_service_end_in_its_error():
    with JobsClient(ClientConfig(url=NOWHERE)) as client, pytest.raises(ServiceError) as raised:
        list(client.results("a"))
    assert raised.value.status == 0


def test_the_timeout_s_earlier_name_is_known():
    assert RENAMED_FIELDS["patience_s"] == "retry_timeout_s"
