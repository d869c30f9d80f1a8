"""The loggers of a run: every configured logger receives every record.

To add one, write a module here with a context manager that takes a :class:`RunInfo` and a function
for warnings, and yields a function of a record; then give it a line in ``LOGGERS``.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager

from infill.pipeline.errors import UserError
from infill.pipeline.tracking.json_lines import json_lines
from infill.pipeline.tracking.mlflow_run import mlflow_logger
from infill.pipeline.tracking.prometheus import prometheus
from infill.pipeline.tracking.records import Record, Report, RunInfo, terminal
from infill.pipeline.tracking.tensorboard import tensorboard
from infill.pipeline.tracking.weights_and_biases import weights_and_biases

Logger = Callable[[RunInfo, Callable[[str], None]], AbstractContextManager[Report]]
"""Opens a logger for a run; the function logs a warning if a server does not answer."""

LOGGERS: dict[str, Logger] = {
    "terminal": terminal,
    "jsonl": json_lines,
    "mlflow": mlflow_logger,
    "prometheus": prometheus,
    "tensorboard": tensorboard,
    "wandb": weights_and_biases,
}
"""Every logger by its name in ``tracking.loggers``."""


def require_known(names: Sequence[str]) -> None:
    """Refuse a logger that does not exist.

    Raises:
        UserError: naming those that do.
    """
    for name in names:
        if name not in LOGGERS:
            raise UserError(
                f"tracking.loggers: there is no logger {name!r}; there are {', '.join(LOGGERS)}"
            )


@contextmanager
def logged(info: RunInfo) -> Iterator[Report]:
    """Log a run's records while the block runs. On the driver.

    Yields:
        A function that passes a record to every logger in ``info.config.loggers``, in that order.
        Several threads may call it: a logger takes one record at a time.

    Raises:
        UserError: if a logger is unknown, not installed, or cannot be reached at the start.
    """
    reports: dict[str, Report] = {}
    turn = threading.RLock()  # A logger may warn while it takes a record.

    def report(record: Record) -> None:
        with turn:
            for name, one in reports.items():
                with _named(name):
                    one(record)

    def warn(text: str) -> None:
        report(Record(kind="note", step=0, text=text))

    require_known(info.config.loggers)
    with ExitStack() as stack:
        for name in info.config.loggers:
            with _named(name):
                reports[name] = stack.enter_context(LOGGERS[name](info, warn))
        yield report


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Add the name of a logger to the traceback of an error of its own."""
    try:
        yield
    except Exception as error:
        error.add_note(f"from the logger {name!r}: mend it, or leave it out of tracking.loggers")
        raise
