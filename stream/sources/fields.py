"""Canonical fields, and where each is found in a file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from stream.errors import ConfigError

if TYPE_CHECKING:
    from stream.config import FileConfig, RecordKind

ROW_NUMBER = "@row"
TEXT_JOINER = "+"

FieldType = Literal["id", "name", "text", "json", "time", "int", "float", "bool"]


@dataclass(frozen=True, slots=True)
class Field:
    """One canonical field.

    Attributes:
        name: canonical name.
        type: "id" and "name" are non-empty strings ("id" also takes integer columns), "json" is
            raw JSON text.
        required: absent or null makes the record a dead letter.
    """

    name: str
    type: FieldType
    required: bool = False


INTERACTION_FIELDS = (
    Field("user_id", "id", required=True),
    Field("item_id", "id", required=True),
    Field("event_type", "name"),
    Field("ts", "time", required=True),
    Field("seq", "int"),
    Field("value", "float"),
    Field("event_id", "text"),
    Field("session_id", "text"),
    Field("recommendation_id", "text"),
    Field("props", "json"),
    Field("append_ts", "time"),
)
ITEM_FIELDS = (
    Field("item_id", "id", required=True),
    Field("text", "text"),
    Field("available", "bool"),
    Field("first_seen", "time"),
    Field("ts", "time"),  # stands in for first_seen where that is absent
)


def fields_of(kind: RecordKind) -> tuple[Field, ...]:
    """Return the canonical fields of one kind of record."""
    return INTERACTION_FIELDS if kind == "interaction" else ITEM_FIELDS


def columns_of(config: FileConfig, kind: RecordKind) -> dict[str, tuple[str, ...]]:
    """Return field -> the file's columns it is read from; fields filled by the reader are left out.

    Raises:
        ConfigError: the map names an unknown field, or uses "@row" or "+" where it has no meaning.
    """
    _check_names(config)
    found: dict[str, tuple[str, ...]] = {}
    for field in fields_of(kind):
        column = config.columns.get(field.name, field.name)
        if column == ROW_NUMBER:
            continue
        joined = field.name == "text" and TEXT_JOINER in column
        found[field.name] = tuple(column.split(TEXT_JOINER)) if joined else (column,)
    return found


def _check_names(config: FileConfig) -> None:
    known = [field.name for field in fields_of(config.kind)]
    for name, column in config.columns.items():
        if name not in known:
            raise ConfigError(f"column map: no field {name!r}; fields are {', '.join(known)}")
        if not column:
            raise ConfigError(f"column map: {name} has no column; write {name}=COLUMN")
        if column == ROW_NUMBER and name != "seq":
            raise ConfigError(f"column map: only seq can be {ROW_NUMBER}, not {name}")


def seq_is_row(config: FileConfig) -> bool:
    """Return whether `seq` takes the record's own offset."""
    return config.columns.get("seq") == ROW_NUMBER
