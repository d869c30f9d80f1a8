"""The ablation tables of the papers: rows, their changes and the printed figures."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of an ablation: its changes, and its authors' figures."""

    label: str
    """As the paper prints it."""
    changes: Mapping[str, Any]
    """Fields of the configuration, in an order in which each step is possible."""
    published: Mapping[str, str] = field(default_factory=dict)
    """Figures as printed, by the evaluation's name of the metric."""


def printed_row(names: str, label: str, changes: Mapping[str, Any], figures: str = "") -> Row:
    """Return a row of a table whose columns are ``names``; "-" is a figure that is not printed."""
    pairs = zip(names.split(), figures.split(), strict=bool(figures))
    published = {name: figure for name, figure in pairs if figure != "-"}
    return Row(label=label, changes=changes, published=published)


@dataclass(frozen=True, kw_only=True)
class Table:
    """An ablation as a paper prints it: every row is a training with the same recipe."""

    title: str
    """Title of the table, with its subject."""
    preset: str
    """The training job's preset that has the paper's recipe for it."""
    measured_on: str
    """The images and masks behind the printed figures."""
    protocol: str
    """How they were measured, by the name that ``jobs/evaluate.py`` has for it."""
    rows: tuple[Row, ...]
    """In the paper's order."""
