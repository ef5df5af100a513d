"""Records of a batch in the shape in which the store appends them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from storage import dead_letters
from storage.records import INTERACTION_SCHEMA
from stream.clock import to_ms
from stream.dead_rows import rows_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from numpy.typing import NDArray

    from storage.database import Tx
    from stream.events import DeadLetter
    from stream.judge import Verdicts


def appendable(
    table: pa.Table,
    users: NDArray[np.int64],
    item_idx: NDArray[np.int64],
    verdicts: Verdicts,
    now: datetime,
) -> pa.Table:
    """Rows in the shape the store appends."""
    keys = {
        "h_ts_ms": table["ts"].to_numpy().copy(),
        "h_seq": table["seq"].to_numpy().copy(),
        "h_part": table["part"].to_numpy().astype(np.int32),
        "h_off": table["off"].to_numpy().copy(),
    }
    displaced = np.zeros(table.num_rows, dtype=bool)
    for i, key in verdicts.displaced.items():
        displaced[i] = True
        for name, values in keys.items():
            values[i] = getattr(key, name)
    columns = {
        "user_idx": users,
        "item_idx": item_idx,
        "event_type": table["event_type"],
        "ts_ms": table["ts"],
        "seq": table["seq"],
        "value": table["value"],
        "weight": verdicts.weight,
        "in_history": verdicts.in_history,
        "scores": verdicts.scores,
        "duplicate": verdicts.duplicate,
        "displaced": displaced,
        "late": verdicts.late,
        **keys,
        **{
            name: table[name]
            for name in (
                "event_id",
                "session_id",
                "recommendation_id",
                "props",
                "topic",
                "part",
                "off",
            )
        },
        "append_ts_ms": table["append_ts"],
        "ingested_at_ms": np.full(table.num_rows, to_ms(now), dtype=np.int64),
    }
    schema = INTERACTION_SCHEMA
    return pa.table({name: columns[name] for name in schema.names}).cast(schema)


def store_dead(tx: Tx, dead: Sequence[DeadLetter], now: datetime) -> None:
    """Store bad records."""
    if dead:
        dead_letters.append(tx, rows_of(dead, now))
