"""The words that a command line can continue with, for the completion of shells."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

from infill.pipeline.config_fields import field_type, flag_fields, literal_values

VERBOSE = "--verbose"
OPTIONS = (VERBOSE, "--help")
"""The options of every job."""
_completing = threading.Event()  # While a job only lists its command-line words.


class Suggestions(BaseException):
    """Ends a job that only lists the words that its command line can continue with."""

    def __init__(self, words: Sequence[str]) -> None:
        super().__init__(words)
        self.words = list(words)


def suggestions(main: Callable[..., Any], words: Sequence[str]) -> list[str]:
    """Return the words that can follow on a job's command line: presets, flags, or a flag's values.

    Args:
        main: the job's main; it ends where it reads its command line.
        words: the words so far.
    """
    _completing.set()
    try:
        main(list(words))
    except Suggestions as found:
        return found.words
    except SystemExit:
        return []
    finally:
        _completing.clear()
    return []


def completing() -> bool:
    """Return whether the running job is to raise :class:`Suggestions`."""
    return _completing.is_set()


def following(config: Any, words: Sequence[str]) -> list[str]:
    """Return the values of the flag that the words end with, or the flags.

    Args:
        config: a configuration, or a class of them.
        words: the words so far. A flag whose values cannot be listed is followed by none, so that
            the shell completes the names of files.
    """
    flags = flag_fields(config)
    last = words[-1] if words else ""
    if last in flags:
        kind = field_type(config, flags[last].split("."))
        if kind is not bool:
            return literal_values(kind)
    return [*flags, *OPTIONS]
