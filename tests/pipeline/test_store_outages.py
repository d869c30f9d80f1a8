"""Whole jobs whose object store goes away for a while, and then answers 503."""

import os
import select
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import boto3
import cv2
import numpy as np
import pytest

from infill.pipeline import checkpoints
from infill.pipeline.evaluation.scorer import read_table
from infill.pipeline.manifest import read_manifest

JOBS = Path(__file__).parents[2] / "jobs"
AWAY_S = 25.0
REFUSAL = b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Outage(socketserver.BaseRequestHandler):
    """Passes connections on to the real store; while that is away, hangs up or answers 503."""

    server: "Road"

    def handle(self) -> None:
        if self.server.closed():
            self.server.refused += 1
            if self.server.refused % 2:
                self.request.recv(65536)
                self.request.sendall(REFUSAL)
            return
        with socket.create_connection(("127.0.0.1", self.server.store_port)) as store:
            ways = {self.request: store, store: self.request}
            while not self.server.closed():
                for ready in select.select(list(ways), [], [], 0.1)[0]:
                    if not (data := ready.recv(65536)):
                        return
                    ways[ready].sendall(data)


class Road(socketserver.ThreadingTCPServer):
    """The road to the store."""

    daemon_threads = True
    store_port, refused, opens = 0, 0, 0.0

    def close_for(self, seconds: float) -> None:
        self.refused, self.opens = 0, time.monotonic() + seconds

    def closed(self) -> bool:
        return time.monotonic() < self.opens

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of connections that were cut."""


@pytest.fixture
def road(s3_server: dict[str, str]) -> Iterator[Road]:
    with Road(("127.0.0.1", 0), Outage) as road:
        road.store_port = urlsplit(s3_server["AWS_ENDPOINT_URL"]).port or 0
        threading.Thread(target=road.serve_forever, daemon=True).start()
        yield road
        road.shutdown()


def upload_photographs(bucket: str) -> int:
    client, chance = boto3.client("s3"), np.random.default_rng(0)
    for number in range(30):
        picture = chance.integers(0, 255, (72, 72, 3), np.uint8)
        file = cv2.imencode(".png", picture)[1].tobytes()
        client.put_object(
            Bucket=urlsplit(bucket).netloc, Key=f"set/photographs/{number}.png", Body=file
        )
    return 30


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(1200)
def test_a_store_that_is_away_while_jobs_run_costs_them_nothing(
    road: Road, bucket: str, tmp_path: Path
) -> None:
    """Sharding, training, evaluation and batch inference, each from its Ray's start on."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{road.server_address[1]}"
    count = upload_photographs(bucket)

    def run(job: str, *words: str) -> None:
        said, met = "", 0
        with subprocess.Popen(
            [sys.executable, f"{JOBS}/{job}", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=tmp_path,
            env=environment,
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                said += line
                if "starting Ray: started" in line:
                    road.close_for(AWAY_S)
            met = road.refused
        assert process.returncode == 0, said
        assert met > 0, said
        assert "Traceback" not in said

    out = ("--out", f"{bucket}/shards")
    run("make_shards.py", "folder", "--source", f"{bucket}/photographs", *out)
    sets = [read_manifest(f"{bucket}/shards/{split}") for split in ("train", "val", "test")]
    keys = [key for one in sets for key in one.samples["key"].to_pylist()]
    assert len(keys) == len(set(keys)) == count

    words = ["--data.shards", f"{bucket}/shards", "--storage", f"{bucket}/run"]
    words += ["--num-workers", "1", "--tracking.tracking-uri", ""]
    run("train_spn.py", "smoke", *words)
    newest = checkpoints.latest(f"{bucket}/run")
    assert newest is not None
    checkpoints.verify(newest)
    assert checkpoints.read_state(newest)["step"] == 6

    words = ["--checkpoint", f"{bucket}/run", "--shards", f"{bucket}/shards/test"]
    run("evaluate.py", *words, "--out", f"{bucket}/evaluation", "--num-actors", "1")
    pairs = read_table(f"{bucket}/evaluation/pairs.parquet").num_rows
    assert pairs == 6 * len(sets[2].samples)

    words = [f"{bucket}/photographs", f"{bucket}/filled", "--generate-masks"]
    run("batch_inpaint.py", *words, "--model", f"{bucket}/run")
    client, name = boto3.client("s3"), urlsplit(bucket).netloc
    found = client.list_objects_v2(Bucket=name, Prefix="set/filled/")["Contents"]
    composites = [entry["Key"] for entry in found if entry["Key"].endswith(".png")]
    assert len(composites) == count, found
