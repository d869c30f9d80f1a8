"""End a job in one sentence if its Ray loses its head process, on this machine or in a cluster.

Ray's own processes go on without their head (the GCS) for a minute, in which nothing new can start.
Then they end this process in the middle of its work, with a line of their own; workers of a Ray on
this machine would train on beside those of the next command.
"""

import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from infill.pipeline.background import beside
from infill.pipeline.interruption import ENDED, requested, status_of

HEAD = "gcs_server"
LOST = (
    "Ray has lost a process of this job: its head on this machine (gcs_server); most often the "
    "machine ran out of memory. Give the same command again: finished parts are kept"
)
FORK_SERVER = b"infill.pipeline.forkserver.server"
POLL_EVERY_S = 0.5
KNOCK_EVERY_S = 2.0
"""Seconds between two looks for the head of a cluster."""
RECONNECTS_S = "RAY_gcs_rpc_server_reconnect_timeout_s"
"""Variable with the seconds, 60 without it, after which Ray ends a process that has no head."""
REQUESTED_S = 2.0
"""Seconds in which a signal may still arrive that has ended the head as well: launchers such as
``timeout`` signal a whole process group."""
INTERRUPTED_S = 15.0
"""Seconds that a job which was asked to end has to save what it does, without its head."""


@contextmanager
def ending_with_head() -> Iterator[None]:
    """End this process with a sentence if Ray's head process, a child of it, ends in the block.

    On the driver, where Ray was started. Nothing is watched on systems without ``pidfd_open``.
    """
    head = _open_head()
    if head is None:
        yield
        return
    try:
        with beside(partial(_wait_for_end, head), "head monitor"):
            yield
    finally:
        os.close(head)


@contextmanager
def ending_without_head(address: str) -> Iterator[None]:
    """End this process with a sentence if the head of the cluster that it has joined is gone.

    On the driver. A head that comes back within three quarters of the time that Ray itself allows
    is waited for, as one whose memory is in Redis is.

    Args:
        address: host and port of the head.
    """
    with beside(partial(_knock, address), "head monitor"):
        yield


def _knock(address: str, over: threading.Event) -> None:
    timeout_s = 0.75 * float(os.environ.get(RECONNECTS_S) or 60)
    heard = time.monotonic()
    while not over.wait(KNOCK_EVERY_S):
        if _answers(address):
            heard = time.monotonic()
        elif (silent_s := time.monotonic() - heard) > timeout_s:
            if requested() and over.wait(INTERRUPTED_S):
                return
            _end(
                f"the head of the Ray at {address} has not answered for {silent_s:.0f} s: it has "
                "ended, or the network to it is cut. Start it again, and then give the same "
                "command again: finished parts are kept"
            )


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except OSError:
        return False
    return True


def _open_head() -> int | None:
    """Return a descriptor of the head process; None if there is none or it cannot be opened."""
    for child in _children(os.getpid()):
        with suppress(OSError, AttributeError):
            if Path(f"/proc/{child}/comm").read_text().strip() == HEAD:
                return os.pidfd_open(child)
    return None


def _wait_for_end(head: int, over: threading.Event) -> None:
    while not select.select([head], [], [], POLL_EVERY_S)[0]:
        if over.is_set():
            return
    if over.wait(REQUESTED_S) or (requested() and over.wait(INTERRUPTED_S)):
        return
    # Nothing that waits for Ray would end: not even the exceptions and clean-ups of this process.
    _end_workers()
    _end(LOST)


def _end(sentence: str) -> None:
    """End this process with a sentence, without any further Python code."""
    with suppress(OSError, ValueError):
        sys.stdout.flush()
    with suppress(OSError):
        os.write(2, f"{ENDED if requested() else f'error: {sentence}'}\n".encode())
    os._exit(status_of(requested()) if requested() else 1)


def _end_workers() -> None:
    """End the processes of Ray that would live on: those below the raylet and our fork server."""
    for child in _children(os.getpid()):
        with suppress(OSError):
            command = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
            if command[0].endswith(b"/raylet") or FORK_SERVER in command:
                for process in [child, *_descendants(child)]:
                    with suppress(ProcessLookupError):
                        os.kill(process, signal.SIGKILL)


def _descendants(process: int) -> list[int]:
    children = _children(process)
    return children + [below for child in children for below in _descendants(child)]


def _children(process: int) -> list[int]:
    """Return the processes that any thread of a process has started; none if it has ended."""
    found: list[int] = []
    with suppress(OSError):
        for thread in Path(f"/proc/{process}/task").iterdir():
            with suppress(OSError):  # A thread that has ended since they were listed.
                found += map(int, (thread / "children").read_text().split())
    return found
