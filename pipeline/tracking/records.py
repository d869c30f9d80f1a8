"""Records that a worker logs, and their line on the terminal."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Literal

from infill.pipeline import storage


@dataclass(frozen=True, kw_only=True)
class Record:
    """One thing a worker has to say."""

    kind: Literal["losses", "scores", "picture", "note"]
    step: int
    """The global step it is about."""
    values: dict[str, float] = field(default_factory=dict)
    """Loss terms, scores or rates by name; the terminal leaves out names with a slash."""
    text: str = ""
    """For people: a sentence."""
    picture: str = ""
    """Where a picture lies."""
    checkpoint: str = ""
    """Where the checkpoint lies that scores are of."""


Report = Callable[[Record], None]


class RunLogger:
    """The driver's end of the stream of records: its terminal and its file of JSON lines.

    The file is written anew with each validation, so that it ends where the newest checkpoint does.
    """

    def __init__(
        self, label: str, steps: int, log: Callable[[str], None] = print, location: str = ""
    ) -> None:
        self.label = label
        self.steps = steps
        self.log = log
        self.location = location
        self.records: list[Record] = []
        self._first: tuple[int, float] | None = None

    def __call__(self, record: Record) -> None:
        """Take one record: keep it and show it."""
        self.records.append(record)
        self.log(f"{self.label}  {self._line(record)}")
        if record.kind == "scores":
            self.save()

    def note(self, text: str) -> None:
        """Say a sentence of the driver's own."""
        self(Record(kind="note", step=0, text=text))

    def _line(self, record: Record) -> str:
        if record.kind in ("note", "picture"):
            return record.text
        shown = {name: value for name, value in record.values.items() if "/" not in name}
        numbers = "  ".join(f"{name} {_short(value)}" for name, value in shown.items())
        if record.kind == "scores":
            return f"step {record.step}/{self.steps}  validation: {numbers}"
        return f"step {record.step}/{self.steps}  {numbers}{self._time_left(record.step)}"

    def _time_left(self, step: int) -> str:
        now = time.monotonic()
        if self._first is None:
            self._first = (step, now)
            return ""
        first_step, start = self._first
        if step <= first_step:
            return ""
        seconds = (now - start) / (step - first_step) * (self.steps - step)
        return f"  {duration(seconds)} left"

    def save(self) -> None:
        """Write all records down, where there is a place for them."""
        if not self.location:
            return
        lines = "".join(json.dumps(asdict(record)) + "\n" for record in self.records)
        storage.write(self.location, lines.encode())


def duration(seconds: float) -> str:
    """Return a time span as people write it: 42s, 3m10s, 2h05m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def _short(value: float) -> str:
    if value == 0:
        return "0"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
