"""Trials on a real Ray: all of them once, whatever happens."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors.torch import load_file

from infill.jobs import tune as search_job
from infill.pipeline import checkpoints
from infill.pipeline.config import override, to_json
from infill.pipeline.errors import UserError
from infill.pipeline.interruption import Interrupted
from infill.pipeline.reporting.search import trial_rows, write_search
from infill.pipeline.tuning import Range, Trial, TuneResult, pbt, plan, tune, tuner, written_down
from infill.pipeline.tuning.algorithms import ALGORITHMS, Algorithm

ROOT = Path(__file__).parents[3]


def quietly(line):
    """Say nothing."""


@pytest.mark.slow
def test_trials_train_and_come_back_best_first(finished_search):
    result = finished_search.result
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
def test_a_search_started_again_runs_nothing_twice(finished_search):
    lines = []
    again = tune(finished_search.config, finished_search.space, lines.append)
    assert all(trial.reused for trial in again.trials)
    assert [t.scores for t in again.trials] == [t.scores for t in finished_search.result.trials]
    assert any("4 of them were finished before" in line for line in lines)


@pytest.mark.parametrize("kind", ["scheduler", "searcher"])
def test_an_algorithm_whose_function_returns_nothing_is_refused(config, kind, monkeypatch):
    """Ray Tune would run every trial to its end, or at random."""
    monkeypatch.setitem(ALGORITHMS, "ours", Algorithm(**{kind: lambda *given: None}))
    search = replace(config, algorithm="ours", num_trials=2)
    with pytest.raises(UserError, match="the function of algorithm 'ours' returned None, not Ray"):
        tune(search, {"model.image_weight": [1.0, 10.0]}, quietly)


def interrupt_search(search, space, ready):
    """Run a search and send SIGTERM to this process as soon as it is ready for that."""

    def interrupt():
        while not ready():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    with pytest.raises(Interrupted, match=r"its trials are saved in .*/search; run the same") as it:
        tune(search, space, quietly)
    thread.join()
    assert it.value.number == signal.SIGTERM


def rates_of(planned):
    """Return the learning rates of trials, in order."""
    return [trial.changes["model.learning_rate"] for trial, _ in planned]


def endless(config, folder, **changes):
    """Return a search whose trials end and save only if they are interrupted."""
    many = {"train.steps": 10**6, "train.save_every_steps": 10**6, "train.sample_every_steps": 2}
    return override(config, {**many, "storage": str(folder / "search"), **changes})


@pytest.mark.slow
def test_trials_of_two_processes_wait_for_their_turn_and_resume_after_an_interruption(
    config, ray_local, tmp_path
):
    """Two gloo workers a trial, and CPUs for one trial at a time."""
    import ray

    cpus = ray.cluster_resources()["CPU"] / 3
    changes = {"workers_per_trial": 2, "train.cpus_per_worker": cpus, "concurrent_trials": 2}
    search = endless(config, tmp_path, **changes)
    space = {"model.image_weight": [1.0, 10.0]}
    runs = [Path(training.storage) for _, training in plan(search, space)]
    interrupt_search(search, space, lambda: any(any(run.rglob("*.png")) for run in runs))
    [(begun, [step])] = [(run, steps) for run in runs if (steps := checkpoints.steps(str(run)))]
    assert 0 < step < 10**6  # The other one waited for it, and was not begun.
    again = override(search, {"train.steps": step + 1, "train.data.seed": 0})
    found = tune(again, space, quietly).trials
    assert [trial.error for trial in found] == ["", ""]
    for trial in found:
        assert trial.steps == step + 1
        assert trial.scores["hole_psnr"] > 0
        assert checkpoints.read_config(trial.checkpoint)["num_workers"] == 2
    [progress] = begun.glob(f"progress-{step:09d}.jsonl")
    assert f"resuming at step {step}" in progress.read_text()


@pytest.mark.slow
def test_ctrl_c_in_a_terminal_ends_a_search_after_its_trials_checkpoints_and_it_resumes(
    shards, ray_local, tmp_path, on_terminal
):
    space, search = tmp_path / "space.json", tmp_path / "search"
    space.write_text(json.dumps({"model.image_weight": [1, 10]}))
    words = ["spn", "--scale", "smoke", "--space", str(space), "--storage", str(search)]
    words += ["--train.data.source", "", "--train.data.shards", shards]
    words += ["--train.tracking.loggers", "terminal", "jsonl"]
    words += ["--train.save-every-steps", "1000000", "--train.sample-every-steps", "4"]
    words += ["--concurrent-trials", "1"]
    trials = search / "trials"
    job = [sys.executable, ROOT / "jobs" / "tune.py", *words, "--train.steps", "1000000"]
    status, printed = on_terminal(job, lambda _: any(trials.glob("*/samples/*.png")), tmp_path)
    assert status == 130, printed[-3000:]
    assert f"interrupted, its trials are saved in {search}; run the same" in printed
    assert "Traceback" not in printed
    # The second waited for the first, and was not begun.
    [run] = [trial for trial in trials.iterdir() if checkpoints.steps(str(trial))]
    assert (run / "samples").is_dir()
    [step] = checkpoints.steps(str(run))
    assert 0 < step < 10**6
    space.write_text(json.dumps({"model.image_weight": [1]}))
    search_job.main([*words, "--train.steps", str(step + 1)])
    assert written_down(str(search))[run.name].steps == step + 1
    [progress] = run.glob(f"progress-{step:09d}.jsonl")
    assert f"resuming at step {step}" in progress.read_text()


@pytest.mark.slow
def test_the_search_is_written_as_table_plot_and_page(finished_search, tmp_path, require_fit):
    text = write_search(finished_search.result, str(tmp_path), "A search")
    assert "image_weight" in text
    assert (tmp_path / "trials.png").read_bytes().startswith(b"\x89PNG")
    assert "A search" in (tmp_path / "report.html").read_text()
    require_fit(str(tmp_path / "report.html"))
    assert len(json.loads((tmp_path / "trials.json").read_text())) == 4


@pytest.mark.slow
def test_optuna_proposes_what_is_tried_and_knows_it_when_the_search_resumes(
    config, ray_local, tmp_path
):
    space = {
        "model.learning_rate": Range(low=1e-5, high=1e-3, log=True),
        "model.num_blocks": [1, 2],
    }
    changes = {"storage": str(tmp_path / "tpe"), "num_trials": 2, "algorithm": "tpe"}
    search = override(config, {**changes, "concurrent_trials": 1})
    first = tune(search, space, quietly)
    assert len({trial.name for trial in first.trials}) == 2
    rates = [trial.changes["model.learning_rate"] for trial in first.trials]
    assert all(1e-5 <= rate <= 1e-3 for rate in rates)
    for trial in first.trials:
        model = checkpoints.read_config(trial.checkpoint)["model"]
        assert model["learning_rate"] == trial.changes["model.learning_rate"]
    further = tune(override(search, {"num_trials": 3}), space, quietly)
    names = {trial.name for trial in first.trials}
    assert {trial.name for trial in further.trials if trial.reused} == names
    assert len(further.trials) == 3


@pytest.mark.slow
def test_the_worse_trials_are_stopped_early(config, ray_local, tmp_path):
    """The second trial destroys its network, and ends at the first comparison with the first."""
    space = {"model.learning_rate": [1e-4, 0.3]}
    changes = {
        "storage": str(tmp_path / "asha"),
        "num_trials": 2,
        "concurrent_trials": 1,
        "algorithm": "asha",
        "train.steps": 16,
        "train.save_every_steps": 2,
    }
    seeds = (override(config, {**changes, "seed": seed}) for seed in range(50))
    search = next(one for one in seeds if rates_of(plan(one, space)) == [1e-4, 0.3])
    found = tune(search, space, quietly).trials
    assert [trial.error for trial in found] == ["", ""]
    steps = {trial.changes["model.learning_rate"]: trial.steps for trial in found}
    assert steps[1e-4] == 16
    assert steps[0.3] < 16
    assert all(trial.scores and trial.checkpoint for trial in found)
    again = tune(search, space, quietly).trials
    assert {trial.changes["model.learning_rate"]: trial.steps for trial in again} == steps


@pytest.mark.slow
def test_a_population_goes_over_to_its_best_and_goes_on_after_an_interruption(
    config, ray_local, tmp_path
):
    """A member goes over with networks and optimizers. All go on from where they were."""
    space = {"model.learning_rate": Range(low=1e-9, high=1e-2, log=True)}
    changes = {"num_trials": 2, "algorithm": "pbt", "train.save_every_steps": 4}
    search = endless(config, tmp_path, **changes)
    folders = [tmp_path / "search" / "trials" / f"member-{index:03d}" for index in range(2)]
    interrupt_search(search, space, lambda: went_over(folders))
    for run, begin, storage in went_over(folders):
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
    saved = [json.loads((folder / "trial.json").read_text()) for folder in folders]
    for folder, trial in zip(folders, saved, strict=True):
        assert trial["steps"] > 0
        assert trial["checkpoint"].startswith(str(folder))
    last = max(trial["steps"] for trial in saved) + 1
    lines = []
    longer = override(search, {"train.steps": last, "train.save_every_steps": 10**6})
    result = tune(longer, space, lines.append)
    assert [trial.steps for trial in result.trials] == [last] * 2
    assert all(trial.scores for trial in result.trials)
    for folder, trial in zip(folders, saved, strict=True):
        begun = [json.loads(path.read_text()) for path in folder.glob("*/config.json")]
        assert trial["checkpoint"] in [training["resume_from"] for training in begun]
    again = tune(longer, space, lines.append)
    assert "2 members were finished before" in lines
    assert {t.checkpoint for t in again.trials} == {t.checkpoint for t in result.trials}


def went_over(folders):
    """Return the runs, with a checkpoint, that began with a checkpoint of another member.

    Of each the configuration, the checkpoint that it began with, and the folder.
    """
    found = []
    for file in (file for folder in folders for file in folder.glob("*/config.json")):
        run = json.loads(file.read_text())
        begin, member = run["resume_from"], file.parent.parent.name
        if begin and member not in begin and checkpoints.steps(str(file.parent)):
            found.append((run, begin, str(file.parent)))
    return found


@pytest.mark.slow
def test_a_longer_search_resumes_finished_trials_and_what_the_time_did_not_suffice_for(
    finished_search, tmp_path
):
    shutil.copytree(finished_search.config.storage, tmp_path / "late")
    changes = {
        "storage": str(tmp_path / "late"),
        "train.steps": 100_000,
        "train.save_every_steps": 5,
        "train.tracking.tracking_uri": "",
    }
    search, seconds = override(finished_search.config, changes), 8
    space = {"model.image_weight": [1.0], "model.num_blocks": [1]}
    [(planned, training)] = plan(search, space)
    [short] = [trial for trial in finished_search.result.trials if trial.name == planned.name]
    run = training.storage
    while max(checkpoints.steps(run)) == short.steps == 2:  # Until a process has time to start.
        [trial] = tune(override(search, {"max_hours": seconds / 3600}), space, quietly).trials
        assert "time was up" in trial.error
        seconds *= 2
    assert "resuming at step 2" in Path(run, "progress-000000002.jsonl").read_text()
    before = max(checkpoints.steps(run))
    assert before >= 5
    # The process that was at work may have saved once more before Ray ended it.
    longer = override(search, {"train.steps": before + 100, "train.save_every_steps": 100})
    [trial] = tune(longer, space, quietly).trials
    assert (trial.name, trial.steps) == (short.name, before + 100)
    assert max(checkpoints.steps(run)) == before + 100
    [*_, progress] = sorted(Path(run).glob("progress-*.jsonl"))
    begin = int(progress.stem.removeprefix("progress-"))
    assert before <= begin < before + 100
    assert f"resuming at step {begin}" in progress.read_text()


def test_trials_that_have_not_begun_are_listed_and_leave_earlier_records_alone(
    config, tmp_path, monkeypatch
):
    """Ray returns no configuration for trials that it had no time to start."""
    search = override(config, {"storage": str(tmp_path / "late")})
    space = {"model.num_blocks": [1, 2]}
    first = plan(search, space)[0][0]
    tuner.write_down(search, replace(first, scores={"hole_psnr": 9.0}, steps=1))
    kept = {
        place: place.read_bytes() for place in (tmp_path / "late").rglob("*") if place.is_file()
    }
    assert kept
    not_begun = SimpleNamespace(trial_id="", config=None, metrics={}, error="")
    monkeypatch.setattr(tuner, "run_tuner", lambda *_, **__: [not_begun, not_begun])
    trials = tuner._trials(search, space, quietly)
    assert [trial.error for trial in trials] == ["not started: the search's time was up"] * 2
    assert all(place.read_bytes() == data for place, data in kept.items())


def test_members_of_a_population_that_have_not_begun_are_listed(config, tmp_path, monkeypatch):
    changes = {"storage": str(tmp_path / "late"), "num_trials": 2, "algorithm": "pbt"}
    not_begun = SimpleNamespace(trial_id="", config=None, metrics={}, error="")
    monkeypatch.setattr(pbt, "run_tuner", lambda *_, **__: [not_begun, not_begun])
    trials = tuner._trials(override(config, changes), RATES, quietly)
    assert [trial.name for trial in trials] == ["member-000", "member-001"]
    assert [trial.error for trial in trials] == ["not started: the search's time was up"] * 2


RATES = {"model.learning_rate": [1e-4, 2e-4, 3e-4, 1e30]}
PROGRAM = """
import json, sys
from pathlib import Path
from infill.pipeline.cluster import connect
from infill.pipeline.config import from_json, run
from infill.pipeline.tuning import TuneConfig, tune

def main():
    with connect():
        tune(from_json(TuneConfig, Path(sys.argv[1]).read_text()), json.loads(sys.argv[2]))

run(main)
"""


def run_until(search, space, file, ready, number):
    """Run a search in a process of its own, and send it a signal as soon as it is ready for that.

    Returns:
        The process's status.
    """
    import ray

    file.write_text(to_json(search))
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(file), json.dumps(space)],
        env={**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as driver:
        while not ready():
            assert driver.poll() is None
            time.sleep(0.01)
        driver.send_signal(number)
        return driver.wait()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_search_whose_driver_is_killed_runs_nothing_twice_but_what_failed(
    config, ray_local, tmp_path
):
    """The last trial of the search fails. It is tried again, then reported."""
    changes = {"train.steps": 6, "train.save_every_steps": 2, "concurrent_trials": 1}
    search = override(config, {**changes, "storage": str(tmp_path / "killed")})
    trials = [run for _, run in plan(search, RATES)]

    def finished():
        return [run for run in trials if 6 in checkpoints.steps(run.storage)]

    run_until(search, RATES, tmp_path / "search.json", finished, signal.SIGKILL)
    kept = finished()
    assert len(kept) < 4
    made = {run.storage: os.stat(checkpoints.step_location(run.storage, 6)) for run in kept}
    lines = []
    result = tune(search, RATES, lines.append)
    assert any("4 trials" in line for line in lines)
    assert len(finished()) == 3
    for storage, stat in made.items():
        assert os.stat(checkpoints.step_location(storage, 6)).st_ino == stat.st_ino
    *good, bad = result.trials
    assert all(trial.scores and not trial.error for trial in good)
    assert "not finite" in bad.error
    assert bad.changes == {"model.learning_rate": 1e30}
    assert sum("failed" in line for line in lines) == 1
    assert result.best is good[0]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("algorithm", "number"),
    [("tpe", signal.SIGINT), ("asha", signal.SIGKILL)],
    ids=["tpe-SIGINT", "asha-SIGKILL"],
)
def test_a_search_that_learns_goes_on_after_a_signal_with_each_trial_once(
    config, ray_local, tmp_path, algorithm, number
):
    """Four trials of four combinations: none is proposed twice, and none is left out.

    An algorithm learns again from the trials' records, however the search ended: each algorithm
    and each signal once.
    """
    space = {"model.image_weight": [1, 10], "model.num_blocks": [1, 2]}
    changes = {"num_trials": 4, "algorithm": algorithm, "concurrent_trials": 1}
    changes |= {"train.steps": 16, "train.save_every_steps": 2, "storage": str(tmp_path / "search")}
    search = override(config, changes)
    books = tmp_path / "search" / "trials"

    def finished():
        return {book: book.read_bytes() for book in books.glob("*/trial.json") if scored(book)}

    def scored(book):
        return '"hole_psnr"' in book.read_text()

    status = run_until(search, space, tmp_path / "search.json", finished, number)
    assert status == (130 if number == signal.SIGINT else -number)
    before, begun = finished(), {book.parent.name for book in books.glob("*/trial.json")}
    assert 1 <= len(before) < 4
    found = tune(search, space, quietly).trials
    assert len({str(trial.changes) for trial in found}) == len(found) == 4
    assert {trial.name for trial in found} >= begun
    assert {trial.name for trial in found if trial.reused} == {b.parent.name for b in before}
    assert all(trial.scores and not trial.error for trial in found)
    assert {book: book.read_bytes() for book in before} == before
    if algorithm == "asha":
        assert all(trial.curve for trial in found)
    assert all(trial.reused for trial in tune(search, space, quietly).trials)


@pytest.mark.slow
def test_mlflow_has_the_trials_under_their_search(finished_search):
    from mlflow import MlflowClient

    tracking = finished_search.config.train.tracking
    client = MlflowClient(tracking_uri=tracking.tracking_uri)
    experiment = client.get_experiment_by_name("infill").experiment_id
    runs = client.search_runs([experiment])
    [parent] = [run for run in runs if run.info.run_name.startswith("search lambdas 2")]
    children = [run for run in runs if run is not parent]
    assert len(children) == 4
    assert all(run.data.tags["mlflow.parentRunId"] == parent.info.run_id for run in children)
    tried = {
        (r.data.params["model.image_weight"], r.data.params["model.num_blocks"]) for r in children
    }
    assert tried == {("1.0", "1"), ("1.0", "2"), ("10.0", "1"), ("10.0", "2")}
    best = finished_search.result.best
    assert parent.data.metrics["hole_psnr"] == pytest.approx(best.scores["hole_psnr"])
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_a_failed_trial_is_reported_and_never_best():
    failed = Trial(name="a", changes={"model.num_blocks": 1}, error="the loss is not finite")
    header, rows = trial_rows(TuneResult(trials=(failed,), seconds=1.0))
    assert header[0] == "num_blocks"
    assert "the loss is not finite" in rows[0]
    with pytest.raises(UserError, match="the loss is not finite"):
        _ = TuneResult(trials=(failed,), seconds=1.0).best
    assert asdict(failed)["error"]
