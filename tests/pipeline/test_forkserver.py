"""Workers of a local Ray are forked from a process that has imported PyTorch, or start as usual."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from infill.pipeline.forkserver import launcher

pytestmark = pytest.mark.slow
SERVER = "infill.pipeline.forkserver.server"


def servers():
    """Return the processes from which this process's workers are forked."""
    return [one for one in psutil.Process().children() if SERVER in command_of(one)]


def command_of(process):
    try:
        return process.cmdline()
    except psutil.Error:  # It has ended.
        return []


class Worker:
    """An actor that describes its process."""

    def describe(self):
        imported = "torch" in sys.modules
        import numpy as np
        import torch
        from ray._raylet import UniqueID

        return {
            "pid": os.getpid(),
            "parent": os.getppid(),
            "group": os.getpgrp(),
            "imported": imported,
            "random": np.random.rand(),
            "identifier": UniqueID.from_random().hex(),
            "folder": os.getcwd(),
            "niceness": os.getpriority(os.PRIO_PROCESS, 0),
            "variable": os.environ.get("A_VARIABLE"),
            "product": float((torch.ones(300, 300) @ torch.ones(300, 300)).sum()),
        }


def described(**options):
    import ray

    return ray.get(ray.remote(Worker).options(num_cpus=0, **options).remote().describe.remote())


def test_workers_are_forked_with_pytorch_and_share_nothing_random(ray_local):
    [server] = servers()
    first, second = described(), described(runtime_env={"env_vars": {"A_VARIABLE": "7"}})
    for worker in (first, second):
        assert worker["parent"] == server.pid
        assert worker["imported"]
        assert worker["group"] == worker["pid"]  # By which Ray ends what a worker leaves behind.
        assert worker["folder"] == os.getcwd()
        assert worker["niceness"] == 0  # The tests set it for Ray's workers.
        assert worker["product"] == 300**3
    for name in ("pid", "random", "identifier"):
        assert first[name] != second[name]
    assert (first["variable"], second["variable"]) == (None, "7")


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "PYTHONWARNINGS"])
def test_a_variable_that_is_read_early_starts_a_worker_as_usual(ray_local, name):
    [server] = servers()
    assert described(runtime_env={"env_vars": {name: "default"}})["parent"] != server.pid


WORKER = """
import json, os, resource, sys
print(json.dumps({
    "words": sys.argv,
    "pid": os.getpid(),
    "group": os.getpgrp(),
    "imported": "torch" in sys.modules or "cv2" in sys.modules,
    "folder": os.getcwd(),
    "niceness": os.getpriority(os.PRIO_PROCESS, 0),
    "files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
    "address": os.environ.get("INFILL_FORKSERVER"),
    "ray": sorted(name for name in sys.modules if name.partition(".")[0] == "ray"),
    "first": sys.path[0],
}))
sys.exit(3)
"""


DRIVER = """
import os
from infill.pipeline import forkserver
forkserver.start(forkserver.WITHOUT_TORCH)
print(os.environ.get("INFILL_FORKSERVER", "none"), flush=True)
input()
forkserver.stop()
"""


@pytest.fixture
def driver():
    """Run a process that has started a server, and yield it with its server and their socket."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", DRIVER], **pipes) as process:
        address = process.stdout.readline().strip()
        [server] = psutil.Process(process.pid).children()
        yield SimpleNamespace(process=process, server=server, address=address)
        if process.poll() is None:
            process.communicate("\n")
            assert not Path(address).parent.exists()


@pytest.fixture
def launch(driver, tmp_path):
    """Yield a function that launches a program as Ray launches its workers."""
    (tmp_path / "program.py").write_text(WORKER)
    (tmp_path / "setup_worker.py").write_text("import sys\nprint('usual', *sys.argv[1:])")

    def run(*words):
        begin = "import os, resource, sys; os.nice(3); os.setpgid(0, 0);"
        begin += "resource.setrlimit(resource.RLIMIT_NOFILE, (99, 99));"
        begin += "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
        words = [launcher.__file__, tmp_path / "program.py", "--language=PYTHON", *words]
        return subprocess.run(
            [sys.executable, "-c", begin, *map(str, words)],
            cwd=tmp_path,
            env={**os.environ, "INFILL_FORKSERVER": driver.address},
            stdout=subprocess.PIPE,
            check=True,
        ).stdout

    return run


def test_a_forked_worker_is_what_a_started_one_would_be(driver, launch, tmp_path):
    worker = json.loads(launch("--worker-id=abc", launcher.CONTEXT + "{}"))
    assert worker["words"] == [str(tmp_path / "program.py"), "--worker-id=abc"]
    assert worker["folder"] == worker["first"] == str(tmp_path)
    assert worker["group"] == worker["pid"]
    assert worker["imported"]
    assert worker["ray"] == []  # It seeds its identifiers when it is imported.
    assert (worker["niceness"], worker["files"]) == (3, 99)
    assert worker["address"] == driver.address


@pytest.mark.parametrize(
    "context",
    [
        {"env_vars": {"OMP_NUM_THREADS": "2"}},
        {"env_vars": {"A": "${B}"}},
        {"py_executable": "/another/python"},
        {"command_prefix": ["docker run"]},
    ],
)
def test_other_environments_start_as_usual(launch, context):
    words = launcher.CONTEXT + json.dumps(context), "--x=1"
    assert launch(*words).decode().startswith("usual ")


def test_without_its_server_a_worker_starts_as_usual(driver, launch):
    driver.server.kill()
    while driver.server.status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    assert launch("--x=1").decode().endswith("/program.py --language=PYTHON --x=1\n")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_the_server_ends_with_the_process_that_started_it(driver, how):
    driver.process.send_signal(how)
    driver.process.wait()
    driver.server.wait(60)


def test_the_server_can_be_turned_off():
    environment = {**os.environ, "INFILL_FORK_WORKERS": "0"}
    environment.pop("INFILL_FORKSERVER", None)
    command = [sys.executable, "-c", DRIVER]
    printed = subprocess.run(
        command, env=environment, input="\n", stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    assert printed == "none\n"
