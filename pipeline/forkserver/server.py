"""The process that has imported what workers need besides Ray, and forks them.

Ray itself is imported in each worker: its C++ part reads the environment and seeds its random
identifiers once per process. It ends with the process that has started it, whose pipe is its
standard input.
"""

import gc
import importlib
import importlib.abc
import json
import os
import resource
import runpy
import select
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

LONGEST_REQUEST = 2**17
"""Bytes of a request: a worker's arguments and environment variables."""
STREAMS = 3
"""File descriptors that go with it: standard input, output and error."""


class WithoutRay(importlib.abc.MetaPathFinder):
    """Refuses to import Ray."""

    def find_spec(self, name: str, *_: object) -> None:
        """Raise an error for Ray and its modules; leave others to the usual finders."""
        if name.partition(".")[0] == "ray":
            raise ImportError(f"{name} is imported in the workers", name=name)


def main() -> None:
    """Fork workers until the starting process ends; in a worker's process, be the worker."""
    number, *modules = sys.argv[1:]
    listening = socket.socket(fileno=int(number))
    _preload(modules)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # The kernel buries the children.
    ended = sys.stdin.fileno()
    while ended not in select.select([listening, ended], [], [])[0]:
        connection, _ = listening.accept()
        with connection:
            data, streams, _, _ = socket.recv_fds(connection, LONGEST_REQUEST, STREAMS)
            if len(streams) == STREAMS and os.fork() == 0:
                listening.close()
                _become(json.loads(data), streams)
                connection.send(b"1")
                break
        for stream in streams:
            os.close(stream)
    else:
        return
    runpy.run_path(sys.argv[0], run_name="__main__")


def _preload(modules: Sequence[str]) -> None:
    """Import modules as far as they do not need Ray."""
    finder = WithoutRay()
    sys.meta_path.insert(0, finder)
    for name in modules:
        with suppress(ImportError):  # It needs Ray, or an extra that is not installed.
            importlib.import_module(name)
    sys.meta_path.remove(finder)
    gc.collect()
    gc.freeze()  # Else the collector would write to the pages that workers share.


def _become(request: dict[str, Any], streams: Sequence[int]) -> None:
    """Make this process what Ray's own start of a worker would have made."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    if request["leads_group"]:  # Ray ends what a worker has left behind by its process group.
        os.setpgid(0, 0)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    os.setpriority(os.PRIO_PROCESS, 0, request["niceness"])
    resource.setrlimit(resource.RLIMIT_NOFILE, tuple(request["open_files"]))
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(request["oom_score"])
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, request["blocked_signals"])
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()  # Else all workers would go on from the same state.
    sys.argv[:] = request["words"]
    sys.path.insert(0, str(Path(sys.argv[0]).parent))


if __name__ == "__main__":
    main()
