"""Every training job's smoke preset: shards, checkpoints, pictures."""

import importlib
import shutil
import subprocess
from pathlib import Path

import pytest

from infill.pipeline import checkpoints
from infill.pipeline.pretrained import DEFAULT, PRETRAINED
from infill.pipeline.train_cli import BUNDLED
from infill.pipeline.training import TrainConfig

ROOT = Path(__file__).parent.parent.parent
JOBS = sorted(path.stem.removeprefix("train_") for path in (ROOT / "jobs").glob("train_*.py"))
ON_RAY = "spn"
"""Trained as its preset says, by two workers. That every architecture trains on several workers is
shown in tests/models, without Ray."""


def train(name: str, folder: Path, *words: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        importlib.import_module(f"infill.jobs.train_{name}").main(["smoke", *words])


@pytest.fixture(scope="module")
def folder(ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train one preset on the Ray at hand, in a folder that the others train in as well."""
    folder = tmp_path_factory.mktemp("smoke")
    train(ON_RAY, folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", JOBS)
def test_smoke_preset_trains_and_leaves_a_checkpoint(name: str, folder: Path) -> None:
    run = folder / "runs" / "smoke" / name
    preset: TrainConfig = importlib.import_module(f"infill.jobs.train_{name}").PRESETS["smoke"]
    assert preset.data.source == BUNDLED
    assert preset.num_workers == 2
    if name != ON_RAY:
        shards = str(folder / "runs" / "smoke" / ON_RAY / "shards")
        train(name, folder, "--data.shards", shards, "--num-workers", "0")
    location = str(run / "checkpoints" / "step-000000006")
    checkpoints.verify(location)
    loaded = checkpoints.load_generator(location)
    assert loaded.architecture == name
    assert list(run.rglob("*.png"))


@pytest.mark.parametrize("start", ["", f"{DEFAULT}@{PRETRAINED[DEFAULT].version}"])
def test_fine_tuning_starts_from_the_network_of_the_package(run_job, shards, tmp_path, start):
    words = ["--data.shards", shards, "--num-workers", 0, "--steps", 2, "--data.batch-size", 2]
    words += ["--data.image-size-px", 64, "--data.enlarge-small-images", "--storage", "tuned"]
    words += ["--init-from", start] if start else []
    done = run_job("train_unet", "finetune", *words, cwd=tmp_path, ray=False)
    assert done.returncode == 0, done.stderr
    assert f"starting from the weights of {DEFAULT}" in done.stdout
    ours, theirs = (
        dict(checkpoints.load_generator(location).generator.named_parameters())
        for location in (str(tmp_path / "tuned"), DEFAULT)
    )
    moved = max(float((ours[name] - theirs[name]).abs().max()) for name in theirs)
    assert 0 < moved < 0.05, "two steps of its rate move no weight far"


def test_a_run_goes_on_without_the_weights_that_it_was_started_from(run_job, shards, tmp_path):
    shutil.copytree(PRETRAINED[DEFAULT].location, tmp_path / "start")
    words = ["--data.shards", shards, "--num-workers", 0, "--data.batch-size", 2]
    words += ["--data.image-size-px", 64, "--data.enlarge-small-images", "--init-from", "start"]

    def tune(storage: str, steps: int) -> subprocess.CompletedProcess[str]:
        more = ["--storage", storage, "--steps", steps]
        return run_job("train_unet", "finetune", *words, *more, cwd=tmp_path, ray=False)

    assert tune("tuned", 1).returncode == 0
    shutil.rmtree(tmp_path / "start")
    done = tune("tuned", 2)
    assert done.returncode == 0, done.stderr
    assert "resuming at step 1" in done.stdout
    refused = tune("another", 2)
    assert refused.returncode == 1
    assert f"{tmp_path}/start is not a checkpoint" in refused.stderr


@pytest.mark.parametrize(
    ("job", "preset", "prefix"),
    [("train_spn", "smoke", ""), ("train_unet", "cpu", ""), ("tune", "unet", "train.")],
)
def test_weights_of_another_network_are_refused_before_anything_is_trained(
    run_job, shards, tmp_path, job, preset, prefix
):
    words = [f"--{prefix}data.shards", shards, f"--{prefix}init-from", DEFAULT]
    words += ["--space", "lambdas"] if job == "tune" else []
    done = run_job(job, preset, *words, "--dry-run", cwd=tmp_path, ray=False)
    assert done.returncode == 1
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "generator.safetensors belongs to another network than this configuration's: " in line
    assert line.count("belongs to another network") == 1
    assert len(line) < 700


def test_a_dry_run_of_a_training_on_workers_needs_no_ray(run_job, shards, tmp_path):
    words = ["--data.shards", shards, "--num-workers", "2", "--dry-run"]
    done = run_job("train_spn", "smoke", *words, cwd=tmp_path, ray=False)
    assert done.returncode == 0, done.stderr
    assert "(2 a worker)" in done.stdout


@pytest.mark.parametrize("field", ["shards", "source"])
@pytest.mark.parametrize("job", [("train_spn", "cpu", "--"), ("tune", "spn", "--train.")])
def test_data_that_is_not_there_is_refused_before_ray_starts(run_job, tmp_path, job, field):
    name, preset, prefix = job
    words = [f"{prefix}data.source", "", f"{prefix}data.{field}", tmp_path / "nowhere"]
    done = run_job(name, preset, *words, cwd=tmp_path, ray=False)
    assert done.returncode == 1
    missing = "does not exist" if field == "source" else "is not a finished shard set"
    assert f"{tmp_path}/nowhere {missing}" in done.stderr
    assert done.stderr.startswith("error: ")
