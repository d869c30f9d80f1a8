"""Logs of Ray and MLflow appear on the terminal with ``--verbose`` only."""

import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import ray

ROOT = Path(__file__).parents[2]
RAYS = re.compile(r"(INFO|WARNING) \w+\.py:\d+ --|Running Dataset|View the dashboard")
CPP = re.compile(r"core_worker\.cc")
"""Where Ray's C++ part warns that actors have arguments in the object store, as all of Ray Data."""
MLFLOWS = re.compile(r"(INFO|WARNING) (mlflow|alembic)")


def said_by(job: str, *words: str, cwd: Path, **environment: str) -> str:
    """Run a job without the settings that tests give Ray, and return all that it says."""
    names = ("RAY_DATA_DISABLE_PROGRESS_BARS", "RAY_AUTH_MODE", "MLFLOW_LOGGING_LEVEL")
    done = subprocess.run(
        [sys.executable, str(ROOT / "jobs" / f"{job}.py"), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        cwd=cwd,
        env={name: value for name, value in os.environ.items() if name not in names} | environment,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.slow
def test_ray_and_mlflow_are_heard_with_verbose_only(ray_local, tmp_path):
    """The first job starts a Ray of its own, the others join the one at hand.

    That one was started in another folder; paths are relative to the jobs' own.
    """
    joined = {"cwd": tmp_path, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    shards = ("--data.shards", "runs/smoke/shards")
    model, test_set = "runs/smoke/spn", "runs/smoke/shards/test"
    sharding = said_by("make_shards", "smoke", cwd=tmp_path)
    assert sharding.index("starting Ray ...") < sharding.index("sharding: 0 of 15 photographs")
    assert "sharding: 15 photographs in " in sharding
    hole = np.zeros((64, 64), np.uint8)
    hole[16:32, 16:48] = 255
    for file in ("masks/hole.png", "photos/a_mask.png", "photos/a.png"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / file), hole)
    from_files = ("--data.masks.recipe", "files", "--data.masks.folder", "masks")
    training = said_by("train_spn", "smoke", *shards, *from_files, "--num-workers", "1", **joined)
    assert "spn: 6 steps in " in training
    words = ("--checkpoint", model, "--shards", test_set, "--num-images", "1")
    evaluation = said_by("evaluate", *words, **joined)
    inference = said_by(
        "batch_inpaint", test_set, "filled", "--model", model, "--generate-masks", **joined
    )
    folder = said_by("batch_inpaint", "photos", "filled-photos", "--model", model, **joined)
    assert (tmp_path / "filled-photos" / "a.png").is_file()
    for said in (sharding, training, evaluation, inference, folder):
        for noise in (RAYS, MLFLOWS, CPP):
            assert not noise.search(said), said

    # What was silent is known by these words.
    own = ("--num-workers", "0", "--storage", "again", "--tracking.tracking-uri", "sqlite:///a.db")
    training = said_by("train_spn", "smoke", *shards, *own, "--verbose", **joined)
    assert MLFLOWS.search(training), training
    words = (test_set, "again-filled", "--model", model, "--generate-masks", "--verbose")
    inference = said_by("batch_inpaint", *words, **joined)
    for noise in (RAYS, CPP):
        assert noise.search(inference), inference
