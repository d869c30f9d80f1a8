"""Scores, curves and image grids as one HTML page.

``page`` holds the parts every report is made of, ``curves`` draws lines, ``search`` shows a
search. A report is one HTML file that needs nothing beside it: no network, no fonts.
It is written to be read on a phone, on a desk and on paper, by day and by night.
"""

from pipeline.reporting.curves import Series, curve
from pipeline.reporting.page import (
    Section,
    beside,
    facts,
    format_csv,
    format_table,
    paragraphs,
    picture,
    preformatted,
    slider,
    stack,
    table,
    write_report,
)

__all__ = [
    "Section",
    "Series",
    "beside",
    "curve",
    "facts",
    "format_csv",
    "format_table",
    "paragraphs",
    "picture",
    "preformatted",
    "slider",
    "stack",
    "table",
    "write_report",
]
