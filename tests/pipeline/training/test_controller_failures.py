"""Ray's controller dies, as when memory runs out on the driver's node; our own actors, too."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from infill.pipeline import checkpoints, cluster
from infill.pipeline.config import override
from infill.pipeline.error_sentences import explain
from infill.pipeline.errors import UserError
from infill.pipeline.interruption import Interrupted
from infill.pipeline.tracking import Record, record_queue
from infill.pipeline.training import controller_failures, start_failures, train
from infill.pipeline.training.elastic import CONTROLLER_BYTES, SharingTrainer


def actors(kind: bytes) -> set[int]:
    """Return the process ids of a kind of actors on this machine whose Ray is this process's."""
    found = set()
    for folder in Path("/proc").iterdir():
        try:
            name = (folder / "cmdline").read_bytes()
            if not name.startswith(b"ray::" + kind):
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
            [controller] = actors(b"TrainController")
            scores.append(int(Path(f"/proc/{controller}/oom_score_adj").read_text()))
            reserved = ray.cluster_resources()["memory"] - ray.available_resources()["memory"]
            assert reserved >= CONTROLLER_BYTES
            os.kill(controller, signal.SIGKILL)

    train(ours, log)
    assert killed.is_set()
    assert scores == [0]
    assert any("controller of this training died" in line for line in lines), lines
    assert sum("resuming at step" in line for line in lines) == 1, lines
    assert largest_difference(weights(ours.storage, 6), weights(finished.config.storage, 6)) == 0
    assert ray.is_initialized()


@pytest.mark.slow
def test_worker_that_dies_more_often_than_it_may_ends_a_training_in_one_sentence(config, ray_local):
    from ray.train import WorkerGroupError

    changes = {"num_workers": 1, "steps": 10**6, "max_failures": 0}
    killed: set[int] = set()

    def log(line: str) -> None:
        if "step 2/" in line and not killed:
            killed.update(actors(b"RayTrainWorker"))
            for worker in killed:
                os.kill(worker, signal.SIGKILL)

    with pytest.raises(WorkerGroupError) as ended:
        train(override(config, changes), log)
    assert len(killed) == 1
    sentence = explain(ended.value)
    assert sentence is not None
    assert sentence.startswith("Ray has lost a process of this job: The actor died")
    assert len(sentence.splitlines()) == 1


class Monitor:
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

        return SimpleNamespace(fit=fit, abort=lambda: None)

    monkeypatch.setattr(ray, "get", lambda reference: reference)
    with pytest.raises(
        UserError, match="died: .*; 2 before it failed too; free memory on"
    ) as ended:
        controller_failures.fit(start, Monitor(), 2, lines.append, lambda: False)
    assert tries == [0, 1, 2]
    assert len(lines) == 2
    assert len(str(ended.value).splitlines()) == 1


def failing(error):
    """Return what starts a trainer that fails."""

    def fit() -> None:
        raise error

    return lambda: SimpleNamespace(fit=fit, abort=lambda: None)


def test_other_failures_are_not_taken_for_a_dead_controller():
    from ray.exceptions import RayTaskError
    from ray.train import ControllerError

    defect = RayTaskError("function", "Traceback ...\nKeyError: 'x'", KeyError("x"))
    for error in (ValueError("a defect"), ControllerError(ValueError("a defect"))):
        with pytest.raises(type(error), match="a defect"):
            controller_failures.fit(failing(error), Monitor(), 2, print, lambda: False)
    with pytest.raises(ControllerError, match="KeyError"):
        controller_failures.fit(
            failing(ControllerError(defect)), Monitor(), 2, print, lambda: False
        )


def test_workers_that_did_not_start_end_in_one_sentence():
    from ray.train import ControllerError
    from ray.train.v2._internal.exceptions import (
        WorkerGroupStartupFailedError,
        WorkerGroupStartupTimeoutError,
    )

    broken = WorkerGroupStartupFailedError("error:\nTraceback ...\nImportError: no module\n")
    for failure, expected in (
        (broken, "did not start in several attempts: ImportError: no module; correct"),
        (WorkerGroupStartupTimeoutError(3), "no resources for 3 workers became free in time"),
    ):
        with pytest.raises(UserError, match=expected) as ended:
            controller_failures.fit(
                failing(ControllerError(failure)), Monitor(), 2, print, lambda: False
            )
        assert len(str(ended.value).splitlines()) == 1


@pytest.fixture
def disturbed(monkeypatch, tmp_path):
    """Give what lets the first groups of workers lose one at the end of their start."""
    from ray.train.v2._internal.execution.callback import WorkerGroupCallback

    disturbances = tmp_path / "disturbances"

    def disturb(removed, times=1):
        class Disturbance(
            WorkerGroupCallback
        ):  # Local, so that Ray's controller receives its code.
            def after_worker_group_start(self, worker_group):
                import ray
                from ray.util import remove_placement_group

                done = disturbances.read_text() if disturbances.exists() else ""
                if len(done) == times:
                    return
                disturbances.write_text(done + ".")
                worker = worker_group.get_workers()[-1]
                if removed:
                    state = worker_group.get_worker_group_state()
                    remove_placement_group(state.placement_group_handle.placement_group)
                else:
                    os.kill(worker.metadata.pid, signal.SIGKILL)
                try:
                    while True:
                        ray.get(worker.actor.get_metadata.remote())
                except ray.exceptions.RayActorError:
                    if not removed:
                        raise

        def callbacks(self):
            return [*usual(self), Disturbance()]

        usual = SharingTrainer._create_default_callbacks
        monkeypatch.setattr(SharingTrainer, "_create_default_callbacks", callbacks)
        return disturbances

    return disturb


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("removed", [True, False], ids=["reservation removed", "worker killed"])
def test_group_that_loses_a_worker_at_the_end_of_its_start_is_replaced(
    removed, config, ray_local, disturbed
):
    """With the same resources: two groups would not have room."""
    disturbances = disturbed(removed)
    lines: list[str] = []
    train(override(config, {"num_workers": 2, "cpus_per_worker": 1.5}), lines.append)
    assert disturbances.exists()
    assert checkpoints.steps(config.storage)[-1] == config.steps
    assert sum("failed: The actor died" in line for line in lines) == removed, lines
    again = "did not start: one of them died (the system, for lack of memory perhaps, or a person"
    assert sum(again in line for line in lines) == (not removed), lines


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_workers_that_do_not_start_end_a_training_after_a_few_attempts(
    config, ray_local, disturbed, monkeypatch
):
    """Each attempt is reported; Ray itself would make sixty in silence."""
    monkeypatch.setattr(start_failures, "START_ATTEMPTS", 2)
    disturbances = disturbed(False, times=2)
    run = override(config, {"num_workers": 1})
    lines: list[str] = []
    with pytest.raises(UserError, match="did not start in several attempts: one of them died"):
        train(run, lines.append)
    assert disturbances.read_text() == ".."
    assert sum("starting them again (2 of 2)" in line for line in lines) == 1, lines
    assert train(run, lines.append).step == run.steps


@pytest.fixture
def another_ray():
    """Give what starts another Ray on this machine, as `ray start` does, until its dashboard is up.

    Programs without an address of their own find this process's Ray before, and then the other.
    """
    import ray
    from ray._common.utils import reset_ray_address
    from ray._private.utils import write_ray_address

    program = (
        "import socket, sys; from ray.cluster_utils import Cluster\n"
        "from ray.util.state import list_actors\n"
        "with socket.create_server(('127.0.0.1', 0)) as free: port = free.getsockname()[1]\n"
        "head = {'num_cpus': 1, 'include_dashboard': True, 'dashboard_port': port}\n"
        "cluster = Cluster(initialize_head=True, head_node_args=head)\n"
        "list_actors(address=cluster.address)\n"
        "print('up', flush=True); sys.stdin.read(); cluster.shutdown()\n"
    )
    started = []

    def start():
        command = [sys.executable, "-c", program]
        streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, **streams))
        assert started[-1].stdout.readline() == "up\n"

    write_ray_address(ray.get_runtime_context().gcs_address)
    yield start
    for process in started:
        process.communicate()
    reset_ray_address()


@pytest.mark.slow
@pytest.mark.cluster
def test_another_ray_on_this_machine_does_not_end_a_training(config, ray_local, another_ray):
    """Ray's own actor that frees a dead controller's resources would ask the other Ray for it."""
    changes = {"num_workers": 2, "steps": 10**6, "save_every_steps": 10, "report_every_steps": 10}
    run = override(config, {**changes, "sample_every_steps": 10**6})
    lines: list[str] = []
    enough: list[int] = []
    ended = threading.Event()

    def log(line: str) -> None:
        lines.append(line)
        steps = checkpoints.steps(run.storage)
        if steps and not enough:
            another_ray()
            enough.append(checkpoints.steps(run.storage)[-1] + 200)
        if enough and steps[-1] >= enough[0] and not ended.is_set():
            ended.set()
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        train(run, log)
    assert not any("died" in line or "resuming" in line for line in lines), lines


@pytest.mark.slow
@pytest.mark.parametrize("last", [False, True])
def test_a_training_whose_records_cannot_be_logged_ends_with_the_reason(config, ray_local, last):
    """Also if it is the last record, which is read when the workers have ended."""
    steps = 4 if last else 10**6
    changes = {"num_workers": 1, "steps": steps, "save_every_steps": 4, "report_every_steps": 4}
    run = override(config, {**changes, "sample_every_steps": 10**6})
    full = OSError(errno.ENOSPC, "No space left on device")
    lines = []

    def log(line: str) -> None:
        lines.append(line)
        if "step 4" in line:
            raise full

    with pytest.raises(OSError, match="No space left") as raised:
        train(run, log)
    assert raised.value is full, lines
    further = max(checkpoints.steps(run.storage), default=0) + 4
    assert train(override(run, {"steps": further}), lines.append).step == further


def test_job_whose_process_is_taken_away_ends_in_a_sentence():
    from ray.exceptions import (
        LocalRayletDiedError,
        OutOfMemoryError,
        RayTaskError,
        WorkerCrashedError,
    )

    lost, full = "Ray has lost a process of this job: ", "Ray's memory monitor has ended a worker"
    low = "Task was killed due to the node running low on memory."
    for error, begin in (
        (OutOfMemoryError(low), f"{full} of this job: its node was short of memory; give the job"),
        (WorkerCrashedError(), lost),
        (LocalRayletDiedError(), lost),
    ):
        sentence = explain(error)
        assert sentence is not None
        assert sentence.startswith(begin)
        assert "Give the same command again" in sentence
        assert "\n" not in sentence
    defect = RayTaskError("function", "Traceback ...\nKeyError: 'x'", KeyError("x"))
    assert explain(defect) is None


def test_worker_that_is_stuck_too_often_ends_the_job_in_a_sentence():
    from ray.train import WorkerGroupError
    from ray.train.v2._internal.exceptions import WorkerHealthCheckTimeoutError

    stuck = WorkerHealthCheckTimeoutError(
        "A worker health check has been hanging for 61.20 seconds. Marking the worker as dead."
    )
    sentence = explain(WorkerGroupError("Training failed", worker_failures={1: stuck}))
    assert sentence is not None
    assert sentence.startswith("a worker of this training has not answered Ray for 61 s, once more")
    assert "raise max_failures" in sentence


def test_our_actors_reserve_memory_and_come_back(ray_local):
    import ray

    seen: list[Record] = []
    wanted = cluster.BESIDE_DRIVER_BYTES
    with record_queue(seen.append, every_s=0.01) as box:
        ray.get(box.put.remote(Record(kind="note", step=1, text="before")))
        score = box.__ray_call__.remote(lambda self: cluster.OOM_SCORE.read_text())
        assert int(ray.get(score)) == 0  # Ray's other workers have 1,000.
        # Ray's head learns of it a moment later; the limit is that of every test.
        while ray.cluster_resources()["memory"] - ray.available_resources()["memory"] < wanted:
            time.sleep(0.05)
        ray.kill(box, no_restart=False)
        while not any(record.text == "after" for record in seen):  # The first may go with it.
            ray.get(box.put.remote(Record(kind="note", step=2, text="after")))
