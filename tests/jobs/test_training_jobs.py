"""Every training job's smoke preset, as a person starts it: shards, checkpoints, pictures."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import checkpoints

ROOT = Path(__file__).parent.parent.parent
JOBS = sorted(
    path.stem.removeprefix("train_")
    for path in (ROOT / "jobs").glob("train_*.py")
    if path.stem != "train_spn"  # tests/jobs/test_jobs.py runs that one
)


@pytest.mark.slow
@pytest.mark.parametrize("name", JOBS)
def test_smoke_preset_trains_and_leaves_a_checkpoint(name: str, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "jobs" / f"train_{name}.py"), "smoke"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=280
    )
    assert done.returncode == 0, done.stderr[-3000:]
    location = str(tmp_path / f"runs/smoke/{name}/checkpoints/step-000000006")
    checkpoints.verify(location)
    loaded = checkpoints.load_generator(location)
    assert loaded.architecture == name
    assert list((tmp_path / f"runs/smoke/{name}").rglob("*.png"))
