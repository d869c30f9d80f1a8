"""The main job from end to end, with as little training as there can be."""

import re

import cv2
import numpy as np
import pytest


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_the_demo_ends_with_scores_pictures_and_a_request_and_reuses_what_is_there(
    tmp_path, ray_local, run_job
):
    """As `make demo` runs it, but for a few steps and on the Ray at hand."""
    root = tmp_path / "demo"

    def demo() -> str:
        words = ["--root", root, "--steps", "4", "--trial-steps", "2", "--port", "0"]
        words += ["--fine-tuning-steps", "6"]
        done = run_job("demo", *words, cwd=tmp_path)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    output = demo()
    begin = output.splitlines()
    assert begin[0].startswith("demo in 8 stages: 4 steps of SPN on 2 workers, four trials of 2")
    assert begin[1] == f"written to   {root}"
    assert begin[3] == f"  mlflow ui --backend-store-uri sqlite:///{root}/mlflow.db"
    for number in range(1, 9):
        assert f"[{number}/8]" in output
    for method in ("unet", "mean-fill", "telea", "navier-stokes"):
        assert re.search(rf"^\| *{method}\b", output, re.MULTILINE), method
    assert "demo@1" in output
    rows = [line.split("|") for line in output.splitlines() if line.startswith("| ")]
    overall = {row[1].strip().partition(",")[0]: row[-2].split("±")[0] for row in rows}
    best = max(float(overall[name]) for name in ("mean-fill", "telea", "navier-stokes"))
    assert float(overall["unet"]) > best  # On photographs that it has never seen.
    assert "curl -F image=@" in output
    for name in ("train", "val", "test"):
        assert (root / "shards" / name / "manifest.parquet").is_file()
    for name in ("evaluation/grid.png", "evaluation/report.html", "sweep/trials.png", "mlflow.db"):
        assert (root / name).stat().st_size > 1000
    assert len(list((root / "sweep/trials").glob("*/checkpoints/*/checksums.json"))) == 4
    for mask_path in (root / "request").glob("*_mask.png"):
        name = mask_path.name.replace("_mask", "")
        image, filled = (cv2.imread(str(root / f / name)) for f in ("request", "filled"))
        hole = cv2.imread(str(mask_path), cv2.IMREAD_GRAYSCALE) > 127
        assert np.array_equal(image[~hole], filled[~hole])
        assert not np.array_equal(image[hole], filled[hole])

    again = demo()
    assert again.count("was complete already") == 2  # Both trainings.
    assert "4 of them were finished before" in again
    assert "reused" in again
    assert "demo@1" in again
    assert "demo@2" not in again
