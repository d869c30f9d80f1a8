"""A run's records as files of JSON lines, ``progress-STEP.jsonl`` in its folder."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict

from infill.pipeline import storage
from infill.pipeline.tracking.records import Record, Report, RunInfo


@contextmanager
def json_lines(info: RunInfo, warn: Callable[[str], None]) -> Iterator[Report]:
    """Keep every record; append the new ones with each validation and at the end.

    So the files end at the newest checkpoint. A local run has one file for each time that it was
    started, named after the first step. An object store cannot append: there each validation
    begins another file, named after its step.
    """
    lines = _Lines(info.run, info.first_step)

    def report(record: Record) -> None:
        lines.waiting.append(record)
        if record.kind == "scores":
            lines.save(record.step)

    storage.remove(lines.location)  # Left by a start that ended before its first checkpoint.
    try:
        yield report
    finally:
        lines.save(info.steps)


class _Lines:
    """The records that are not written yet, and the file that takes them."""

    def __init__(self, run: str, step: int) -> None:
        self.run, self.waiting = run, list[Record]()
        self.location = self._file(step)

    def _file(self, step: int) -> str:
        return storage.join(self.run, f"progress-{step:09d}.jsonl")

    def save(self, step: int) -> None:
        """Write the new records; in an object store, those after ``step`` go to another file."""
        if self.waiting:
            text = "".join(json.dumps(asdict(record)) + "\n" for record in self.waiting)
            storage.append(self.location, text.encode())
            self.waiting.clear()
        if storage.is_remote(self.run):
            self.location = self._file(step)
