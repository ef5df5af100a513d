"""The optional bounded log of served slates in the database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pyarrow as pa

from storage import slates as slate_store
from stream.slates import Cause, Coverage, ReadOutName, ScoredItem, Slate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from storage.database import Tx
    from storage.identities import Identities

SLATES = """
    SELECT s.slate_id, u.user_id, epoch_ms(s.asked_at) AS at_ms, s.topic, s.part, s.off, r.event_id,
        epoch_ms(r.ts) AS ts_ms, s.model_version, s.reason, s.items, s.detail
    FROM slates s JOIN users u ON u.user_idx = s.user_idx
    LEFT JOIN rows_all r ON r.topic = s.topic AND r.part = s.part AND r.off = s.off
    ORDER BY s.slate_no"""
"""Rows for `slate_of`, oldest first."""


def log_slates(tx: Tx, slates: Sequence[Slate], identities: Identities, *, keep: int) -> None:
    """Append slates and keep the newest `keep` of all; 0 keeps no log."""
    if not keep or not slates:
        return
    slate_store.append(tx, pa.Table.from_pylist([_row(s, identities) for s in slates[-keep:]]))
    slate_store.trim(tx, keep)


def slate_of(row: Mapping[str, Any]) -> Slate:
    """Return the slate of one row of `SLATES`.

    Raises:
        msgspec.DecodeError: the row is of another version.
    """
    detail = msgspec.json.decode(row["detail"], type=_Detail)
    cause = None
    if row["ts_ms"] is not None:
        cause = Cause(
            topic=row["topic"],
            partition=row["part"],
            offset=row["off"],
            event_id=row["event_id"],
            ts=row["ts_ms"],
        )
    return Slate(
        id=row["slate_id"],
        user_id=row["user_id"],
        at_ms=row["at_ms"],
        cause=cause,
        items=msgspec.json.decode(row["items"], type=tuple[ScoredItem, ...]),
        model_version=row["model_version"],
        coverage=detail.coverage,
        reason=row["reason"],
        readout=detail.readout,
        popularity_cut_ms=detail.cut_ms,
    )


class _Detail(msgspec.Struct, frozen=True):
    """What a row of the log holds as JSON beside its columns."""

    coverage: Coverage
    readout: ReadOutName
    cut_ms: int | None


def _row(slate: Slate, identities: Identities) -> dict[str, object]:
    cause = slate.cause
    detail = _Detail(slate.coverage, slate.readout, slate.popularity_cut_ms)
    return {
        "slate_id": slate.id,
        "user_idx": identities.find_user(slate.user_id),
        "at_ms": slate.at_ms,
        "topic": cause.topic if cause else "",
        "part": cause.partition if cause else 0,
        "off": cause.offset if cause else 0,
        "model_version": slate.model_version,
        "reason": slate.reason,
        "items": msgspec.json.encode(slate.items).decode(),
        "detail": msgspec.json.encode(detail).decode(),
    }
