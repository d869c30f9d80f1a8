"""Ray's controller dies, as when memory runs out on the driver's node; our own actors, too."""

import os
import signal
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from infill.pipeline import cluster
from infill.pipeline.config import explain, override
from infill.pipeline.errors import UserError
from infill.pipeline.tracking import Record, record_queue
from infill.pipeline.training import controller_failures, train
from infill.pipeline.training.elastic import CONTROLLER_BYTES


def controllers() -> set[int]:
    """Return the process ids of the controllers on this machine whose Ray is this process's."""
    found = set()
    for folder in Path("/proc").iterdir():
        try:
            name = (folder / "cmdline").read_bytes()
            if not name.startswith(b"ray::TrainController"):
                continue
            raylet = int((folder / "stat").read_text().rsplit(") ", 1)[1].split()[1])
            owner = int(Path(f"/proc/{raylet}/stat").read_text().rsplit(") ", 1)[1].split()[1])
        except (OSError, ValueError):
            continue
        if owner == os.getpid():
            found.add(int(folder.name))
    return found


@pytest.mark.slow
def test_killed_controller_costs_no_update(
    config, ray_local, finished, tmp_path, weights, largest_difference
):
    """Another resumes from the newest checkpoint, with the resources of the first."""
    import ray

    changes = {"num_workers": 1, "cpus_per_worker": 3.0, "save_every_steps": 1}
    ours = override(config, changes | {"num_threads_per_worker": torch.get_num_threads()})
    lines: list[str] = []
    scores: list[int] = []
    killed = threading.Event()

    def log(line: str) -> None:
        lines.append(line)
        if "validation" in line and not killed.is_set():
            killed.set()
            [controller] = controllers()
            scores.append(int(Path(f"/proc/{controller}/oom_score_adj").read_text()))
            reserved = ray.cluster_resources()["memory"] - ray.available_resources()["memory"]
            assert reserved >= CONTROLLER_BYTES
            os.kill(controller, signal.SIGKILL)

    train(ours, log)
    assert killed.is_set()
    assert scores == [0]
    assert any("controller of this training has died" in line for line in lines), lines
    assert sum("resuming at step" in line for line in lines) == 1, lines
    assert largest_difference(weights(ours.storage, 6), weights(finished.config.storage, 6)) == 0
    assert ray.is_initialized()


class Watch:
    """Stands in for the handle of the monitor."""

    def __init__(self) -> None:
        self.reservation = SimpleNamespace(remote=lambda: None)


def test_controller_that_dies_again_and_again_ends_in_one_sentence(monkeypatch):
    import ray
    from ray.exceptions import ActorDiedError

    tries, lines = [], []

    def start():
        tries.append(len(tries))

        def fit() -> None:
            raise ActorDiedError

        return SimpleNamespace(fit=fit, abort=None)

    monkeypatch.setattr(ray, "get", lambda reference: reference)
    with pytest.raises(UserError, match="died 3 times: .*; free memory on the node") as ended:
        controller_failures.fit(start, Watch(), 2, lines.append)
    assert tries == [0, 1, 2]
    assert len(lines) == 2
    assert len(str(ended.value).splitlines()) == 1


def test_other_failures_are_not_taken_for_a_dead_controller():
    def start():
        def fit() -> None:
            raise ValueError("a defect")

        return SimpleNamespace(fit=fit, abort=None)

    with pytest.raises(ValueError, match="a defect"):
        controller_failures.fit(start, Watch(), 2, print)


def test_job_whose_process_is_taken_away_ends_in_a_sentence():
    from ray.exceptions import (
        LocalRayletDiedError,
        OutOfMemoryError,
        RayTaskError,
        WorkerCrashedError,
    )

    for error in (
        OutOfMemoryError("Task was killed due to the node running low on memory."),
        WorkerCrashedError(),
        LocalRayletDiedError(),
    ):
        sentence = explain(error)
        assert sentence is not None
        assert sentence.startswith("Ray has lost a process of this job: ")
        assert "Give the same command again" in sentence
        assert "\n" not in sentence
    defect = RayTaskError("function", "Traceback ...\nKeyError: 'x'", KeyError("x"))
    assert explain(defect) is None


def test_our_actors_reserve_memory_and_come_back(ray_local):
    import ray

    seen: list[Record] = []
    with record_queue(seen.append, every_s=0.01) as box:
        ray.get(box.put.remote(Record(kind="note", step=1, text="before")))
        score = box.__ray_call__.remote(lambda self: cluster.OOM_SCORE.read_text())
        assert int(ray.get(score)) == 0  # Ray's other workers have 1,000.
        reserved = ray.cluster_resources()["memory"] - ray.available_resources()["memory"]
        assert reserved >= cluster.BESIDE_DRIVER_BYTES
        ray.kill(box, no_restart=False)
        while not any(record.text == "after" for record in seen):  # The first may go with it.
            ray.get(box.put.remote(Record(kind="note", step=2, text="after")))
