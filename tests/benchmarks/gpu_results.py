"""Rows of `make bench-gpu`: kept as they are measured, so that a step can be interrupted."""

import json
import time
from pathlib import Path
from typing import Any

from pages import machine, table

MISSING = "not measured"


class Results:
    """The rows of one step, in a file of JSON that grows by a row at a time.

    Args:
        folder: where the files of all steps lie.
        step: number of the step.
        title: heading of its table.
        limit_s: seconds after which no further row is begun.
    """

    def __init__(self, folder: Path, step: int, title: str, limit_s: float) -> None:
        self.path = folder / f"step-{step}.json"
        self.title = title
        self.end = time.monotonic() + limit_s
        known = json.loads(self.path.read_text()) if self.path.exists() else {}
        self.rows: dict[str, dict[str, Any]] = known.get("rows", {})

    def wants(self, name: str) -> bool:
        """Return whether a row is missing and there is time to measure it."""
        if name in self.rows:
            return False
        if time.monotonic() < self.end:
            return True
        print(f"  {name}: {MISSING}, the step's time is over; run the step again", flush=True)
        return False

    def add(self, name: str, **values: Any) -> None:
        """Keep a row, and print it."""
        self.rows[name] = values
        whole = {"title": self.title, "machine": machine(), "rows": self.rows}
        self.path.write_text(json.dumps(whole, indent=1))
        print(f"  {name}: " + "  ".join(f"{k} {v}" for k, v in values.items()), flush=True)


def tables(folder: Path) -> str:
    """Return the tables of all steps that were run, in Markdown."""
    parts = []
    for path in sorted(folder.glob("step-*.json")):
        known = json.loads(path.read_text())
        columns = list(dict.fromkeys(name for row in known["rows"].values() for name in row))
        rows = [
            [name, *(str(row.get(column, MISSING)) for column in columns)]
            for name, row in known["rows"].items()
        ]
        head = f"{known['title']} ({known['machine']}):"
        parts.append(f"{head}\n\n{table(['', *columns], rows)}")
    return "\n\n".join(parts)
