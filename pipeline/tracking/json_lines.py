"""A run's records as a file of JSON lines, ``progress-STEP.jsonl`` in its folder."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict

from infill.pipeline import storage
from infill.pipeline.tracking.records import Record, Report, RunInfo


@contextmanager
def json_lines(info: RunInfo, warn: Callable[[str], None]) -> Iterator[Report]:
    """Keep every record; rewrite the file with each validation and at the end.

    So it ends at the newest checkpoint.
    """
    location = storage.join(info.run, f"progress-{info.first_step:09d}.jsonl")
    records: list[Record] = []

    def save() -> None:
        lines = "".join(json.dumps(asdict(record)) + "\n" for record in records)
        storage.write(location, lines.encode())

    def report(record: Record) -> None:
        records.append(record)
        if record.kind == "scores":
            save()

    try:
        yield report
    finally:
        save()
