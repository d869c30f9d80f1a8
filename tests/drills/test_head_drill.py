"""The head node dies and comes back, with its memory in a real Redis."""

import time
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(1500)]


def ask(url, files):
    """Return the endpoint's status for a picture, 0 if nobody answers."""
    try:
        return httpx.post(f"{url}/v1/inpaint", files=files, timeout=20).status_code
    except httpx.TransportError:
        return 0


def test_head_restarted_with_its_memory_in_redis(room, calm, whole, passed, free_ports):
    """The head's machine dies: endpoint and training were on it, and a new one takes its place."""
    port = free_ports(1)[0]
    registry = "--registry.tracking-uri $MLFLOW_TRACKING_URI"
    promote = f"python {ROOT}/jobs/promote.py --checkpoint {room.place('calm')} --name spn"
    serve = f"python {ROOT}/jobs/serve.py --model spn@champion --port {port} {registry}"
    room.submit(f"{promote} {registry}").succeeds()
    room.submit(serve).wait_for("serving spn@1")
    url = f"http://127.0.0.1:{port}"
    photo = cv2.imencode(".png", np.full((40, 40, 3), 90, np.uint8))[1].tobytes()
    hole = cv2.imencode(".png", np.eye(40, dtype=np.uint8) * 255)[1].tobytes()
    files = {"image": photo, "mask": hole}
    assert ask(url, files) == 200
    job = room.train("head-killed")
    job.wait_for("step 20/")

    room.cluster.kill("head")
    assert ask(url, files) == 0
    restarted = time.monotonic()
    room.cluster.start_node("head")
    room.cluster.wait_for_nodes(3)
    while ask(url, files) != 200:
        assert time.monotonic() - restarted < 600, room.cluster.alive()
        time.sleep(0.2)
    passed("head: endpoint", time.monotonic() - restarted, "the head is restarted (KubeRay does)")

    begin = time.monotonic()
    again = room.train("head-killed")
    again.wait_for("samples_per_s")
    passed("head: training", time.monotonic() - begin, "the command is given again")
    again.succeeds()
    assert "step 5/" not in again.said
    assert room.weights("head-killed") == calm
    end = "import ray, ray.serve as serve; ray.init(); serve.shutdown()"
    room.submit(f"python -c '{end}'").succeeds()
    assert ask(url, files) == 0
