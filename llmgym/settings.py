"""Settings as nested frozen dataclasses: from a table, with overrides, to TOML. Knows no particular setting.

A setting is a bool, int, float, str, Literal, tuple of any length, another dataclass, or one of these or None. TOML
has no null: the word "none" stands for it wherever None is allowed. A field's help is its line under "Attributes:".
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import inspect
import re
import textwrap
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import tomli_w

from llmgym.errors import ConfigError, did_you_mean

__all__ = ["SettingHelp", "apply_overrides", "describe", "from_dict", "read_toml", "to_dict", "to_toml", "type_text"]

SettingsType = TypeVar("SettingsType")
_KEY = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_UNIONS = (typing.Union, types.UnionType)
_NONE = "none"


@dataclasses.dataclass(frozen=True, slots=True)
class SettingHelp:
    """What a user may want to know of one setting.

    Attributes:
        key: dotted, as in a recipe or after --set.
        type: in words.
        default: as TOML writes it; empty for a section, "required" where there is none.
        help: the field's entry in the docstring of its class.
    """

    key: str
    type: str
    default: str
    help: str


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        ConfigError: there is no such file, or it is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"Expected a TOML file at {path}, found none to read: {reason}. Check the path.") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"Expected {path} to be TOML, found a mistake: {error}. Correct that line.") from error


def apply_overrides(data: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Return a copy of a table with every ``key=value`` set, the key dotted and the value as TOML writes it.

    Bare words are texts; a later override wins.

    Raises:
        ConfigError: an override is not of that form, or its key leads through a value that is no table.

    >>> apply_overrides({"learner": {"epochs": 4}}, ["learner.epochs=2", "env=llmgym/BabyAI-GoToLocal-v0"])
    {'learner': {'epochs': 2}, 'env': 'llmgym/BabyAI-GoToLocal-v0'}
    """
    result = copy.deepcopy(dict(data))
    for override in overrides:
        key, _, text = (part.strip() for part in override.partition("="))
        if not _KEY.fullmatch(key) or not text:
            raise ConfigError(f"Expected key=value, found '{override}'. Write it like learner.epochs=2.")
        *parents, name = key.split(".")
        table = result
        for depth, parent in enumerate(parents, start=1):
            if table.get(parent, _NONE) == _NONE:
                table[parent] = {}
            table = table[parent]
            if not isinstance(table, dict):
                stem = ".".join(parents[:depth])
                raise ConfigError(
                    f"Expected '{stem}' to be a section, to set {key} in it, found {table!r}. Correct the key."
                )
        table[name] = _parse_value(key, text)
    return result


def from_dict(cls: type[SettingsType], data: Mapping[str, Any], path: str = "") -> SettingsType:
    """Build settings from a table; what the table leaves out keeps its default.

    Args:
        path: dotted key of the table itself, for messages; empty at the top.

    Raises:
        ConfigError: a key is unknown or missing, or a value has another type than its setting.
    """
    known = tuple(setting.key for setting in describe(cls, path))
    return typing.cast(SettingsType, _build(cls, data, path, None, known))


def to_dict(settings: Any, base: Any = None) -> dict[str, Any]:
    """Return settings as a table that `from_dict` reads back equal; None is left out where it is the default.

    Args:
        base: what fields that are left out will be taken from, if not from the defaults of the class.
    """
    table: dict[str, Any] = {}
    for field in dataclasses.fields(settings):
        value, default = getattr(settings, field.name), _default(type(settings), field, base)
        if dataclasses.is_dataclass(value):
            table[field.name] = to_dict(value, default)
        elif isinstance(value, tuple):
            table[field.name] = [to_dict(item) if dataclasses.is_dataclass(item) else item for item in value]
        elif value is not None:
            table[field.name] = copy.deepcopy(value)
        elif default is not None:
            table[field.name] = _NONE
    return table


def to_toml(settings: Any, *, with_help: bool = False, more_helps: Mapping[str, str] | None = None) -> str:
    """Write settings as TOML that reads back equal, on request with every field's help, and more, above it."""
    helps = {setting.key: setting.help for setting in describe(type(settings))} | dict(more_helps or {})
    return "\n".join(_toml_lines(to_dict(settings), "", helps if with_help else {})).strip() + "\n"


def describe(cls: Any, path: str = "", base: Any = None) -> list[SettingHelp]:
    """List every setting of a dataclass, a section before what is in it.

    Args:
        path: dotted key of the dataclass itself; empty at the top.
        base: holds the defaults, if not the class.
    """
    helps, hints, settings = _attribute_helps(cls), typing.get_type_hints(cls), []
    for field in dataclasses.fields(cls):
        key, annotation, default = _join(path, field.name), hints[field.name], _default(cls, field, base)
        section = _section(annotation)
        if default is dataclasses.MISSING:
            shown = "required"
        else:
            shown = "" if dataclasses.is_dataclass(default) else _toml_value(default)
        settings.append(SettingHelp(key, type_text(annotation), shown, helps.get(field.name, "")))
        if section is not None:
            settings.extend(describe(section, key, default))
    return settings


def type_text(annotation: Any) -> str:
    """Name a type for a user.

    >>> type_text(tuple[str, ...] | None)
    'list of str or "none"'
    """
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in _UNIONS:
        return " or ".join(type_text(member) for member in arguments)
    if origin is Literal:
        return " or ".join(_toml_value(choice) for choice in arguments)
    if origin is tuple:
        return "list of tables" if dataclasses.is_dataclass(arguments[0]) else f"list of {type_text(arguments[0])}"
    if origin is dict:
        return "a table"
    if annotation is type(None):
        return f'"{_NONE}"'
    return "a section" if dataclasses.is_dataclass(annotation) else str(annotation.__name__)


def _parse_value(key: str, text: str) -> Any:
    """Read a value as TOML writes it; what is no TOML is a text, unless it begins like a quoted text or a list."""
    try:
        table = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError as error:
        if text[0] not in "\"'[{":
            return text
        raise ConfigError(f"Expected {key} to be a TOML value, found {text}: {error}. Check its quotes.") from error
    return table["value"] if len(table) == 1 and isinstance(table["value"], int | float | str | list | dict) else text


def _build(cls: Any, data: Mapping[str, Any], path: str, base: Any, known: tuple[str, ...]) -> Any:
    """Build one dataclass; fields that data leaves out come from base where it is of the same class."""
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key in data:
        if key not in fields:
            raise ConfigError(_unknown_key(_join(path, key), path, list(fields), known))
    values = {name: _default(cls, field, base) for name, field in fields.items()}
    for name, value in values.items():
        key = _join(path, name)
        if name in data:
            values[name] = _convert(hints[name], data[name], key, value, known)
        elif value is dataclasses.MISSING:
            raise ConfigError(
                f"Expected a value for {key} ({type_text(hints[name])}), found none. "
                f"Add it to the recipe, or use --set {key}=..."
            )
    return cls(**values)


def _convert(annotation: Any, value: Any, key: str, default: Any, known: tuple[str, ...]) -> Any:
    """Return the value as one of the annotated types, or raise."""
    section = _section(annotation)
    if section is not None and isinstance(value, Mapping):
        return _build(section, value, key, default, known)
    for member in _members(annotation):
        origin, arguments = typing.get_origin(member), typing.get_args(member)
        if member is type(None) and value == _NONE:
            return None
        if origin is Literal and any(value == choice and type(value) is type(choice) for choice in arguments):
            return value
        if origin is tuple and isinstance(value, list):
            missing = dataclasses.MISSING
            return tuple(_convert(arguments[0], item, f"{key}[{n}]", missing, known) for n, item in enumerate(value))
        if origin is dict and isinstance(value, Mapping):
            return copy.deepcopy(dict(value))
        if member is float and type(value) is int:
            return float(value)
        if type(value) is member:
            return value
    hint = did_you_mean(value, _choices(annotation)) if isinstance(value, str) else ""
    default = dataclasses.MISSING if dataclasses.is_dataclass(default) or default is None else default
    example = "" if default is dataclasses.MISSING else f" The default is {key} = {_toml_value(default)}."
    raise ConfigError(
        f"Expected {key} to be {type_text(annotation)}, found {value!r} ({type(value).__name__}). "
        f"Correct it in the recipe, or use --set {key}=...{hint}{example}"
    )


def _default(cls: Any, field: dataclasses.Field[Any], base: Any) -> Any:
    """Return what a field holds when nothing sets it; MISSING where it must be set."""
    if type(base) is cls:
        return getattr(base, field.name)
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _members(annotation: Any) -> tuple[Any, ...]:
    """Return the alternatives of a union, or the annotation alone."""
    return typing.get_args(annotation) if typing.get_origin(annotation) in _UNIONS else (annotation,)


def _section(annotation: Any) -> Any:
    """Return the dataclass among the annotated types, or None."""
    return next((member for member in _members(annotation) if dataclasses.is_dataclass(member)), None)


def _choices(annotation: Any) -> list[str]:
    """Return the texts that a Literal among the annotated types allows."""
    literals = [member for member in _members(annotation) if typing.get_origin(member) is Literal]
    return [choice for literal in literals for choice in typing.get_args(literal) if isinstance(choice, str)]


def _attribute_helps(cls: Any) -> dict[str, str]:
    """Read the help of every field from the "Attributes:" of a docstring."""
    _, _, body = inspect.cleandoc(cls.__doc__ or "").partition("Attributes:\n")
    entries = re.findall(r"^    (\w+): (.*(?:\n     +.*)*)", body, flags=re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def _unknown_key(key: str, path: str, fields: Sequence[str], known: tuple[str, ...]) -> str:
    """Say which key is unknown, and which one it may mean: a neighbour, or one of that name elsewhere."""
    leaf = key.rpartition(".")[2]
    near = [_join(path, name) for name in difflib.get_close_matches(leaf, fields, n=1)]
    near += [other for other in known if other.rpartition(".")[2] == leaf]
    hint = f"Did you mean '{near[0]}'?" if near else "Remove it."
    place = f"in [{path}]" if path else "at the top"
    return f"Expected a known key {place} ({', '.join(fields)}), found '{key}'. {hint}"


def _toml_lines(table: Mapping[str, Any], path: str, helps: Mapping[str, str]) -> list[str]:
    """Write a table: first its values, then its sections."""
    lines = []
    for name, value in sorted(table.items(), key=lambda item: isinstance(item[1], dict)):
        key = _join(path, name)
        comment = textwrap.wrap(helps.get(key, ""), 110, initial_indent="# ", subsequent_indent="# ")
        if isinstance(value, dict):
            lines += ["", *comment, f"[{key}]", *_toml_lines(value, key, helps)]
        else:
            lines += [*comment, f"{name} = {_toml_value(value)}"]
    return lines


def _toml_value(value: Any) -> str:
    value = _NONE if value is None else value
    if isinstance(value, list | tuple):
        return f"[{', '.join(_toml_value(item) for item in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key} = {_toml_value(item)}' for key, item in value.items())}}}"
    return tomli_w.dumps({"value": value}).partition("=")[2].strip()


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
