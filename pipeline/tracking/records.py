"""Records that a worker logs, and their line on the terminal."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from infill.pipeline.progress import Progress, duration
from infill.pipeline.tracking.config import TrackingConfig


@dataclass(frozen=True, kw_only=True)
class Record:
    """One record of a worker: values, a sentence, an image or a checkpoint."""

    kind: Literal["losses", "scores", "image", "note"]
    step: int
    """The global step."""
    values: dict[str, float] = field(default_factory=dict)
    """Loss terms, scores or rates by name; the terminal leaves out names with a slash."""
    text: str = ""
    """A sentence for the user."""
    image: str = ""
    """Location of an image."""
    checkpoint: str = ""
    """Location of the checkpoint of the scores."""


Report = Callable[[Record], None]
"""Takes a run's records, one at a time."""


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """The facts about a run that loggers receive before its first record."""

    config: TrackingConfig
    run: str
    """The run's folder or s3:// prefix."""
    name: str
    """Display name: architecture and preset."""
    architecture: str
    steps: int
    """The last step."""
    first_step: int = 0
    """The step at which this part of the run resumes."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The configuration by dotted name."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """Further facts, such as the commit of the code."""
    log: Callable[[str], None] = print
    """Prints one line for the user."""


@contextmanager
def terminal(info: RunInfo, warn: Callable[[str], None]) -> Iterator[Report]:
    """Show each record as a line; on a terminal a bar has the losses."""
    name = info.architecture
    with Progress(name, info.steps, "steps", done=info.first_step, log=info.log) as progress:
        logger = RunLogger(name, info.steps, progress.say, info.first_step)

        def show(record: Record) -> None:
            if record.kind == "losses":
                progress.reach(record.step, RunLogger.numbers(record) if progress.has_bar else "")
            if record.kind != "losses" or not progress.has_bar:
                logger(record)

        yield show


class RunLogger:
    """Shows the stream of records on the driver's terminal, with the time left."""

    def __init__(
        self, label: str, steps: int, log: Callable[[str], None] = print, first_step: int = 0
    ) -> None:
        self.label = label
        self.steps = steps
        self.log = log
        self._begun = (first_step, time.monotonic())
        self._first: tuple[int, float] | None = None

    def __call__(self, record: Record) -> None:
        """Show one record."""
        self.log(f"{self.label}  {self._line(record)}")

    def _line(self, record: Record) -> str:
        if record.kind in ("note", "image"):
            return record.text
        numbers = self.numbers(record)
        if record.kind == "scores":
            return f"step {record.step}/{self.steps}  validation: {numbers}"
        return f"step {record.step}/{self.steps}  {numbers}{self._time_left(record.step)}"

    @staticmethod
    def numbers(record: Record) -> str:
        """Return a record's values as text."""
        shown = {name: value for name, value in record.values.items() if "/" not in name}
        return "  ".join(f"{name} {_short(value)}" for name, value in shown.items())

    def _time_left(self, step: int) -> str:
        now = time.monotonic()
        if self._first is None:
            # Its start is in the first estimate, which is too long rather than missing.
            self._first = (step, now)
            first_step, start = self._begun
        else:
            first_step, start = self._first
        if step <= first_step:
            return ""
        seconds = (now - start) / (step - first_step) * (self.steps - step)
        return f"  {duration(seconds)} left"


def _short(value: float) -> str:
    if value == 0:
        return "0"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
