"""The program by which Ray starts a worker: ask the server for one, or start it as Ray would.

Ray runs it by its path, with the arguments of its own ``setup_worker.py``. It imports the standard
library only, since it runs once per worker.
"""

import json
import os
import resource
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

ADDRESS = "INFILL_FORKSERVER"
"""The environment variable with the path of the server's socket."""
CONTEXT = "--serialized-runtime-env-context="
"""The argument with a worker's runtime environment, as JSON."""
EARLY = (
    "LD_",
    "MALLOC_",
    "PYTHON",
    "OMP_",
    "MKL_",
    "KMP_",
    "OPENBLAS_",
    "CUDA_",
    "TORCH_",
    "PYTORCH_",
)
"""Variables that are read too early for a forked process."""


def main() -> None:
    """Have the worker forked; where that fails, become it."""
    words = sys.argv[1:]
    if not _forked(words):
        own = os.path.join(os.path.dirname(words[0]), "setup_worker.py")
        os.execv(sys.executable, [sys.executable, own, *words])


def _forked(words: list[str]) -> bool:
    """Return whether a worker has been forked and runs."""
    runtime: dict[str, Any] = {}
    for word in words:
        if word.startswith(CONTEXT):
            runtime = json.loads(word.removeprefix(CONTEXT) or "{}")
    if not _can_be_forked(words, runtime):
        return False
    try:
        request = _request(words, runtime)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
            with short(os.environ[ADDRESS]) as path:
                server.connect(path)
            socket.send_fds(server, [json.dumps(request).encode()], [0, 1, 2])
            return server.recv(1) == b"1"
    except (KeyError, OSError):  # There is no server any more, or the request is too long for it.
        return False


def _request(words: list[str], runtime: dict[str, Any]) -> dict[str, Any]:
    """Return what the server needs to make a process like this one."""
    return {
        "words": [w for w in words if not w.startswith((CONTEXT, "--language="))],
        "environment": {**os.environ, **(runtime.get("env_vars") or {})},
        "folder": os.getcwd(),
        "leads_group": os.getpgrp() == os.getpid(),
        "niceness": os.getpriority(os.PRIO_PROCESS, 0),
        "blocked_signals": [int(n) for n in signal.pthread_sigmask(signal.SIG_BLOCK, [])],
        "open_files": resource.getrlimit(resource.RLIMIT_NOFILE),
        "oom_score": _oom_score(),
    }


@contextmanager
def short(path: str) -> Iterator[str]:
    """Yield another name of a socket's path, since the kernel limits it to 107 bytes."""
    folder, name = os.path.split(path)
    descriptor = os.open(folder, os.O_PATH)
    try:
        yield f"/proc/self/fd/{descriptor}/{name}"
    finally:
        os.close(descriptor)


def _can_be_forked(words: list[str], runtime: dict[str, Any]) -> bool:
    """Return whether this is a worker of Python code, in the server's own installation.

    Values of variables that refer to others, and those that are read when a process starts or when
    PyTorch is imported, are left to Ray's own start.
    """
    variables = runtime.get("env_vars") or {}
    others = {**runtime, "env_vars": None, "py_executable": None}
    return (
        "--language=PYTHON" in words
        and not any("$" in value or name.startswith(EARLY) for name, value in variables.items())
        and runtime.get("py_executable", sys.executable) == sys.executable
        and not any(others.values())
    )


def _oom_score() -> str:
    """Return how soon the kernel ends this process for memory, which Ray has set."""
    with open("/proc/self/oom_score_adj") as file:
        return file.read()


if __name__ == "__main__":
    main()
