"""Search spaces: values by dotted name, from a paper, its tables or a file."""

import ast
import itertools
import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from infill.models.architecture import load
from infill.models.config import tables
from infill.models.tables import Table
from infill.pipeline import storage
from infill.pipeline.config import from_dict
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


TRIES = 100
"""Random combinations that are tried before those that are left are listed."""
Space = Mapping[str, Sequence[Any] | Range]
"""The values to try, or their range, by dotted name of a training's field."""


def num_combinations(space: Space) -> int | None:
    """Return the number of combinations of a space; None if a range of it has no steps."""
    counts = [len(_listed(values)) for values in space.values() if not _is_continuous(values)]
    return math.prod(counts) if len(counts) == len(space) else None


def combination_key(values: Mapping[str, Any]) -> str:
    """Return a text that equal combinations share."""
    return json.dumps(values, sort_keys=True, default=str)


def unseen(space: Space, seen: set[str], chance: random.Random) -> dict[str, Any] | None:
    """Return a random combination that was not seen, and add its key; None if all were.

    Args:
        space: values or ranges by name.
        seen: keys of combinations, as of :func:`combination_key`.
        chance: where the combination comes from.
    """
    space = {
        name: values if isinstance(values, Range) else distinct(values)
        for name, values in space.items()
    }
    for _ in range(TRIES):
        found = sample(space, chance)
        if combination_key(found) not in seen:
            seen.add(combination_key(found))
            return found
    if num_combinations(space) is None:
        return None
    every = itertools.product(*map(_listed, space.values()))
    rest = [one for one in (dict(zip(space, v, strict=True)) for v in every) if _is_new(one, seen)]
    if not rest:
        return None
    found = chance.choice(rest)
    seen.add(combination_key(found))
    return found


def sample(space: Space, chance: random.Random) -> dict[str, Any]:
    """Return a random combination."""
    return {name: _sample_one(values, chance) for name, values in space.items()}


def holds(space: Space, changes: Mapping[str, Any]) -> bool:
    """Return whether a combination is one of a space."""
    return set(changes) == set(space) and all(
        values.low <= changes[name] <= values.high
        if isinstance(values, Range)
        else listed_value(values, changes[name]) is not None
        for name, values in space.items()
    )


def listed_value(values: Sequence[Any], value: Any) -> str | None:
    """Return a value of a list as the list's JSON has it; None if it is not in the list.

    A training's field has other types than a file: 1 becomes 1.0, and a list a tuple.
    """
    plain = json.loads(json.dumps(value, default=str))
    return next((json.dumps(one) for one in values if one == plain), None)


def distinct(values: Sequence[Any]) -> list[Any]:
    """Return the values of a list without those that equal an earlier one, as 1.0 equals 1."""
    return [value for index, value in enumerate(values) if value not in values[:index]]


def _is_new(values: Mapping[str, Any], seen: set[str]) -> bool:
    return combination_key(values) not in seen


def _is_continuous(values: Sequence[Any] | Range) -> bool:
    return isinstance(values, Range) and not values.whole


def _listed(values: Sequence[Any] | Range) -> Sequence[Any]:
    if isinstance(values, Range):
        return range(round(values.low), round(values.high) + 1)
    return distinct(values)


def _sample_one(values: Sequence[Any] | Range, chance: random.Random) -> Any:
    if not isinstance(values, Range):
        return values[chance.randrange(len(values))]
    low, high = (math.log(v) if values.log else v for v in (values.low, values.high))
    number = chance.uniform(low, high)
    number = math.exp(number) if values.log else number
    return round(number) if values.whole else number


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
        return from_dict(Range, value, f"{file}: {field}")
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
