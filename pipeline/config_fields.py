"""The fields of a configuration: their dotted names and types."""

import dataclasses
import typing
from collections.abc import Sequence
from typing import Any


def field_names(config: Any, prefix: str = "") -> list[str]:
    """Return the dotted names of all fields that hold a value, not a configuration.

    Args:
        config: a configuration, or a class of them.
        prefix: goes before each name.
    """
    names = []
    for name, inner in _parts(config):
        if dataclasses.is_dataclass(inner):
            names += field_names(inner, f"{prefix}{name}.")
        else:
            names.append(f"{prefix}{name}")
    return names


def _parts(config: Any) -> list[tuple[str, Any]]:
    """Return each field's name, and its value; its type where ``config`` is a class."""
    names = [field.name for field in dataclasses.fields(config)]
    if not isinstance(config, type):
        return [(name, getattr(config, name)) for name in names]
    hints = typing.get_type_hints(config)
    return [(name, hints[name]) for name in names]


def field_type(config: Any, path: Sequence[str]) -> Any:
    """Return the type of a field by the parts of its dotted name.

    Args:
        config: a configuration, or a class of them.
        path: such as ``["data", "masks", "recipe"]``.
    """
    for name in path:
        kind = typing.get_type_hints(config if isinstance(config, type) else type(config))[name]
        config = kind if isinstance(config, type) else getattr(config, name)
    return kind


def literal_values(kind: Any) -> list[str]:
    """Return the values of a ``Literal``, also one within a tuple or an optional type."""
    if typing.get_origin(kind) is typing.Literal:
        return [str(value) for value in typing.get_args(kind)]
    return [value for inner in typing.get_args(kind) for value in literal_values(inner)]
