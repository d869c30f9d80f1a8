"""What the ingresses of one node count together: requests inside, and the images of each key.

Several ingresses listen at one port, and a limit means the node, not each of its processes. Their
counts are in a small SQLite file, which is changed in one transaction at a time and survives a
process that is killed. A process counts under a number whose lock it holds while it lives
(:class:`ProcessNumber`), so that what a killed one had counted as inside is forgotten at once.
"""

import asyncio
import contextlib
import fcntl
import itertools
import logging
import sqlite3
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

_LOG = logging.getLogger("infill.serving")
_Result = TypeVar("_Result")
_LOCKED_S = 2.0
"""Seconds that a transaction of another process is waited for; one takes microseconds."""
_TABLES = """
create table if not exists inside (process integer primary key, requests integer not null);
create table if not exists left_of_key (name text primary key, pictures real, at_s real);
"""


class ProcessNumber:
    """The lowest number, from 0, that no other living process holds in a folder.

    Args:
        folder: a folder of the node; it is made.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        for number in itertools.count():
            file = self._lock(number).open("a")
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self.number, self._held = number, file  # The kernel frees it when we end.
                return
            file.close()

    def is_alive(self, number: int) -> bool:
        """Return whether a process holds a number."""
        if number == self.number:
            return True
        with self._kept_free(number) as is_free:
            return not is_free

    def dead(self) -> Iterator[int]:
        """Yield the numbers whose process has ended; no new process takes one meanwhile."""
        for file in sorted(self.folder.glob("[0-9]*.lock")):
            number = int(file.stem)
            if number != self.number:
                with self._kept_free(number) as is_free:
                    if is_free:
                        yield number

    @contextlib.contextmanager
    def _kept_free(self, number: int) -> Iterator[bool]:
        """Hold off new processes from a number; give False if one has it."""
        with self._lock(number).open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True

    def release(self) -> None:
        """Give the number back before the process ends."""
        self._held.close()

    def _lock(self, number: int) -> Path:
        return self.folder / f"{number}.lock"


class NodeCounts:
    """Counts of a process, or of all that have the same folder. For use by one thread.

    If the file cannot be used, for example as the disk is full, the process logs that and counts
    on its own.

    Args:
        process: the number of this process; None counts for it alone.
    """

    def __init__(self, process: ProcessNumber | None = None) -> None:
        self.process = process
        self._number = process.number if process else 0
        self._own = 0
        self._db = self._open(process)
        self._change(lambda db: self._write(db, 0))  # That of a process before us.

    def _open(self, process: ProcessNumber | None) -> sqlite3.Connection:
        if process is None:
            return self._connect(":memory:")
        with (process.folder / "counts.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # One makes the tables.
            return self._connect(str(process.folder / "counts.sqlite"))  # Metrics are *.db.

    def _connect(self, location: str) -> sqlite3.Connection:
        db = sqlite3.connect(
            location, timeout=_LOCKED_S, isolation_level=None, check_same_thread=False
        )
        weakref.finalize(self, db.close)
        db.execute("pragma journal_mode = wal")
        db.execute("pragma synchronous = off")  # The counts need not outlive the machine.
        db.executescript(_TABLES)
        return db

    def requests(self) -> int:
        """Return how many requests are inside."""
        return self._change(self._inside)

    def enter(self, most: int) -> bool:
        """Count a request as inside unless ``most`` are already; return whether it is counted."""

        def enter(db: sqlite3.Connection) -> bool:
            entered = self._inside(db) < most
            if entered:
                self._write(db, self._own + 1)
            return entered

        entered = self._change(enter)
        self._own += entered
        return entered

    def leave(self) -> None:
        """Count a request no more."""
        self._own -= 1
        self._change(lambda db: self._write(db, self._own))

    def left(self, name: str, per_minute: float, now_s: float) -> float:
        """Return how many images a key may make now.

        Args:
            name: the key's.
            per_minute: how many are added in a minute, evenly; it may save up as many, at least 1.
            now_s: seconds of a clock that all processes share.
        """
        return self._change(lambda db: _left(db, name, per_minute, now_s))

    def spend(self, name: str, images: int, per_minute: float, now_s: float) -> float:
        """Take images from those that a key may make, if it may make as many.

        Returns:
            The number that it might make before; none is taken if that is less than ``images``.
        """

        def spend(db: sqlite3.Connection) -> float:
            left = _left(db, name, per_minute, now_s)
            rest = left - images if left >= images else left
            db.execute("replace into left_of_key values (?, ?, ?)", (name, rest, now_s))
            return left

        return self._change(spend)

    def _inside(self, db: sqlite3.Connection) -> int:
        """Return the requests of all processes that live."""
        query = "select process, requests from inside where requests > 0 and process != ?"
        others: list[tuple[int, int]] = db.execute(query, (self._number,)).fetchall()
        return self._own + sum(requests for number, requests in others if self._lives(number))

    def _lives(self, number: int) -> bool:
        return self.process is not None and self.process.is_alive(number)

    def _write(self, db: sqlite3.Connection, requests: int) -> None:
        db.execute("replace into inside values (?, ?)", (self._number, requests))

    def _change(self, act: Callable[[sqlite3.Connection], _Result]) -> _Result:
        """Do something in one transaction; in memory, once the file cannot be used."""
        try:
            return self._transaction(act)
        except sqlite3.Error as error:
            _LOG.error("this process counts on its own from now on", extra={"why": str(error)})
            self._db = self._connect(":memory:")
            return self._transaction(act)

    def _transaction(self, act: Callable[[sqlite3.Connection], _Result]) -> _Result:
        self._db.execute("begin immediate")
        with self._db:  # It commits, or rolls back after an exception.
            return act(self._db)


class CountsThread:
    """Counts for an event loop, made in a thread of their own.

    A transaction of another process, which may be stopped in the middle of it, is waited for there:
    the loop goes on.
    """

    def __init__(self, counts: NodeCounts) -> None:
        self._counts = counts
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="counts")

    async def requests(self) -> int:
        """Return how many requests are inside."""
        return await self._do(self._counts.requests)

    async def enter(self, most: int) -> bool:
        """Count a request as inside, as :meth:`NodeCounts.enter` does; must not be cancelled."""
        return await self._do(self._counts.enter, most)

    def leave(self) -> None:
        """Count a request no more, after all that was asked for before."""
        self._thread.submit(self._counts.leave)

    async def left(self, name: str, per_minute: float, now_s: float) -> float:
        """Return how many images a key may make, as :meth:`NodeCounts.left` does."""
        return await self._do(self._counts.left, name, per_minute, now_s)

    async def spend(self, name: str, images: int, per_minute: float, now_s: float) -> float:
        """Take images of a key, as :meth:`NodeCounts.spend` does."""
        return await self._do(self._counts.spend, name, images, per_minute, now_s)

    async def _do(self, call: Callable[..., _Result], *values: Any) -> _Result:
        return await asyncio.wrap_future(self._thread.submit(call, *values))


def _left(db: sqlite3.Connection, name: str, per_minute: float, now_s: float) -> float:
    most = max(per_minute, 1.0)
    query = "select pictures, at_s from left_of_key where name = ?"
    images, at_s = db.execute(query, (name,)).fetchone() or (most, now_s)
    return float(min(images + max(now_s - at_s, 0) * per_minute / 60, most))
