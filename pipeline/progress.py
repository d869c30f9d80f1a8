"""Progress of long steps: a bar with rate and time left on a terminal, elsewhere a line a period.

Every job reports through :class:`Progress`. The libraries' own logging is off unless the command
line has ``--verbose``.
"""

import os
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

Log = Callable[[str], None]
"""Prints one line for the user."""

PERIOD_S = 30.0
"""Seconds between two lines without a terminal."""
BAR_CHARACTERS = 20
"""Width of a bar, so that the rate and the time left fit beside it on 80 columns."""
FIRST_S = 1.0
"""Seconds from the first result on in which the rate is that since the start: results that come in
a burst, as reports of workers do, have none of their own."""
_terminal = threading.Lock()  # held by the one step that shows its bar
_verbose = threading.Event()


def show_everything() -> None:
    """Leave the logs of Ray and MLflow on: ``--verbose``."""
    _verbose.set()


def shows_everything() -> bool:
    """Return whether the logs of Ray and MLflow are on."""
    return _verbose.is_set()


def duration(seconds: float) -> str:
    """Return a duration as text: 42s, 3m10s, 2h05m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def speed(rate: float) -> str:
    """Return an amount per second as text, or below one the time of each: 2.5/s, 4.0 s each."""
    if round(rate, 1) >= 1:
        return f"{rate:.1f}/s"
    seconds = 1 / rate
    return f"{seconds:.1f} s each" if seconds < 60 else f"{duration(seconds)} each"


def file_size(size: float) -> str:
    """Return a number of bytes as text: 812 B, 5 kB, 42.1 MB, 3.0 GB (powers of 1000)."""
    for unit, digits in (("B", 0), ("kB", 0), ("MB", 1), ("GB", 1)):
        if size < 1000 - 0.5 * 10**-digits:
            return f"{size:.{digits}f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


class Progress:
    """The progress of one long step, from its start to its result.

    On a terminal a bar shows the amount done, the rate and the time left. Elsewhere lines do: one
    at the start, then one whenever a period has passed without a line, even if nothing is finished.
    The last line is the result; a step that ends with an exception has none.

    Args:
        what: the step, such as "evaluation".
        total: total amount; 0 if it is unknown.
        unit: unit of the amounts, such as "pairs".
        done: amount that an interrupted run had done; it does not count in the rate.
        log: prints the lines; the bar is shown only if it is ``print``.
        period_s: maximum seconds between two lines.
    """

    def __init__(
        self,
        what: str,
        total: int = 0,
        unit: str = "",
        *,
        done: int = 0,
        log: Log = print,
        period_s: float | None = None,
    ) -> None:
        self.what, self.total, self.unit, self.done = what, total, unit, done
        self.details = ""
        self.ending = ""
        """Text of the last line in place of amount and rate."""
        self._log = log
        self._period_s = PERIOD_S if period_s is None else period_s
        self._before = done
        self._first: tuple[int, float] | None = None
        self._bar: Bar | None = None
        self._over = threading.Event()
        self._spoke = 0.0
        self._ticker: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._start = time.monotonic()
        if self._log is print and shows_bars() and _terminal.acquire(blocking=False):
            self._bar = _bar(self.what, self.total, self.done)
            self._bar.start()
            self._render()
            return self
        self.say(self.line())
        self._ticker = threading.Thread(target=self._tick, name="progress", daemon=True)
        self._ticker.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
            _terminal.release()
        if self._ticker is not None:
            self._over.set()
            self._ticker.join()
        if kind is None:
            self.say(self._last_line())

    def __getstate__(self) -> dict[str, object]:
        """Return the picklable state: Ray Tune pickles its callbacks and their progress."""
        return {**self.__dict__, "_bar": None, "_over": None, "_ticker": None}

    def advance(self, amount: int = 1, details: str = "") -> None:
        """Count finished work.

        Args:
            amount: amount finished since the last call.
            details: further facts, such as "2 failed".
        """
        self.reach(self.done + amount, details)

    def reach(self, done: int, details: str = "") -> None:
        """Set the total finished amount; ``details`` as in :meth:`advance`."""
        self.done, self.details = done, details
        if self._first is None:  # The workers were starting until now: not part of their rate.
            self._first = (self.done, time.monotonic())
        self._render()

    def skip(self, amount: int) -> None:
        """Count work that was finished before; it does not count in the rate."""
        self.done += amount
        self._before += amount
        if self._first is not None:
            self._first = (self._first[0] + amount, self._first[1])
        self._render()

    def say(self, line: str) -> None:
        """Log a line above the bar."""
        self._spoke = time.monotonic()
        self._log(line)
        if self._log is print:
            sys.stdout.flush()

    @property
    def has_bar(self) -> bool:
        """Whether the progress is a bar on the terminal."""
        return self._bar is not None

    @property
    def rate(self) -> float:
        """Amount per second since the first result, and for a second since the start."""
        if self._first is None:
            return 0.0
        now = time.monotonic()
        first, begun = self._first
        if self.done == first or now - begun < FIRST_S:
            spent = now - self._start
            return (self.done - self._before) / spent if spent > 0 else 0.0
        return (self.done - first) / (now - begun)

    def line(self) -> str:
        """Return the progress as a line: amount, rate and time left, if known."""
        if not self.total:
            spent = time.monotonic() - self._start
            amount = f": {self.done} {self.unit}" if self.done else ""
            amount += f", {duration(spent)}" if spent >= 1 else ""
            return f"{self.what}{amount} ..." + (f" {self.details}" if self.details else "")
        return f"{self.what}: " + ", ".join(self._facts())

    def _facts(self) -> list[str]:
        facts = [f"{self.done} of {self.total} {self.unit}"]
        if self.rate:
            facts.append(speed(self.rate))
            if self.done < self.total:
                facts.append(f"{duration((self.total - self.done) / self.rate)} left")
        return facts + ([self.details] if self.details else [])

    def _last_line(self) -> str:
        spent = time.monotonic() - self._start
        if self.ending or not self.total:
            return f"{self.what}: {self.ending or 'done'} in {duration(spent)}"
        made = self.done - self._before
        rate = f", {speed(made / spent)}" if made and spent > 0.1 else ""
        kept = f" ({self._before} of them before)" if self._before else ""
        details = f", {self.details}" if self.details else ""
        return f"{self.what}: {self.done} {self.unit}{kept} in {duration(spent)}{rate}{details}"

    def _render(self) -> None:
        if self._bar is not None:
            task = self._bar.tasks[0].id
            self._bar.update(task, completed=self.done, facts=", ".join(self._facts()[1:]))

    def _tick(self) -> None:
        while not self._over.wait(max(0.0, self._spoke + self._period_s - time.monotonic())):
            if time.monotonic() >= self._spoke + self._period_s:
                self.say(self.line())


def shows_bars() -> bool:
    """Return whether standard output is a terminal on which a bar can be shown."""
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def _bar(what: str, total: int, done: int) -> "Bar":
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn
    from rich.progress import Progress as Bar
    from rich.table import Column

    rest = Column(ratio=1, no_wrap=True, overflow="ellipsis")
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        *((BarColumn(BAR_CHARACTERS), MofNCompleteColumn()) if total else ()),
        TextColumn("{task.fields[facts]}", markup=False, table_column=rest),
    )
    bar = Bar(
        *columns,
        expand=True,  # Only what does not fit of the facts is cut: the bar keeps its width.
        console=Console(file=sys.stdout),
        transient=True,
        redirect_stderr=sys.stderr.isatty(),  # not if stderr is redirected to a file
    )
    bar.add_task(what, total=total or None, completed=done, facts="")
    return bar
