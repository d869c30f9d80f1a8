"""Progress of long steps: a bar with rate and time left on a terminal, elsewhere a line a period.

Every job reports through :class:`Progress`. What libraries log themselves is off unless the command
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
"""Takes a line at a time for a person who waits."""

PERIOD_S = 30.0
"""Between two lines where there is no terminal."""
_terminal = threading.Lock()  # Held by the one step that shows its bar.
_verbose = threading.Event()


def show_everything() -> None:
    """Let Ray and MLflow log what they would by themselves: ``--verbose``."""
    _verbose.set()


def shows_everything() -> bool:
    """Return whether Ray and MLflow log what they would by themselves."""
    return _verbose.is_set()


def duration(seconds: float) -> str:
    """Return a time span as people write it: 42s, 3m10s, 2h05m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


class Progress:
    """The progress of one long step, from its first second to what came out.

    On a terminal a bar shows the amount done, the rate and the time left. Elsewhere a line says so
    at the start, then whenever a period has passed without a line, also while nothing is finished.
    The last line says what came out; a step that ends with an exception has none.

    Args:
        what: the step, such as "evaluation".
        total: how much there is to do; 0 if that is unknown.
        unit: of the amounts, such as "pairs".
        done: how much was done before, by an interrupted run; it does not count in the rate.
        log: takes the lines; the bar is shown only if it is ``print``.
        period_s: the longest silence, in seconds.
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
        """What the last line says in place of amount and rate."""
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
        """Return what a copy needs: Ray Tune pickles its callbacks, and what they report to."""
        return {**self.__dict__, "_bar": None, "_over": None, "_ticker": None}

    def advance(self, amount: int = 1, details: str = "") -> None:
        """Count what is finished.

        Args:
            amount: finished since the last call.
            details: what else there is to know now, such as "2 failed".
        """
        self.reach(self.done + amount, details)

    def reach(self, done: int, details: str = "") -> None:
        """Set how much is finished in all; ``details`` as in :meth:`advance`."""
        self.done, self.details = done, details
        if self._first is None:  # The workers were starting until now: no measure of their rate.
            self._first = (self.done, time.monotonic())
        self._render()

    def skip(self, amount: int) -> None:
        """Count what turns out to have been finished before; it does not count in the rate."""
        self.done += amount
        self._before += amount
        if self._first is not None:
            self._first = (self._first[0] + amount, self._first[1])
        self._render()

    def say(self, line: str) -> None:
        """Log a line of the step's own, above the bar."""
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
        """How much is finished in a second, since the first result; 0 before there is a second."""
        if self._first is None or self.done == self._first[0]:
            return 0.0
        return (self.done - self._first[0]) / max(time.monotonic() - self._first[1], 1e-9)

    def line(self) -> str:
        """Return the progress as a line: amount, rate and time left as far as they are known."""
        if not self.total:
            spent = time.monotonic() - self._start
            amount = f": {self.done} {self.unit}" if self.done else ""
            amount += f", {duration(spent)}" if spent >= 1 else ""
            return f"{self.what}{amount} ..." + (f" {self.details}" if self.details else "")
        return f"{self.what}: " + ", ".join(self._facts())

    def _facts(self) -> list[str]:
        facts = [f"{self.done} of {self.total} {self.unit}"]
        if self.rate:
            facts.append(f"{self.rate:.{1 if self.rate >= 0.1 else 3}f}/s")
            if self.done < self.total:
                facts.append(f"{duration((self.total - self.done) / self.rate)} left")
        return facts + ([self.details] if self.details else [])

    def _last_line(self) -> str:
        spent = time.monotonic() - self._start
        if self.ending or not self.total:
            return f"{self.what}: {self.ending or 'done'} in {duration(spent)}"
        made = self.done - self._before
        rate = f", {made / spent:.1f}/s" if made and spent > 0.1 else ""
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

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        *((BarColumn(), MofNCompleteColumn()) if total else ()),
        TextColumn("{task.fields[facts]}", markup=False),
    )
    bar = Bar(
        *columns,
        console=Console(file=sys.stdout),
        transient=True,
        redirect_stderr=sys.stderr.isatty(),  # Into a file, errors go where they were sent.
    )
    bar.add_task(what, total=total or None, completed=done, facts="")
    return bar
