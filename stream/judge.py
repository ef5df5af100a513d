"""Verdicts on the rows of one batch, each at its own log position: refuses, roles, late, duplicate, displaced."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage import interactions
from storage.records import INTERACTION_SCHEMA, HistoryKey
from stream.events import DeadLetter, Reason
from stream.seen import SeenIds, id_keys
from stream.verdicts import NEVER, OpenWindow, future_dated, running_max

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from storage.database import Tx
    from stream.config import StreamConfig


_PART_BITS = 32
_PART_MASK = (1 << _PART_BITS) - 1


@dataclass(frozen=True, slots=True)
class SegmentRule:
    """Where segments end: n interactions each, due once r_min newer ones exist too."""

    segment_len: int
    r_min: int


@dataclass(slots=True)
class Verdicts:
    """Per-row outcome of one batch, arrays of length N in batch order; `displaced` maps row -> its place."""

    in_history: NDArray[np.bool_]
    scores: NDArray[np.bool_]
    weight: NDArray[np.float64]
    late: NDArray[np.bool_]
    duplicate: NDArray[np.bool_]
    displaced: dict[int, HistoryKey] = field(default_factory=dict)


class Judge:
    """Judges batches against the log before them."""

    def __init__(self, config: StreamConfig, rule: SegmentRule) -> None:
        self._config = config
        self._rule = rule
        self._seen: SeenIds | None = None

    def refuse(
        self, table: pa.Table, newest_ms: Mapping[tuple[str, int], int]
    ) -> tuple[pa.Table, list[DeadLetter]]:
        """Split off records that are future-dated or of an event type the configuration rejects."""
        unknown = self._unlisted(table)
        known = table.filter(pa.array(~unknown)) if unknown.any() else table
        ts = known["ts"].to_numpy()
        append = pc.fill_null(known["append_ts"], NEVER).to_numpy()
        future = np.zeros(known.num_rows, dtype=bool)
        for key, where in partition_rows(known):
            future[where] = future_dated(
                ts[where],
                append[where],
                max_event_ms=newest_ms.get(key, NEVER),
                lateness_ms=self._config.lateness_ms,
                ahead_ms=self._config.max_ahead_ms,
                jump_ms=self._config.max_jump_ms,
            )
        if not (unknown.any() or future.any()):
            return table, []
        dead = [
            *_letters(
                table, unknown, "unknown_event_type", "its type is not in stream.event_types"
            ),
            *_letters(known, future, "future_dated", "its time lies too far ahead of the log"),
        ]
        return known.filter(pa.array(~future)), dead

    def _unlisted(self, table: pa.Table) -> NDArray[np.bool_]:
        types = table["event_type"].combine_chunks().dictionary_encode()
        rejected = [self._config.event_type(t) is None for t in types.dictionary.to_pylist()]
        if not any(rejected):
            return np.zeros(table.num_rows, dtype=bool)
        mask: NDArray[np.bool_] = np.array(rejected, dtype=bool)[types.indices.to_numpy()]
        return mask

    def rows(
        self,
        tx: Tx,
        table: pa.Table,
        users: NDArray[np.int64],
        newest_ms: Mapping[tuple[str, int], int],
    ) -> Verdicts:
        """Verdicts on the rows of a batch.

        Args:
            tx: the transaction that will store them; reads what is stored.
            table: rows of INTERACTION_SCHEMA, in log order within a partition.
            users: internal id of each row's user, int64 [N].
            newest_ms: newest event time per partition before the batch.
        """
        n = table.num_rows
        ts = table["ts"].to_numpy()
        before = np.full(n, NEVER, dtype=np.int64)
        for key, where in partition_rows(table):
            before[where] = running_max(ts[where], newest_ms.get(key, NEVER))
        watermark = np.where(before == NEVER, NEVER, before - self._config.lateness_ms)
        verdicts = Verdicts(*self._roles(table), late=ts < watermark, duplicate=np.zeros(n, bool))
        repeats, stored = self._repeats(tx, table, users)
        walked = np.union1d(users[verdicts.late & verdicts.in_history], repeats)
        rows = np.flatnonzero(np.isin(users, walked))
        if len(rows):
            windows = self._windows(tx, walked, stored)
            self._walk(table.take(pa.array(rows)), users, watermark, rows, windows, verdicts)
        verdicts.in_history &= ~verdicts.duplicate
        verdicts.scores &= ~verdicts.duplicate
        return verdicts

    def _roles(
        self, table: pa.Table
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.float64]]:
        """Per row: enters the history, is scored, weight. A return (negative value) does neither."""
        types = table["event_type"].combine_chunks().dictionary_encode()
        codes = types.indices.to_numpy()
        rules = [self._config.event_type(name) for name in types.dictionary.to_pylist()]
        history = np.array([bool(rule and rule.in_history) for rule in rules], dtype=bool)
        scores = np.array([bool(rule and rule.scores) for rule in rules], dtype=bool)
        weights = np.array([rule.weight if rule else 0.0 for rule in rules], dtype=np.float64)
        returned = table["value"].to_numpy() < 0
        return history[codes] & ~returned, scores[codes] & ~returned, weights[codes]

    def _repeats(
        self, tx: Tx, table: pa.Table, users: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], pa.Table]:
        """Users with an event id that stands twice (in the batch or stored), and the stored rows that carry one."""
        if table["event_id"].null_count == table.num_rows:
            return np.empty(0, np.int64), INTERACTION_SCHEMA.empty_table()
        if self._seen is None:
            self._seen = SeenIds(self._config.seen_bytes)
            self._seen.load(tx)
        given = pc.is_valid(table["event_id"])
        owners = users[given.to_numpy(zero_copy_only=False)]
        event_ids = table["event_id"].filter(given).combine_chunks()
        keys = pa.table({"user_idx": owners, "event_id": event_ids})
        hashed = id_keys(owners, event_ids)
        known = self._seen.maybe(hashed)
        self._seen.add(hashed)
        stored = INTERACTION_SCHEMA.empty_table()
        if known.any():
            stored = interactions.duplicates_of(tx, keys.filter(pa.array(known)))
        if len(np.unique(hashed)) == len(hashed):
            return np.unique(stored["user_idx"].to_numpy()), stored
        inside = keys.group_by(["user_idx", "event_id"]).aggregate([([], "count_all")])
        twice = inside.filter(pc.greater(inside["count_all"], 1))["user_idx"].to_numpy()
        return np.union1d(twice, stored["user_idx"].to_numpy()).astype(np.int64), stored

    def _windows(self, tx: Tx, users: NDArray[np.int64], stored: pa.Table) -> dict[int, OpenWindow]:
        rule = self._rule
        out = {int(u): OpenWindow(rule.segment_len, rule.r_min) for u in users.tolist()}
        history = interactions.load_history(tx, users.tolist())
        columns = ["user_idx", *HistoryKey._fields]
        for row in history.select(columns).to_pylist():
            out[row.pop("user_idx")].keys.append(HistoryKey(**row))
        columns += ["event_id", "ts_ms", "duplicate"]
        for row in stored.select(columns).to_pylist():
            if not row["duplicate"]:
                key = HistoryKey(**{name: row[name] for name in HistoryKey._fields})
                out[row["user_idx"]].events[row["event_id"]] = (key, row["ts_ms"])
        return out

    def _walk(
        self,
        picked: pa.Table,
        users: NDArray[np.int64],
        watermark: NDArray[np.int64],
        rows: NDArray[np.int64],
        windows: Mapping[int, OpenWindow],
        verdicts: Verdicts,
    ) -> None:
        """Judge the picked rows in log order against their users' open windows."""
        columns = ["ts", "seq", "part", "off", "event_id"]
        for i, row in zip(rows.tolist(), picked.select(columns).to_pylist(), strict=True):
            window, at = windows[int(users[i])], int(watermark[i])
            own = _own_key(row)
            event_id = row["event_id"]
            if event_id is not None:
                if window.is_duplicate(event_id, at, self._config.lateness_ms):
                    verdicts.duplicate[i] = True
                    continue
                window.events[event_id] = (own, row["ts"])
            if not verdicts.in_history[i]:
                continue
            key = window.place(own, at)
            if key.displaced:
                verdicts.displaced[i] = key
            window.add(key)
            if event_id is not None:
                window.events[event_id] = (key, row["ts"])


def _own_key(row: Mapping[str, int]) -> HistoryKey:
    return HistoryKey(
        h_ts_ms=row["ts"],
        h_seq=row["seq"],
        h_part=row["part"],
        h_off=row["off"],
        displaced=False,
        off=row["off"],
    )


def partition_rows(table: pa.Table) -> list[tuple[tuple[str, int], NDArray[np.int64]]]:
    """Row numbers of each partition present in a table with `topic` and `part`, in order."""
    if not table.num_rows:
        return []
    topics = table["topic"].combine_chunks().dictionary_encode()
    codes = topics.indices.to_numpy().astype(np.int64)
    names = topics.dictionary.to_pylist()
    places = (codes << _PART_BITS) + table["part"].to_numpy()
    if (places == places[0]).all():
        at = int(places[0])
        return [((names[at >> _PART_BITS], at & _PART_MASK), np.arange(len(places)))]
    order = np.argsort(places, kind="stable")
    places = places[order]
    first = np.flatnonzero(places[1:] != places[:-1]) + 1
    found = zip(places[np.append(0, first)].tolist(), np.split(order, first), strict=True)
    return [((names[at >> _PART_BITS], at & _PART_MASK), rows) for at, rows in found]


def _letters(
    table: pa.Table, bad: NDArray[np.bool_], reason: Reason, detail: str
) -> list[DeadLetter]:
    if not bad.any():
        return []
    return [
        DeadLetter(
            topic=row["topic"],
            part=row["part"],
            off=row["off"],
            reason=reason,
            detail=f"{row['event_type']!r} event at {row['ts']} ms: {detail}",
            raw=str({k: v for k, v in row.items() if v is not None}).encode(),
        )
        for row in table.filter(pa.array(bad)).to_pylist()
    ]
