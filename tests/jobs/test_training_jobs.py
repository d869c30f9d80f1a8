"""Every training job's smoke preset: shards, checkpoints, pictures."""

import importlib
import sys
from pathlib import Path

import pytest

from pipeline import checkpoints

ROOT = Path(__file__).parent.parent.parent
JOBS = sorted(path.stem.removeprefix("train_") for path in (ROOT / "jobs").glob("train_*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("name", JOBS)
def test_smoke_preset_trains_and_leaves_a_checkpoint(
    name: str, ray_local: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the Ray at hand; the pages' commands and the demo start processes of their own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [f"train_{name}.py", "smoke"])
    importlib.import_module(f"jobs.train_{name}").main()
    location = str(tmp_path / f"runs/smoke/{name}/checkpoints/step-000000006")
    checkpoints.verify(location)
    loaded = checkpoints.load_generator(location)
    assert loaded.architecture == name
    assert list((tmp_path / f"runs/smoke/{name}").rglob("*.png"))
