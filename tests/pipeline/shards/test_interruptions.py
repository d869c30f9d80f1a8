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

import cv2
import numpy as np
import pytest

from pipeline.manifest import read_manifest
from pipeline.shards import ShardConfig, make_shards

JOB = Path(__file__).parents[3] / "jobs" / "make_shards.py"
PER_SHARD = 2
SPLITS = ("train", "val", "test")
LONGEST_S = 120
KILLS = 20


def command(source: Path | str, out: Path | str) -> list[str]:
    words = ["folder", "--source", source, "--out", out, "--photographs-per-shard", PER_SHARD]
    return [sys.executable, str(JOB), *map(str, words)]


def settings(source: Path, out: Path) -> ShardConfig:
    return ShardConfig(source=str(source), out=str(out), photographs_per_shard=PER_SHARD)


def run(source: Path | str, out: Path | str, **environment: str) -> str:
    done = subprocess.run(
        command(source, out),
        capture_output=True,
        text=True,
        timeout=LONGEST_S,
        env={**os.environ, **environment},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def at_work(source: Path, out: Path, address: str) -> Iterator[subprocess.Popen[str]]:
    """Start a driver on the Ray at an address, and yield it once it has listed the photographs."""
    with subprocess.Popen(
        command(source, out),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "RAY_ADDRESS": address},
    ) as driver:
        assert driver.stdout is not None
        assert driver.stdout.readline().startswith("listed 67 photographs")
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


@pytest.fixture
def address(ray_local: None, monkeypatch: pytest.MonkeyPatch) -> str:
    """The tests' own Ray, for drivers in other processes to join."""
    import ray

    found: str = ray.get_runtime_context().gcs_address
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_driver_killed_at_any_moment_goes_on_to_the_same_result(
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
            # What it has finished is kept, so that the next one meets the later half.
            time.sleep(moments.uniform(0, longest_s / 2))
            ended = driver.poll() is not None
            driver.send_signal(signal.SIGKILL)
        interrupted += not ended
        if whole_sets(out) == 3:
            finished += 1
            assert checksums(out) == expected
            shutil.rmtree(out)
    run(many, out, RAY_ADDRESS=address)
    assert checksums(out) == expected
    print(f"{interrupted} kills within {longest_s:.1f} s, {finished} times finished in between")


@pytest.mark.slow
def test_driver_and_ray_killed_together_keep_what_was_finished(
    many: Path, expected: dict[str, str], tmp_path: Path
) -> None:
    with subprocess.Popen(
        command(many, tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as driver:
        deadline = time.monotonic() + LONGEST_S
        while records(tmp_path) < 5:
            assert time.monotonic() < deadline
            assert driver.poll() is None
            time.sleep(0.02)
        driver.send_signal(signal.SIGKILL)
    assert whole_sets(tmp_path) == 0
    finished = {
        path.with_name(path.name.replace("_record", "shard")).with_suffix(".tar")
        for path in tmp_path.rglob("_record-*.json")
    }
    times = {path: path.stat().st_mtime_ns for path in finished}
    run(many, tmp_path)
    assert checksums(tmp_path) == expected
    assert {path: path.stat().st_mtime_ns for path in finished} == times


@pytest.mark.slow
def test_workers_killed_on_the_way_change_nothing(
    many: Path, expected: dict[str, str], tmp_path: Path
) -> None:
    over, killed = threading.Event(), list[int]()

    def kill_some() -> None:
        while not over.wait(0.4):
            for worker in busy_workers()[:1]:
                os.kill(worker, signal.SIGKILL)
                killed.append(worker)
            if len(killed) >= 4:
                return

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
        for raylet in children(os.getpid(), "raylet")
        for process in children(raylet, "ray::")
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
    photographs: str, tmp_path: Path, s3_server: dict[str, str]
) -> None:
    import boto3

    client = boto3.client("s3")
    client.create_bucket(Bucket="photos")
    for path in Path(photographs).iterdir():
        client.upload_file(str(path), "photos", f"in/{path.name}")
    run(photographs, tmp_path, **s3_server)
    first = run("s3://photos/in", "s3://photos/out", **s3_server)
    assert "8 photographs" in first
    assert run("s3://photos/in", "s3://photos/out", **s3_server).count("reused") == 3
    for split in SPLITS:
        here, there = (
            read_manifest(str(tmp_path / split)),
            read_manifest(f"s3://photos/out/{split}"),
        )
        assert there.shards == here.shards
        assert there.samples.equals(here.samples)
        tar = client.get_object(Bucket="photos", Key=f"out/{split}/{here.shards[0].name}")
        assert tar["Body"].read() == (tmp_path / split / here.shards[0].name).read_bytes()
