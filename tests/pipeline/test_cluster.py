"""How a job comes to its Ray; the joining itself is tested where jobs are submitted."""

import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
import torch

from infill.pipeline import cluster
from infill.pipeline.cluster import (
    STARTS,
    dashboard_line,
    is_this_machine,
    require_gpu,
    start_ray,
    without_error_lines,
)
from infill.pipeline.errors import UserError
from infill.pipeline.head_process import _descendants
from infill.pipeline.proxies import reach_this_machine_directly


@pytest.fixture
def without_server(monkeypatch):
    """Leave alone the server that forks the workers of the tests' own Ray."""
    monkeypatch.setenv("INFILL_FORK_WORKERS", "0")
    monkeypatch.setattr(cluster.forkserver, "stop", lambda: None)


WORKS_ON = """
import threading, time
import ray
from infill.pipeline.cluster import connect

class StreamingExecutor(threading.Thread):
    def run(self):
        leaving.wait()
        end = time.monotonic() + 2
        while ray.is_initialized() and time.monotonic() < end:
            time.sleep(0.01)
        self.met_ray_until_its_end = ray.is_initialized()

leaving, thread = threading.Event(), StreamingExecutor()
with connect():
    thread.start()
    leaving.set()
thread.join()
print("Ray was there until the end:", thread.met_ray_until_its_end)
"""


@pytest.mark.slow
def test_a_job_leaves_its_ray_after_the_threads_of_ray_data(ray_local, tmp_path):
    from ray.data._internal.execution.streaming_executor import StreamingExecutor

    assert issubclass(StreamingExecutor, threading.Thread), "they are known by this name"
    (tmp_path / "job.py").write_text(WORKS_ON)
    ended = subprocess.run(
        [sys.executable, str(tmp_path / "job.py")],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address},
    )
    assert "Ray was there until the end: True" in ended.stdout


@pytest.mark.parametrize("address", ["127.0.0.1:6379", "ray://127.0.0.2:10001", "[::1]:6379"])
def test_loopback_is_this_machine_alone(address):
    assert is_this_machine(address)


@pytest.mark.parametrize("address", ["10.0.0.5:6379", "ray://head.example:10001", "[fd00::1]:1"])
def test_what_others_reach_is_not(address):
    assert not is_this_machine(address)


@pytest.mark.slow
def test_termination_ends_a_job_as_ctrl_c_does(tmp_path):
    """A signal ends the block itself, which is how an endpoint is stopped.

    It goes to the job's whole process group, as ``timeout`` sends it, and Ray still computes.
    """
    job = tmp_path / "job.py"
    job.write_text(
        "import sys, time\n"
        "import ray\n"
        "from infill.pipeline.cluster import connect\n"
        "from infill.pipeline.config import run\n"
        "def main():\n"
        "    with connect(num_cpus=1):\n"
        "        try:\n"
        "            print('up', flush=True)\n"
        "            time.sleep(100)\n"
        "        finally:\n"
        "            print('ended', ray.get(ray.remote(lambda: 7).remote()), flush=True)\n"
        "run(main)\n"
    )
    process = subprocess.Popen(
        [sys.executable, str(job)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert "up\n" in iter(process.stdout.readline, "")  # After the lines of Ray's start.
    os.killpg(process.pid, signal.SIGTERM)
    said, complaint = process.communicate(timeout=60)
    assert process.returncode == 143, complaint
    assert said == "ended 7\n"
    assert complaint == "interrupted; run the same command again to resume\n"


def test_nobody_at_the_address_ends_in_a_sentence():
    done = subprocess.run(
        [sys.executable, "-c", "from infill.pipeline.cluster import connect\nwith connect(): pass"],
        env={**os.environ, "RAY_ADDRESS": "127.0.0.1:1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "no Ray answers at RAY_ADDRESS=127.0.0.1:1; start it" in done.stderr


def test_start_that_takes_ray_too_long_is_tried_again_and_ends_in_a_sentence(
    monkeypatch, tmp_path, without_server
):
    attempts = []

    def slow(**options):
        attempts.append(options)
        if len(attempts) != 6:
            raise Exception("The current node timed out during startup. This could happen ...")
        session = {"session_dir": str(tmp_path)}
        return SimpleNamespace(dashboard_url="127.0.0.1:8265", address_info=session)

    monkeypatch.setattr(ray, "init", slow)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with pytest.raises(UserError, match="too busy or out of memory"):
        start_ray(num_cpus=1)
    assert attempts == [{"num_cpus": 1, "include_dashboard": True}] * STARTS
    assert start_ray(num_cpus=2) == "127.0.0.1:8265"
    assert attempts[STARTS:] == [{"num_cpus": 2, "include_dashboard": True}] * (6 - STARTS)


def test_lines_that_are_left_out_are_the_only_ones_missing(capfd):
    with without_error_lines(b"noise"):
        os.write(2, b"first\n")
        os.write(2, b"some noise of C++\n")
        os.write(2, b"second\n")
        subprocess.run(["bash", "-c", "echo third >&2; echo noise >&2"], check=True)
        os.write(2, b"no end of line")
    os.write(2, b"noise after\n")
    assert capfd.readouterr().err == "first\nsecond\nthird\nno end of linenoise after\n"


def test_last_words_of_a_killed_process_are_not_lost():
    program = (
        "import os, signal\n"
        "from infill.pipeline.cluster import without_error_lines\n"
        "with without_error_lines(b'noise'):\n"
        "    os.write(2, b'noise\\nlast words\\n')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL
    assert done.stderr == b"last words\n"


def test_a_dashboard_s_token_is_named_only_if_it_asks_for_one(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert dashboard_line("127.0.0.1:8265") == (
        "Ray's dashboard: http://127.0.0.1:8265; `ray get-auth-token` prints its token"
    )
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert dashboard_line("10.0.0.5:8265") == "Ray's dashboard: http://10.0.0.5:8265"


def test_a_token_that_cannot_be_read_is_a_sentence(tmp_path):
    program = (
        "from infill.pipeline.cluster import connect\n"
        "from infill.pipeline.config import run\n"
        "run(lambda: connect().__enter__())\n"
    )
    missing = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "none")}
    names = ("RAY_ADDRESS", "RAY_AUTH_TOKEN")
    kept = {name: value for name, value in os.environ.items() if name not in names}
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env={**kept, **missing},
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: RAY_AUTH_TOKEN_PATH is set but file cannot be opened")
    assert "to what `ray get-auth-token` prints on the cluster's head" in done.stderr
    assert done.stderr.count("\n") == 1


def test_what_the_system_refuses_ray_is_a_sentence(monkeypatch, without_server):
    def refuse(**options):
        raise OSError("no room for sockets\nmore")

    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(UserError, match="^Ray cannot start on this machine: no room for sockets$"):
        start_ray(num_cpus=1)


def test_a_long_temporary_path_or_no_shared_memory_moves_ray_s_folders(monkeypatch, tmp_path):
    """Sockets have paths of 107 bytes at most."""
    started = []
    monkeypatch.setattr(cluster, "start_ray", lambda **options: started.append(options))
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    cluster._start(dashboard=False, num_cpus=1, preload=())
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / ("long" * 10)))
    cluster._start(dashboard=False, num_cpus=1, preload=())
    monkeypatch.setattr(cluster, "SHARED_MEMORY", str(tmp_path / "no-shm"))
    cluster._start(dashboard=False, num_cpus=1, preload=())
    folders = [
        {name: value for name, value in options.items() if name[0] == "_"} for options in started
    ]
    short = f"/tmp/infill-ray-{os.getuid()}"
    assert folders[:2] == [{}, {"_temp_dir": short}]
    assert folders[2] == {"_temp_dir": short, "_plasma_directory": os.environ["RAY_TMPDIR"]}


def test_a_gpu_that_is_not_there_is_refused_before_ray_starts(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    require_gpu(False)
    with pytest.raises(UserError, match="use_gpu asks for a GPU on this machine, and PyTorch"):
        require_gpu(True)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.5:6379")  # Its nodes may have some.
    require_gpu(True)


@pytest.mark.parametrize("proxy", ["http_proxy", "HTTPS_PROXY", "grpc_proxy"])
def test_this_machine_is_reached_without_the_proxy_of_the_environment(monkeypatch, proxy):
    for name in (*os.environ, "no_proxy", "NO_PROXY"):
        if name.lower().endswith("_proxy"):
            monkeypatch.setenv(name, "")
            monkeypatch.delenv(name)
    reach_this_machine_directly()
    assert "no_proxy" not in os.environ
    monkeypatch.setenv(proxy, "http://proxy.example:3128")
    monkeypatch.setenv("no_proxy", "internal.example")
    monkeypatch.setenv("NO_PROXY", "")
    reach_this_machine_directly()
    reach_this_machine_directly()
    hosts = os.environ["no_proxy"].split(",")
    assert hosts[:4] == ["internal.example", "localhost", "127.0.0.1", "::1"]
    assert len(hosts) == len(set(hosts))
    assert urllib.request.proxy_bypass_environment("127.0.0.1:8000")


def test_start_that_fails_otherwise_is_not_tried_again(monkeypatch, without_server):
    def refuse(**options):
        raise ValueError("num_cpus")

    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(ValueError, match="num_cpus"):
        start_ray(num_cpus=-1)


ENDLESS = """
import time
from infill.pipeline.cluster import connect
from infill.pipeline.config import run

def main():
    with connect(num_cpus=1):
        import ray

        print("at work", flush=True)
        while True:
            ray.get(ray.remote(lambda: time.sleep(0.1)).remote())

run(main)
"""


def descendants(process):
    """Yield the numbers and command lines of the processes below one."""
    for below in _descendants(process):
        with suppress(OSError):
            yield below, Path(f"/proc/{below}/cmdline").read_bytes()


def test_a_job_s_own_ray_has_no_process_that_does_nothing_there(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", ENDLESS], stdout=subprocess.PIPE, cwd=tmp_path, text=True
    ) as job:
        while "at work" not in job.stdout.readline():
            assert job.poll() is None
        programs = b" ".join(line for _, line in descendants(job.pid))
        job.send_signal(signal.SIGINT)
        job.communicate(timeout=120)
    assert b"raylet/raylet" in programs
    assert b"/log_monitor.py" in programs
    assert b"/autoscaler/" not in programs
    assert b"/dashboard.py" not in programs


@pytest.mark.cluster
@pytest.mark.parametrize("name", [b"raylet/raylet", b"DashboardAgent"])
def test_a_job_whose_ray_is_killed_ends_in_a_sentence(name, tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", ENDLESS],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        text=True,
    ) as job:
        while "at work" not in job.stdout.readline():
            assert job.poll() is None
        while not (
            found := [n for n, line in descendants(job.pid) if name in line.split(b"\0")[0]]
        ):
            time.sleep(0.1)  # Ray starts the agent beside the job.
        os.kill(found[0], signal.SIGKILL)
        *_, last = job.communicate(timeout=120)[1].strip().splitlines()
    assert job.returncode == 1
    assert last.startswith("error: Ray has lost a process of this job: the raylet, Ray's own")
    assert last.endswith("Give the same command again: finished parts are kept")
