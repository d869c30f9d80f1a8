"""Search spaces: values by dotted name, from a paper, its tables or a file."""

import ast
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from infill.models.architecture import load
from infill.models.config import tables
from infill.models.tables import Table
from infill.pipeline import storage
from infill.pipeline.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Range:
    """A range of numbers, for algorithms that sample freely."""

    low: float
    high: float
    log: bool = False
    """Whether values are spread evenly over orders of magnitude."""
    whole: bool = False
    """Whether values are integers."""

    def __post_init__(self) -> None:
        if not self.low < self.high or (self.log and self.low <= 0):
            raise UserError(
                f"a range needs low < high, and low above 0 with log: {self.low} to {self.high}"
            )


Space = Mapping[str, Sequence[Any] | Range]
"""The values to try, or their range, by dotted name of a training's field."""


def read_space(name: str, architecture: str) -> Space:
    """Return a paper's space by its name, or the one in a file.

    A file is JSON, YAML, or Python with a literal ``SPACE``; nothing in it is executed. It maps
    dotted names to lists of values, or to ``{"low": ..., "high": ..., "log": ...}``.

    Raises:
        UserError: if neither exists, or the file is not such a mapping.
    """
    paper = load(architecture)
    if name in paper.spaces:
        return {f"model.{field}": values for field, values in paper.spaces[name].items()}
    suffix = name.rsplit(".", 1)[-1]
    if suffix not in READERS:
        known = [*paper.spaces, *(f"{architecture}-{table}" for table in paper.tables)]
        choice = f"has: {', '.join(known)}; or" if known else "has none of its own;"
        raise UserError(
            f"unknown space {name!r}; {architecture} {choice} give a .json, .yaml or .py file"
        )
    try:
        values = READERS[suffix](storage.read(name).decode())
    except FileNotFoundError as error:
        raise UserError(f"there is no file {name}") from error
    except (ValueError, SyntaxError) as error:
        raise UserError(f"{name} cannot be read: {error}") from error
    if not isinstance(values, dict) or not values:
        raise UserError(f"{name} must map dotted names to lists of values or to ranges")
    return {str(field): _tried(value, name, str(field)) for field, value in values.items()}


def read_table(name: str, architecture: str) -> Table | None:
    """Return the paper's table of a space's name, such as "spn-table3", or None."""
    return tables(architecture).get(name.removeprefix(f"{architecture}-"))


def _tried(value: Any, file: str, field: str) -> Sequence[Any] | Range:
    if isinstance(value, list) and value:
        return value
    if isinstance(value, dict) and {"low", "high"} <= set(value) <= {"low", "high", "log", "whole"}:
        return Range(**value)
    raise UserError(
        f"{file}: {field} must be a list of values that is not empty, or a range with low, high "
        f"and perhaps log and whole, not {value!r}"
    )


def _from_yaml(text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def _from_python(text: str) -> Any:
    for statement in ast.parse(text).body:
        targets = statement.targets if isinstance(statement, ast.Assign) else []
        if any(isinstance(target, ast.Name) and target.id == "SPACE" for target in targets):
            assert isinstance(statement, ast.Assign)
            found = ast.literal_eval(statement.value)
            return {name: list(v) if isinstance(v, tuple) else v for name, v in found.items()}
    raise ValueError("it assigns nothing to SPACE")


READERS: dict[str, Callable[[str], Any]] = {
    "json": json.loads,
    "yaml": _from_yaml,
    "yml": _from_yaml,
    "py": _from_python,
}
"""Readers of files, by their suffix."""
