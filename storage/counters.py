"""Counters per (user, item): exact sums over the whole history at one fixed reference time.

For each history row with weight w and event time t, n adds w and s_tau adds w * exp((t - ref) / tau),
tau in 7, 30, 90 and 365 days. The sums of rotated rows are stored, those of hot rows made at read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from storage.bounds import NO_KEY, below, distinct, fetch, homes, side
from storage.database import Tx, get_meta, set_meta
from storage.records import HistoryKey, PartitionKey, Reader, partition_dict

DAY_MS = 86_400_000
_REF_KEY = "counter_ref"
_NEVER = 1 << 62

TAUS_DAYS = (7, 30, 90, 365)
_SUMS = ("n", *(f"s{days}" for days in TAUS_DAYS))

_SELECT_RUNS = """
SELECT user_idx, item_idx, n, s7, s30, s90, s365, epoch_ms(last_ts) AS ts_ms,
    epoch_ms(last_h_ts) AS h_ts_ms
FROM counter_runs WHERE true
"""
_SELECT_TERMS = """
SELECT user_idx, item_idx, weight AS n,
    weight * exp(least((epoch_ms(ts) - $1) / 86400000.0 / 7.0, 700.0)) AS s7,
    weight * exp(least((epoch_ms(ts) - $1) / 86400000.0 / 30.0, 700.0)) AS s30,
    weight * exp(least((epoch_ms(ts) - $1) / 86400000.0 / 90.0, 700.0)) AS s90,
    weight * exp(least((epoch_ms(ts) - $1) / 86400000.0 / 365.0, 700.0)) AS s365,
    epoch_ms(ts) AS ts_ms, epoch_ms(h_ts) AS h_ts_ms, h_seq, h_part, h_off, displaced, topic, part, off
"""
_HOT_TERMS = _SELECT_TERMS + "FROM interactions_hot WHERE in_history"
_ALL_TERMS = _SELECT_TERMS + "FROM rows_all WHERE in_history"


def load_counters(
    reader: Reader,
    users: Sequence[int],
    as_of: Mapping[int, int] | None = None,
    before: Mapping[int, HistoryKey] | None = None,
    home: Mapping[int, PartitionKey] | None = None,
) -> pa.Table:
    """Return the users' counters at the reference time.

    Stored sums of rotated rows plus sums over hot rows. A user whose `as_of` or `before` lies among rows
    that were already rotated is summed from raw rows instead, so the result is right for every bound.

    Args:
        reader: Where to read.
        users: Internal ids.
        as_of: Exclusive upper offset in the user's home partition; none means unbounded.
        before: Exclusive upper history key per user, such as the first row of the current visit.
        home: Home partition of the users in `as_of`; read where not given.

    Returns:
        (user_idx, item_idx, n, s7, s30, s90, s365, last_ts_ms), by user and item.
    """
    asked = distinct(users)
    home = homes(reader, asked, home) if as_of else {}
    stored = fetch(reader, _SELECT_RUNS, asked)
    raw = _inside_runs(reader, stored, as_of or {}, before or {}, home)
    parts = [_terms(reader, _HOT_TERMS, [u for u in asked if u not in raw], as_of, before, home)]
    if raw:
        parts.append(_terms(reader, _ALL_TERMS, sorted(raw), as_of, before, home))
        kept = np.isin(stored["user_idx"].to_numpy(), sorted(raw), invert=True)
        stored = stored.filter(pa.array(kept))
    return _summed([stored, *parts])


def counters_from_history(
    reader: Reader,
    users: Sequence[int],
    as_of: Mapping[int, int] | None = None,
    before: Mapping[int, HistoryKey] | None = None,
) -> pa.Table:
    """Return the users' counters summed from raw rows, columns as `load_counters`.

    Args:
        reader: Where to read.
        users: Internal ids.
        as_of: Exclusive upper offset in the user's home partition.
        before: Exclusive upper history key per user, such as the first row of the current visit.
    """
    asked = distinct(users)
    home = homes(reader, asked) if as_of else {}
    return _summed([_terms(reader, _ALL_TERMS, asked, as_of, before, home)])


def counter_ref_ms(reader: Reader) -> int | None:
    """Return the reference time of this database's counters, None before the first append."""
    value = get_meta(reader, _REF_KEY)
    return None if value is None else int(value)


def set_counter_ref(tx: Tx, ref_ms: int) -> None:
    """Fix the reference time of this database's counters.

    Raises:
        ValueError: Another reference time is already in use.
    """
    stored = counter_ref_ms(tx)
    if stored is not None and stored != ref_ms:
        raise ValueError(f"counters already use the reference time {stored}, not {ref_ms}")
    if stored is None:
        set_meta(tx, _REF_KEY, str(ref_ms))


def _inside_runs(
    reader: Reader,
    stored: pa.Table,
    as_of: Mapping[int, int],
    before: Mapping[int, HistoryKey],
    home: Mapping[int, PartitionKey],
) -> set[int]:
    """Return the users whose bounds leave out rows that the stored sums contain."""
    users = np.asarray(stored["user_idx"].to_numpy(), np.int64)
    if len(users) == 0:
        return set()
    raw: set[int] = set()
    if as_of:
        moved = partition_dict(
            reader.query(
                "SELECT topic, part, max(upto) AS upto FROM rotations GROUP BY topic, part"
            ),
            "upto",
        )
        holders = {int(user) for user in users}
        raw = {u for u, off in as_of.items() if u in holders and off < moved.get(home[u], 0)}
    if before:
        limit = np.array([before[u].h_ts_ms if u in before else _NEVER for u in users.tolist()])
        raw |= {int(u) for u in users[np.asarray(stored["h_ts_ms"].to_numpy()) >= limit]}
    return raw


def _terms(
    reader: Reader,
    select: str,
    users: Sequence[int],
    as_of: Mapping[int, int] | None,
    before: Mapping[int, HistoryKey] | None,
    home: Mapping[int, PartitionKey],
) -> pa.Table:
    rows = fetch(reader, select, users, [counter_ref_ms(reader) or 0])
    after = (side(rows, before) >= 0) & (side(rows, before) < NO_KEY)
    return rows.filter(pa.array(below(rows, as_of, home) & ~after))


def _summed(parts: Sequence[pa.Table]) -> pa.Table:
    names = ["user_idx", "item_idx", *_SUMS, "ts_ms"]
    rows = pa.concat_tables([part.select(names) for part in parts])
    keys = np.stack([np.asarray(rows[name].to_numpy(), np.int64) for name in names[:2]], axis=1)
    pairs, place = np.unique(keys, axis=0, return_inverse=True)
    columns: dict[str, pa.Array] = {
        "user_idx": pa.array(pairs[:, 0], pa.int64()),
        "item_idx": pa.array(pairs[:, 1], pa.int64()),
    }
    for name in _SUMS:
        weights = np.asarray(rows[name].to_numpy(), np.float64)
        columns[name] = pa.array(np.bincount(place, weights, len(pairs)), pa.float64())
    newest = np.full(len(pairs), -_NEVER, np.int64)
    np.maximum.at(newest, place, np.asarray(rows["ts_ms"].to_numpy(), np.int64))
    columns["last_ts_ms"] = pa.array(newest, pa.int64())
    return pa.table(columns)
