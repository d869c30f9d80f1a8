"""Print the size and FLOPs of every network beside the published figures.

python -m infill.models
python -m infill.models spn madf
python -m infill.models spn --time
python -m infill.models --json
"""

import argparse
import json
import sys
from dataclasses import asdict

import torch

from infill.models import architecture
from infill.models.flops import difference, size_of
from infill.models.timing import seconds_of

COLUMNS = (
    "network",
    "variant",
    "generator",
    "discriminators",
    "GMAC at 256 px",
    "published",
    "difference",
    "source",
)
TIME_COLUMNS = ("s at 256 px here", "time published")
Row = dict[str, str | int | float | None]


def rows_of(name: str, timed: bool = False) -> list[Row]:
    """Return one architecture's variants, counted and perhaps timed, and what it prints of others.

    Other methods have no counts of ours.
    """
    rows: list[Row] = []
    device = "cuda" if torch.cuda.is_available() else "cpu"
    paper = architecture.load(name)
    for variant in paper.variants():
        size = size_of(variant.config)
        row: Row = {
            "network": name,
            "variant": variant.name,
            **asdict(size),
            "published": variant.published or None,
            "difference": difference(variant, size),
            "source": variant.source,
        }
        if timed:
            row["device"] = device
            row["seconds"] = seconds_of(variant.config, device)
            row["published_time"] = variant.published_time or None
        rows.append(row)
    return rows + [_row_of_other(name, other, timed) for other in paper.others]


def _row_of_other(name: str, other: architecture.OtherMethod, timed: bool) -> Row:
    row: Row = {
        "network": name,
        "variant": other.name,
        **dict.fromkeys(("generator", "discriminators", "macs")),
        "published": other.published or None,
        "difference": None,
        "source": other.source,
    }
    if timed:
        row |= {"device": None, "seconds": None, "published_time": other.published_time or None}
    return row


def line_of(row: Row) -> list[str]:
    """Return a row as it is printed."""
    macs, seconds = row["macs"], row.get("seconds")
    return [
        str(row["network"]),
        str(row["variant"]),
        f"{row['generator']:,}" if row["generator"] else "",
        f"{row['discriminators']:,}" if row["discriminators"] else "",
        f"{macs / 1e9:.2f}" if isinstance(macs, int) else "",
        str(row["published"] or ""),
        "" if row["difference"] is None else f"{row['difference']:+d}".replace("+0", "0"),
        str(row["source"]),
        *(
            [f"{seconds:.3f}" if seconds else "", str(row["published_time"] or "")]
            if "seconds" in row
            else []
        ),
    ]


def print_table(rows: list[Row]) -> None:
    """Print rows under their columns' names, as wide as needed."""
    timed = TIME_COLUMNS if "seconds" in rows[0] else ()
    lines = [[*COLUMNS, *timed], *map(line_of, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = [
            text.rjust(width) if 2 <= index < 7 else text.ljust(width)
            for index, (text, width) in enumerate(zip(line, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())


def main(arguments: list[str] | None = None) -> int:
    """Print the table; return 1 if a count differs from a published one."""
    parser = argparse.ArgumentParser(prog="python -m infill.models", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NETWORK", help="all if none is named")
    parser.add_argument("--time", action="store_true", help="measure a prediction of each network")
    parser.add_argument("--json", action="store_true", help="the same for programs")
    asked = parser.parse_args(arguments)
    try:
        names = asked.names or architecture.names()
        rows = [row for name in names for row in rows_of(name, asked.time)]
    except ValueError as error:
        parser.error(str(error))
    if asked.json:
        print(json.dumps(rows, indent=2))
    else:
        print_table(rows)
    return 1 if any(row["difference"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
