"""Temporary files and folders that outlive no job: the next one deletes those of a killed process.

Each is locked while its process lives; the kernel opens the lock when the process ends, however it
does. So does the folder of a Ray that a job has started.
"""

import fcntl
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

PREFIX = "infill-job-"
UNFINISHED = "_tmp-"
"""Start of the names of files that are being written."""
LOCK = ".infill-lock"
"""The file in a folder that is kept until its process ends."""


@contextmanager
def temporary_folder(parent: Path | None = None) -> Iterator[Path]:
    """Yield a new folder, and delete it at the end of the block.

    Folders that killed processes have left in the same place are deleted first.

    Args:
        parent: the folder around it; the system's temporary folder if None.
    """
    parent = Path(tempfile.gettempdir()) if parent is None else parent
    delete_abandoned(parent)
    folder, lock = _new(lambda: Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent)))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


@contextmanager
def temporary_file(final: Path) -> Iterator[Path]:
    """Yield the path of a new, empty file beside ``final``, which the block renames to it.

    Those that killed processes have left in this folder are deleted at this process's first file
    there.
    """
    _sweep(final.parent)
    aside, lock = _new(lambda: _empty_file(final), is_file=True)
    try:
        yield aside
    finally:
        aside.unlink(missing_ok=True)
        os.close(lock)


@contextmanager
def unfinished_folder(final: Path) -> Iterator[Path]:
    """Yield a new, empty folder beside ``final``, which the block renames to it.

    Those that killed processes have left there are deleted as by :func:`temporary_file`.
    """
    _sweep(final.parent)
    aside, lock = _new(lambda: _empty_folder(final))
    try:
        yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        os.close(lock)


def delete_unfinished(folder: Path) -> None:
    """Delete what killed processes were writing in a folder, and nothing that is being written."""
    for path in folder.glob(f"{UNFINISHED}*"):
        _delete_unlocked(path, path)


@lru_cache(maxsize=1024)
def _sweep(folder: Path) -> None:
    delete_unfinished(folder)


def _empty_file(final: Path) -> Path:
    path = final.with_name(f"{UNFINISHED}{uuid.uuid4().hex}")
    path.touch()
    return path


def _empty_folder(final: Path) -> Path:
    path = final.with_name(f"{UNFINISHED}{uuid.uuid4().hex}")
    path.mkdir(parents=True)
    return path


def _new(make: Callable[[], Path], *, is_file: bool = False) -> tuple[Path, int]:
    """Return a locked file or folder, and the descriptor that holds the lock."""
    while True:
        path = make()
        with suppress(FileNotFoundError):  # Another process has deleted it before it was locked.
            lock = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                continue
            except OSError:  # This filesystem has no locks, so nobody deletes it either.
                return path, lock
            if path.is_file() if is_file else path.is_dir():
                return path, lock
            os.close(lock)


def keep_until_end(folder: Path) -> None:
    """Lock a folder for the life of this process; :func:`delete_kept` then deletes it."""
    with suppress(OSError):  # Without locks it stays.
        lock = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def delete_kept(parent: Path) -> None:
    """Delete the folders in ``parent`` that processes had kept until they ended."""
    for lock in parent.glob(f"*/{LOCK}"):
        if not lock.parent.is_symlink():
            _delete_unlocked(lock, lock.parent)


def delete_abandoned(parent: Path) -> None:
    """Delete the folders in ``parent`` whose processes have ended."""
    for folder in parent.glob(f"{PREFIX}*"):
        _delete_unlocked(folder, folder)


def _delete_unlocked(locked: Path, path: Path) -> None:
    """Delete a file or folder if nobody holds its lock."""
    with suppress(OSError):  # In use, another user's, or just deleted.
        lock = os.open(locked, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()
        finally:
            os.close(lock)
