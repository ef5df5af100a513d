"""Each view against recomputation from the raw rows in Python."""

from datetime import UTC, datetime

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage import items, positions, rotation
from tests.storage.support import (
    HOMES,
    HOUR,
    ITEMS,
    LATENESS,
    NOW,
    R_MIN,
    T0,
    N,
    Row,
    compress_due,
    due,
    fresh,
    history,
    logs,
    store,
    user_id,
    watermark,
)

FEW = settings(max_examples=12, deadline=None)


def at(ms):
    return None if ms is None else datetime.fromtimestamp(ms / 1000, UTC).replace(tzinfo=None)


def present(rows):
    return [u for u in range(3) if any(r.user == u for r in rows)]


def filled(db, ids, rows, leave, share):
    """Store the rows, rotate some, compress due segments but the newest `leave`; groups per user."""
    store(db, ids, rows)
    if share:
        with db.transaction() as tx:
            rotation.rotate(
                tx, below=dict.fromkeys(HOMES, 10_000), before_ms=T0 + int(30 * share) * HOUR
            )
    return compress_due(db, ids, rows, leave=leave)


CASES = (logs(min_size=1, max_size=60), st.integers(0, 2), st.sampled_from([0, 0.5, 1.1]))


@FEW
@given(*CASES)
def test_user_token_state(rows, leave, share):
    with fresh() as (db, ids):
        made = filled(db, ids, rows, leave, share)
        expected = []
        for user, groups in sorted(made.items()):
            ordered = history(rows, user)
            newest, covered = ordered[-1].key.h_ts_ms, ordered[groups * N - 1].key.h_ts_ms
            expected.append({
                "user_id": user_id(user),
                "model_version": "v1",
                "groups": groups,
                "segments": groups,
                "interactions": groups * N,
                "bytes": groups * 32,
                "first_from": at(ordered[0].key.h_ts_ms),
                "first_to": at(ordered[N - 1].key.h_ts_ms),
                "last_from": at(ordered[(groups - 1) * N].key.h_ts_ms),
                "covered_through": at(covered),
                "newest_event": at(newest),
                "age_s": (newest - covered) / 1000,
                "refreshed_at": at(T0 + groups - 1),
            })
        assert db.query("SELECT * FROM user_token_state").to_pylist() == expected


@FEW
@given(*CASES)
def test_token_staleness(rows, leave, share):
    with fresh() as (db, ids):
        made = filled(db, ids, rows, leave, share)
        expected = []
        for user in present(rows):
            ordered = history(rows, user)
            groups = made.get(user, 0)
            newest = ordered[-1].key.h_ts_ms if ordered else None
            covered = ordered[groups * N - 1].key.h_ts_ms if groups else None
            expected.append({
                "user_id": user_id(user),
                "model_version": "v1",
                "interactions": len(ordered),
                "groups": groups,
                "covered": groups * N,
                "uncovered": len(ordered) - groups * N,
                "due": due(rows, user),
                "missing": due(rows, user) - groups,
                "newest_event": at(newest),
                "covered_through": at(covered),
                "age_s": (newest - covered) / 1000 if groups else None,
            })
        assert db.query("SELECT * FROM token_staleness").to_pylist() == expected


@FEW
@given(*CASES)
def test_user_timeline(rows, leave, share):
    with fresh() as (db, ids):
        made = filled(db, ids, rows, leave, share)
        for user in present(rows):
            mine = sorted((r for r in rows if r.user == user), key=lambda r: r.key)
            ordinals = {r.off: i for i, r in enumerate(history(rows, user))}
            found = db.query("SELECT * FROM user_timeline WHERE user_id = ?", [user_id(user)])
            assert found["off"].to_pylist() == [r.off for r in mine]
            for position, (row, shown) in enumerate(zip(mine, found.to_pylist(), strict=True)):
                ordinal = ordinals.get(row.off)
                segment = None if ordinal is None else ordinal // N
                if segment is not None and segment >= made.get(user, 0):
                    segment = None
                covered = "recent" if segment is None else f"segment {segment}"
                assert shown["position"] == position
                assert shown["ordinal"] == ordinal
                assert shown["segment"] == segment
                assert shown["covered_by"] == (covered if row.in_history else "not in history")
                assert shown["item_id"] == ITEMS[row.item]
                assert shown["ts"] == at(row.ts)
                assert (shown["duplicate"], shown["displaced"], shown["in_history"]) == (
                    row.duplicate,
                    row.anchor is not None,
                    row.in_history,
                )


@FEW
@given(*CASES, st.integers(0, 3))
def test_ingest_lag(rows, leave, share, behind):
    with fresh() as (db, ids):
        filled(db, ids, rows, leave, share)
        first = rows[0].home
        ends = positions.next_offsets(db)
        scored = max(0, ends[first] - behind)
        with db.transaction() as tx:
            positions.set_scored(tx, {first: scored}, NOW)
        expected = []
        for home in sorted({r.home for r in rows}):
            mine = [r for r in rows if r.home == home]
            done = scored if home == first else None
            lag = mine[-1].off + 1 - (mine[0].off if done is None else done)
            expected.append({
                "topic": home[0],
                "part": home[1],
                "next_off": mine[-1].off + 1,
                "scored_off": done,
                "watermark": at(watermark(rows, home)),
                "behind": lag,
                "idle": lag == 0,
                "records": len(mine),
                "interactions": len(mine),
                "dead": 0,
                "items": 0,
                "late": sum(r.anchor is not None for r in mine),
                "duplicates": sum(r.duplicate for r in mine),
                "displaced": sum(r.anchor is not None for r in mine),
                "last_read": NOW.replace(tzinfo=None),
            })
        assert db.query("SELECT * FROM ingest_lag").to_pylist() == expected


@FEW
@given(*CASES)
def test_coverage(rows, leave, share):
    with fresh() as (db, ids):
        made = filled(db, ids, rows, leave, share)
        lengths = [len(history(rows, u)) for u in present(rows)]
        users, total = sum(n > 0 for n in lengths), sum(lengths)
        groups = sum(made.values())
        (found,) = db.query("SELECT * FROM coverage").to_pylist()
        assert found == {
            "model_version": "v1",
            "serving": True,
            "users": users,
            "users_covered": len(made),
            "share_users": len(made) / users if users else None,
            "interactions": total,
            "interactions_covered": groups * N,
            "share_interactions": groups * N / total if total else None,
            "groups": groups,
            "bytes": groups * 32,
        }


VIEWS = ("user_token_state", "token_staleness", "user_timeline", "ingest_lag", "coverage")


@pytest.mark.parametrize("view", [*VIEWS, "interactions", "history", "counters"])
def test_views_of_an_empty_database_are_empty(view):
    with fresh() as (db, _):
        assert db.query("SELECT * FROM " + view).num_rows == 0


def test_without_any_model_everything_is_uncovered_and_recent():
    with fresh() as (db, ids):
        store(db, ids, [Row(0, 1, T0, 0, 0), Row(0, 2, T0 + 1, 0, 1)])
        (stale,) = db.query("SELECT * FROM token_staleness").to_pylist()
        assert (stale["model_version"], stale["uncovered"], stale["missing"]) == (None, 2, 0)
        assert (
            db.query("SELECT covered_by AS c FROM user_timeline")["c"].to_pylist() == ["recent"] * 2
        )
        assert db.query("SELECT * FROM coverage").num_rows == 0


def test_views_tell_versions_apart_and_the_timeline_follows_the_serving_one():
    rows = [Row(0, i % 4, T0 + i * HOUR, 0, i) for i in range(16)]
    with fresh() as (db, ids):
        store(db, ids, rows)
        one = compress_due(db, ids, rows, run_id=1)[0]
        two = compress_due(db, ids, rows, leave=2, run_id=2, version="v2")[0]
        assert (one, two) == (3, 1)
        shares = db.query("SELECT model_version, serving, groups FROM coverage").to_pylist()
        assert [tuple(r.values()) for r in shares] == [("v1", False, 3), ("v2", True, 1)]
        missing = db.query("SELECT model_version, missing FROM token_staleness").to_pylist()
        assert [tuple(r.values()) for r in missing] == [("v1", 0), ("v2", 2)]
        timeline = db.query("SELECT covered_by AS c FROM user_timeline")["c"].to_pylist()
        assert timeline.count("recent") == 16 - N


def test_the_timeline_shows_item_text():
    with fresh() as (db, ids):
        store(db, ids, [Row(0, 1, T0, 0, 0)])
        with db.transaction() as tx:
            record = {"item_idx": [0], "text": ["a loaf"], "available": [None]}
            record |= {"first_seen_ms": [None], "source": ["file"]}
            items.upsert(tx, pa.table(record, schema=items.ITEM_SCHEMA))
        (row,) = db.query("SELECT item_id, text FROM user_timeline").to_pylist()
        assert row == {"item_id": "bread", "text": "a loaf"}
        (row,) = db.query("SELECT user_id, item_id, off FROM interactions").to_pylist()
        assert row == {"user_id": "u0", "item_id": "bread", "off": 0}


def test_a_displaced_row_is_due_at_its_place():
    anchor = Row(0, 0, T0 + 9 * HOUR, 0, 0)
    late = [Row(0, 0, T0 + i * HOUR, 0, 1 + i, anchor=anchor.key) for i in range(6)]
    with fresh() as (db, ids):
        store(db, ids, [anchor, *late])
        assert db.query("SELECT due FROM token_staleness")["due"].to_pylist() == [0]
        store(db, ids, [Row(0, 0, T0 + 9 * HOUR + LATENESS + 1, 0, 7)])
        assert db.query("SELECT due FROM token_staleness")["due"].to_pylist() == [(7 - R_MIN) // N]


def test_rows_outside_the_history_do_not_shift_segments():
    rows = [Row(0, 0, T0, 0, 0, in_history=False), Row(0, 0, T0, 1, 1, in_history=False)]
    rows += [Row(0, 0, T0 + i * HOUR, 0, 2 + i) for i in range(9)]
    with fresh() as (db, ids):
        store(db, ids, rows)
        assert compress_due(db, ids, rows) == {0: 1}
        covered = db.query("SELECT covered_by AS c FROM user_timeline")["c"].to_pylist()
        outside = [i for i, text in enumerate(covered) if text == "not in history"]
        assert [text for i, text in enumerate(covered) if i not in outside] == (
            ["segment 0"] * N + ["recent"] * 6
        )
        assert len(outside) == 2


def test_lateness_moves_the_watermark():
    with fresh() as (db, ids):
        store(db, ids, [Row(0, 0, T0 + LATENESS, 0, 0)])
        assert db.query("SELECT watermark FROM ingest_lag")["watermark"].to_pylist() == [at(T0)]
