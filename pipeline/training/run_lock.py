"""Let one process at a time train into a run's folder."""

import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from infill.pipeline import storage
from infill.pipeline.errors import UserError, printable

LOCK = ".training-lock"
"""The file in a run's folder that the process which trains there keeps locked."""
WAIT_S = 20.0
"""Seconds until a run is refused: a process that was just killed may take some to end."""
POLL_EVERY_S = 0.2


@contextmanager
def locked(run: str, log: Callable[[str], None] = print) -> Iterator[None]:
    """Keep other processes from training into a run's folder while the block runs. On the driver.

    The kernel opens the lock when the process ends, however it does. Object stores have no locks,
    nor have some network filesystems; there nothing is refused.

    Args:
        run: the run's folder or s3:// prefix.
        log: prints one line for the user, if another process has to be waited for.

    Raises:
        UserError: if the other process has not ended within :data:`WAIT_S`.
    """
    lock = None if storage.is_remote(run) else _opened(Path(storage.absolute(run)))
    if lock is None:
        yield
        return
    try:
        _acquire(lock, run, log)
        yield
    finally:
        os.close(lock)


def _opened(folder: Path) -> int | None:
    """Return a descriptor of the folder's lock; None if the folder cannot be written."""
    with suppress(OSError):  # Whoever writes there says so.
        folder.mkdir(parents=True, exist_ok=True)
        return os.open(folder / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o666)
    return None


def _acquire(lock: int, run: str, log: Callable[[str], None]) -> None:
    deadline = time.monotonic() + WAIT_S
    asked = False
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = printable(os.pread(lock, 300, 0).decode(errors="replace"))
            if time.monotonic() >= deadline:
                raise UserError(
                    f"{holder or 'another process'} is training into {run}; wait until it ends, "
                    "or give another --storage"
                ) from None
            if not asked:
                log(f"waiting for {holder or 'another process'}, which is training into {run}")
            asked = True
            time.sleep(POLL_EVERY_S)
        except OSError:
            return  # This filesystem has no locks.
        else:
            with suppress(OSError):
                os.ftruncate(lock, 0)
                os.pwrite(lock, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
            return
