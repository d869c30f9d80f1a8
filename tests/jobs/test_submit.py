"""A job submitted to a cluster, by the README's words."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RAY = str(Path(sys.executable).with_name("ray"))
# `python` is the one that has Infill installed, as in an activated environment.
ACTIVATED = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture
def head(tmp_path):
    """Start a head node in processes of its own; return the address jobs are submitted to."""
    # Ports of its own, so that a Ray that already runs on this machine is not in the way.
    names = (
        *("port", "dashboard-port", "ray-client-server-port", "metrics-export-port"),
        *("dashboard-agent-listen-port", "dashboard-agent-grpc-port"),
    )
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    words = [f"--{name}={port}" for name, port in ports.items()]
    node = subprocess.Popen(
        [RAY, "start", "--head", "--block", "--num-cpus=3", "--object-store-memory=200000000"]
        + [*words, "--dashboard-host=127.0.0.1"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=ACTIVATED,
    )
    address = f"http://127.0.0.1:{ports['dashboard-port']}"
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"{address}/api/version", timeout=2).close()
            break
        except OSError:
            time.sleep(0.5)
    yield address
    os.killpg(node.pid, signal.SIGTERM)
    try:
        node.wait(timeout=60)
    except subprocess.TimeoutExpired:
        os.killpg(node.pid, signal.SIGKILL)
        node.wait()


def submit(address):
    """Submit the job by the README's words, as soon as the head's agent is up, its last part."""
    command = ["job", "submit", "--address", address, "--working-dir", "."]
    deadline = time.monotonic() + 90
    while True:
        result = subprocess.run(
            [RAY, *command, "--", "python", "jobs/train_spn.py", "smoke"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=280,
            env=ACTIVATED,
        )
        if "No available agent" not in result.stderr or time.monotonic() > deadline:
            return result
        time.sleep(1)


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(480)
def test_ray_job_submit_trains_the_smoke_preset(head):
    result = submit(head)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert "trained in" in result.stdout
    assert "succeeded" in result.stdout
