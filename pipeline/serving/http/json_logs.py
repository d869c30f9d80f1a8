"""Logs as JSON lines, one per event."""

import json
import logging
import sys
import time

LOGGER = "infill.serving"
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


def log_as_json() -> None:
    """Write this package's log to standard output; called once, by a serving process."""
    logger = logging.getLogger(LOGGER)
    if any(isinstance(handler.formatter, JsonFormatter) for handler in logger.handlers):
        return
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter())
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
