"""The fields of a configuration: their dotted names and types."""

import dataclasses
import functools
import typing
from collections.abc import Sequence
from typing import Any

import tyro

[POSITIONAL] = typing.cast(Any, tyro.conf.Positional[int]).__metadata__
"""What marks a field that has a place on the command line in place of a flag."""


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


def flag_fields(config: Any) -> dict[str, str]:
    """Return the dotted name of the field behind every flag of a command line.

    A positional field has no flag, a flag may have another name than its field (``--from``), and
    what is on by default has a second flag that turns it off.

    Args:
        config: a configuration, or a class of them.
    """
    flags = {}
    for name in field_names(config):
        *groups, last = name.split(".")
        about = _metadata(config, name.split("."))
        if POSITIONAL in about:
            continue
        renamed = next((found for one in about if (found := getattr(one, "name", None))), last)
        flags[_flag(*groups, renamed)] = name
        if _default(config, name.split(".")) is True:
            flags[_flag(*groups, f"no_{renamed}")] = name
    return flags


def _flag(*parts: str) -> str:
    return f"--{'.'.join(parts).replace('_', '-')}"


def _metadata(config: Any, path: Sequence[str]) -> tuple[Any, ...]:
    """Return what a field's type is annotated with."""
    group = _group(config, path)
    kind = group if isinstance(group, type) else type(group)
    return getattr(_hints(kind)[path[-1]], "__metadata__", ())


def _default(config: Any, path: Sequence[str]) -> Any:
    """Return a field's value where nothing is given."""
    group = _group(config, path)
    if not isinstance(group, type):
        return getattr(group, path[-1])
    return next(one.default for one in dataclasses.fields(group) if one.name == path[-1])


def _group(config: Any, path: Sequence[str]) -> Any:
    """Return the configuration that has a field, or its class where ``config`` is one."""
    for name in path[:-1]:
        config = _hints(config)[name] if isinstance(config, type) else getattr(config, name)
    return config


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind, include_extras=True)


def literal_values(kind: Any) -> list[str]:
    """Return the values of a ``Literal``, also one within a tuple or an optional type."""
    if typing.get_origin(kind) is typing.Literal:
        return [str(value) for value in typing.get_args(kind)]
    return [value for inner in typing.get_args(kind) for value in literal_values(inner)]
