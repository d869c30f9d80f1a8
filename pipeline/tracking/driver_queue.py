"""The queue of records from the workers to the driver."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from infill.pipeline.cluster import beside_driver
from infill.pipeline.tracking.records import Record, Report


class RecordQueue:
    """A Ray actor that carries records to the driver; see :func:`record_queue`."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def put(self, record: Record) -> None:
        """Add a record; called by workers."""
        self.records.append(record)

    def take(self) -> list[Record]:
        """Return and remove the records since the last call; called by the driver."""
        records, self.records = self.records, []
        return records


class GuardedReport:
    """Passes records on, in whichever thread of the driver, until a logger raises an error.

    Such an error would end that thread alone, and the training would go on without records.

    Args:
        report: takes the records.
    """

    def __init__(self, report: Report) -> None:
        self._report = report
        self.error: BaseException | None = None

    def __call__(self, record: Record) -> None:
        """Pass a record on, unless there was an error; keep the first error."""
        if self.error is None:
            try:
                self._report(record)
            except BaseException as error:
                self.error = error

    def has_failed(self) -> bool:
        """Return whether a logger has raised an error."""
        return self.error is not None

    def raise_error(self) -> None:
        """Raise the error of the logger, if there was one."""
        if self.error is not None:
            raise self.error


@contextmanager
def record_queue(report: Report, every_s: float = 0.5) -> Iterator[Any]:
    """Pass the workers' records to ``report``, on the driver, until the block ends.

    Yields:
        The actor's handle; workers call ``handle.put.remote(record)``.
    """
    import ray

    actor = beside_driver(RecordQueue)
    done = threading.Event()

    def listen() -> None:
        finished = False
        while not finished:
            finished = done.wait(every_s)
            for record in ray.get(actor.take.remote()):
                report(record)

    listener = threading.Thread(target=listen, name="mailbox", daemon=True)
    listener.start()
    try:
        yield actor
    finally:
        done.set()
        listener.join()
        ray.kill(actor)
