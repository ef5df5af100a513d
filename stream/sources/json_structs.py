"""The structs msgspec checks records against, built for a log's own key names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta

from stream.errors import ConfigError
from stream.events import MAX_TS_MS, MIN_TS_MS
from stream.sources.fields import columns_of, fields_of
from stream.sources.times import UNITS_PER_SECOND

if TYPE_CHECKING:
    from stream.config import FileConfig, RecordKind, TimeUnit
    from stream.sources.fields import Field

NOTHING = msgspec.Raw()  # the value of `props` where a record has none

_Id = Annotated[str, Meta(min_length=1)]
_Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]


def record_type(
    config: FileConfig, kind: RecordKind, *, timed: bool = True
) -> type[msgspec.Struct]:
    """Return a struct of one kind that reads the mapped keys.

    Several text columns become the fields text_0, text_1, ...

    Args:
        config: column map and time unit.
        kind: what the records are.
        timed: whether a record without a time is bad; otherwise its log has another time for it.

    Raises:
        ConfigError: two fields would be read from one key, or the map is wrong.
    """
    fields: list[Any] = []
    rename: dict[str, str] = {}
    for field in fields_of(kind):
        keys = columns_of(config, kind).get(field.name, ())
        joined = field.name == "text" and kind == "item"
        names = [f"text_{i}" for i in range(len(keys))] if joined else [field.name]
        for name, key in zip(names, keys, strict=False):
            required = field.required and (timed or field.type != "time")
            fields.append(_struct_field(name, field, config.ts_unit, required=required))
            rename[name] = key
    fields.append(("kind", str | None, None))
    rename["kind"] = "kind"
    keys_read = list(rename.values())
    twice = {key for key in keys_read if keys_read.count(key) > 1}
    if twice:
        raise ConfigError(
            f"column map: {', '.join(sorted(twice))} would be read as two fields; map each key once"
        )
    # Required fields stand first: a struct's fields with defaults must follow those without.
    fields.sort(key=len)
    return msgspec.defstruct(f"{kind.title()}Record", fields, rename=rename, gc=False)


def _struct_field(name: str, field: Field, unit: TimeUnit, *, required: bool) -> tuple[Any, ...]:
    if field.type == "json":
        return (name, msgspec.Raw, NOTHING)
    kind = {"id": _Id, "name": _Id, "text": str, "int": _Int64, "float": float, "bool": bool}
    annotation: Any = _time_type(unit) if field.type == "time" else kind[field.type]
    return (name, annotation) if required else (name, annotation | None, None)


def _time_type(unit: TimeUnit) -> object:
    limit = Meta(ge=MIN_TS_MS, lt=MAX_TS_MS // 1_000 * UNITS_PER_SECOND[unit])
    int_or_text = Annotated[int, limit] | str
    return int_or_text if unit != "s" else int_or_text | Annotated[float, limit]
