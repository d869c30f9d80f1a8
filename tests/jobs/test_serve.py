import contextlib
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from models.architecture import load
from pipeline import checkpoints
from pipeline.config import to_dict

JOB = str(Path(__file__).parent.parent.parent / "jobs" / "serve.py")


@pytest.fixture
def checkpoint(tmp_path) -> str:
    torch.manual_seed(0)
    architecture = load("spn")
    model = architecture.config.tiny()
    config = {"model": to_dict(model), "data": {"image_size_px": 32}}
    location = str(tmp_path / "step-000000001")
    checkpoints.export(location, architecture.generator(model), config, {"step": 1})
    return location


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


@pytest.mark.slow
def test_service_answers_until_interrupted(tmp_path, checkpoint):
    process = subprocess.Popen(
        [sys.executable, JOB, "--model", checkpoint, "--port", "0"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    lines: queue.Queue[str] = queue.Queue()
    reader = threading.Thread(target=lambda: [lines.put(line) for line in process.stdout])
    reader.start()
    try:
        first = lines.get(timeout=120)
        url = re.search(r"http://\S+", first).group()
        assert first.startswith("serving spn@step-000000001 (")
        Image.fromarray(np.full((50, 40, 3), 90, np.uint8)).save(tmp_path / "photo.png")
        mask = np.zeros((50, 40), np.uint8)
        mask[10:20, 10:20] = 255
        Image.fromarray(mask).save(tmp_path / "hole.png")
        files = {
            "image": (tmp_path / "photo.png").read_bytes(),
            "mask": (tmp_path / "hole.png").read_bytes(),
        }
        assert httpx.post(f"{url}/v1/inpaint", files=files, timeout=60).status_code == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
        assert "Traceback" not in process.stderr.read()
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/healthz")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        reader.join()
        process.stdout.close()
        process.stderr.close()
