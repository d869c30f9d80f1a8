"""`make bench-gpu` runs to its end on a CPU, with tiny sizes, and without Ray."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from infill.models.config import names

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("gpu.py")
WITHOUT_RAY = (
    "import runpy, sys; sys.modules['ray'] = None; sys.argv = sys.argv[1:]; "
    f"sys.path.insert(0, {str(PROGRAM.parent)!r}); "
    f"runpy.run_path({str(PROGRAM)!r}, run_name='__main__')"
)


def bench(folder: Path, *words: str) -> str:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            WITHOUT_RAY,
            "gpu.py",
            "--tiny",
            "--device",
            "cpu",
            "--out",
            str(folder),
            *words,
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def rows(folder: Path, step: int) -> dict:
    return json.loads((folder / f"step-{step}.json").read_text())["rows"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Run the steps that need no Ray, where it cannot be imported."""
    made = tmp_path_factory.mktemp("bench")
    for step in ("2", "3", "4"):
        bench(made, "--step", step)
    return made


@pytest.mark.cluster
def test_every_architecture_is_measured(folder):
    measured = {name.partition(",")[0] for name in rows(folder, 2)} - {"ceiling"}
    assert measured == set(names())
    assert all(
        float(row["images/s"]) > 0 for n, row in rows(folder, 2).items() if "ceiling" not in n
    )
    assert {"spn, as it is", "spn, bfloat16", "spn, compile"} <= set(rows(folder, 3))
    assert set(rows(folder, 4)) >= {"1 cores"}
    text = (folder / "tables.md").read_text()
    for title in ("Throughput of training", "What each setting is worth", "The loader into a step"):
        assert f"{title} (" in text


@pytest.mark.cluster
def test_step_that_was_interrupted_goes_on(folder):
    """Rows that are there are not measured again; without time none is begun."""
    path = folder / "step-3.json"
    known = json.loads(path.read_text())
    del known["rows"]["spn, bfloat16"]
    known["rows"]["spn, as it is"] = {"images/s": "kept"}
    path.write_text(json.dumps(known))
    printed = bench(folder, "--step", "3", "--limit-s", "0")
    assert "spn, bfloat16: not measured, the step's time is over" in printed
    bench(folder, "--step", "3")
    assert rows(folder, 3)["spn, as it is"] == {"images/s": "kept"}
    assert float(rows(folder, 3)["spn, bfloat16"]["images/s"]) > 0


def test_step_with_ray_says_that_it_is_not_installed(tmp_path):
    assert "Ray is not installed: not measured" in bench(tmp_path, "--step", "5")
