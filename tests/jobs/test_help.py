"""The help of every job: quick, because nothing is imported that only the work needs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
JOBS = sorted(path.stem for path in (ROOT / "jobs").glob("*.py") if path.stem != "__init__")
HEAVY = ["torch", "ray", "mlflow", "pandas", "cv2", "matplotlib", "fastapi", "torchmetrics"]
PROGRAM = """
import contextlib, io, json, runpy, sys
path, preset, heavy = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
sys.argv = [path, *([preset] if preset else []), "--help"]
shown = io.StringIO()
try:
    with contextlib.redirect_stdout(shown):
        runpy.run_path(path, run_name="__main__")
except SystemExit as ended:
    found = sorted(set(heavy) & set(sys.modules))
    print(json.dumps({"status": ended.code, "found": found, "words": len(shown.getvalue())}))
"""


@pytest.mark.parametrize("name", JOBS)
def test_help_imports_nothing_that_only_work_needs(name):
    preset = {"make_shards": "folder", "tune": "spn", "plan": "spn-cpu"}.get(name, "")
    preset = "smoke" if name.startswith("train_") else preset
    for words in {"", preset}:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, f"jobs/{name}.py", words, json.dumps(HEAVY)],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
        )
        shown_help = json.loads(done.stdout)
        assert shown_help["status"] == 0
        assert shown_help["words"] > 200
        assert shown_help["found"] == []
