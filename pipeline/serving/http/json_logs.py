"""Logs as JSON lines, one per event."""

import json
import logging
import os
import sys
import time
from logging.handlers import RotatingFileHandler
from pathlib import Path

LOGGER = "infill.serving"
_FILE_BYTES = 100 * 10**6
_OLD_FILES = 5
_ORDINARY = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON: time, level, message, and its other fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, with the traceback of a defect in it."""
        moment = time.gmtime(record.created)
        values = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', moment)}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            # Ray adds fields of its own to every record; their names begin with an underscore.
            **{
                name: value
                for name, value in vars(record).items()
                if name not in _ORDINARY and not name.startswith("_")
            },
        }
        if record.exc_info:
            values["traceback"] = self.formatException(record.exc_info)
        return json.dumps(values, default=str)


def log_as_json(folder: Path | None = None) -> None:
    """Write this package's log to standard output and to a file; called by a serving process.

    A line is in the file before the response that refers to it is sent: nothing waits in memory,
    where it would be lost if the process were killed.

    Args:
        folder: where the file is, ``infill-<process id>.jsonl``; None for standard output only.
    """
    logger = logging.getLogger(LOGGER)
    if any(isinstance(handler.formatter, JsonFormatter) for handler in logger.handlers):
        return
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stdout)]
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"infill-{os.getpid()}.jsonl"
        handlers.append(RotatingFileHandler(file, maxBytes=_FILE_BYTES, backupCount=_OLD_FILES))
    for handler in handlers:
        handler.setFormatter(JsonFormatter())
        logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
