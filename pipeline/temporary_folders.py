"""Temporary folders that outlive no job: the next one deletes those of a killed process.

A folder is locked while its process lives; the kernel opens the lock when the process ends, however
it does.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "infill-job-"


@contextmanager
def temporary_folder(parent: Path | None = None) -> Iterator[Path]:
    """Yield a new folder, and delete it at the end of the block.

    Folders that killed processes have left in the same place are deleted first.

    Args:
        parent: the folder around it; the system's temporary folder if None.
    """
    parent = Path(tempfile.gettempdir()) if parent is None else parent
    delete_abandoned(parent)
    folder, lock = _new_folder(parent)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _new_folder(parent: Path) -> tuple[Path, int]:
    """Return a locked folder, and the descriptor that holds the lock."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        with suppress(OSError):  # Another process has deleted it before it was locked.
            lock = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if folder.is_dir():
                    return folder, lock
            except BlockingIOError:
                os.close(lock)
                continue
            os.close(lock)


def delete_abandoned(parent: Path) -> None:
    """Delete the folders in ``parent`` whose processes have ended."""
    for folder in parent.glob(f"{PREFIX}*"):
        with suppress(OSError):  # In use, another user's, or just deleted.
            lock = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)
