"""Trainings that are interrupted: saved at the step reached, and resumed from there."""

import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

from infill.pipeline import checkpoints
from infill.pipeline.config import override
from infill.pipeline.interruption import Interrupted
from infill.pipeline.tracking import TrackingConfig
from infill.pipeline.tracking.mlflow_store import experiment_id, mlflow_client
from infill.pipeline.training import train

ROOT = Path(__file__).parents[3]
BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)


def interrupt_at(step, number):
    """Return a logger that sends a signal to this process at a step's losses."""

    def report(record):
        if record.kind == "losses" and record.step == step:
            os.kill(os.getpid(), number)

    return report


@BOTH
def test_an_interrupted_training_saves_first_and_goes_on_to_the_same_weights(
    number, config, finished, migrated_database, tmp_path, quietly, weights, largest_difference
):
    shutil.copy(migrated_database, tmp_path / "mlflow.db")
    tracking = TrackingConfig(
        tracking_uri=f"sqlite:///{tmp_path}/mlflow.db", artifacts=str(tmp_path / "artifacts")
    )
    changes = {"report_every_steps": 1, "save_every_steps": 100, "tracking": tracking}
    run = override(config, changes)
    with pytest.raises(Interrupted, match="saved at step 3 in .*run the same command again") as it:
        train(run, quietly, interrupt_at(3, number))
    assert it.value.number == number
    assert checkpoints.steps(run.storage) == [3]
    client = mlflow_client(tracking)
    [entry] = client.search_runs([experiment_id(client, tracking, tracking.experiment)])
    assert entry.info.status == "KILLED"
    lines = []
    train(run, lines.append)
    assert any("resuming at step 3" in line for line in lines)
    ours, theirs = weights(finished.config.storage, 6), weights(run.storage, 6)
    assert largest_difference(ours, theirs) == 0


@pytest.mark.slow
@pytest.mark.cluster
def test_workers_on_the_cluster_save_and_stop_after_the_same_step(config, ray_local, quietly):
    changes = {"num_workers": 2, "steps": 10**6, "save_every_steps": 10**6}
    run = override(config, changes | {"sample_every_steps": 10**6})
    with pytest.raises(Interrupted, match="saved at step") as it:
        train(run, quietly, interrupt_at(2, signal.SIGTERM))
    assert it.value.number == signal.SIGTERM
    [step] = checkpoints.steps(run.storage)
    assert str(it.value).startswith(f"interrupted, saved at step {step:,} in {run.storage}")
    checkpoints.verify(checkpoints.step_location(run.storage, step))


def test_a_run_without_resources_ends_at_once(config, ray_local):
    """No worker is there to save anything."""
    lines = []

    def say(line):
        lines.append(line)
        if "waiting for resources" in line:
            os.kill(os.getpid(), signal.SIGINT)

    run = override(config, {"num_workers": 2, "cpus_per_worker": 1000.0})
    with pytest.raises(Interrupted, match="interrupted, before the first step"):
        train(run, say)


@pytest.mark.slow
def test_ctrl_c_in_a_terminal_reaches_workers_as_a_request_to_save(shards, tmp_path, on_terminal):
    """With a Ray of the job's own, whose processes are in the terminal's session too."""
    words = ["smoke", "--data.source", "", "--data.shards", shards, "--storage", "run"]
    words += ["--steps", "1000000", "--save-every-steps", "1000000", "--num-workers", "2"]
    words += ["--sample-every-steps", "4", "--tracking.loggers", "terminal"]
    job = [sys.executable, ROOT / "jobs" / "train_spn.py", *words]
    status, printed = on_terminal(job, lambda printed: b"sample grid" in printed, tmp_path)
    assert status == 130, printed[-3000:]
    [step] = checkpoints.steps(str(tmp_path / "run"))
    checkpoints.verify(checkpoints.step_location(str(tmp_path / "run"), step))
    assert f"interrupted, saved at step {step:,} in {tmp_path}/run" in printed
    assert "Traceback" not in printed
