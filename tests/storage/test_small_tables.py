"""Items, dead letters, runs and failures, journal, model registry, slates."""

from datetime import timedelta

import pyarrow as pa
import pytest

from storage import dead_letters, items, journal, models, runs, slates
from storage.errors import StorageError, VersionMismatchError
from storage.runs import RunRow
from tests.storage.support import NOW, T0, fresh


def item_rows(*rows):
    return pa.Table.from_pylist([dict(zip(items.ITEM_SCHEMA.names, r, strict=True)) for r in rows],
                                schema=items.ITEM_SCHEMA)  # fmt: skip


def test_item_records_keep_what_they_do_not_say():
    with fresh() as (db, ids):
        with db.transaction() as tx:
            ids.assign_items(tx, ["x", "y"], [T0, None])
            items.upsert(
                tx,
                item_rows(
                    (0, "old", None, T0 - 5, "file"),
                    (0, "new", False, None, None),
                    (0, None, None, T0 + 9, None),
                    (1, None, None, T0 + 1, "file"),
                ),
            )
            assert items.upsert(tx, item_rows()) == 0
        with db.transaction() as tx:
            assert items.upsert(tx, item_rows((1, "why", True, T0 + 5, None))) == 1
        assert items.all_items(db).to_pylist() == [
            {"item_idx": 0, "item_id": "x", "text": "new", "available": False,
             "first_seen_ms": T0 - 5, "source": "file"},
            {"item_idx": 1, "item_id": "y", "text": "why", "available": True,
             "first_seen_ms": T0 + 1, "source": "file"},
        ]  # fmt: skip
        with pytest.raises(StorageError, match="do not fit"), db.transaction() as tx:
            items.upsert(tx, pa.table({"item_idx": [0]}))


def dead_rows(*rows):
    names = ("topic", "part", "off", "reason", "detail", "raw", "ingested_at_ms")
    more = dict.fromkeys(("key", "headers", "append_ts_ms", "size"))
    letters = [{**more, **dict(zip(names, row, strict=False))} for row in rows]
    return pa.Table.from_pylist(letters, schema=dead_letters.DEAD_LETTER_SCHEMA)


DEAD = dead_rows(
    ("t", 0, 4, "not json", "line 1", b"\xff{", T0),
    ("t", 0, 5, "not json", None, None, T0 + 1),
    ("t", 1, 0, "future", "ts", b"{}", T0),
)


def test_dead_letters_keep_position_reason_and_bytes():
    with fresh() as (db, _):
        with db.transaction() as tx:
            assert dead_letters.append(tx, DEAD) == 3
        newest = dead_letters.find(db, limit=2).to_pylist()
        assert [r["off"] for r in newest] == [5, 4]
        assert newest[1]["raw"] == b"\xff{"
        names = set(dead_letters.DEAD_LETTER_SCHEMA.names)
        assert set(dead_letters.find(db).schema.names) == names | {"replayed_at_ms"}
        counted = [tuple(r.values()) for r in dead_letters.counts(db).to_pylist()]
        assert counted == [("t", 0, "not json", 2), ("t", 1, "future", 1)]
        with pytest.raises(StorageError, match="do not fit"), db.transaction() as tx:
            dead_letters.append(tx, pa.table({"topic": ["t"]}))


def test_dead_letters_keep_what_their_records_came_with():
    headers = [("a", b"1"), ("a", b"\xff"), ("b", None)]
    more = {
        "key": b"k",
        "headers": dead_letters.headers_text(headers),
        "size": 9,
        "append_ts_ms": T0,
    }
    row = {**DEAD.to_pylist()[0], **more}
    with fresh() as (db, _):
        with db.transaction() as tx:
            dead_letters.append(tx, pa.Table.from_pylist([row], schema=DEAD.schema))
        [found] = dead_letters.find(db).to_pylist()
        assert {name: found[name] for name in more} == more
        assert dead_letters.headers_of(found["headers"]) == headers
    assert dead_letters.headers_text(()) is None
    assert dead_letters.headers_of(None) == []


def test_dead_letters_are_found_by_place_and_reason_and_by_whether_they_were_replayed():
    with fresh() as (db, _):
        with db.transaction() as tx:
            dead_letters.append(tx, DEAD)
        with db.transaction() as tx:
            assert dead_letters.mark_replayed(tx, [("t", 0, 5), ("t", 0, 6)], NOW) == 1
        for terms, offs in (
            ({"topic": "t", "part": 0}, [5, 4]),
            ({"off": 0}, [0]),
            ({"reason": "future"}, [0]),
            ({"replayed": True}, [5]),
            ({"replayed": False, "part": 0}, [4]),
            ({"topic": "other"}, []),
        ):
            wanted = dead_letters.Wanted(**terms)
            assert dead_letters.find(db, wanted, limit=0)["off"].to_pylist() == offs
            assert sum(dead_letters.counts(db, wanted)["n"].to_pylist()) == len(offs)
        counted = db.query(
            "SELECT reason, n, replayed, last_off FROM dead_letter_counts"
        ).to_pylist()
        assert [tuple(row.values()) for row in counted] == [
            ("not json", 2, 1, 5),
            ("future", 1, 0, 0),
        ]


def test_dead_letters_follow_a_position_in_log_order():
    with fresh() as (db, _):
        with db.transaction() as tx:
            dead_letters.append(tx, DEAD)
        wanted, seen, after = dead_letters.Wanted(topic="t"), [], None
        while rows := dead_letters.following(db, wanted, after, limit=2).to_pylist():
            seen += [(row["part"], row["off"]) for row in rows]
            after = (rows[-1]["topic"], rows[-1]["part"], rows[-1]["off"])
        assert seen == [(0, 4), (0, 5), (1, 0)]


def test_dead_letters_beyond_marks_come_in_log_order():
    with fresh() as (db, _):
        with db.transaction() as tx:
            dead_letters.append(tx, DEAD)
        found = dead_letters.beyond(db, {("t", 0): 5}, limit=10)
        assert list(zip(found["part"].to_pylist(), found["off"].to_pylist(), strict=True)) == [
            (0, 5),
            (1, 0),
        ]
        assert dead_letters.beyond(db, {}, limit=1)["off"].to_pylist() == [4]


def run_row(run_id, **changes):
    values = {"model_version": "v1", "at_ms": T0, "watermark": {("t", 0): T0 - 1}, "users": 2}
    values |= {"segments": 3, "seconds": 0.5, "visible_from_ms": None, "status": "running"}
    return RunRow(run_id=run_id, **(values | changes))


def test_a_run_is_replaced_by_its_later_state():
    with fresh() as (db, _):
        with db.transaction() as tx:
            assert runs.next_run_id(tx) == 1
            runs.put_runs(tx, [run_row(1)])
            assert runs.next_run_id(tx) == 2
            runs.put_runs(tx, [run_row(2)])
            done = run_row(1, status="done", visible_from_ms=T0 + 7, note="fine")
            runs.put_runs(tx, [done])
        assert runs.list_runs(db) == [run_row(2), done]
        assert runs.list_runs(db, 1) == [run_row(2)]
        assert runs.list_runs(db, limit=None) == [run_row(2), done]


def test_failures_count_up_to_quarantine_and_can_be_cleared():
    with fresh() as (db, _):
        with db.transaction() as tx:
            counts = [runs.record_failure(tx, 5, "v1", f"e{i}", NOW) for i in range(3)]
            runs.record_failure(tx, 5, "v2", "other", NOW, quarantine_after=1)
        assert counts == [1, 2, 3]
        (one,) = runs.failures(db, "v1")
        assert (one.attempts, one.error, one.quarantined) == (3, "e2", True)
        assert len(runs.failures(db)) == 2
        with db.transaction() as tx:
            runs.clear_failure(tx, 5, "v1")
        assert [f.model_version for f in runs.failures(db)] == ["v2"]


def test_journal_entries_keep_order_detail_and_positions():
    places = {("t", 0): 5, ("s", 3): 7}
    with fresh() as (db, _):
        assert journal.latest(db, "config") is None
        with db.transaction() as tx:
            assert journal.append(tx, "config", "a", {"k": [1, None]}, places, NOW) == 1
            assert journal.append(tx, "shed", "b", None, {}, NOW) == 2
            assert journal.append(tx, "config", "c", {}, {("t", 0): 9}, NOW) == 3
        first, shed, last = journal.entries(db)
        assert (first.detail, first.positions, first.kind) == ({"k": [1, None]}, places, "config")
        assert (shed.detail, shed.positions, shed.journal_id) == ({}, {}, 2)
        assert journal.entries(db, "config") == [first, last]
        assert journal.entries(db, after_id=1) == [shed, last]
        assert journal.latest(db, "config") == last
        with pytest.raises(StorageError, match="unknown"), db.transaction() as tx:
            journal.append(tx, "gossip", "", None, {}, NOW)


def register(tx, version, digest="d", config=None, days=0, **options):
    return models.register(
        tx,
        version=version,
        digest=digest,
        config=config or {"n": 64},
        trained_through_ms=T0,
        path="m.safetensors",
        at=NOW + timedelta(days=days),
        **options,
    )


def test_the_version_activated_last_is_active():
    with fresh() as (db, _):
        assert models.active(db) is None
        with db.transaction() as tx:
            assert register(tx, "v1")
            assert not register(tx, "v1")
            assert register(tx, "v2", days=1)
            assert register(tx, "v3", days=2, activate=False)
        assert models.active(db).version == "v2"
        with db.transaction() as tx:
            assert register(tx, "v1")
        assert models.active(db).version == "v1"
        assert db.query("SELECT version FROM serving_version")["version"].to_pylist() == ["v1"]
        assert [m.version for m in models.list_models(db)] == ["v1", "v2", "v3"]
        assert (models.active(db).config, models.active(db).trained_through_ms) == ({"n": 64}, T0)


def test_versions_registered_at_the_same_time_keep_their_order():
    with fresh() as (db, _):
        for version in ("tiny", "other", "a"):
            with db.transaction() as tx:
                register(tx, version)
        assert [m.version for m in models.list_models(db)] == ["tiny", "other", "a"]


@pytest.mark.parametrize("changed", [{"digest": "other"}, {"config": {"n": 32}}])
def test_a_version_with_another_content_is_refused(changed):
    with fresh() as (db, _):
        with db.transaction() as tx:
            register(tx, "v1")
        with (
            pytest.raises(VersionMismatchError, match="version v1 is registered with"),
            db.transaction() as tx,
        ):
            register(tx, "v1", **changed)


def slate_rows(*ids):
    return pa.table({
        "slate_id": list(ids),
        "user_idx": pa.array([i % 2 for i in range(len(ids))], pa.int64()),
        "at_ms": pa.array([T0] * len(ids), pa.int64()),
        "topic": ["t"] * len(ids),
        "part": pa.array([0] * len(ids), pa.int64()),
        "off": pa.array(range(len(ids)), pa.int64()),
        "model_version": pa.array([None] * len(ids), pa.string()),
        "reason": ["popular"] * len(ids),
        "items": ["[]"] * len(ids),
        "detail": ["{}"] * len(ids),
    })


def test_the_slate_log_keeps_the_newest():
    with fresh() as (db, _):
        with db.transaction() as tx:
            assert slates.append(tx, slate_rows("a", "b", "c")) == 3
            assert slates.append(tx, slate_rows("d", "e")) == 2
            assert slates.trim(tx, 10) == 0
            assert slates.trim(tx, 3) == 2
            assert slates.append(tx, slate_rows("f")) == 1
        assert slates.recent(db, 0)["slate_id"].to_pylist() == ["f", "d", "c"]
        assert slates.recent(db, 1, 1)["slate_id"].to_pylist() == ["e"]
        assert slates.recent(db, 0).schema.names == slates.SLATE_SCHEMA.names
        with pytest.raises(StorageError, match="do not fit"), db.transaction() as tx:
            slates.append(tx, pa.table({"slate_id": ["x"]}))
