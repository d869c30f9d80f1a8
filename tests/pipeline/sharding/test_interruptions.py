import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import cv2
import numpy as np
import pytest

from infill.pipeline.manifest import read_manifest
from infill.pipeline.sharding import ShardConfig, make_shards
from infill.pipeline.sources import S3Config

JOB = Path(__file__).parents[3] / "jobs" / "make_shards.py"
PER_SHARD = 2
SPLITS = ("train", "val", "test")
LONGEST_S = 400
STAGES = (
    ("_begin", 2, 0),
    ("_require_few_quarantined", 5, 0),
    ("_require_few_quarantined", 20, 0),
    ("_finish", 1, 0),
    ("write_manifest", 2, 1),
)
"""The call before which the driver is killed, and the sets that are complete by then: one list of
three is written; a few shards are made; more of them; all are made; one manifest of three is
written."""
WITH_RAY = ("_require_few_quarantined", 5)
"""The call before which the driver is killed with the Ray that it has started."""
KILLS = 20


def settings(source: Path | str, out: Path | str, **changes: Any) -> ShardConfig:
    return ShardConfig(source=str(source), out=str(out), photographs_per_shard=PER_SHARD, **changes)


@contextmanager
def at_work(source: Path, out: Path, address: str) -> Iterator[subprocess.Popen[str]]:
    """Start a driver on the Ray at an address, and yield it once it has listed the photographs."""
    words = ["folder", "--source", source, "--out", out, "--photographs-per-shard", PER_SHARD]
    with subprocess.Popen(
        [sys.executable, str(JOB), *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "RAY_ADDRESS": address},
    ) as driver:
        assert driver.stdout is not None
        assert any(line.startswith("listed 67 photographs") for line in driver.stdout)
        yield driver


def checksums(out: Path) -> dict[str, str]:
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file() and not path.name.startswith("_")
    }


def whole_sets(out: Path) -> int:
    """Count the sets that have a manifest; each must be true to it."""
    found = [split for split in SPLITS if (out / split / "manifest.parquet").exists()]
    for split in found:
        for shard in read_manifest(str(out / split)).shards:
            data = (out / split / shard.name).read_bytes()
            assert hashlib.sha256(data).hexdigest() == shard.sha256
    return len(found)


def records(out: Path) -> int:
    return len(list(out.rglob("_record-*.json")))


@pytest.fixture(scope="module")
def many(photographs: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty-four photographs large enough for a shard to take a while, some of them bad."""
    folder = tmp_path_factory.mktemp("many")
    for path in Path(photographs).iterdir():
        picture = cv2.imread(str(path))
        for copy in range(8):
            larger = cv2.resize(picture, (900 + copy, 700))
            cv2.imwrite(str(folder / f"{copy}-{path.stem}.png"), larger)
    bad = np.random.default_rng(0).bytes(5000)
    for number in range(3):
        (folder / f"{number}-bad.jpg").write_bytes(bad)
    return folder


@pytest.fixture(scope="module")
def expected(
    many: Path, tmp_path_factory: pytest.TempPathFactory, ray_local: None
) -> dict[str, str]:
    """The checksums of an uninterrupted run."""
    out = tmp_path_factory.mktemp("whole")
    make_shards(settings(many, out), lambda line: None)
    assert whole_sets(out) == 3
    return checksums(out)


@pytest.mark.slow
def test_driver_killed_at_every_stage_resumes_to_the_same_result(
    many: Path, expected: dict[str, str], address: str, tmp_path: Path, kill_before
) -> None:
    """Once with the Ray that it has started. What was finished by then is kept."""
    times: dict[Path, int] = {}
    for function, number, whole in STAGES:
        joined = {} if (function, number) == WITH_RAY else {"RAY_ADDRESS": address}
        kill_before(settings(many, tmp_path), function, number, **joined)
        assert whole_sets(tmp_path) == whole
        if not joined:
            assert records(tmp_path) >= number
            times = {path: path.stat().st_mtime_ns for path in finished(tmp_path)}
    make_shards(settings(many, tmp_path), lambda line: None)
    assert checksums(tmp_path) == expected
    assert times
    assert {path: path.stat().st_mtime_ns for path in times} == times


def finished(out: Path) -> list[Path]:
    """Return the shards that have a record, which is written after them."""
    return [
        path.with_name(path.name.replace("_record", "shard")).with_suffix(".tar")
        for path in out.rglob("_record-*.json")
    ]


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(1800)
def test_driver_killed_at_any_moment_resumes_to_the_same_result(
    many: Path, expected: dict[str, str], address: str, tmp_path: Path
) -> None:
    moments = random.Random(0)
    with at_work(many, tmp_path / "timed", address) as driver:
        begin = time.monotonic()
        assert driver.wait(LONGEST_S) == 0
        longest_s = time.monotonic() - begin
    out, interrupted, finished = tmp_path / "out", 0, 0
    while interrupted < KILLS:
        with at_work(many, out, address) as driver:
            # What it has finished is kept, so that the next one meets the later half. The moment
            # is one of those that no event marks.
            time.sleep(moments.uniform(0, longest_s / 2))
            ended = driver.poll() is not None
            driver.send_signal(signal.SIGKILL)
        interrupted += not ended
        if whole_sets(out) == 3:
            finished += 1
            assert checksums(out) == expected
            shutil.rmtree(out)
    make_shards(settings(many, out), lambda line: None)
    assert checksums(out) == expected
    print(f"{interrupted} kills within {longest_s:.1f} s, {finished} times finished in between")


@pytest.mark.slow
def test_workers_killed_on_the_way_change_nothing(
    many: Path, expected: dict[str, str], tmp_path: Path
) -> None:
    over, killed = threading.Event(), list[int]()

    def kill_some() -> None:
        done = -1
        while len(killed) < 4 and not over.wait(0.02):
            if records(tmp_path) > done:  # Something is finished between two of them.
                for worker in [one for one in busy_workers() if one not in killed][:1]:
                    os.kill(worker, signal.SIGKILL)
                    killed.append(worker)
                    done = records(tmp_path)

    killer = threading.Thread(target=kill_some)
    killer.start()
    try:
        make_shards(settings(many, tmp_path), lambda line: None)
    finally:
        over.set()
        killer.join()
    assert killed
    assert checksums(tmp_path) == expected


def busy_workers() -> list[int]:
    """Return the processes of the tests' own Ray that run a map task at the moment."""
    return [
        process
        for name in ("raylet", "infill.pipeline.forkserver.server")  # One of them starts workers.
        for parent in children(os.getpid(), name)
        for process in children(parent, "ray::")
        if b"Map" in command_line(process)
    ]


def children(parent: int, name: str) -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and name.encode() in command_line(int(entry.name)):
            try:
                status = (entry / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(status[1]) == parent:
                yield int(entry.name)


def command_line(process: int) -> bytes:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


@pytest.mark.slow
def test_object_store_holds_the_same_shards_as_a_disk(
    photographs: str, ray_local: None, tmp_path: Path, s3_server: dict[str, str], bucket: str
) -> None:
    import boto3

    client, name = boto3.client("s3"), urlsplit(bucket).netloc
    for path in Path(photographs).iterdir():
        client.upload_file(str(path), name, f"in/{path.name}")
    endpoint = S3Config(endpoint=s3_server["AWS_ENDPOINT_URL"])
    remote = settings(f"s3://{name}/in", f"s3://{name}/out", s3=endpoint)
    first, again = [], []
    make_shards(remote, first.append)
    assert any("8 photographs" in line for line in first)
    make_shards(remote, again.append)
    assert sum("reused" in line for line in again) == 3
    make_shards(settings(photographs, tmp_path), lambda line: None)
    for split in SPLITS:
        here, there = (
            read_manifest(str(tmp_path / split)),
            read_manifest(f"s3://{name}/out/{split}"),
        )
        assert there.shards == here.shards
        assert there.samples.equals(here.samples)
        tar = client.get_object(Bucket=name, Key=f"out/{split}/{here.shards[0].name}")
        assert tar["Body"].read() == (tmp_path / split / here.shards[0].name).read_bytes()
