"""Dead letters as rows of the store, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from storage.dead_letters import DEAD_LETTER_SCHEMA, headers_of, headers_text
from stream.clock import to_ms
from stream.events import DeadLetter

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime


def rows_of(letters: Iterable[DeadLetter], now: datetime) -> pa.Table:
    """Return dead letters as the store appends them, refused at `now`."""
    at = to_ms(now)
    rows = [
        {
            "topic": letter.topic,
            "part": letter.part,
            "off": letter.off,
            "reason": letter.reason,
            "detail": letter.detail,
            "raw": letter.raw,
            "key": letter.key,
            "headers": headers_text(letter.headers),
            "append_ts_ms": letter.append_ms,
            "size": letter.size,
            "ingested_at_ms": at,
        }
        for letter in letters
    ]
    return pa.Table.from_pylist(rows, schema=DEAD_LETTER_SCHEMA)


def letters_of(rows: pa.Table) -> list[DeadLetter]:
    """Return dead letters from rows of the store."""
    return [letter_of(row) for row in rows.to_pylist()]


def letter_of(row: Mapping[str, Any]) -> DeadLetter:
    """Return a dead letter from the columns of its row."""
    return DeadLetter(
        topic=row["topic"],
        part=row["part"],
        off=row["off"],
        reason=row["reason"],
        detail=row["detail"] or "",
        raw=row["raw"],
        key=row["key"],
        headers=headers_of(row["headers"]),
        append_ms=row["append_ts_ms"],
        size=row["size"],
    )
