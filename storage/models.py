"""The model registry: which versions this database has worked with, and which one serves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa

from storage.database import Tx
from storage.errors import VersionMismatchError
from storage.records import Reader, to_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRow:
    """One registered model version.

    Attributes:
        version: Its name, a content hash.
        digest: Full content hash of the checkpoint.
        config: The model's configuration.
        trained_through_ms: Newest event used for anything fitted, None when unknown.
        path: Where the checkpoint was, None when it had no file.
        registered_at_ms: Time of registration.
        activation: Grows with each switch of versions; None when it never served.
    """

    version: str
    digest: str
    config: dict[str, Any]
    trained_through_ms: int | None
    path: str | None
    registered_at_ms: int
    activation: int | None


def register(
    tx: Tx,
    *,
    version: str,
    digest: str,
    config: Mapping[str, Any],
    trained_through_ms: int | None,
    path: str | None,
    at: datetime,
    activate: bool = True,
) -> bool:
    """Make a version known and, unless told otherwise, the serving one; say whether anything changed.

    Raises:
        VersionMismatchError: The version is registered with another digest or configuration.
    """
    text = json.dumps(dict(config), sort_keys=True)
    known = {row.version: row for row in list_models(tx)}
    top = max((row.activation or 0 for row in known.values()), default=0)
    old = known.get(version)
    if old is not None:
        _check_same(old, digest, text)
        serving = old.activation is not None and old.activation == top
        if not activate or serving:
            return False
        tx.execute("UPDATE model_registry SET activation = ? WHERE version = ?", [top + 1, version])
        return True
    tx.insert(
        "model_registry",
        pa.table({
            "version": pa.array([version], pa.string()),
            "digest": pa.array([digest], pa.string()),
            "config": pa.array([text], pa.string()),
            "trained_through_ms": pa.array([trained_through_ms], pa.int64()),
            "path": pa.array([path], pa.string()),
            "registered_at_ms": pa.array([to_ms(at)], pa.int64()),
            "activation": pa.array([top + 1 if activate else None], pa.int32()),
        }),
    )
    return True


def active(reader: Reader) -> ModelRow | None:
    """Return the version activated last, None when none was."""
    rows = [row for row in list_models(reader) if row.activation is not None]
    return max(rows, key=lambda row: row.activation or 0, default=None)


def list_models(reader: Reader) -> list[ModelRow]:
    """Return every registered version in order of registration."""
    table = reader.query(
        "SELECT version, digest, config, epoch_ms(trained_through) AS trained_through_ms, path, "
        "epoch_ms(registered_at) AS registered_at_ms, activation FROM model_registry "
        "ORDER BY registered_at, rowid"
    )
    rows = []
    for row in table.to_pylist():
        config: dict[str, Any] = json.loads(row.pop("config"))
        rows.append(ModelRow(config=config, **row))
    return rows


def _check_same(old: ModelRow, digest: str, config: str) -> None:
    if old.digest != digest:
        raise VersionMismatchError(
            f"model version {old.version} is registered with content {old.digest}, not {digest}; "
            "give the changed model its own version"
        )
    if json.dumps(old.config, sort_keys=True) != config:
        raise VersionMismatchError(
            f"model version {old.version} is registered with another configuration; use the checkpoint "
            "it was registered from, or give the changed model its own version"
        )
