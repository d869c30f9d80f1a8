"""Write figures into ``docs/benchmarks.md``, each benchmark between its own two marks."""

from datetime import UTC, datetime
from pathlib import Path

import torch
from conditions import LOAD_AT_START, cores, crowded, versions

from infill.pipeline.provenance import processor

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"


def machine() -> str:
    """Return a line with machine, load, versions and date of a measurement."""
    gpu = f"{torch.cuda.get_device_name()}, " if torch.cuda.is_available() else ""
    beside = "crowded: " if crowded(LOAD_AT_START) else ""
    return (
        f"{gpu}{processor()}, {cores()} cores, {beside}load {LOAD_AT_START:.2f}, {versions()}, "
        f"{datetime.now(UTC):%Y-%m-%d}"
    )


def table(header: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table, numbers to the right."""
    alignment = ["---"] + ["---:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, alignment, *rows])


def rows_of_section(name: str) -> list[list[str]]:
    """Return the rows of the table between the marks of ``name``, without its head."""
    page = PAGE.read_text(encoding="utf-8")
    text = page.partition(f"<!-- {name}: begin -->")[2].partition(f"<!-- {name}: end -->")[0]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def write_section(name: str, text: str) -> None:
    """Put ``text`` between the marks of ``name``; the rest of the page stays."""
    page = PAGE.read_text(encoding="utf-8")
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, _, rest = page.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"{PAGE.name} lacks the marks {begin} and {end}")
    PAGE.write_text(f"{before}{begin}\n{text.strip()}\n{end}{after}", encoding="utf-8")
