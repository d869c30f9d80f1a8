import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest
import torch

from models.architecture import load
from pipeline import checkpoints
from pipeline.config import to_dict
from pipeline.serving.keys import Doorkeeper, read_keys
from pipeline.tuning import Trial

ROOT = Path(__file__).parent.parent.parent
JOB = str(ROOT / "jobs" / "serve.py")


def export(folder: Path, seed: int) -> str:
    torch.manual_seed(seed)
    architecture = load("spn")
    model = architecture.config.tiny()
    config = {"model": to_dict(model), "data": {"image_size_px": 32}}
    location = str(folder / f"step-{seed:09d}")
    networks = {"generator": architecture.generator(model).state_dict()}
    checkpoints.export(location, networks, config, {"step": seed})
    return location


@pytest.fixture
def checkpoint(tmp_path) -> str:
    return export(tmp_path, 1)


def refused(tmp_path: Path, *words: str) -> str:
    """Run the job, expect it to end with one sentence before Ray starts, and return that."""
    done = subprocess.run(
        [sys.executable, JOB, *words], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_mistakes_end_in_a_sentence_before_ray_starts(tmp_path, checkpoint):
    assert "there is no registry" in refused(tmp_path, "--model", "spn@champion")
    assert "is no checkpoint" in refused(tmp_path, "--model", "./nothing")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert f"port {port}" in refused(tmp_path, "--model", checkpoint, "--port", port)


def promote(folder: Path, seed: int) -> None:
    subprocess.run(
        [sys.executable, str(ROOT / "jobs" / "promote.py"), "--checkpoint", export(folder, seed)],
        cwd=folder,
        check=True,
        timeout=120,
    )


def choose(folder: Path, shards: str) -> None:
    """Promote the better of a search's two trials, by the command for it."""
    for seed in (2, 3):
        trial = Trial(
            name=f"seed-{seed}",
            changes={"seed": seed},
            scores={"hole_psnr": 10.0},
            checkpoint=export(folder, seed),
        )
        book = folder / "search" / "trials" / trial.name / "trial.json"
        book.parent.mkdir(parents=True)
        book.write_text(json.dumps({k: v for k, v in vars(trial).items() if k != "reused"}))
    words = ["--search", "search", "--shards", f"{shards}/test", "--promote", "spn"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "jobs" / "choose.py"), *words, "--num-actors", "0"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "spn@2  champion" in done.stdout


@pytest.fixture
def service(tmp_path) -> Iterator[subprocess.Popen[str]]:
    promote(tmp_path, 1)
    words = ["--model", "spn@champion", "--port", "0", "--refresh-s", "0.5"]
    process = subprocess.Popen(
        [sys.executable, JOB, *words],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A test run in a shell's background ignores Ctrl-C, and so would what it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    yield process
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    process.stderr.close()


@pytest.mark.slow
def test_a_search_s_winner_is_served_by_one_command_without_a_failed_request(
    service, shards, tmp_path
):
    """The answers change, and the service ends when it is interrupted."""
    first = service.stdout.readline()
    assert first.startswith("serving spn@1 ("), first or service.stderr.read()
    url = re.search(r"http://\S+", first).group()
    photo, hole = np.full((50, 40, 3), 90, np.uint8), np.zeros((50, 40), np.uint8)
    hole[10:20, 10:20] = 255
    files = {"image": png_file(photo), "mask": png_file(hole)}
    answers, done = [], threading.Event()

    def ask() -> None:
        with httpx.Client(timeout=60) as client:
            while not done.is_set():
                answer = client.post(f"{url}/v1/inpaint", files=files)
                answers.append((answer.status_code, answer.headers.get("x-infill-model", "")[:5]))

    caller = threading.Thread(target=ask)
    caller.start()
    try:
        choose(tmp_path, shards)
        deadline = time.monotonic() + 60
        while answers[-1][1] != "spn@2" and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        done.set()
        caller.join()
    assert answers[0] == (200, "spn@1")
    assert answers[-1] == (200, "spn@2")
    assert {status for status, _ in answers} == {200}
    service.send_signal(signal.SIGINT)
    assert service.wait(timeout=180) == 130
    assert "now serving spn@2 (" in service.stdout.read()
    assert "Traceback" not in service.stderr.read()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/healthz")


def png_file(pixels: np.ndarray) -> bytes:
    done, data = cv2.imencode(".png", pixels)
    assert done
    return data.tobytes()


def test_made_key_is_shown_once_and_lets_its_holder_in(tmp_path):
    words = [sys.executable, str(ROOT / "jobs" / "make_key.py"), "alice", "--keys", "k.jsonl"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    keys = read_keys(str(tmp_path / "k.jsonl"))
    assert Doorkeeper(keys).admit({b"x-api-key": done.stdout.strip().encode()}) == "alice"
    again = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (again.returncode, again.stdout) == (1, "")
    assert again.stderr.startswith("error: k.jsonl has a key for 'alice' already")
