import json
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import httpx
import numpy as np
import pytest

from infill.pipeline.config import to_dict
from infill.pipeline.image_grid import encode_png
from infill.pipeline.user_study import StudyConfig
from infill.pipeline.user_study.questions import FORMAT, NOT_ASKED, Question, Study

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def study(tmp_path) -> Study:
    """A study of two methods that has been laid out: one question."""
    out = tmp_path / "study"
    config = StudyConfig(evaluations=("a", "b"), out=str(out))
    settings = {k: v for k, v in to_dict(config).items() if k not in NOT_ASKED}
    question = Question(
        id="question", pair=0, source="p", group="all", pictures={"a": "aa", "b": "bb"}
    )
    study = Study(
        out=str(out),
        kind="paired",
        methods=("a", "b"),
        groups=("all",),
        questions=(question,),
        settings=settings,
        lineage={},
    )
    (out / "pictures").mkdir(parents=True)
    for name, level in (("aa", 60), ("bb", 200)):
        picture = np.full((32, 32, 3), level, np.uint8)
        Path(study.picture(name)).write_bytes(encode_png(picture))
    values = {"format": FORMAT, **asdict(study)}
    del values["out"]
    (out / "study.json").write_text(json.dumps(values))
    return study


def words(study: Study) -> list[str]:
    return ["--evaluations", "a", "b", "--out", study.out]


def test_votes_taken_until_interrupted_are_counted(study, run_job):
    """In a process of its own, which Ctrl-C interrupts."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    serving = subprocess.Popen(
        [sys.executable, "jobs/study.py", *words(study), "--port", str(port)],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
    )
    base = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 300
    while True:
        try:
            asked = httpx.get(f"{base}/api/questions?voter=voter0001").json()
            break
        except httpx.ConnectError:
            assert time.monotonic() < deadline
            assert serving.poll() is None
            time.sleep(0.1)
    vote = {"voter": "voter0001", "question": asked["left"][0]["id"], "choice": "bb"}
    httpx.post(f"{base}/api/votes", json={**vote, "took_ms": 1200}).raise_for_status()
    serving.send_signal(signal.SIGINT)
    printed, _ = serving.communicate(timeout=300)
    assert serving.returncode == 0
    assert printed.startswith(
        "study of a, b: reading the composites ...\n"
        f"study of a, b: 1 questions, 50 for each person\nwritten to   {study.out}"
    )
    assert f"vote at {base}/" in printed
    assert "1 votes of 1 people" in printed
    assert json.loads(Path(study.out, "summary.json").read_text())["preferred"]["b"]["value"] == 1
    again = run_job("study", *words(study), "--summarise")
    assert again.returncode == 0, again.stderr
    assert "next:" in printed
    assert "--summarise" in printed.splitlines()[-1]
    assert "1 votes of 1 people" in again.stdout
    assert Path(study.out, "summary.html").exists()


def test_missing_evaluation_is_one_sentence(tmp_path, run_job):
    out = tmp_path / "study"
    ended = run_job("study", "--evaluations", tmp_path, tmp_path, "--out", out)
    assert ended.returncode == 1
    assert "holds no finished evaluation" in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1
