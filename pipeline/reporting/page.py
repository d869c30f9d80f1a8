"""The sections of a report, and the file they are written to.

Text is escaped; only the results of these functions count as markup.
"""

import base64
import csv
import functools
import io
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from infill.pipeline import storage

Cell = str | int | float | None


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading and its content."""

    title: str
    body: Markup
    """Content, made by the functions of this package."""


def write_report(
    location: str,
    title: str,
    sections: Sequence[Section],
    summary: str = "",
) -> None:
    """Write a report atomically as one self-contained HTML file.

    Args:
        location: path or s3:// address of the file.
        title: the page's heading.
        sections: from top to bottom; the page lists them as links if there are three or more.
        summary: one or two sentences under the title: the main result.
    """
    page = render("report.html.j2", title=title, summary=summary, sections=sections)
    storage.write(location, page.encode())


def paragraphs(*texts: str) -> Markup:
    """Return each text as a paragraph."""
    return Markup().join(Markup("<p>{}</p>").format(text) for text in texts)


def preformatted(text: str) -> Markup:
    """Return preformatted text: a command, a configuration."""
    return Markup("<pre>{}</pre>").format(text)


def facts(values: Mapping[str, object]) -> Markup:
    """Return names and values as a definition list: the lineage of a run.

    Values that are empty or None are left out; several are separated by spaces, as on a command
    line.
    """
    return Markup("<dl>{}</dl>").format(
        Markup().join(
            Markup("<div><dt>{}</dt><dd>{}</dd></div>").format(name, _words(value))
            for name, value in values.items()
            if value not in ("", None, ())
        )
    )


def table(
    headers: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    caption: str = "",
    strong: Sequence[tuple[int, int]] = (),
    quoted: Sequence[int] = (),
    words: bool = False,
) -> Markup:
    """Return a table, which scrolls sideways on a narrower screen.

    Args:
        headers: one per column; the first column names the row.
        rows: a number is shown as it is (format it before), None as a dash.
        caption: caption of the table.
        strong: (row, column) of the cells to stress, both from 0.
        quoted: rows of other sources, set apart from measured ones; from 0.
        words: whether the cells are words, which are left-aligned and wrapped, and not numbers.
    """
    _require_equal_lengths(headers, rows)
    shown = [[_shown(cell) for cell in row] for row in rows]
    return render(
        "table.html.j2",
        headers=headers,
        rows=shown,
        caption=caption,
        strong=frozenset(strong),
        quoted=frozenset(quoted),
        words=words,
    )


def figure(png: bytes, description: str, caption: str = "") -> Markup:
    """Return a PNG embedded in the page; on a narrow screen it scrolls rather than shrinks.

    Args:
        png: the file's bytes.
        description: alternative text, for readers who cannot see it.
        caption: a line under it.
    """
    width, height = struct.unpack(">II", png[16:24])  # in every PNG's header
    return render(
        "figure.html.j2",
        data=base64.b64encode(png).decode(),
        description=description,
        caption=caption,
        width=width,
        height=height,
    )


def slider(left: bytes, right: bytes, left_name: str, right_name: str, caption: str = "") -> Markup:
    """Return two PNGs of one size over each other, with a slider between them.

    The slider reacts to mouse, touch and arrow keys; on paper each PNG shows one half.
    """
    width, height = struct.unpack(">II", left[16:24])
    return render(
        "slider.html.j2",
        left=base64.b64encode(left).decode(),
        right=base64.b64encode(right).decode(),
        left_name=left_name,
        right_name=right_name,
        caption=caption,
        width=width,
        height=height,
    )


def beside(*parts: Markup) -> Markup:
    """Return parts side by side on a wide screen, below each other on a narrow one."""
    return Markup('<div class="beside">{}</div>').format(Markup().join(parts))


def stack(*parts: Markup) -> Markup:
    """Return parts below each other."""
    return Markup().join(parts)


def format_table(headers: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """Return a table as text: aligned for a terminal, and valid Markdown.

    The first column is left-aligned, the others right-aligned.

    Raises:
        ValueError: if a row is not as long as the headers.
    """
    _require_equal_lengths(headers, rows)
    cells = [[_markdown(_shown(cell)) for cell in row] for row in [headers, *rows]]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(headers))]
    lines = [
        [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
        for row in cells
    ]
    lines.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def format_csv(headers: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """Return a table as CSV with a heading line; None becomes an empty field."""
    _require_equal_lengths(headers, rows)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([headers, *rows])
    return text.getvalue()


def render(template: str, **values: object) -> Markup:
    """Fill one of this package's templates; every text is escaped."""
    return Markup(_environment().get_template(template).render(**values))


@functools.cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _words(value: object) -> str:
    if isinstance(value, tuple | list):
        return " ".join(map(_words, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _shown(cell: Cell) -> str:
    return "–" if cell is None else str(cell)


def _markdown(cell: str) -> str:
    """Keep a cell on its line and inside its column."""
    return cell.replace("|", "\\|").replace("\n", " ")


def _require_equal_lengths(headers: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    for row in rows:
        if len(row) != len(headers):
            raise ValueError(f"a row of {len(row)} cells under {len(headers)} headers: {row}")


__all__ = [
    "Cell",
    "Section",
    "beside",
    "facts",
    "format_csv",
    "format_table",
    "paragraphs",
    "figure",
    "preformatted",
    "render",
    "slider",
    "stack",
    "table",
    "write_report",
]
