"""Write the reference tables of the site from the source: commands, fields, metrics, loss terms.

MkDocs calls ``on_page_markdown`` for each page. A line such as ``<!-- table: commands -->`` becomes
the table of that name; ``<!-- table: fields infill.pipeline.training.TrainConfig -->`` becomes the
fields of that class, with the text that ``--help`` shows.
"""

import ast
import dataclasses
import importlib
import inspect
import re
import textwrap
import typing
from typing import Any

from infill.models import architecture
from infill.pipeline import commands
from infill.pipeline.metrics.metric_registry import DECLARED

MARK = re.compile(r"^<!-- table: (\w+)(?: (\S+))? -->$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace the marks of a page by their tables."""
    return MARK.sub(lambda mark: TABLES[mark[1]](*filter(None, [mark[2]])), markdown)


def command_table() -> str:
    """Return every command, its job, and what it does."""
    rows = []
    for command, job in commands.JOB_OF.items():
        if job == "train_":
            names = ", ".join(commands.architectures())
            rows.append(("`infill train NAME`", "`jobs/train_NAME.py`", f"Train {names}."))
        else:
            rows.append((f"`infill {command}`", f"`jobs/{job}.py`", commands.summary(job)))
    return table(("command", "job", "what it does"), rows)


def field_table(path: str) -> str:
    """Return the fields of a configuration class: name, type, default and help."""
    module, _, name = path.rpartition(".")
    rows = list(fields(getattr(importlib.import_module(module), name)))
    return table(("field", "meaning", "default", "type"), rows)


def metric_table() -> str:
    """Return every metric that Infill knows."""
    rows = []
    for metric in DECLARED:
        where = [
            *(["validation"] if metric.measure and metric.validated and metric.evaluated else []),
            *(["evaluation"] if metric.measure and metric.evaluated else []),
        ]
        if metric.network:
            where = ["evaluation with the weights of its network"]
        elif not metric.evaluated:
            where = ["`--metrics`, protocols"]
        rows.append((f"`{metric.name}`", metric.heading, metric.better, ", ".join(where)))
    return table(("name", "heading in tables", "better", "measured by"), rows)


def term_table() -> str:
    """Return the loss terms and search spaces of every architecture."""
    rows = []
    for name in architecture.names():
        found = architecture.load(name)
        terms = [f"`{term}` ({symbol})" for term, symbol in found.symbols.items()]
        spaces = [f"`{space}`" for space in found.spaces]
        rows.append((name, ", ".join(terms), ", ".join(spaces)))
    return table(("network", "loss terms", "search spaces"), rows)


def fields(kind: type) -> typing.Iterator[tuple[str, str, str, str]]:
    """Yield a row for each field of a dataclass; a nested one names its class."""
    hints, texts = typing.get_type_hints(kind), help_texts(kind)
    for field in dataclasses.fields(kind):
        hint, text = hints[field.name], texts.get(field.name, "")
        default = ""
        if field.default is not dataclasses.MISSING:
            default = f"`{field.default!r}`"
        elif dataclasses.is_dataclass(hint):
            text = f"{text} Its fields are those of `{typing.cast(type, hint).__name__}`."
        yield f"`{field.name}`", text, default, f"`{type_name(hint)}`"


def help_texts(kind: type) -> dict[str, str]:
    """Return the docstring below each field, of the class and of those it inherits from."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, text in zip(body.body, body.body[1:], strict=False):
            if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
                continue
            if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                found[field.target.id] = " ".join(str(text.value.value).split())
    return found


def type_name(hint: Any) -> str:
    """Return a type as people write it."""
    if isinstance(hint, type) and not typing.get_args(hint):
        return hint.__name__
    name = re.sub(r"\b(?:typing|collections\.abc)\.", "", str(hint))
    name = re.sub(r"\b[a-z_]+(?:\.\w+)*\.(?=[A-Z])", "", name)
    return re.sub(r"Literal\[(.*?)\]", lambda found: found[1].replace(", ", " or "), name)


def table(heads: tuple[str, ...], rows: list[Any]) -> str:
    """Return a Markdown table."""
    lines = [heads, tuple("---" for _ in heads), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in lines
    )


TABLES = {
    "commands": command_table,
    "fields": field_table,
    "metrics": metric_table,
    "terms": term_table,
}
