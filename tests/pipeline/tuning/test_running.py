"""Trials on a real Ray: all of them once, whatever happens."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest
from safetensors.torch import load_file

from pipeline import checkpoints
from pipeline.config import UserError, override, to_json
from pipeline.report.search import trial_rows, write_search
from pipeline.tracking import TrackingConfig
from pipeline.tuning import Range, Trial, TuneResult, plan, tune

SPACE = {"model.image_weight": [1.0, 10.0], "model.num_blocks": [1, 2]}


def quietly(line):
    """Say nothing."""


@pytest.fixture(scope="module")
def result(config, ray_local):
    """Run the search once."""
    return tune(config, SPACE, quietly)


@pytest.mark.slow
def test_trials_train_and_come_back_best_first(result):
    scores = [trial.scores["hole_psnr"] for trial in result.trials]
    assert len(scores) == 4
    assert scores == sorted(scores, reverse=True)
    for trial in result.trials:
        model = checkpoints.read_config(trial.checkpoint)["model"]
        assert model["num_blocks"] == trial.changes["model.num_blocks"]
        assert model["image_weight"] == trial.changes["model.image_weight"]
        assert trial.steps == 2
    assert result.best.checkpoint == result.trials[0].checkpoint


@pytest.mark.slow
def test_a_search_started_again_runs_nothing_twice(config, result):
    lines = []
    again = tune(config, SPACE, lines.append)
    assert all(trial.reused for trial in again.trials)
    assert [t.scores for t in again.trials] == [t.scores for t in result.trials]
    assert any("4 of them were finished before" in line for line in lines)


@pytest.mark.slow
def test_a_search_of_more_steps_goes_on_with_its_trials(config, ray_local, tmp_path):
    search = override(config, {"storage": str(tmp_path / "longer")})
    space = {"model.num_blocks": [1]}
    [short] = tune(search, space, quietly).trials
    [long] = tune(override(search, {"train.steps": 5}), space, quietly).trials
    assert (short.steps, long.steps) == (2, 5)
    assert long.name == short.name
    assert checkpoints.steps(plan(search, space)[0][1].storage)[-1] == 5


@pytest.mark.slow
def test_the_search_is_written_as_table_plot_and_page(result, tmp_path):
    text = write_search(result, str(tmp_path), "A search")
    assert "image_weight" in text
    assert (tmp_path / "trials.png").read_bytes().startswith(b"\x89PNG")
    assert "A search" in (tmp_path / "report.html").read_text()
    assert len(json.loads((tmp_path / "trials.json").read_text())) == 4


@pytest.mark.slow
def test_optuna_proposes_what_is_tried_and_knows_it_when_the_search_goes_on(
    config, ray_local, tmp_path
):
    space = {
        "model.learning_rate": Range(low=1e-5, high=1e-3, log=True),
        "model.num_blocks": [1, 2],
    }
    changes = {"storage": str(tmp_path / "tpe"), "num_trials": 3, "algorithm": "tpe"}
    search = override(config, changes)
    first = tune(search, space, quietly)
    assert len({trial.name for trial in first.trials}) == 3
    rates = [trial.changes["model.learning_rate"] for trial in first.trials]
    assert all(1e-5 <= rate <= 1e-3 for rate in rates)
    for trial in first.trials:
        model = checkpoints.read_config(trial.checkpoint)["model"]
        assert model["learning_rate"] == trial.changes["model.learning_rate"]
    further = tune(override(search, {"num_trials": 4}), space, quietly)
    names = {trial.name for trial in first.trials}
    assert {trial.name for trial in further.trials if trial.reused} == names
    assert len(further.trials) == 4


@pytest.mark.slow
def test_the_worse_trials_are_stopped_early(config, ray_local, tmp_path):
    changes = {
        "storage": str(tmp_path / "asha"),
        "num_trials": 6,
        "algorithm": "asha",
        "train.steps": 16,
        "train.save_every_steps": 2,
    }
    search = override(config, changes)
    result = tune(search, {"model.learning_rate": Range(low=1e-9, high=1e-2, log=True)}, quietly)
    steps = {trial.name: trial.steps for trial in result.trials}
    assert len(steps) == 6
    assert max(steps.values()) == 16
    stopped = [trial for trial in result.trials if trial.steps < 16]
    assert stopped
    assert all(trial.scores and trial.checkpoint for trial in stopped)
    again = tune(search, {"model.learning_rate": Range(low=1e-9, high=1e-2, log=True)}, quietly)
    assert {trial.name: trial.steps for trial in again.trials} == steps


@pytest.mark.slow
def test_a_population_goes_over_to_its_best_with_networks_and_optimisers(
    config, ray_local, tmp_path
):
    space = {"model.learning_rate": Range(low=1e-9, high=1e-2, log=True)}
    changes = {
        "storage": str(tmp_path / "pbt"),
        "num_trials": 3,
        "algorithm": "pbt",
        "train.steps": 24,  # Long enough to overlap, however late a process starts.
        "train.save_every_steps": 4,
    }
    search = override(config, changes)
    lines = []
    result = tune(search, space, lines.append)
    assert [trial.steps for trial in result.trials] == [24] * 3
    assert all(trial.scores for trial in result.trials)
    over = []
    for file in (tmp_path / "pbt").glob("trials/member-*/*/config.json"):
        run = json.loads(file.read_text())
        begin, member = run["continue_from"], file.parent.parent.name
        if begin and member not in begin and checkpoints.steps(str(file.parent)):
            over.append((run, begin, str(file.parent)))
    assert over, lines
    for run, begin, storage in over:
        first = checkpoints.steps(storage)[0]
        step = checkpoints.read_state(begin)["step"]
        assert 0 < first - step <= 4
        location = checkpoints.step_location(storage, first)
        [group] = checkpoints.read_state(location)["optimizers"]["generator"]
        assert group["lr"] == run["model"]["learning_rate"]
        assert group["lr"] != checkpoints.read_config(begin)["model"]["learning_rate"]
        # Adam has counted the steps of the one it went over to, and its own since then.
        moments = load_file(Path(location, "optimizers.safetensors"))
        assert moments["generator/0/step"].item() == first
    again = tune(search, space, lines.append)
    assert "3 members were finished before" in lines
    assert {t.checkpoint for t in again.trials} == {t.checkpoint for t in result.trials}


@pytest.mark.slow
def test_a_trial_that_fails_is_tried_again_then_reported(config, ray_local, tmp_path):
    search = override(config, {"storage": str(tmp_path / "failing")})
    space = {"model.learning_rate": [1e-4, 1e30]}
    lines = []
    result = tune(search, space, lines.append)
    assert len(result.trials) == 2
    good, bad = result.trials
    assert good.scores
    assert "not finite" in bad.error
    assert any("failed" in line for line in lines)
    assert result.best is good


@pytest.mark.slow
def test_what_the_time_did_not_suffice_for_is_told_and_gone_on_with(config, ray_local, tmp_path):
    changes = {
        "storage": str(tmp_path / "late"),
        "max_hours": 8 / 3600,
        "train.steps": 100_000,
        "train.save_every_steps": 5,
    }
    search = override(config, changes)
    [trial] = tune(search, {"model.num_blocks": [1]}, quietly).trials
    assert "time was up" in trial.error
    run = plan(search, {"model.num_blocks": [1]})[0][1].storage
    before = max(checkpoints.steps(run))
    assert before >= 5
    shorter = override(search, {"max_hours": 0.0, "train.steps": before + 5})
    [trial] = tune(shorter, {"model.num_blocks": [1]}, quietly).trials
    assert trial.steps == before + 5
    assert "going on" in "".join(Path(run).joinpath(f"progress-{before:09d}.jsonl").read_text())


PROGRAM = """
import sys
from pathlib import Path
from pipeline.cluster import connect
from pipeline.config import from_json
from pipeline.tuning import TuneConfig, tune
with connect(dashboard=True, num_cpus=2):
    tune(from_json(TuneConfig, Path(sys.argv[1]).read_text()), {"model.num_blocks": [1, 2, 3, 4]})
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_search_whose_driver_is_killed_loses_nothing_and_runs_nothing_twice(config, tmp_path):
    changes = {"storage": str(tmp_path / "killed"), "train.steps": 6, "train.save_every_steps": 2}
    search = override(config, changes)
    file = tmp_path / "search.json"
    file.write_text(to_json(search))
    command = [sys.executable, "-c", PROGRAM, str(file)]
    trials = [run for _, run in plan(search, {"model.num_blocks": [1, 2, 3, 4]})]

    def finished():
        return [run for run in trials if 6 in checkpoints.steps(run.storage)]

    driver = subprocess.Popen(
        command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while not finished():
        assert driver.poll() is None
        time.sleep(0.01)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    kept = finished()
    assert len(kept) < 4
    made = {run.storage: os.stat(checkpoints.step_location(run.storage, 6)) for run in kept}
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=200)
    assert "4 trials" in done.stdout
    assert len(finished()) == 4
    for storage, stat in made.items():
        assert os.stat(checkpoints.step_location(storage, 6)).st_ino == stat.st_ino


@pytest.mark.slow
def test_mlflow_has_the_trials_under_their_search(config, ray_local, tmp_path):
    from mlflow import MlflowClient

    tracking = TrackingConfig(
        tracking_uri=f"sqlite:///{tmp_path}/mlflow.db", artifacts=str(tmp_path / "artifacts")
    )
    changes = {"storage": str(tmp_path / "search"), "train.tracking": tracking}
    result = tune(override(config, changes), {"model.num_blocks": [1, 2]}, quietly)
    client = MlflowClient(tracking_uri=tracking.tracking_uri)
    experiment = client.get_experiment_by_name("infill").experiment_id
    runs = client.search_runs([experiment])
    [parent] = [run for run in runs if run.info.run_name == "search lambdas"]
    children = [run for run in runs if run is not parent]
    assert len(children) == 2
    assert all(run.data.tags["mlflow.parentRunId"] == parent.info.run_id for run in children)
    assert {run.data.params["model.num_blocks"] for run in children} == {"1", "2"}
    assert parent.data.metrics["hole_psnr"] == pytest.approx(result.best.scores["hole_psnr"])
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_a_failed_trial_is_reported_and_never_best():
    failed = Trial(name="a", changes={"model.num_blocks": 1}, error="the loss is not finite")
    header, rows = trial_rows(TuneResult(trials=(failed,), seconds=1.0))
    assert header[0] == "num_blocks"
    assert "the loss is not finite" in rows[0]
    with pytest.raises(UserError, match="the loss is not finite"):
        _ = TuneResult(trials=(failed,), seconds=1.0).best
    assert asdict(failed)["error"]
