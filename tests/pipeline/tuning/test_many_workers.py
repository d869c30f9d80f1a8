"""Trials of two workers each: pruned by ASHA, and interrupted by Ctrl-C."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from infill.pipeline import checkpoints
from infill.pipeline.config import override, to_json
from infill.pipeline.tuning import plan, tune

pytestmark = [pytest.mark.slow, pytest.mark.cluster]
RATES = {"model.learning_rate": [1e-4, 0.3]}
ONE = {"model.learning_rate": [1e-4]}
PROGRAM = f"""
import sys
from pathlib import Path
from infill.pipeline.cluster import connect
from infill.pipeline.config import from_json
from infill.pipeline.tuning import TuneConfig, tune
with connect():
    tune(from_json(TuneConfig, Path(sys.argv[1]).read_text()), {ONE})
"""


def quietly(line):
    """Say nothing."""


def rates_of(search):
    """Return the learning rates of the trials that ASHA's random search chooses, in order."""
    return [trial.changes["model.learning_rate"] for trial, _ in plan(search, RATES)]


@pytest.fixture
def search(config, ray_local, tmp_path):
    """Return a search with two workers a trial, and CPUs for one trial at a time."""
    import ray

    cpus = ray.cluster_resources()["CPU"] / 3
    changes = {
        "storage": str(tmp_path / "search"),
        "workers_per_trial": 2,
        "train.cpus_per_worker": cpus,
        "train.save_every_steps": 2,
    }
    return override(config, changes)


@pytest.mark.timeout(600)
def test_a_pruned_trial_of_two_workers_frees_their_resources(search):
    """The second trial destroys its network, and ends at the first comparison with the first."""
    import ray

    changes = {"num_trials": 2, "algorithm": "asha", "train.steps": 16, "concurrent_trials": 1}
    seeds = (override(search, {**changes, "seed": seed}) for seed in range(50))
    pruned = next(one for one in seeds if rates_of(one) == [1e-4, 0.3])
    found = tune(pruned, RATES, quietly).trials
    assert [trial.error for trial in found] == ["", ""]
    steps = {trial.changes["model.learning_rate"]: trial.steps for trial in found}
    assert steps[1e-4] == 16
    assert steps[0.3] < 16
    assert all(trial.scores and trial.checkpoint for trial in found)
    while ray.available_resources().get("CPU") != ray.cluster_resources()["CPU"]:
        time.sleep(0.1)  # Ray takes workers' resources back later.
    again = tune(pruned, RATES, quietly).trials
    assert {t.changes["model.learning_rate"]: t.steps for t in again} == steps


@pytest.mark.timeout(600)
def test_a_search_of_many_workers_that_ctrl_c_ends_goes_on_where_it_was(search, tmp_path):
    import ray

    longer = override(search, {"train.steps": 100_000})  # The signal finds it at work.
    file = tmp_path / "search.json"
    file.write_text(to_json(longer))
    [run] = [run.storage for _, run in plan(longer, ONE)]
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(file)],
        env={**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as driver:
        while not checkpoints.steps(run):
            assert driver.poll() is None
            time.sleep(0.01)
        driver.send_signal(signal.SIGINT)
        assert driver.wait(timeout=120) != 0
    while ray.available_resources().get("CPU") != ray.cluster_resources()["CPU"]:
        time.sleep(0.1)  # Ray takes workers' resources back later.
    saved = max(checkpoints.steps(run))
    [trial] = tune(override(longer, {"train.steps": saved + 2}), ONE, quietly).trials
    assert (trial.steps, trial.error) == (saved + 2, "")
    logs = sorted(Path(run).glob("progress-*"))
    assert f"resuming at step {saved}" in "".join(path.read_text() for path in logs)
