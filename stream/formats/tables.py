"""Rename tables: TOML files that say where each field stands in records of another shape.

A table has a section per kind of record; a field is a path, a path with a map of values, or a constant:

    [interaction]
    user_id = "user.id"
    event_type = { path = "action", values = { buy = "purchase" } }
    value = { constant = 1.0 }

    [item]
    item_id = "sku"
    text = ["title", "fields[name=color].value"]     # joined by blanks

Values that a map does not list stay as they are. Ids and texts that are whole numbers become text, as in
columns of files.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from stream.config import FileConfig, RecordKind, TimeUnit
from stream.errors import ConfigError
from stream.formats.paths import Path as FieldPath
from stream.formats.paths import compile_path, value_at
from stream.sources.fields import Field, fields_of
from stream.sources.json_records import unknown_kind
from stream.sources.record_columns import KINDS, Bad

FOLDER = Path(__file__).parent / "tables"
_Scalar = str | int | float | bool
_KIND = Field("kind", "name")


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    path: str = ""
    constant: _Scalar | None = None
    values: dict[str, _Scalar] = {}


_Given = str | list[str] | _Entry


class _File(msgspec.Struct, forbid_unknown_fields=True):
    kind: str | _Entry | None = None
    ts_unit: TimeUnit | None = None
    ts_format: str | None = None
    interaction: dict[str, _Given] = {}
    item: dict[str, _Given] = {}


@dataclass(frozen=True, slots=True)
class Rule:
    """Where one field comes from.

    Attributes:
        field: the canonical field.
        paths: one, or for texts several; none for a constant.
        constant: the value where there is no path.
        values: what values become.
    """

    field: Field
    paths: tuple[FieldPath, ...]
    constant: _Scalar | None
    values: dict[str, _Scalar]

    def read(self, tree: object) -> object:
        """Return the field's value, None where the record has none, `Bad` for another shape."""
        if not self.paths:
            return self.constant
        value = value_at(tree, self.paths[0])
        if len(self.paths) > 1:
            value = _joined([value, *(value_at(tree, path) for path in self.paths[1:])])
        if type(value) is str:
            return self.values.get(value, value) if self.values else value
        return value if value is None or isinstance(value, Bad) else self._converted(value)

    def _converted(self, value: object) -> object:
        """Return what stands for a value that is no text."""
        if self.values and isinstance(value, int):
            return self.values.get(_spelled(value), value)
        if self.field.type == "text" and isinstance(value, list):
            return _joined(value)
        if self.field.type in {"id", "name", "text"} and type(value) is int:
            return str(value)
        return value


@dataclass(frozen=True, slots=True)
class Table:
    """A rename table, ready to read records.

    Attributes:
        name: as it was asked for.
        rules: per kind, one rule per field; a kind without rules is not read.
        kind: says which kind a record is; None leaves it to the topic.
        ts_unit: of its numeric times; None leaves it to the topic.
        ts_format: of its textual times; None leaves it to the topic.
    """

    name: str
    rules: dict[RecordKind, tuple[Rule, ...]]
    kind: Rule | None = None
    ts_unit: TimeUnit | None = None
    ts_format: str | None = None

    def timed(self, config: FileConfig) -> FileConfig:
        """Return the configuration with the table's own times."""
        unit, text = self.ts_unit, self.ts_format
        return replace(
            config,
            ts_unit=config.ts_unit if unit is None else unit,
            ts_format=config.ts_format if text is None else text,
        )

    def kind_of(self, tree: object, default: RecordKind) -> RecordKind | Bad:
        """Return the kind of a record."""
        found = default if self.kind is None else self.kind.read(tree)
        if isinstance(found, Bad):
            return found
        if found is None:
            found = default
        for kind in KINDS:
            if found == kind and self.rules.get(kind):
                return kind
        return unknown_kind(found, self.kind.paths[0].text if self.kind else "kind")

    def fields(self, tree: object, kind: RecordKind) -> dict[str, object] | Bad:
        """Return the record's values by canonical name; absent ones are left out."""
        values: dict[str, object] = {}
        for rule in self.rules[kind]:
            value = rule.read(tree)
            if isinstance(value, Bad):
                return value
            if value is not None:
                values[rule.field.name] = value
        return values

    def place(self, kind: RecordKind, name: str) -> str:
        """Return where a canonical field stands in the record, for messages."""
        paths = [p for rule in self.rules[kind] if rule.field.name == name for p in rule.paths]
        return paths[0].text if paths else name


def load_table(name: str) -> Table:
    """Return a rename table.

    Args:
        name: of a shipped table, or a path to a TOML file.

    Raises:
        ConfigError: there is no such table, or it can not be used; the message names file and field.
    """
    path = FOLDER / f"{name}.toml" if name in shipped() else Path(name)
    try:
        given = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), _File)
    except OSError as err:
        raise ConfigError(
            f"{name}: no such rename table ({err.strerror}); shipped are {', '.join(shipped())},"
            " anything else is a path"
        ) from err
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as err:
        raise ConfigError(f"{path}: not a rename table: {err}; correct that place") from err
    sections: dict[RecordKind, dict[str, _Given]] = {
        "interaction": given.interaction,
        "item": given.item,
    }
    rules = {kind: _rules(path, kind, section) for kind, section in sections.items() if section}
    if not rules:
        raise ConfigError(f"{path}: neither [interaction] nor [item]; a table needs one of them")
    kind = None if given.kind is None else _rule(_KIND, given.kind, f"{path}: kind")
    return Table(name, rules, kind, given.ts_unit, given.ts_format)


def shipped() -> list[str]:
    """Return the names of the tables that come with freshet."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def _rules(path: Path, kind: RecordKind, section: dict[str, _Given]) -> tuple[Rule, ...]:
    known = {field.name: field for field in fields_of(kind) if field.name != "append_ts"}
    unknown = sorted(set(section) - set(known))
    if unknown:
        raise ConfigError(
            f"{path}: no field {unknown[0]!r} of an {kind}; fields are {', '.join(known)}"
        )
    missing = [
        f.name for f in known.values() if f.required and f.type == "id" and f.name not in section
    ]
    if missing:
        raise ConfigError(f"{path}: [{kind}] says nothing about {missing[0]}; every {kind} has one")
    return tuple(
        _rule(known[name], given, f"{path}: {kind}.{name}") for name, given in section.items()
    )


def _rule(field: Field, given: _Given, where: str) -> Rule:
    entry = given if isinstance(given, _Entry) else _Entry()
    texts = (
        [given] if isinstance(given, str) else given if isinstance(given, list) else [entry.path]
    )
    if isinstance(given, _Entry) and bool(entry.path) == (entry.constant is not None):
        raise ConfigError(f"{where}: needs either a path or a constant")
    if len(texts) != 1 and (field.name != "text" or not texts):
        raise ConfigError(f"{where}: one path; only the text of items joins several")
    try:
        paths = () if entry.constant is not None else tuple(map(compile_path, texts))
    except ConfigError as err:
        raise ConfigError(f"{where}: {err}") from err
    return Rule(field, paths, entry.constant, dict(entry.values))


def _spelled(value: str | int) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _joined(values: list[Any]) -> object:
    """Return texts, numbers and lists of them joined by blanks; anything else as it is, to be refused."""
    words: list[str] = []
    for value in values:
        if isinstance(value, Bad):
            return value
        inner = value if isinstance(value, list) else [value]
        if any(isinstance(word, dict | list) for word in inner):
            return inner
        words += [_spelled(w) if isinstance(w, int) else str(w) for w in inner if w is not None]
    return " ".join(word for word in words if word) or None
