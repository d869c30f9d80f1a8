"""Shards to and from an object store that fails now and then, and drivers killed in between."""

import os
import random
import select
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import boto3
import pytest

from pipeline.manifest import read_manifest

JOB = Path(__file__).parents[3] / "jobs" / "make_shards.py"
SPLITS = ("train", "val", "test")
FAILURES = 0.3
KILLS = 1


REFUSAL = b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Flaky(socketserver.BaseRequestHandler):
    """Passes connections on to the real server; some are refused, some cut on the way."""

    upstream = ("", 0)
    chance = random.Random(0)
    seen: Counter[str] = Counter()

    def handle(self) -> None:
        """Pass bytes to and fro until one side ends, or as many as fate allows."""
        fate = self.chance.random()
        if fate < FAILURES / 2:
            self.seen["refused"] += 1
            self.request.recv(65536)
            self.request.sendall(REFUSAL)
            return
        allowed = self.chance.randrange(200, 20_000) if fate < FAILURES else 10**12
        with socket.create_connection(self.upstream) as server:
            pairs = {self.request: server, server: self.request}
            while allowed > 0:
                for ready in select.select(list(pairs), [], [])[0]:
                    try:
                        data = ready.recv(min(allowed, 65536))
                    except ConnectionError:
                        return
                    if not data:
                        return
                    pairs[ready].sendall(data)
                    allowed -= len(data)
        self.seen["cut"] += 1


class Server(socketserver.ThreadingTCPServer):
    """One thread for each connection, none of which is waited for."""

    daemon_threads = True
    allow_reuse_address = True


@pytest.fixture
def flaky(s3_server: dict[str, str]) -> Iterator[str]:
    """Serve the address of a store that fails."""
    Flaky.upstream = ("127.0.0.1", urlsplit(s3_server["AWS_ENDPOINT_URL"]).port)
    Flaky.seen.clear()
    server = Server(("127.0.0.1", 0), Flaky)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def words(source: str, out: str, endpoint: str) -> list[str]:
    settings = ["--photographs-per-shard", "2", "--s3.endpoint", endpoint]
    return [sys.executable, str(JOB), "folder", "--source", source, "--out", out, *settings]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_store_that_fails_now_and_then_gets_the_same_shards(
    photographs: str, s3_server: dict[str, str], flaky: str, tmp_path: Path
) -> None:
    environment = {**os.environ, **s3_server}
    client = boto3.client("s3")
    client.create_bucket(Bucket="unsure")
    for path in Path(photographs).iterdir():
        client.upload_file(str(path), "unsure", f"in/{path.name}")
    command = words("s3://unsure/in", "s3://unsure/out", flaky)
    moments = random.Random(1)
    for _ in range(KILLS):
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
        ) as driver:
            time.sleep(moments.uniform(6, 14))
            driver.send_signal(signal.SIGKILL)
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    assert min(Flaky.seen[how] for how in ("refused", "cut")) > 0
    local = words(photographs, str(tmp_path), s3_server["AWS_ENDPOINT_URL"])
    subprocess.run(local, check=True, capture_output=True, env=environment, timeout=100)
    for split in SPLITS:
        here = read_manifest(str(tmp_path / split))
        there = read_manifest(f"s3://unsure/out/{split}")
        assert there.shards == here.shards
        assert there.samples.equals(here.samples)
        for shard in here.shards:
            tar = client.get_object(Bucket="unsure", Key=f"out/{split}/{shard.name}")
            assert tar["Body"].read() == (tmp_path / split / shard.name).read_bytes()
