import asyncio
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

from infill.pipeline.serving.http.auth import ApiKeyAuth, read_keys
from infill.pipeline.tuning import Trial

ROOT = Path(__file__).parent.parent.parent
JOB = str(ROOT / "jobs" / "serve.py")


def test_mistakes_end_in_a_sentence_before_ray_starts(tmp_path, untrained, run_job):
    def refused(*words: str) -> str:
        done = run_job("serve", *words, cwd=tmp_path, ray=False)
        assert done.returncode == 1
        assert done.stdout == "inpainting service: reading the models ...\n"
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1
        return done.stderr

    assert "there is no registry" in refused("--model", "spn@champion")
    assert "is not a checkpoint" in refused("--model", "./nothing")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert f"port {port}" in refused("--model", untrained(), "--port", port)


def write_search(folder: Path, checkpoints: dict[int, str]) -> None:
    """Write a finished search of two trials, in its folder ``search``."""
    for seed, location in checkpoints.items():
        trial = Trial(
            name=f"seed-{seed}",
            changes={"seed": seed},
            scores={"hole_psnr": 10.0},
            checkpoint=location,
        )
        book = folder / "search" / "trials" / trial.name / "trial.json"
        book.parent.mkdir(parents=True)
        book.write_text(json.dumps({k: v for k, v in vars(trial).items() if k != "reused"}))


@pytest.fixture
def service(tmp_path, untrained, run_job) -> Iterator[subprocess.Popen[str]]:
    assert run_job("promote", "--checkpoint", untrained(), cwd=tmp_path).returncode == 0
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
    service, shards, tmp_path, untrained, run_job
):
    """The responses change, and the service, a process of its own, ends when interrupted.

    Its end is silent: Ray would announce that it retries the controller's own end forever.
    """
    write_search(tmp_path, {seed: untrained("spn", seed) for seed in (2, 3)})
    words = ["--search", "search", "--shards", f"{shards}/test", "--promote", "spn"]
    said = iter(service.stdout.readline, "")  # After the lines of Ray's start.
    begun = [next(said, "")]
    while begun[-1] and not begun[-1].startswith("serving"):
        begun.append(next(said, ""))
    assert begun[0] == "inpainting service: reading the models ...\n"
    assert begun[1].startswith("starting spn@1 ("), begun
    first = begun[-1]
    assert first.startswith("serving spn@1 ("), first or service.stderr.read()
    url = re.search(r"http://\S+", first).group()
    photo, hole = np.full((50, 40, 3), 90, np.uint8), np.zeros((50, 40), np.uint8)
    hole[10:20, 10:20] = 255
    files = {"image": png_file(photo), "mask": png_file(hole)}
    answers, enough = [], threading.Event()

    def ask() -> None:
        with httpx.Client(timeout=60) as client:
            while not enough.is_set():
                answer = client.post(f"{url}/v1/inpaint", files=files)
                answers.append((answer.status_code, answer.headers.get("x-infill-model", "")[:5]))

    caller = threading.Thread(target=ask)
    caller.start()
    try:
        refused = run_job("choose", *words, "--num-actors", "0", cwd=tmp_path)
        assert refused.returncode == 1
        assert "error: not promoted: spn inpaints holes at" in refused.stderr
        assert "and telea, which needs no training, at" in refused.stderr
        words += ["--num-actors", "0", "--below-baselines"]
        done = run_job("choose", *words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr[-3000:]
        assert "spn@2  champion" in done.stdout
        deadline = time.monotonic() + 60
        while answers[-1][1] != "spn@2" and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        enough.set()
        caller.join()
    assert answers[0] == (200, "spn@1")
    assert answers[-1] == (200, "spn@2")
    assert {status for status, _ in answers} == {200}
    service.send_signal(signal.SIGINT)
    assert service.wait(timeout=180) == 130
    *_, last = service.stdout.read().splitlines()
    assert re.fullmatch(r"now serving spn@2 \(\w+\).*", last), last
    assert "Traceback" not in service.stderr.read()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/healthz")


def png_file(pixels: np.ndarray) -> bytes:
    done, data = cv2.imencode(".png", pixels)
    assert done
    return data.tobytes()


def test_made_key_is_shown_once_and_lets_its_holder_in(tmp_path, run_job):
    words = ["make_key", "alice", "--keys", "k.jsonl"]
    done = run_job(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    keys = read_keys(str(tmp_path / "k.jsonl"))
    header = {b"x-api-key": done.stdout.strip().encode()}
    assert asyncio.run(ApiKeyAuth(keys).admit(header)) == "alice"
    again = run_job(*words, cwd=tmp_path)
    assert (again.returncode, again.stdout) == (1, "")
    assert again.stderr.startswith("error: k.jsonl has a key for 'alice' already")
