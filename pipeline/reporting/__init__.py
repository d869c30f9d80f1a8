"""Scores, curves and image grids as one HTML page.

``page`` has the sections of a report, ``curves`` line charts, ``search`` the report of a search.
A report is one self-contained HTML file, without network access or fonts, readable on a phone, on a
screen and on paper, in light and dark mode.
"""

from typing import TYPE_CHECKING

from infill.lazy import lazy_names

if TYPE_CHECKING:
    from infill.pipeline.reporting.curves import Series, curve
    from infill.pipeline.reporting.page import (
        Section,
        beside,
        facts,
        figure,
        format_csv,
        format_table,
        paragraphs,
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
    "figure",
    "preformatted",
    "slider",
    "stack",
    "table",
    "write_report",
]

__getattr__ = lazy_names(
    __name__,
    {
        "curves": ("Series", "curve"),
        "page": (
            "Section",
            "beside",
            "facts",
            "format_csv",
            "format_table",
            "paragraphs",
            "figure",
            "preformatted",
            "slider",
            "stack",
            "table",
            "write_report",
        ),
    },
)
