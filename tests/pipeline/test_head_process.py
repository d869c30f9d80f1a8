"""The head process of a Ray is killed that a job has started, or that it has joined."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import cv2
import numpy as np
import pytest

from infill.pipeline import checkpoints
from infill.pipeline.head_process import LOST, _children
from infill.pipeline.manifest import read_manifest
from infill.pipeline.tuning import written_down

JOBS = Path(__file__).parents[2] / "jobs"
PHOTOGRAPHS = 4000
"""So many that sharding them takes longer than a lost head is waited for."""
ENDLESS = """
import threading
from infill.pipeline.cluster import connect
from infill.pipeline.config import run

def main():
    with connect(num_cpus=1):
        import ray
        waiting = ray.remote(lambda: threading.Event().wait()).remote()
        print("at work", flush=True)
        ray.get(waiting)

run(main)
"""


def descendants(process: int) -> dict[int, str]:
    """Return the names of the processes below one, by their ids."""
    found = {}
    for child in _children(process):
        with suppress(OSError):
            found[child] = Path(f"/proc/{child}/comm").read_text().strip()
            found |= descendants(child)
    return found


def started(words: list[object], folder: Path, **more: str) -> subprocess.Popen[str]:
    """Start a job with a Ray of its own, or that of ``RAY_ADDRESS`` if it is given."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment |= more
    return subprocess.Popen(
        [sys.executable, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder,
        env=environment,
        text=True,
    )


def kill_head(job: subprocess.Popen[str]) -> list[int]:
    """Kill the head process of a job's Ray; return the ids of all processes of that Ray."""
    below = descendants(job.pid)
    [head] = [process for process, name in below.items() if name == "gcs_server"]
    os.kill(head, signal.SIGKILL)
    return list(below)


def test_children_are_found_while_threads_come_and_go():
    """As threads of Ray do when a job looks for its head: one that ends hides no other's children.

    It did in one of forty trainings, which then hung for a minute when their head had died.
    """
    over = threading.Event()

    def start_and_end_threads() -> None:
        while not over.is_set():
            thread = threading.Thread(target=over.is_set)
            thread.start()
            thread.join()

    threads = [threading.Thread(target=start_and_end_threads) for _ in range(4)]
    with subprocess.Popen(["sleep", "600"]) as child:
        try:
            for thread in threads:
                thread.start()
            assert all(_children(os.getpid()) == [child.pid] for _ in range(200))
        finally:
            over.set()
            child.kill()
    for thread in threads:
        thread.join()


def test_a_job_that_waits_for_its_ray_ends_in_one_sentence(tmp_path):
    with started(["-c", ENDLESS], tmp_path) as job:
        while "at work" not in job.stdout.readline():
            assert job.poll() is None
        kill_head(job)
        said = job.communicate(timeout=300)[1]
    assert job.returncode == 1
    assert said == f"error: {LOST}\n"


HEAD = """
import sys
from ray.cluster_utils import Cluster

settings = {"num_cpus": 2, "object_store_memory": 150 * 2**20}
print(Cluster(initialize_head=True, head_node_args=settings).address, flush=True)
sys.stdin.read()
"""


@contextmanager
def cluster(folder: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run a Ray that no job has started; yield its address and the process that has started it."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    with subprocess.Popen(
        [sys.executable, "-c", HEAD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=folder,
        env=environment,
        text=True,
    ) as process:
        try:
            yield process.stdout.readline().strip(), process
        finally:
            below = descendants(process.pid)
            for each in (process.pid, *below):
                with suppress(ProcessLookupError):
                    os.kill(each, signal.SIGKILL)


def killed_and_resumed(words: list[object], folder: Path, runs: Callable[[], list[Path]]) -> int:
    """Kill a job's head at its first checkpoint, and give the command again for two steps more.

    Returns:
        The last step.
    """
    with started([*words, "100000"], folder) as job:
        while not saved(runs):
            assert job.poll() is None
            time.sleep(0.1)
        left = kill_head(job)
        said = job.communicate(timeout=300)[1]
    assert job.returncode == 1
    assert said.endswith(f"error: {LOST}\n")
    assert "Traceback" not in said
    while any(Path(f"/proc/{process}").exists() for process in left):
        time.sleep(0.1)  # Workers save until Ray ends them.
    last = saved(runs) + 2
    with started([*words, last], folder) as job:
        printed = job.communicate(timeout=400)[0]
    assert job.returncode == 0, printed
    assert saved(runs) == last
    return last


def saved(runs: Callable[[], list[Path]]) -> int:
    """Return the newest step that any of the runs has saved; 0 if none has."""
    return max((step for run in runs() for step in checkpoints.steps(str(run))), default=0)


@pytest.mark.cluster
@pytest.mark.slow
def test_a_training_with_workers_resumes_by_the_same_command(tmp_path):
    words = [JOBS / "train_spn.py", "smoke", "--storage", "run", "--save-every-steps", 2]
    words += [
        "--num-workers",
        2,
        "--cpus-per-worker",
        0.5,
        "--tracking.tracking-uri",
        "",
        "--steps",
    ]
    killed_and_resumed(words, tmp_path, lambda: [tmp_path / "run"])


@pytest.mark.cluster
@pytest.mark.slow
def test_a_search_resumes_by_the_same_command(tmp_path):
    (tmp_path / "space.json").write_text(json.dumps({"model.image_weight": [1, 10]}))
    words = [JOBS / "tune.py", "spn", "--scale", "smoke", "--concurrent-trials", 1]
    words += ["--space", "space.json", "--storage", "search", "--train.save-every-steps", 2]
    words += ["--train.tracking.tracking-uri", "", "--train.steps"]
    trials = tmp_path / "search" / "trials"
    last = killed_and_resumed(words, tmp_path, lambda: list(trials.glob("*")))
    found = written_down(str(tmp_path / "search")).values()
    assert [trial.steps for trial in found] == [last] * 2
    assert all(trial.scores and not trial.error for trial in found)


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_training_on_a_cluster_whose_head_dies_resumes_on_another(tmp_path):
    """Within the time that Ray allows, which would end the driver with lines of its own."""
    run = tmp_path / "run"
    words = [JOBS / "train_spn.py", "smoke", "--storage", run, "--save-every-steps", 2]
    words += ["--num-workers", 1, "--tracking.tracking-uri", "", "--steps"]
    patience = {"RAY_gcs_rpc_server_reconnect_timeout_s": "24"}
    with cluster(tmp_path) as (address, process):
        with started([*words, 100_000], tmp_path, RAY_ADDRESS=address, **patience) as job:
            while not saved(lambda: [run]):
                assert job.poll() is None
                time.sleep(0.1)
            kill_head(process)
            said = job.communicate(timeout=300)[1]
        assert job.returncode == 1, said
        assert f"error: the head of the Ray at {address} has not answered for " in said
        assert said.endswith("give the same command again: finished parts are kept\n")
        assert "Traceback" not in said
    last = saved(lambda: [run]) + 2
    with (
        cluster(tmp_path) as (address, _),
        started([*words, last], tmp_path, RAY_ADDRESS=address) as job,
    ):
        printed = job.communicate(timeout=400)[0]
    assert job.returncode == 0, printed
    assert "resuming at step" in printed
    assert saved(lambda: [run]) == last


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_sharding_and_a_search_whose_head_dies_resume_on_another(tmp_path):
    """As above: within the time that Ray allows."""
    photographs, run, shards = tmp_path / "photographs", tmp_path / "search", tmp_path / "shards"
    photographs.mkdir()
    for number in range(PHOTOGRAPHS):
        pixels = np.random.default_rng(number).integers(256, size=(64, 64, 3), dtype=np.uint8)
        cv2.imwrite(str(photographs / f"{number}.png"), pixels)
    (tmp_path / "space.json").write_text(json.dumps({"model.image_weight": [1, 10]}))
    sharding = [JOBS / "make_shards.py", "folder", "--source", photographs, "--out", shards]
    sharding += ["--photographs-per-shard", 2]
    search = [JOBS / "tune.py", "spn", "--scale", "smoke", "--concurrent-trials", 1]
    search += ["--space", "space.json", "--storage", run, "--train.save-every-steps", 2]
    search += ["--train.num-workers", 1, "--train.tracking.tracking-uri", "", "--train.steps"]
    patience = {"RAY_gcs_rpc_server_reconnect_timeout_s": "24"}

    def trials() -> list[Path]:
        return list((run / "trials").glob("*"))

    with cluster(tmp_path) as (address, process):
        joined = {"RAY_ADDRESS": address, **patience}
        with (
            started([*search, 100_000], tmp_path, **joined) as searching,
            started(sharding, tmp_path, **joined) as writing,
        ):
            while not saved(trials) or not list(shards.rglob("*.tar")):
                assert (searching.poll(), writing.poll()) == (None, None)
                time.sleep(0.1)
            kill_head(process)
            for job in (searching, writing):
                said = job.communicate(timeout=300)[1]
                assert job.returncode == 1, said
                assert f"error: the head of the Ray at {address} has not answered for " in said
                assert "Traceback" not in said
    last = saved(trials) + 2
    whole = {path: path.read_bytes() for path in shards.rglob("*.tar")}
    assert not list(shards.rglob("manifest.parquet"))
    with cluster(tmp_path) as (address, _):
        for words in ([*search, last], sharding):
            with started(words, tmp_path, RAY_ADDRESS=address) as job:
                printed = job.communicate(timeout=400)[0]
            assert job.returncode == 0, printed
    assert [trial.steps for trial in written_down(str(run)).values()] == [last] * 2
    assert all(path.read_bytes() == data for path, data in whole.items())
    sets = [read_manifest(str(path.parent)) for path in shards.rglob("manifest.parquet")]
    assert sum(map(len, sets)) == PHOTOGRAPHS


JOIN = """
from infill.pipeline.cluster import connect
from infill.pipeline.config import run

def main():
    with connect():
        import ray
        print("joined", ray.get(ray.remote(lambda: 7).remote()), flush=True)

run(main)
"""


@pytest.mark.cluster
@pytest.mark.timeout(300)
def test_a_ray_that_asks_for_a_token_is_joined_with_this_machine_s_and_named_without(
    tmp_path, monkeypatch
):
    kept = tmp_path / ".ray" / "auth_token"
    kept.parent.mkdir()
    kept.write_text("0123456789abcdef" * 2)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    with cluster(tmp_path) as (found, _):
        monkeypatch.delenv("RAY_AUTH_MODE")
        address = f"127.0.0.1:{found.rpartition(':')[2]}"

        def joined(**more: str) -> tuple[int, str, str]:
            with started(["-c", JOIN], tmp_path, RAY_ADDRESS=address, **more) as job:
                said, complaint = job.communicate(timeout=120)
            return job.returncode, said, complaint

        status, said, complaint = joined()
        assert (status, complaint) == (0, "")
        assert "joined 7\n" in said
        for environment, how in (
            ({"RAY_AUTH_MODE": "disabled"}, "without a token"),
            (
                {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "f" * 32},
                "to the token of this process",
            ),
        ):
            status, _, complaint = joined(**environment)
            start = (
                f"error: what listens at RAY_ADDRESS={address} does not answer as Ray does {how}; "
            )
            assert status == 1
            assert complaint.startswith(start)
            assert "RAY_AUTH_TOKEN to what `ray get-auth-token` prints" in complaint
            assert len(complaint.splitlines()) == 1
