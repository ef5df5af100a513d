"""From an event log to the arrays that training and evaluation read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from model.asof import Histories
from model.errors import TrainingError

__all__ = ["HistoryLog", "prepare_log"]

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class HistoryLog:
    """An event log as histories over candidate columns.

    Attributes:
        histories: the rows, grouped by user, in history order.
        user_ids: [U] external ids, in the order of the histories' users.
        item_ids: [V] external ids of the candidate columns; items known at the cut come first.
        n_known: number of columns with an interaction before the cut: the vocabulary.
        texts: [V] item text, "" where there is none.
        source_row: int64 [N], row of the input table each history row came from.
    """

    histories: Histories
    user_ids: list[str]
    item_ids: list[str]
    n_known: int
    texts: list[str]
    source_row: Ints


def prepare_log(
    interactions: pa.Table,
    items: pa.Table | None,
    *,
    event_types: tuple[str, ...],
    event_weights: Mapping[str, float],
    visit_gap_ms: int,
    known_until_ms: int,
    until_ms: int | None = None,
) -> HistoryLog:
    """Sort a log into histories; keep the event types of the model, leave returns out.

    Args:
        interactions: columns user_id, item_id, event_type, ts (int64 ms or timestamp); optional
            seq, value (negative = a return, not history) and session_id.
        items: columns item_id and optional text; None when there is no item file.
        event_types: types that belong to the history; others are left out.
        event_weights: weight in counters and popularity per type, 1 where not named.
        visit_gap_ms: largest gap inside a visit where there is no session id.
        known_until_ms: items with an interaction before this time are the vocabulary.
        until_ms: leave out interactions at or after this time.

    Raises:
        TrainingError: a column is missing, or no interaction is left.
    """
    missing = {"user_id", "item_id", "event_type"} - set(interactions.column_names)
    if missing or not {"ts", "ts_ms"} & set(interactions.column_names):
        names = ", ".join(sorted(missing) or ["ts"])
        raise TrainingError(f"the training log has no column {names}; map it from its own name")
    ts = _times(interactions)
    type_code = _codes(interactions["event_type"], event_types)
    keep = type_code >= 0
    if "value" in interactions.column_names:
        value = pc.fill_null(interactions["value"], 0.0).to_numpy()
        keep &= ~(value < 0)
    if until_ms is not None:
        keep &= ts < until_ms
    source = np.flatnonzero(keep)
    if not source.shape[0]:
        raise TrainingError(
            f"the training log has no interaction of the types {', '.join(event_types)}; "
            "name the log's own types in the configuration"
        )
    users, user_ids = _factorize(interactions["user_id"], source)
    seq = _ints(interactions, "seq")[source]
    order = np.lexsort((source, seq, ts[source], users))
    source, users = source[order], users[order]
    item_ids, item = _item_columns(interactions, items, source, ts, known_until_ms)
    weight_of = np.array([event_weights.get(name, 1.0) for name in event_types], np.float64)
    histories = Histories(
        ptr=np.searchsorted(users, np.arange(len(user_ids) + 1)).astype(np.int64),
        item=item,
        type_row=type_code[source] + 1,
        ts=ts[source],
        weight=weight_of[type_code[source]],
        visit=_visits(users, ts[source], _sessions(interactions, source), visit_gap_ms),
    )
    n_known = np.unique(item[histories.ts < known_until_ms]).shape[0]
    return HistoryLog(histories, user_ids, item_ids, n_known, _texts(items, item_ids), source)


def _times(table: pa.Table) -> Ints:
    column = table["ts" if "ts" in table.column_names else "ts_ms"]
    if pa.types.is_timestamp(column.type):
        column = pc.cast(column, pa.timestamp("ms"), safe=False).cast(pa.int64())
    return np.asarray(column.to_numpy(), np.int64)


def _ints(table: pa.Table, name: str) -> Ints:
    if name not in table.column_names:
        return np.zeros(table.num_rows, np.int64)
    return np.asarray(pc.fill_null(table[name], 0).to_numpy(), np.int64)


def _codes(column: pa.ChunkedArray, values: tuple[str, ...]) -> Ints:
    found = pc.index_in(column.cast(pa.string()), pa.array(values, pa.string()))
    return np.asarray(pc.fill_null(found, -1).to_numpy(), np.int64)


def _factorize(column: pa.ChunkedArray, rows: Ints) -> tuple[Ints, list[str]]:
    """Codes of the chosen rows' values in order of first appearance, and the values."""
    encoded = column.cast(pa.string()).combine_chunks().take(pa.array(rows)).dictionary_encode()
    return encoded.indices.to_numpy().astype(np.int64), encoded.dictionary.to_pylist()


def _item_columns(
    table: pa.Table, items: pa.Table | None, source: Ints, ts: Ints, known_until_ms: int
) -> tuple[list[str], Ints]:
    """Candidate ids, those known at the cut first (sorted by id), and each row's column."""
    code, names = _factorize(table["item_id"], source)
    known = np.zeros(len(names), bool)
    known[code[ts[source] < known_until_ms]] = True
    order = sorted(range(len(names)), key=lambda index: (not known[index], names[index]))
    column = np.empty(len(names), np.int64)
    column[np.array(order, np.int64)] = np.arange(len(names))
    item_ids = [names[index] for index in order]
    if items is not None:
        seen = set(item_ids)
        item_ids += [item for item in items["item_id"].to_pylist() if item not in seen]
    return item_ids, column[code]


def _texts(items: pa.Table | None, item_ids: list[str]) -> list[str]:
    if items is None or "text" not in items.column_names:
        return [""] * len(item_ids)
    text = dict(zip(items["item_id"].to_pylist(), items["text"].to_pylist(), strict=True))
    return [text.get(item) or "" for item in item_ids]


def _sessions(table: pa.Table, source: Ints) -> Ints:
    """Session number per row, -1 where there is none."""
    if "session_id" not in table.column_names:
        return np.full(source.shape[0], -1, np.int64)
    column = table["session_id"].cast(pa.string()).combine_chunks().take(pa.array(source))
    codes = pc.fill_null(column.dictionary_encode().indices, -1)
    return np.asarray(codes.to_numpy(), np.int64)


def _visits(users: Ints, ts: Ints, session: Ints, gap_ms: int) -> Ints:
    """Visit number per row: same session id, else a gap of at most ``gap_ms``."""
    same_user = users[1:] == users[:-1]
    with_session = (session[1:] >= 0) & (session[:-1] >= 0)
    same = np.where(with_session, session[1:] == session[:-1], np.diff(ts) <= gap_ms)
    return np.concatenate([[0], np.cumsum(~(same_user & same))]).astype(np.int64)
