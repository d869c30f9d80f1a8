"""Mixed hostile and good traffic for a while: no defect, bounded memory, and life all along."""

import socket
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from infill.pipeline.inference.config import TilingConfig
from infill.pipeline.serving.http.inpaint_service import HttpConfig
from infill.pipeline.serving.limits import LimitsConfig

LONG_S = 60
SOAK_S = 600
SHORT_SOAK_S = 3
REST_S = 0.5
"""How long each caller rests between its requests in the long soak.

Other tests run beside it. Without rest it took more than one processor for ten minutes.
"""
MEMORY_BYTES = 400_000_000
"""How much the process may grow: bodies, images and buffers of the callers below."""
LIMITS = LimitsConfig(
    max_pixels=1_500_000,
    max_body_bytes=8_000_000,
    header_timeout_s=1,
    body_grace_s=1,
    idle_timeout_s=5,
    max_waiting=16,
    decode_processes=1,
)


def memory_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


def connect(url: str, begin: bytes) -> None:
    """Send the start of a request that never goes on, and leave when the service ends it."""
    at = urlsplit(url)
    with socket.create_connection((at.hostname, at.port), timeout=LONG_S) as one:
        try:
            one.sendall(begin)
            while one.recv(65536):
                pass
        except OSError:
            pass


@pytest.mark.parametrize(
    ("seconds", "rest_s"),
    [(SHORT_SOAK_S, 0), pytest.param(SOAK_S, REST_S, marks=pytest.mark.cluster)],
)
@pytest.mark.timeout(2 * SOAK_S)
def test_service_outlasts_mixed_traffic(serving, replica, request_of, make, seconds, rest_s):
    good, large = request_of(60, 60), request_of(1000, 1200)
    damaged = {"files": {**good["files"], "image": good["files"]["image"][:3000]}}
    statuses, failures, done = [], [], threading.Event()
    # Made once: it takes longer than a request, and the callers share the service's processors.
    trusted = httpx.create_ssl_context()

    def post(request: dict, path: str = "/v1/inpaint") -> None:
        with httpx.Client(timeout=LONG_S, verify=trusted) as client:
            statuses.append((path, client.post(f"{url}{path}", **request).status_code))

    def post_large() -> None:
        post(large)
        done.wait(4 * rest_s)  # Its PNG alone takes half of all the work.

    def probe() -> None:
        answer = httpx.get(f"{url}/healthz", timeout=LONG_S, verify=trusted)
        statuses.append(("/healthz", answer.status_code))
        time.sleep(0.05)

    kinds = [
        lambda: post(good),
        post_large,
        lambda: post(damaged),
        lambda: post({"content": b"{" * 5000, "headers": {"content-type": "application/json"}}),
        lambda: post(
            {"content": b"[]\n" * 50, "headers": {"content-type": "application/x-ndjson"}},
            "/v1/inpaint/batch",
        ),
        lambda: connect(url, b"GET / HTTP/1.1\r\nX-A: " + b"a" * 100_000),
        lambda: connect(url, b"POST /v1/inpaint HTTP/1.1\r\nHost: x\r\n"),
        lambda: connect(
            url, b"POST /v1/inpaint HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{"
        ),
        lambda: connect(url, bytes(range(256)) * 20),
        probe,
    ]

    def repeat(act) -> None:
        while not done.wait(rest_s):
            try:
                act()
            except Exception as error:  # a thread's error is the test's
                failures.append(error)
                return

    tiling = TilingConfig(sides_px=(32, 64), least_crop_px=32)
    with serving(replica, HttpConfig(limits=LIMITS, tiling=tiling)) as url:
        post(large)
        before = most = memory_bytes()
        threads = [threading.Thread(target=repeat, args=(act,)) for act in kinds]
        for thread in threads:
            thread.start()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            most = max(most, memory_bytes())
            time.sleep(0.1)
        done.set()
        for thread in threads:
            thread.join()
        assert httpx.post(f"{url}/v1/inpaint", timeout=LONG_S, **good).status_code == 200
    assert not failures
    assert {status for path, status in statuses if path == "/healthz"} == {200}
    assert {200, 400} <= {status for _, status in statuses}
    assert {status for _, status in statuses if status >= 500} <= {503}
    assert most - before < MEMORY_BYTES
