"""A whole log as the arrays that targets and baselines read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from model.baselines.log import EventLog, build_log
from stream.errors import EvaluationError
from stream.events import Partition

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from stream.config import StreamConfig
    from stream.log import LogTables

    Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationLog:
    """The history part of a log: no returns, no event types outside the history, no repeats.

    Attributes:
        events: Histories of all users over all item columns.
        user_ids: [U] external ids by user number.
        item_ids: [V] external ids by column; items of the item file that were never sold included.
        partitions: Partitions of the log.
        partition: [N] index into `partitions` of every row of `events`.
        offset: [N] log offset of every row of `events`.
    """

    events: EventLog
    user_ids: list[str]
    item_ids: list[str]
    partitions: list[Partition]
    partition: Ints
    offset: Ints

    def columns_of(self, item_ids: list[str]) -> Ints:
        """Return the column of each external id, -1 where the log has no such item."""
        found = pc.index_in(pa.array(item_ids, pa.string()), pa.array(self.item_ids, pa.string()))
        columns: Ints = pc.fill_null(found, -1).to_numpy().astype(np.int64)
        return columns


def evaluation_log(
    tables: LogTables, config: StreamConfig, items: pa.Table | None = None
) -> EvaluationLog:
    """Return the log sorted by user, with the roles, weights and visits of the configuration.

    Args:
        tables: The log read to its end.
        config: Says which event types are history, their weights, and what a visit is.
        items: Item table with a column `item_id`; its items are columns too.

    Raises:
        EvaluationError: No interaction is history.
    """
    rows = tables.interactions
    weight, kept = _roles(rows, config)
    kept &= ~(pc.fill_null(rows["value"], 0.0).to_numpy(zero_copy_only=False) < 0)
    if not kept.any():
        raise EvaluationError(
            "no interaction of the log is history; check stream.event_types and the column map"
        )
    rows, weight = rows.filter(pa.array(kept)), weight[kept]
    users = rows["user_id"].combine_chunks().dictionary_encode()
    known = _all_items(rows, tables.items, items)
    events = build_log(
        _codes(users.indices),
        _codes(pc.index_in(rows["item_id"], known)),
        _codes(rows["ts"]),
        n_items=len(known),
        weight=weight,
        session=_codes(rows["session_id"].combine_chunks().dictionary_encode().indices),
        seq=_codes(rows["seq"]),
        visit_gap_ms=config.visit_gap_ms,
    )
    order = pa.array(events.source_row)
    partitions, partition = _partitions(rows.take(order))
    return EvaluationLog(
        events=events,
        user_ids=users.dictionary.to_pylist(),
        item_ids=known.to_pylist(),
        partitions=partitions,
        partition=partition,
        offset=_codes(rows["off"].take(order)),
    )


def _roles(rows: pa.Table, config: StreamConfig) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    encoded = rows["event_type"].combine_chunks().dictionary_encode()
    types = [config.event_type(name) for name in encoded.dictionary.to_pylist()]
    weight = np.array([0.0 if kind is None else kind.weight for kind in types])
    history = np.array([kind is not None and kind.in_history for kind in types], dtype=bool)
    code = _codes(encoded.indices)
    return weight[code], history[code]


def _all_items(rows: pa.Table, *others: pa.Table | None) -> pa.Array:
    columns = [rows["item_id"]] + [table["item_id"] for table in others if table is not None]
    chunks = [chunk.cast(pa.string()) for column in columns for chunk in column.chunks]
    return pc.unique(pa.chunked_array(chunks, pa.string()))


def _codes(column: pa.Array | pa.ChunkedArray) -> Ints:
    codes: Ints = pc.fill_null(column.cast(pa.int64()), -1).to_numpy().astype(np.int64)
    return codes


def _partitions(rows: pa.Table) -> tuple[list[Partition], Ints]:
    topics = rows["topic"].combine_chunks().dictionary_encode()
    names, topic, part = topics.dictionary.to_pylist(), _codes(topics.indices), _codes(rows["part"])
    pairs, code = np.unique(np.stack([topic, part], axis=1), axis=0, return_inverse=True)
    partitions = [Partition(names[name], int(number)) for name, number in pairs]
    return partitions, code.reshape(-1).astype(np.int64)
