"""Dead letters: records that could not be read as events, kept with reason and position."""

from __future__ import annotations

import pyarrow as pa

from storage.database import Tx
from storage.errors import StorageError
from storage.records import Reader

DEAD_LETTER_SCHEMA = pa.schema([
    pa.field("topic", pa.string(), nullable=False),
    pa.field("part", pa.int32(), nullable=False),
    pa.field("off", pa.int64(), nullable=False),
    pa.field("reason", pa.string(), nullable=False),
    pa.field("detail", pa.string()),
    pa.field("raw", pa.binary()),
    pa.field("ingested_at_ms", pa.int64(), nullable=False),
])
"""One record that was refused."""


def append(tx: Tx, table: pa.Table) -> int:
    """Append dead letters (`DEAD_LETTER_SCHEMA`) and return their number.

    Raises:
        StorageError: Columns are missing or of a wrong type.
    """
    try:
        rows = table.select(DEAD_LETTER_SCHEMA.names).cast(DEAD_LETTER_SCHEMA)
    except (KeyError, ValueError, pa.ArrowException) as error:
        raise StorageError(f"dead letters do not fit the table: {error}") from error
    return tx.insert("dead_letters", rows)


def latest(reader: Reader, limit: int = 50) -> pa.Table:
    """Return the newest dead letters (`DEAD_LETTER_SCHEMA`), newest first."""
    return reader.query(
        "SELECT * EXCLUDE (ingested_at), epoch_ms(ingested_at) AS ingested_at_ms FROM dead_letters "
        "ORDER BY ingested_at DESC, topic, part, off DESC LIMIT ?",
        [limit],
    )


def counts(reader: Reader) -> pa.Table:
    """Return (topic, part, reason, n), most frequent first."""
    return reader.query(
        "SELECT topic, part, reason, count(*) AS n FROM dead_letters "
        "GROUP BY topic, part, reason ORDER BY n DESC, topic, part, reason"
    )
