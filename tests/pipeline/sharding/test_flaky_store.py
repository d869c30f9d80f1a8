"""Shards to and from an object store that fails now and then, and a driver killed in between."""

import random
import select
import socket
import socketserver
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import boto3
import pytest

from infill.pipeline.manifest import read_manifest
from infill.pipeline.sharding import ShardConfig, make_shards
from infill.pipeline.sources import S3Config

SPLITS = ("train", "val", "test")
FAILURES = 0.3


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


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_store_that_fails_now_and_then_gets_the_same_shards(
    photographs: str,
    s3_server: dict[str, str],
    bucket: str,
    flaky: str,
    address: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kill_before,
) -> None:
    client, name = boto3.client("s3"), urlsplit(bucket).netloc
    for path in Path(photographs).iterdir():
        client.upload_file(str(path), name, f"in/{path.name}")
    there, here = f"s3://{name}/out", str(tmp_path)
    remote = ShardConfig(
        source=f"s3://{name}/in", out=there, photographs_per_shard=2, s3=S3Config(endpoint=flaky)
    )
    kill_before(remote, "_require_few_quarantined", 2, RAY_ADDRESS=address)
    monkeypatch.setenv("AWS_ENDPOINT_URL", flaky)  # And taken back from it at the end.
    make_shards(remote, lambda line: None)
    assert min(Flaky.seen[how] for how in ("refused", "cut")) > 0
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server["AWS_ENDPOINT_URL"])
    make_shards(
        ShardConfig(source=photographs, out=here, photographs_per_shard=2), lambda line: None
    )
    for split in SPLITS:
        ours, theirs = read_manifest(f"{here}/{split}"), read_manifest(f"{there}/{split}")
        assert theirs.shards == ours.shards
        assert theirs.samples.equals(ours.samples)
        for shard in ours.shards:
            tar = client.get_object(Bucket=name, Key=f"out/{split}/{shard.name}")
            assert tar["Body"].read() == (tmp_path / split / shard.name).read_bytes()
