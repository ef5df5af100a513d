"""Refresh runs and refresh failures: what was compressed when, and what keeps failing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import pyarrow as pa

from storage.database import Tx
from storage.records import PartitionKey, Reader, to_timestamp

Status = Literal["running", "done", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRow:
    """One refresh run.

    Attributes:
        run_id: Its number.
        model_version: Version that compressed.
        at_ms: Time of the tick.
        watermark: Epoch ms per partition the plan was made for.
        users: Users with new groups.
        segments: Groups written.
        seconds: Compute time.
        visible_from_ms: When readers may see the groups, None while unknown.
        status: `running`, `done` or `failed`.
        note: Free text.
    """

    run_id: int
    model_version: str
    at_ms: int
    watermark: dict[PartitionKey, int]
    users: int
    segments: int
    seconds: float
    visible_from_ms: int | None
    status: Status
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureRow:
    """A user whose compression failed.

    Attributes:
        user_idx: Internal user id.
        model_version: Version that failed.
        attempts: Failures so far.
        error: The last one.
        quarantined: No further attempts are made.
        at_ms: Time of the last failure.
    """

    user_idx: int
    model_version: str
    attempts: int
    error: str
    quarantined: bool
    at_ms: int


def next_run_id(reader: Reader) -> int:
    """Return the number for a new run, from 1."""
    table = reader.query("SELECT coalesce(max(run_id), 0) + 1 AS run_id FROM refresh_runs")
    return int(table["run_id"][0].as_py())


def put_runs(tx: Tx, rows: Sequence[RunRow]) -> None:
    """Store runs, replacing earlier states of them."""
    for row in rows:
        tx.execute("DELETE FROM refresh_runs WHERE run_id = ?", [row.run_id])
    add_runs(tx, rows)


def add_runs(tx: Tx, rows: Sequence[RunRow]) -> None:
    """Store runs whose numbers are new."""
    marks = [
        json.dumps([[topic, part, ms] for (topic, part), ms in sorted(row.watermark.items())])
        for row in rows
    ]
    tx.insert(
        "refresh_runs",
        pa.table({
            "run_id": pa.array([row.run_id for row in rows], pa.int64()),
            "model_version": pa.array([row.model_version for row in rows], pa.string()),
            "ran_at_ms": pa.array([row.at_ms for row in rows], pa.int64()),
            "watermark": pa.array(marks, pa.string()),
            "users": pa.array([row.users for row in rows], pa.int64()),
            "segments": pa.array([row.segments for row in rows], pa.int64()),
            "seconds": pa.array([row.seconds for row in rows], pa.float64()),
            "visible_from_ms": pa.array([row.visible_from_ms for row in rows], pa.int64()),
            "status": pa.array([row.status for row in rows], pa.string()),
            "note": pa.array([row.note for row in rows], pa.string()),
        }),
    )


def list_runs(reader: Reader, limit: int | None = 50) -> list[RunRow]:
    """Return the newest runs, newest first; None for all."""
    table = reader.query(
        "SELECT run_id, model_version, epoch_ms(ran_at) AS at_ms, watermark, users, segments, seconds, "
        "epoch_ms(visible_from) AS visible_from_ms, status, coalesce(note, '') AS note "
        "FROM refresh_runs ORDER BY run_id DESC LIMIT ?",
        [limit],
    )
    rows = []
    for row in table.to_pylist():
        marks = {(topic, part): ms for topic, part, ms in json.loads(row.pop("watermark"))}
        rows.append(RunRow(watermark=marks, **row))
    return rows


def record_failure(
    tx: Tx, user_idx: int, version: str, error: str, at: datetime, *, quarantine_after: int = 3
) -> int:
    """Count a failure of a user under a version and return how many there are now."""
    table = tx.query(
        "SELECT attempts FROM refresh_failures WHERE user_idx = ? AND model_version = ?",
        [user_idx, version],
    )
    attempts = 1 + (int(table["attempts"][0].as_py()) if table.num_rows else 0)
    clear_failure(tx, user_idx, version)
    tx.execute(
        "INSERT INTO refresh_failures VALUES (?, ?, ?, ?, ?, ?)",
        [user_idx, version, attempts, error, attempts >= quarantine_after, to_timestamp(at)],
    )
    return attempts


def clear_failure(tx: Tx, user_idx: int, version: str) -> None:
    """Forget the failures of a user under a version."""
    tx.execute(
        "DELETE FROM refresh_failures WHERE user_idx = ? AND model_version = ?", [user_idx, version]
    )


def failures(reader: Reader, version: str | None = None) -> list[FailureRow]:
    """Return the users whose compression failed, under one version or all."""
    table = reader.query(
        "SELECT user_idx, model_version, attempts, error, quarantined, epoch_ms(failed_at) AS at_ms "
        "FROM refresh_failures WHERE ?::VARCHAR IS NULL OR model_version = ?::VARCHAR "
        "ORDER BY user_idx, model_version",
        [version, version],
    )
    return [FailureRow(**row) for row in table.to_pylist()]
