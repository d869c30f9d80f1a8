import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def test_missing_evaluation_is_one_sentence(tmp_path):
    command = [sys.executable, str(ROOT / "jobs" / "compare.py")]
    command += ["--evaluations", str(tmp_path), str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert ended.returncode == 1
    assert "holds no finished evaluation" in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1
