"""Ctrl-C and SIGTERM: how a process is asked to end, and with which status it does.

The first signal raises :class:`Interrupted` in the main thread, or, where work has to reach a good
place first (:func:`postponed`), only sets what :func:`requested` returns. A second signal ends the
process at once. A library that installs its own handler, as Ray does, is followed by another
:func:`handled` block. Imports the standard library alone, so that a job ends while it imports.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SAME_REQUEST_S = 0.2
"""Seconds within which further signals belong to the first: ``timeout`` and other launchers signal
the process and its process group."""
ENDED = "interrupted; run the same command again to resume"
STOPPING = "interrupted: saving a checkpoint; a second Ctrl-C ends at once"


class Interrupted(KeyboardInterrupt):  # noqa: N818 - a KeyboardInterrupt is not an error
    """The process was asked to end.

    Args:
        number: the signal.
        sentence: what was kept and how to go on.
    """

    def __init__(self, number: int, sentence: str = ENDED) -> None:
        super().__init__(number, sentence)
        self.number, self.sentence = number, sentence

    def __str__(self) -> str:
        return self.sentence


@dataclass(kw_only=True)
class _State:
    """The request of this process to end; signals belong to the whole process."""

    number: int = 0
    """The first signal; 0 as long as there was none."""
    moment_s: float = 0.0
    """Time of the first signal, by the monotonic clock."""
    postponed: int = 0
    """Number of :func:`postponed` blocks around the current code."""
    active: bool = False
    """Whether a :func:`handled` block is active; before the first one, a signal ends at once."""


_state = _State()


def status_of(number: int) -> int:
    """Return a process's status after a signal: 130 for Ctrl-C, 143 for SIGTERM."""
    return 128 + number


def requested() -> int:
    """Return the signal that asked this process to end; 0 if none did."""
    return _state.number


def request(number: int) -> None:
    """Ask this process to end, as a signal would that is :func:`postponed`.

    For a process whose work another one has started, and whose signals are not its own.
    """
    _state.number = number


def _handle(number: int, frame: FrameType | None) -> None:
    now = time.monotonic()
    if _state.number and now - _state.moment_s < SAME_REQUEST_S:
        return
    if _state.number or not _state.active:
        end_at_once(number)
    _state.number, _state.moment_s = number, now
    if not _state.postponed:
        raise Interrupted(number)
    _write(1, STOPPING)


def end_at_once(number: int) -> None:
    """End this process without any further Python code, after a sentence."""
    _write(2, "interrupted again: ended at once" if _state.number else ENDED)
    os._exit(status_of(number))


def _write(descriptor: int, sentence: str) -> None:
    """Write a line; a signal may arrive inside of ``print``, which cannot be called twice."""
    with suppress(OSError):  # Nobody reads it.
        os.write(descriptor, f"{sentence}\n".encode())


def watch_imports() -> None:
    """End the process with a sentence, not a traceback, if a signal arrives while a job imports.

    Called on the first import of the package; other programs that import it are left alone.
    """
    usual = (signal.default_int_handler, signal.SIG_DFL)
    if not _starts_job() or threading.current_thread() is not threading.main_thread():
        return
    for number in SIGNALS:
        if signal.getsignal(number) in usual:
            signal.signal(number, _handle)


def _starts_job() -> bool:
    """Return whether this process is the command ``infill`` or a script of ``jobs``."""
    words = getattr(sys, "orig_argv", sys.argv)
    if "--multiprocessing-fork" in words:
        return False
    module = words[words.index("-m") + 1 :][:1] if "-m" in words[:4] else []
    script = sys.argv[0] if sys.argv else ""
    name, folder = os.path.basename(script), os.path.basename(os.path.dirname(script))
    return (
        module == ["infill"]
        or name in ("infill", "infill.exe")
        or (name.endswith(".py") and folder == "jobs")
    )


@contextmanager
def handled() -> Iterator[None]:
    """Take SIGINT and SIGTERM while the block runs; outside the main thread nothing changes.

    Blocks may be nested: the inner one takes the signals back from a library that took them.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    outermost = not _state.active
    # A shell's background job ignores Ctrl-C, which is for the program in the foreground.
    taken = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, _handle) for number in taken}
    if outermost:
        _state.number, _state.active = 0, True
    try:
        yield
    finally:
        if outermost:
            for number, handler in before.items():
                signal.signal(number, _restorable(handler))
            _state.number, _state.active = 0, False


def _restorable(handler: Any) -> Any:
    """Return a handler that can be set again: None stands for one that Python did not set."""
    return signal.SIG_DFL if handler is None else handler


@contextmanager
def postponed() -> Iterator[None]:
    """Let the first signal only be noted while the block runs, which asks :func:`requested`.

    In the main thread; elsewhere nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with handled():
        _state.postponed += 1
        try:
            yield
        finally:
            _state.postponed -= 1
