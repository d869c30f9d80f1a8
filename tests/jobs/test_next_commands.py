"""The lines that jobs print before and after their work: each next command leads to a composite.

The chains begin with a folder of images and follow the printed lines to the letter; only sizes are
added, so that a wrong command or path fails here.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import ray

from infill.pipeline import checkpoints
from infill.pipeline.job_summary import watching
from infill.pipeline.tracking import TrackingConfig

ROOT = Path(__file__).parents[2]
TINY_MODEL = ["--model.channels", "4", "--model.num-dense-blocks", "1", "--model.num-blocks", "1"]
TINY = {
    "train_spn": ["--num-workers", "0", "--steps", "2", "--data.batch-size", "2", *TINY_MODEL],
    "evaluate": ["--num-actors", "0", "--num-images", "1"],
    "choose": ["--num-actors", "0", "--num-images", "1"],
}
"""Sizes, by job; nothing that leads anywhere."""
FIRST = {
    "make_shards": r"sharding /\S+: 3 images a shard",
    "train_spn": r"training spn: 2 steps of 2 images at 64 px, in this process on the CPU; "
    r"\d+ samples in /\S+/shards/train",
    "evaluate": r"evaluation of /\S+/step-000000002: \d+ pairs of 1 images, spn, mean-fill, telea, "
    r"navier-stokes; in this process on the CPU",
    "compare": r"comparison of /\S+/evaluation, telea on \d+ pairs, in this process on the CPU",
    "batch_inpaint": r"batch inference on 2 images of /\S+ by spn@champion \(\w+\) in 1 process, "
    r"1 CPU each|batch inference on 2 images of /\S+ by spn@1 \(\w+\) in 1 process, 1 CPU each",
    "tune": r"search over '/\S+' around spn: 2 trials of 2 steps of 4 images at 32 px, 1 at a "
    r"time, on the CPU",
    "choose": r"selection among 2 trials of /\S+ on /\S+/test, in this process on the CPU",
}
"""The line with which each long job begins."""
NOT_USED = re.compile(r"tensorboard|dashboard|wandb|Weights & Biases|resumes")


class Chain:
    """Runs jobs in a folder, by their words or by what the job before has printed."""

    def __init__(self, run_job: Callable[..., subprocess.CompletedProcess[str]], folder: Path):
        self.run_job, self.folder = run_job, folder
        self.said = ""

    def run(self, job: str, *words: object) -> str:
        """Run a job and hold its first lines to what a long job begins with."""
        done = self.run_job(job, *words, cwd=self.folder)
        assert done.returncode == 0, done.stdout + done.stderr
        self.said = done.stdout
        if job in FIRST:
            lines = self.said.splitlines()
            first, second = [line for line in lines if not line.endswith(" ...")][:2]
            assert re.fullmatch(FIRST[job], first), first
            assert re.match(r"written to   /\S+$", second), second
            assert not NOT_USED.search(self.said), self.said
        return self.said

    def next(self, number: int = 0) -> list[str]:
        """Return a printed next command, as the shell would split it."""
        lines = self.said.splitlines()
        return shlex.split(lines[lines.index("next:") + 1 + number])

    def follow(self, number: int = 0) -> str:
        """Run the printed next command; return its job."""
        python, script, *words = self.next(number)
        assert python == "python"
        assert (ROOT / script).is_file()
        job = Path(script).stem
        self.run(job, *words, *TINY.get(job, []))
        return job


@pytest.fixture
def chain(run_job, tmp_path, ray_local, migrated_database) -> Chain:
    """Give a chain whose folder holds the user's own two files."""
    photo, mask = np.full((70, 60, 3), 90, np.uint8), np.zeros((70, 60), np.uint8)
    mask[20:40, 20:40] = 255
    cv2.imwrite(str(tmp_path / "photo.jpg"), photo)
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    (tmp_path / "runs").mkdir()
    shutil.copy(migrated_database, tmp_path / "runs" / "mlflow.db")
    return Chain(run_job, tmp_path)


def sharded(chain: Chain, photographs: str) -> None:
    words = ["--source", photographs, "--val-share", "0.2", "--test-share", "0.2"]
    words += ["--photographs-per-shard", "3"]
    chain.run("make_shards", "folder", *words, "--out", chain.folder / "shards")


@pytest.mark.slow
def test_each_printed_command_leads_from_a_folder_to_an_inpainted_image(
    chain, photographs, tmp_path
):
    sharded(chain, photographs)
    assert chain.follow() == "train_spn"
    _, _, after = chain.said.partition("watch it with:\n")
    assert after.splitlines()[:1] == [
        f"  mlflow ui --backend-store-uri sqlite:///{tmp_path}/runs/mlflow.db",
    ]
    assert chain.follow() == "evaluate"
    assert "promote refuses it without --below-baselines: spn inpaints holes at" in chain.said
    evaluation = re.search(r"--scores (\S+)", chain.said).group(1)
    assert chain.follow() == "promote"
    assert "\nspn@1  champion" in chain.said
    _, _, *serve = chain.next(0)
    assert chain.follow(1) == "inpaint"
    inpainted(tmp_path / "photo-filled.png")
    served(tmp_path, serve)
    chain.run("compare", "--evaluations", evaluation, "--baselines", "telea")
    assert chain.next()[1] == "jobs/promote.py"
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("a", "b"):
        shutil.copy(tmp_path / "photo.jpg", folder / f"{name}.jpg")
        shutil.copy(tmp_path / "mask.png", folder / f"{name}_mask.png")
    chain.run("batch_inpaint", folder, tmp_path / "filled", "--model", "spn@champion")


def served(folder: Path, words: list[str]) -> None:
    """Run the printed serve command on the tests' Ray, then the curl line that it prints."""
    process = subprocess.Popen(
        [sys.executable, ROOT / "jobs" / "serve.py", *words, "--port", "0"],
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        said: Iterator[str] = iter(process.stdout.readline, "")
        assert next(said) == "inpainting service: reading the models ...\n"
        first = next(said)
        assert re.fullmatch(
            r"starting spn@1 \(\w+\) on port \d+ of \S+: 1 replica, 1 CPU each\n", first
        )
        curl = next(line for line in said if line.startswith("  curl"))
        (folder / "filled.png").unlink(missing_ok=True)
        subprocess.run(["bash", "-c", curl], cwd=folder, check=True, capture_output=True)
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=180)
    inpainted(folder / "filled.png")


def inpainted(file: Path) -> None:
    """Hold a result to its size and to the known pixels."""
    image = cv2.imread(str(file))
    assert image.shape == (70, 60, 3)
    known = np.ones((70, 60), bool)
    known[20:40, 20:40] = False
    assert np.abs(image[known].astype(int) - 90).max() <= 1


@pytest.mark.slow
def test_each_printed_command_leads_from_a_search_to_an_inpainted_image(
    chain, photographs, tmp_path
):
    sharded(chain, photographs)
    shards = tmp_path / "shards"
    space = tmp_path / "space.json"
    space.write_text('{"model.image_weight": [1, 10]}')
    words = ["--train.data.shards", shards, "--train.data.source", "", "--train.steps", "2"]
    words += ["--train.data.batch-size", "4", "--concurrent-trials", "1"]
    chain.run("tune", "spn", "--scale", "smoke", "--space", space, *words)
    assert chain.follow() == "choose"
    assert "promote refuses it without --below-baselines: spn inpaints holes at" in chain.said
    assert chain.follow() == "promote"
    assert "spn@1  champion" in chain.said
    assert chain.follow(1) == "inpaint"
    inpainted(tmp_path / "photo-filled.png")


@pytest.mark.slow
def test_an_interrupted_training_says_from_which_step_it_goes_on(
    run_job, shards, ray_local, tmp_path
):
    words = ["smoke", "--data.source", "", "--data.shards", shards, "--num-workers", "0"]
    words += ["--tracking.loggers", "terminal", "tensorboard", "--storage", tmp_path / "run"]
    first = run_job("train_spn", *words, "--steps", "2", cwd=tmp_path).stdout
    assert "resumes" not in first
    assert f"watch it with:\n  tensorboard --logdir {tmp_path}/run/tensorboard\n" in first
    assert "mlflow" not in first
    assert list((tmp_path / "run" / "tensorboard").iterdir())
    longer = run_job("train_spn", *words, "--steps", "4", cwd=tmp_path).stdout
    assert "\nresumes      from step 2\n" in longer
    again = run_job("train_spn", *words, "--steps", "4", cwd=tmp_path).stdout
    assert "\nresumes      from step 4, its last: nothing is left to train\n" in again
    newest = Path(checkpoints.step_location(str(tmp_path / "run"), 4))
    (newest / "generator.safetensors").write_bytes(b"damaged")
    mended = run_job("train_spn", *words, "--steps", "4", cwd=tmp_path).stdout
    assert "\nresumes      from step 3\n" in mended
    assert mended.index("resumes") < mended.index("using the previous one")


def test_only_loggers_that_are_on_are_named(tmp_path):
    database, run = f"sqlite:///{tmp_path}/mlflow.db", str(tmp_path / "run")
    on = TrackingConfig(tracking_uri=database, loggers=("mlflow", "tensorboard", "wandb"))
    assert watching(on, run) == [
        f"mlflow ui --backend-store-uri {database}",
        f"tensorboard --logdir {run}/tensorboard",
        "Weights & Biases, project infill",
    ]
    assert watching(TrackingConfig(tracking_uri="http://server:5000"), run) == [
        "MLflow at http://server:5000"
    ]
    assert watching(TrackingConfig(tracking_uri=""), run) == []
    assert watching(TrackingConfig(tracking_uri=database, loggers=("jsonl",)), run) == []
