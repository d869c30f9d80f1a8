"""Configuration: presets, overrides by dotted name, JSON, and how a job ends with an error.

Every setting of the program is a field of a frozen dataclass next to the code that reads it. This
module chooses one (``parse``), changes one (``override``), and writes and reads one (``to_json``,
``from_json``); it also ends a job with the user's error (``run``).
"""

import ast
import dataclasses
import difflib
import functools
import inspect
import io
import json
import math
import numbers
import os
import signal
import sys
import textwrap
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro

from infill.models.config import ModelConfig, config_class
from infill.pipeline.commands import as_typed, program
from infill.pipeline.completion import OPTIONS, VERBOSE, Suggestions, completing, following
from infill.pipeline.config_fields import field_names, flag_fields
from infill.pipeline.error_sentences import explain
from infill.pipeline.errors import UserError, suggestion
from infill.pipeline.interruption import ENDED, Interrupted, handled, requested, status_of
from infill.pipeline.progress import show_everything
from infill.pipeline.proxies import reach_this_machine_directly
from infill.pipeline.store_endpoint import first_contact

__all__ = [
    "flatten",
    "from_dict",
    "from_json",
    "override",
    "parse",
    "parse_one",
    "run",
    "to_dict",
    "to_json",
]

Config = TypeVar("Config")

_COMMON_HELP = f"With {VERBOSE}, Ray and MLflow log on the terminal as well."

RENAMED_FIELDS = {
    "window_shards": "shuffle_window_shards",
    "decoders": "num_decode_workers",
    "batch_wait_s": "batch_wait_timeout_s",
    "continue_from": "resume_from",
    "scale_after_s": "upscale_delay_s",
    "canvas": "tiling",
    "max_canvases": "max_tiles",
    "white_is_hole": "polarity",
    "no_white_is_hole": "polarity black",
    "draw": "generate_masks",
    "patience_s": "retry_timeout_s",
}
"""Fields by their names in earlier releases: read in saved files, refused on the command line."""
_RENAMED_VALUES = {"white_is_hole": {True: "white", False: "black"}}
"""Values of renamed fields in saved files, where they have another type now."""


def parse(
    presets: Mapping[str, Config],
    description: str,
    args: Sequence[str] | None = None,
    about: Callable[[str, Config], str] | None = None,
) -> Config:
    """Choose a preset by its name and override its fields from the command line.

    Args:
        presets: named configurations, all of one type.
        description: the job's docstring; it heads ``--help``.
        args: command-line words; ``sys.argv[1:]`` if None.
        about: returns one line on a preset for ``--help``.

    Returns:
        The chosen preset with the given fields replaced.

    Raises:
        SystemExit: with status 2 after naming an unknown preset or field, or an impossible value.
    """
    words = _common_options(args)
    name = words[0] if words else ""
    if completing():
        known = name in presets
        raise Suggestions(following(presets[name], words) if known else [*presets, *OPTIONS])
    if name in ("-h", "--help"):
        _print_presets(presets, description, about)
        raise SystemExit(0)
    if not words:
        leave(f"name a preset first: {', '.join(presets)}. --help explains them.")
    if name.startswith("-"):
        leave(
            f"{name} stands before the preset: name a preset first, then its options",
            kind="presets",
            known=list(presets),
        )
    if name not in presets:
        leave(f"unknown preset {name!r}", name, list(presets), "presets")
    preset = presets[name]
    shown = f"The preset {name!r}: {about(name, preset)}" if about else f"The preset {name!r}."
    return _parse_fields(type(preset), shown, words[1:], f"{program()} {name}", preset)


def parse_one(
    config: type[Config],
    description: str,
    args: Sequence[str] | None = None,
    default: Config | None = None,
) -> Config:
    """Read one configuration that has no presets from the command line.

    Args:
        config: its class.
        description: the job's docstring; it heads ``--help``.
        args: command-line words; ``sys.argv[1:]`` if None.
        default: whose values stand where no flag is given; required ones are ``tyro.MISSING``.
    """
    words = _common_options(args)
    if completing():
        raise Suggestions(following(config, words))
    return _parse_fields(config, description, words, program(), default)


def _parse_fields(
    kind: type[Config], description: str, words: list[str], prog: str, preset: Config | None = None
) -> Config:
    """Read fields; ``--help`` shows the description line by line, so that it can be copied."""
    if {"-h", "--help"} & set(words):
        print(as_typed(description).strip(), end="\n\n", flush=True)
    elif preset is None:
        _refuse_misspelt(kind, words)
    _unwrap_help(kind if preset is None else preset)  # Errors show the help of their fields, too.
    more: dict[str, Any] = {}
    if preset is not None:
        shown = (tyro.conf.AvoidSubcommands, tyro.conf.SuppressFixed)
        more = {"default": preset, "config": shown}
    found: Config = tyro.cli(kind, prog=prog, args=words, description=_COMMON_HELP, **more)
    _require_finite(found)
    return found


def _refuse_misspelt(kind: type[Any], words: Sequence[str]) -> None:
    """End with a suggestion if a required flag is misspelt: tyro would call it missing alone."""
    fields = flag_fields(kind)
    needed = {one.name for one in _required(kind)}
    required = {flag for flag, name in fields.items() if name in needed}
    for word in words:
        flag = word.partition("=")[0].replace("_", "-")
        near = difflib.get_close_matches(flag, fields, n=1) if flag.startswith("--") else []
        if near and near[0] in required and near[0] != flag:
            leave(f"there is no option {flag}", flag, near)


def _require_finite(config: Any) -> None:
    """Leave if a field is NaN or infinite: no comparison with a bound refuses NaN."""
    for name, value in flatten(config).items():
        for number in filter(lambda number: not math.isfinite(number), _floats_in(value)):
            leave(f"--{name.replace('_', '-')} must be a finite number, not {number}")


def _floats_in(value: Any) -> Iterator[float]:
    if isinstance(value, float):
        yield value
    elif isinstance(value, tuple):
        for one in value:
            yield from _floats_in(one)


def _unwrap_help(config: Any) -> None:
    """Join the lines of each field's docstring: tyro would break them where the source does."""
    kind = config if isinstance(config, type) else type(config)
    hints, help_of = typing.get_type_hints(kind), {}
    for base in reversed(kind.__mro__):
        if dataclasses.is_dataclass(base):
            help_of.update(_field_docstrings(base))
    for field in dataclasses.fields(kind):
        field.metadata = types.MappingProxyType({**field.metadata, "help": help_of.get(field.name)})
        inner = hints[field.name] if config is kind else getattr(config, field.name)
        if dataclasses.is_dataclass(inner):
            _unwrap_help(inner)


@functools.cache
def _field_docstrings(kind: type) -> dict[str, str]:
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    body = definition.body if isinstance(definition, ast.ClassDef) else []
    return {
        ast.unparse(field.target): " ".join(docstring.value.value.split())
        for field, docstring in zip(body, body[1:], strict=False)
        if isinstance(field, ast.AnnAssign)
        and isinstance(docstring, ast.Expr)
        and isinstance(docstring.value, ast.Constant)
        and isinstance(docstring.value.value, str)
    }


def _print_presets(
    presets: Mapping[str, Config], description: str, about: Callable[[str, Config], str] | None
) -> None:
    print(as_typed(description).strip())
    print(f"\nusage: {program()} PRESET [OPTIONS]\n\npresets:")
    width = 2 + max(map(len, presets))
    for name, preset in presets.items():
        print(f"  {name:<{width}}{about(name, preset) if about else ''}".rstrip())
    print(f"\n`{program()} {next(iter(presets))} --help` explains the fields of a preset.")
    print(_COMMON_HELP)


def _common_options(args: Sequence[str] | None) -> list[str]:
    """Handle ``--verbose``, an option of every job, and refuse flags of earlier releases."""
    words = list(sys.argv[1:] if args is None else args)
    if VERBOSE in words:
        words.remove(VERBOSE)
        show_everything()
    _refuse_renamed(words)
    return words


def _refuse_renamed(words: Sequence[str]) -> None:
    """End with a sentence if a flag has the name of an earlier release."""
    for word in words:
        flag = word.partition("=")[0]
        parts = flag.removeprefix("--").replace("-", "_").split(".")
        new = [RENAMED_FIELDS.get(part, part) for part in parts]
        if flag.startswith("--") and new != parts:
            leave(f"{flag} is now --{'.'.join(new).replace('_', '-')}")


def leave(
    sentence: str, word: str = "", known: Sequence[str] = (), kind: str = ""
) -> typing.NoReturn:
    """End the process with status 2 and a sentence, for an invalid command line.

    Args:
        sentence: the error.
        word: the unknown word, if any.
        known: the known words, of which the nearest is suggested.
        kind: what the known words are, such as "presets".
    """
    listed = f" The {kind} are: {', '.join(known)}." if kind else ""
    near = suggestion(word, known) or ("." if listed else "")
    print(f"error: {sentence}{near}{listed}", file=sys.stderr)
    raise SystemExit(2)


def run(main: Callable[..., Any], words: Sequence[str] | None = None) -> typing.NoReturn:
    """Run a job's ``main`` and end the process: 0 when done, 1 with one sentence when not.

    An error that the user can correct ends in a sentence; any other is a defect of ours and keeps
    its traceback. Ctrl-C ends in a sentence and status 130, SIGTERM in 143, whatever the libraries
    raise then.

    Args:
        main: the job.
        words: command-line words for ``main``; it reads ``sys.argv[1:]`` if None.

    Raises:
        SystemExit: always, with the status.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # A log file shows each line at once.
        sys.stdout.reconfigure(line_buffering=True)
    reach_this_machine_directly()
    with handled(), first_contact():
        try:
            main() if words is None else main(words)
        except BaseException as error:
            if requested() or isinstance(error, KeyboardInterrupt):
                _leave_interrupted(error)
            _leave_failed(error)
        raise SystemExit(0)


def _leave_interrupted(error: BaseException) -> typing.NoReturn:
    """End the process after a signal; a library may have raised another exception for it."""
    number = error.number if isinstance(error, Interrupted) else requested() or signal.SIGINT
    print(error if isinstance(error, Interrupted) else ENDED, file=sys.stderr, flush=True)
    raise SystemExit(status_of(number)) from None


def _leave_failed(error: BaseException) -> typing.NoReturn:
    if isinstance(error, BrokenPipeError):
        # The reader of our output has closed it, as `| head` does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
    sentence = explain(error) if isinstance(error, Exception) else None
    if sentence is None:
        raise error
    print(f"error: {sentence}", file=sys.stderr)
    raise SystemExit(1) from None


def override(config: Config, changes: Mapping[str, Any]) -> Config:
    """Return a copy of ``config`` with fields replaced by dotted name; its checks run again.

    Args:
        config: a frozen dataclass, possibly nested.
        changes: values by dotted name, as in ``{"model.hole_emphasis": 2.0}``.

    Raises:
        UserError: if a name is unknown, with the nearest one that exists, or a value is of another
            kind than its field.
        ValueError: if the changed configuration is impossible.
    """
    for name, value in changes.items():
        config = _replace(config, name.split("."), value, name, config)
    return config


def _replace(config: Any, path: list[str], value: Any, name: str, root: Any) -> Any:
    head, *rest = path
    if not dataclasses.is_dataclass(config) or head not in {
        f.name for f in dataclasses.fields(config)
    }:
        if head in RENAMED_FIELDS:
            new_name = ".".join([*name.split(".")[: -len(path)], RENAMED_FIELDS[head], *rest])
            raise UserError(f"{name!r} is now {new_name!r}")
        hint = suggestion(name, field_names(root), cutoff=0.4)
        raise UserError(f"there is no field {name!r}{hint}")
    current = getattr(config, head)
    new = _replace(current, rest, value, name, root) if rest else _new(config, head, value, name)
    return dataclasses.replace(config, **{head: new})  # type: ignore[type-var]


def _new(config: Any, field: str, value: Any, name: str) -> Any:
    """Return a field's new value as its type; ``name`` is the field's name for a person."""
    kind: Any = type(config)
    current = getattr(config, field)
    if dataclasses.is_dataclass(current) and isinstance(value, dict):
        first = dataclasses.fields(current)[0].name
        raise UserError(f"{name} is a group of fields: name one, such as {name}.{first}")
    return _decode(_hints(kind)[field], value, name)


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def flatten(config: Any) -> dict[str, Any]:
    """Return every field's value by dotted name."""
    values = {}
    for name in field_names(config):
        value = config
        for part in name.split("."):
            value = getattr(value, part)
        values[name] = value
    return values


def to_dict(config: Any) -> Any:
    """Return a configuration as plain JSON values; a model includes its architecture's name."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        values = {f.name: to_dict(getattr(config, f.name)) for f in dataclasses.fields(config)}
        if isinstance(config, ModelConfig):
            values = {"architecture": config.architecture, **values}
        return values
    if isinstance(config, tuple | list):
        return [to_dict(item) for item in config]
    if isinstance(config, Path):
        return str(config)
    return config


def to_json(config: Any) -> str:
    """Return a configuration as indented JSON."""
    return json.dumps(to_dict(config), indent=2) + "\n"


def from_dict(kind: type[Config], values: Any, name: str = "configuration") -> Config:
    """Rebuild a configuration from :func:`to_dict`'s values.

    Raises:
        UserError: naming a field that is unknown or has another kind of value; missing fields take
            their defaults.
    """
    return typing.cast(Config, _decode(kind, values, name))


def from_json(kind: type[Config], text: str, name: str = "configuration") -> Config:
    """Rebuild a configuration from JSON text; ``name`` is used in error messages.

    Raises:
        UserError: if the text is not JSON or a field is unknown.
    """
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{name} is not JSON: {error}") from error
    return from_dict(kind, values, name)


_SCALARS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def _decode(kind: Any, values: Any, name: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if values is None:
            return None
        return _decode(next(a for a in arguments if a is not type(None)), values, name)
    if origin is tuple:
        return _decode_tuple(arguments, values, name)
    if origin is typing.Literal:
        if values not in arguments:
            raise UserError(f"{name} must be one of {arguments}, not {values!r}"[:300])
        return values
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        if isinstance(values, kind):
            return values
        if not isinstance(values, dict):
            raise UserError(f"{name} must be an object with fields, not {values!r}"[:300])
        return _decode_dataclass(kind, dict(values), name)
    if kind in _SCALARS:
        return _decode_scalar(kind, values, name)
    return Path(values) if kind is Path else values


def _decode_scalar(kind: type, value: Any, name: str) -> Any:
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)  # A search that proposes 4.0 for a whole number means 4.
    accepted = {int: numbers.Integral, float: numbers.Real}.get(kind, kind)
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        raise UserError(f"{name} must be {_SCALARS[kind]}, not {value!r}"[:300])
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{name} must be a finite number, not {value}")
    return kind(value)


def _decode_tuple(arguments: tuple[Any, ...], values: Any, name: str) -> tuple[Any, ...]:
    if not isinstance(values, (list, tuple)):
        raise UserError(f"{name} must be a list, not {values!r}"[:300])
    item = arguments[0] if len(arguments) == 2 and arguments[1] is Ellipsis else None
    return tuple(
        _decode(item or a, v, name) for a, v in zip(_cycle(arguments, values), values, strict=False)
    )


def _cycle(arguments: tuple[Any, ...], values: Sequence[Any]) -> Sequence[Any]:
    return arguments if Ellipsis not in arguments else [arguments[0]] * len(values)


def _renamed(field: str, value: Any) -> Any:
    values = _RENAMED_VALUES.get(field)
    return value if values is None else values.get(value, value)


def _decode_dataclass(kind: Any, values: dict[str, Any], name: str) -> Any:
    if issubclass(kind, ModelConfig):
        if not isinstance(architecture := values.pop("architecture", None), str):
            raise UserError(f"{name} has no architecture: it is not the configuration of a model")
        try:
            kind = config_class(architecture)
        except ValueError as error:
            raise UserError(f"{name}.architecture: {error}") from error
    hints = _hints(kind)
    known = {f.name for f in dataclasses.fields(kind)}
    values = {
        field if field in known else RENAMED_FIELDS.get(field, field): _renamed(field, value)
        for field, value in values.items()
    }
    if unknown := sorted(set(values) - known):
        raise UserError(f"{name} has unknown fields: {', '.join(unknown)}")
    decoded = {key: _decode(hints[key], value, f"{name}.{key}") for key, value in values.items()}
    if missing := [one.name for one in _required(kind) if one.name not in decoded]:
        raise UserError(f"{name} lacks {', '.join(missing)}")
    try:
        return kind(**decoded)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{name}: {error}") from error


def _required(kind: Any) -> list["dataclasses.Field[Any]"]:
    """Return the fields of a dataclass that have no default."""
    none = dataclasses.MISSING
    every = dataclasses.fields(kind)
    return [one for one in every if one.init and one.default is one.default_factory is none]
