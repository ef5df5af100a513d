"""The optional, bounded log of slates that were given."""

from __future__ import annotations

import pyarrow as pa

from storage.database import Tx
from storage.errors import StorageError
from storage.records import Reader

SLATE_SCHEMA = pa.schema([
    pa.field("slate_id", pa.string(), nullable=False),
    pa.field("user_idx", pa.int64(), nullable=False),
    pa.field("at_ms", pa.int64(), nullable=False),
    pa.field("topic", pa.string()),
    pa.field("part", pa.int32()),
    pa.field("off", pa.int64()),
    pa.field("model_version", pa.string()),
    pa.field("reason", pa.string(), nullable=False),
    pa.field("items", pa.string(), nullable=False),
    pa.field("detail", pa.string()),
])
"""One slate; `items` and `detail` are JSON."""


def append(tx: Tx, table: pa.Table) -> int:
    """Append slates (`SLATE_SCHEMA`) and return their number.

    Raises:
        StorageError: Columns are missing or of a wrong type.
    """
    try:
        rows = table.select(SLATE_SCHEMA.names).cast(SLATE_SCHEMA)
    except (KeyError, ValueError, pa.ArrowException) as error:
        raise StorageError(f"slates do not fit the table: {error}") from error
    names = ["asked_at_ms" if name == "at_ms" else name for name in rows.column_names]
    rows = rows.rename_columns(names)
    last = int(tx.query("SELECT coalesce(max(slate_no), 0) AS n FROM slates")["n"][0].as_py())
    numbers = pa.array(range(last + 1, last + 1 + rows.num_rows), pa.int64())
    return tx.insert("slates", rows.append_column("slate_no", numbers))


def trim(tx: Tx, keep: int) -> int:
    """Delete all but the newest `keep` slates and return how many went."""
    return tx.execute(
        "DELETE FROM slates WHERE slate_no <= (SELECT max(slate_no) FROM slates) - ?", [keep]
    )


def recent(reader: Reader, user_idx: int, limit: int = 20) -> pa.Table:
    """Return a user's newest slates (`SLATE_SCHEMA`), newest first."""
    return reader.query(
        "SELECT slate_id, user_idx, epoch_ms(asked_at) AS at_ms, topic, part, off, model_version, "
        "reason, items, detail FROM slates WHERE user_idx = ? ORDER BY slate_no DESC LIMIT ?",
        [user_idx, limit],
    )
