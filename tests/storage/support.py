"""A small log for storage tests, and its naive recomputation in Python."""

from __future__ import annotations

import functools
import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from storage import interactions, journal, models, positions, runs, tokens
from storage.database import Database, set_meta
from storage.identities import Identities
from storage.interactions import INTERACTION_SCHEMA
from storage.records import HistoryKey
from storage.tokens import GroupRow

NOW = datetime(2026, 1, 1, tzinfo=UTC)
T0 = 1_700_000_000_000
DAY = 86_400_000
HOUR = DAY // 24
HOMES = (("clicks", 0), ("clicks", 0), ("clicks", 1))
ITEMS = ("apple", "bread", "cheese", "dates")
N, R_MIN, LATENESS = 3, 2, 2 * HOUR


@dataclass(frozen=True)
class Row:
    """One interaction of the naive log."""

    user: int
    item: int
    ts: int
    seq: int
    off: int
    weight: float = 1.0
    in_history: bool = True
    duplicate: bool = False
    anchor: HistoryKey | None = None
    event_id: str | None = None

    @property
    def home(self) -> tuple[str, int]:
        return HOMES[self.user]

    @property
    def key(self) -> HistoryKey:
        if self.anchor is not None:
            return self.anchor._replace(displaced=True, off=self.off)
        return HistoryKey(self.ts, self.seq, self.home[1], self.off, displaced=False, off=self.off)


def logs(min_size: int = 0, max_size: int = 40) -> st.SearchStrategy[list[Row]]:
    """Logs with equal times, out-of-order, displaced and duplicate rows, returns, holes in offsets."""
    draw = st.tuples(
        st.integers(0, 2),
        st.integers(0, len(ITEMS) - 1),
        st.integers(0, 30),
        st.integers(0, 2),
        st.integers(1, 2),
        st.sampled_from(["plain"] * 6 + ["displaced", "duplicate", "return"]),
        st.integers(0, 50),
    )
    return st.lists(draw, min_size=min_size, max_size=max_size).map(_rows)


def _rows(draws: list[tuple[int, int, int, int, int, str, int]]) -> list[Row]:
    rows: list[Row] = []
    next_off = dict.fromkeys(HOMES, 0)
    for user, item, hours, seq, step, kind, pick in draws:
        off = next_off[HOMES[user]]
        next_off[HOMES[user]] = off + step
        earlier = [r for r in rows if r.user == user and r.in_history]
        row = Row(user, item, T0 + hours * HOUR, seq, off, weight=1.0 + item / 4)
        if kind == "displaced" and earlier:
            anchor = earlier[pick % len(earlier)].key
            row = replace(row, anchor=anchor, ts=min(row.ts, anchor.h_ts_ms))
        elif kind == "duplicate" and earlier:
            twin = earlier[pick % len(earlier)]
            row = replace(
                row,
                item=twin.item,
                ts=twin.ts,
                seq=twin.seq,
                event_id=f"e{twin.off}",
                duplicate=True,
                in_history=False,
            )
        elif kind == "return":
            row = replace(row, in_history=False)
        if row.event_id is None and pick % 2:
            row = replace(row, event_id=f"e{off}")
        rows.append(row)
    return rows


def table(rows: list[Row], users: np.ndarray, items: np.ndarray) -> pa.Table:
    """The rows as `interactions.append` takes them."""
    keys = [row.key for row in rows]
    columns = {
        "user_idx": users,
        "item_idx": items,
        "event_type": ["buy"] * len(rows),
        "ts_ms": [r.ts for r in rows],
        "seq": [r.seq for r in rows],
        "value": [-1.0 if not r.in_history and not r.duplicate else r.weight for r in rows],
        "weight": [r.weight for r in rows],
        "in_history": [r.in_history for r in rows],
        "scores": [r.in_history for r in rows],
        "duplicate": [r.duplicate for r in rows],
        "displaced": [r.anchor is not None for r in rows],
        "late": [r.anchor is not None for r in rows],
        "h_ts_ms": [k.h_ts_ms for k in keys],
        "h_seq": [k.h_seq for k in keys],
        "h_part": [k.h_part for k in keys],
        "h_off": [k.h_off for k in keys],
        "event_id": [r.event_id for r in rows],
        "session_id": [None] * len(rows),
        "recommendation_id": [None] * len(rows),
        "props": [None] * len(rows),
        "topic": [r.home[0] for r in rows],
        "part": [r.home[1] for r in rows],
        "off": [r.off for r in rows],
        "append_ts_ms": [None] * len(rows),
        "ingested_at_ms": [T0] * len(rows),
    }
    return pa.table(
        [pa.array(columns[f.name], f.type) for f in INTERACTION_SCHEMA], schema=INTERACTION_SCHEMA
    )


def store(db: Database, ids: Identities, rows: list[Row]) -> None:
    """Append rows in one transaction with identities and position ranges."""
    if not rows:
        return
    with db.transaction() as tx:
        ts = [r.ts for r in rows]
        topics, parts = [r.home[0] for r in rows], [r.home[1] for r in rows]
        users = ids.assign_users(tx, [user_id(r.user) for r in rows], topics, parts, ts)
        items = ids.assign_items(tx, [ITEMS[r.item] for r in rows], ts)
        interactions.append(tx, table(rows, users, items))
        known = positions.next_offsets(tx)
        ranges = []
        for home in dict.fromkeys(r.home for r in rows):
            mine = [r for r in rows if r.home == home]
            ranges.append(
                positions.RangeRow(
                    topic=home[0],
                    part=home[1],
                    first=known.get(home, mine[0].off),
                    next_off=mine[-1].off + 1,
                    records=len(mine),
                    interactions=len(mine),
                    late=sum(r.anchor is not None for r in mine),
                    duplicates=sum(r.duplicate for r in mine),
                    displaced=sum(r.anchor is not None for r in mine),
                    max_event_ms=max(r.ts for r in mine),
                )
            )
        positions.append(tx, ranges, at=NOW)


def user_id(user: int) -> str:
    return f"u{user}"


@functools.cache
def _template() -> bytes:
    """The bytes of a settled empty database, so that a test does not pay for making one."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shard.duckdb"
        with Database.open(path, now=NOW) as db:
            settle(db)
        return path.read_bytes()


@contextmanager
def fresh() -> Iterator[tuple[Database, Identities]]:
    """An empty database in a folder of its own, with the small segment settings of these tests."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shard.duckdb"
        path.write_bytes(_template())
        with Database.open(path, now=NOW) as db:
            yield db, Identities.load(db)


def settle(db: Database) -> None:
    with db.transaction() as tx:
        set_meta(tx, "segment_len", str(N))
        set_meta(tx, "r_min", str(R_MIN))
        set_meta(tx, "lateness_ms", str(LATENESS))


def history(rows: list[Row], user: int, upto: int | None = None) -> list[Row]:
    """A user's history in history order as of an offset."""
    mine = [r for r in rows if r.user == user and r.in_history and (upto is None or r.off < upto)]
    return sorted(mine, key=lambda r: r.key)


def counters(rows: list[Row], ref: int) -> dict[int, tuple[float, ...]]:
    """(n, s7, s30, s90, s365, newest ts) per item of some history rows."""
    found: dict[int, tuple[float, ...]] = {}
    for item in {r.item for r in rows}:
        mine = [r for r in rows if r.item == item]
        decays = [
            math.fsum(r.weight * math.exp((r.ts - ref) / DAY / tau) for r in mine)
            for tau in (7, 30, 90, 365)
        ]
        found[item] = (math.fsum(r.weight for r in mine), *decays, max(r.ts for r in mine))
    return found


def watermark(rows: list[Row], home: tuple[str, int]) -> int | None:
    times = [r.ts for r in rows if r.home == home]
    return max(times) - LATENESS if times else None


def due(rows: list[Row], user: int) -> int:
    """Due segments of a user at the watermark of its partition."""
    mark = watermark(rows, HOMES[user])
    if mark is None:
        return 0
    before = sum(r.key.h_ts_ms < mark for r in history(rows, user))
    return max(0, before - R_MIN) // N


def group(
    user_idx: int, segment: int, closed: list[Row], *, run_id: int = 1, version: str = "v1"
) -> GroupRow:
    """A token group over the given rows, its bytes made of user and segment."""
    kv = np.full((1, 2, 2, 4), segment + user_idx / 8, np.float16)
    return GroupRow(
        user_idx=user_idx,
        model_version=version,
        segment=segment,
        kv=kv.tobytes(),
        k=2,
        layers=1,
        d_kv=4,
        dtype="float16",
        first=closed[0].key,
        last=closed[-1].key,
        n_items=len(closed),
        first_off=min(r.off for r in closed),
        last_off=max(r.off for r in closed),
        device="cpu",
        compute_dtype="float32",
        run_id=run_id,
        outputs=np.arange(6, dtype=np.float32).reshape(2, 3) + segment,
        created_at_ms=T0 + segment,
    )


def compress_due(
    db: Database,
    ids: Identities,
    rows: list[Row],
    *,
    leave: int = 0,
    run_id: int = 1,
    version: str = "v1",
) -> dict[int, int]:
    """Store the groups of all due segments but the newest `leave` of each user; groups per user."""
    made: dict[int, int] = {}
    batch: list[GroupRow] = []
    for user in range(len(HOMES)):
        idx = ids.find_user(user_id(user))
        count = max(0, due(rows, user) - leave)
        if idx is None or count == 0:
            continue
        ordered = history(rows, user)
        batch += [
            group(idx, g, ordered[g * N : (g + 1) * N], run_id=run_id, version=version)
            for g in range(count)
        ]
        made[user] = count
    with db.transaction() as tx:
        models.register(
            tx,
            version=version,
            digest=version,
            config={"n": N},
            trained_through_ms=None,
            path=None,
            at=NOW,
        )
        run = runs.RunRow(
            run_id=run_id,
            model_version=version,
            at_ms=T0,
            watermark={},
            users=len(made),
            segments=len(batch),
            seconds=0.1,
            visible_from_ms=None,
            status="done",
        )
        runs.put_runs(tx, [run])
        tokens.put_groups(tx, batch)
    return made


def publish(db: Database, run_id: int, at: dict[tuple[str, int], int]) -> None:
    with db.transaction() as tx:
        journal.append(tx, "group_visible", str(run_id), None, at, NOW)
