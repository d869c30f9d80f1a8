"""What a connection may cost before and while it sends a request, over real sockets."""

import socket
import time
from dataclasses import replace
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from infill.pipeline.inference.config import TilingConfig
from infill.pipeline.serving.http.inpaint_service import HttpConfig
from infill.pipeline.serving.limits import LimitsConfig

LONG_S = 60
SHORT = LimitsConfig(
    max_waiting=4,
    max_header_bytes=4096,
    header_timeout_s=0.3,
    idle_timeout_s=1,
    min_body_bytes_per_s=1000,
    body_grace_s=0.3,
)
TILING = TilingConfig(sides_px=(32, 64), least_crop_px=32)


@pytest.fixture
def connect():
    """Return a function that connects to a service; all connections are closed at the end."""
    opened = []

    def open_one(url: str, begin: bytes = b"") -> socket.socket:
        at = urlsplit(url)
        one = socket.create_connection((at.hostname, at.port), timeout=LONG_S)
        opened.append(one)
        one.sendall(begin)
        return one

    yield open_one
    for one in opened:
        one.close()


def config(**changes) -> HttpConfig:
    return HttpConfig(limits=replace(SHORT, **changes), tiling=TILING)


def rest_of(one: socket.socket) -> bytes:
    """Return what a service still sends until it closes the connection."""
    got = b""
    try:
        while part := one.recv(65536):
            got += part
    except ConnectionResetError:
        pass
    return got


def answers(url: str, request: dict) -> int:
    return httpx.post(f"{url}/v1/inpaint", timeout=LONG_S, **request).status_code


def test_endless_header_line_is_refused_at_the_limit(serving, replica, connect, request_of):
    with serving(replica, config(header_timeout_s=LONG_S)) as url:
        one, sent = connect(url, b"GET /healthz HTTP/1.1\r\nX-A: "), 0
        try:
            while sent < 2**24:
                sent += one.send(b"a" * 65536)
        except OSError:
            pass
        assert sent < 2**24
        polite = connect(url, b"GET /healthz HTTP/1.1\r\nX-A: " + b"a" * 4069)
        answer = rest_of(polite)
        assert answer.startswith(b"HTTP/1.1 431 ")
        assert b"too_large" in answer
        whole = (
            f"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-A: {'a' * 3900}\r\n\r\n"
        )
        assert rest_of(connect(url, whole.encode())).startswith(b"HTTP/1.1 200 ")
        assert answers(url, request_of()) == 200


def test_unfinished_heads_end_and_keep_nobody_out(serving, replica, connect, request_of):
    limits = config(max_connections_per_caller=30, header_timeout_s=2)
    with serving(replica, limits) as url:
        heads = [connect(url, b"POST /v1/inpaint HTTP/1.1\r\nHost: x\r\n") for _ in range(40)]
        assert answers(url, request_of()) == 200
        silent = connect(url)
        ends = [rest_of(one) for one in heads]
        late = [end for end in ends if end.startswith(b"HTTP/1.1 408 ")]
        assert len(late) >= 20  # The oldest made room for others.
        assert all(b"slow_request" in end for end in late)
        assert rest_of(silent) == b""
        assert answers(url, request_of()) == 200


@pytest.mark.parametrize("path", ["/v1/inpaint", "/v1/inpaint/batch", "/api/v1/inpaint"])
def test_trickled_bodies_end_and_keep_nobody_out(serving, replica, connect, request_of, path):
    kind = "application/x-ndjson" if path.endswith("batch") else "application/json"
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: 9000\r\n\r\n{{"
    )
    with serving(replica, config(body_grace_s=2)) as url:
        slow = [connect(url, head.encode()) for _ in range(8)]  # Twice as many as may wait.
        assert answers(url, request_of()) == 200
        ends = [rest_of(one) for one in slow]
        assert all(end.startswith(b"HTTP/1.1 408 ") for end in ends)
        assert all(b"slow_request" in end for end in ends)
        assert answers(url, request_of()) == 200


def test_body_at_the_least_rate_arrives_however_long_it_takes(serving, replica, connect):
    with serving(replica, config(min_body_bytes_per_s=200)) as url:
        body = b'{"image": "' + b"A" * 400 + b'"}'
        head = (
            "POST /v1/inpaint HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        one = connect(url, head.encode())
        for at in range(0, len(body), 60):
            one.sendall(body[at : at + 60])
            time.sleep(0.05)
        assert b"unsupported_image" in rest_of(one)


def test_connection_without_requests_ends(serving, replica, connect):
    with serving(replica, config()) as url:
        one = connect(url, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert rest_of(one).startswith(b"HTTP/1.1 200 ")


def test_reader_that_takes_nothing_ends(serving, spn, connect, wait_until):
    class Large:
        async def describe(self):
            return [replace(spn, digest="y" * 50_000_000)]

    with serving(Large(), config()) as url:
        one = connect(url, b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n")
        assert one.recv(15) == b"HTTP/1.1 200 OK"
        # The service, a thread of this process, closes its end before anything else is read.
        wait_until(lambda: one.getsockname() not in peers())
        assert len(rest_of(one)) < 50_000_000


def peers() -> set[tuple[str, int]]:
    """Return the addresses that this process's sockets are connected to."""
    return {tuple(one.raddr) for one in psutil.Process().net_connections("tcp") if one.raddr}


def test_slow_body_of_a_refused_request_ends(serving, replica, connect):
    head = b"POST /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\n{"
    with serving(replica, config(body_grace_s=LONG_S)) as url:
        assert b"unknown_route" in rest_of(connect(url, head))


def test_caller_with_all_connections_at_work_is_asked_to_wait(
    serving, replica, connect, wait_until
):
    head = (
        b"POST /v1/inpaint HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Expect: 100-continue\r\nContent-Length: 9\r\n\r\n"
    )
    limits = config(max_connections_per_caller=3, body_grace_s=LONG_S)
    with serving(replica, limits) as url:
        busy = [connect(url, head) for _ in range(3)]
        for one in busy:  # The service waits for the body.
            assert one.recv(100).startswith(b"HTTP/1.1 100 ")
        answer = rest_of(connect(url, b"GET /healthz HTTP/1.1\r\n"))
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1" in answer
        for one in busy:
            one.close()
        wait_until(
            lambda: rest_of(
                connect(url, b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            ).startswith(b"HTTP/1.1 200 ")
        )


def test_what_is_not_http_is_refused_in_the_documented_shape(serving, replica, connect):
    with serving(replica, config()) as url:
        answer = rest_of(connect(url, b"\x16\x03\x01 hello\r\n\r\n"))
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b'"code": "bad_request"' in answer
