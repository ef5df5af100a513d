import pytest

from storage import doctor, positions
from storage.errors import PositionError
from storage.positions import RangeRow
from tests.storage.support import NOW, T0, fresh

A, B = ("clicks", 0), ("views", 3)


def row(first, next_off, *, home=A, dead=0, items=0, event=None, records=None):
    n = next_off - first if records is None else records
    return RangeRow(
        topic=home[0],
        part=home[1],
        first=first,
        next_off=next_off,
        records=n,
        interactions=n - dead - items,
        dead=dead,
        items=items,
        max_event_ms=event,
    )


def put(db, *rows, **options):
    with db.transaction() as tx:
        positions.append(tx, rows, at=NOW, **options)


def start(db, offsets):
    with db.transaction() as tx:
        positions.begin(tx, offsets, NOW)


def lost(db):
    names = ("topic", "part", "first_off", "next_off")
    return [tuple(row[name] for name in names) for row in positions.gaps(db).to_pylist()]


def ranges_finding(db):
    return next(f for f in doctor.run_checks(db) if f.check == "ranges touch")


def test_reading_begins_at_a_position_that_stands_before_anything_is_read():
    with fresh() as (db, _):
        start(db, {A: 100, B: 0})
        assert positions.next_offsets(db) == positions.scored_offsets(db) == {A: 100, B: 0}
        with pytest.raises(PositionError, match=r"records 100\.\.101 are missing"):
            put(db, row(101, 102))
        put(db, row(100, 103), row(0, 1, home=B))
        assert positions.next_offsets(db) == {A: 103, B: 1}
        assert lost(db) == []
        assert ranges_finding(db).ok
        assert [t["gaps"] for t in positions.totals(db).to_pylist()] == [0, 0]


def test_beginning_again_where_a_partition_stands_changes_nothing():
    with fresh() as (db, _):
        start(db, {A: 100})
        put(db, row(100, 103))
        before = positions.totals(db).to_pylist()
        start(db, {A: 103})
        assert positions.totals(db).to_pylist() == before
        assert db.query("SELECT count(*) AS n FROM position_ranges")["n"].to_pylist() == [2]
        with pytest.raises(PositionError, match="stored up to 103 already"):
            start(db, {A: 102})


def test_records_the_log_no_longer_has_are_a_gap_that_was_accepted():
    with fresh() as (db, _):
        start(db, {A: 100})
        put(db, row(100, 103))
        start(db, {A: 150})
        put(db, row(150, 151))
        assert lost(db) == [(*A, 103, 150)]
        assert ranges_finding(db).detail.endswith("but for 1 accepted gaps")
        with db.transaction() as tx:
            tx.execute("DELETE FROM gaps")
        assert not ranges_finding(db).ok


def test_ranges_that_touch_are_stored_and_reading_goes_on_at_their_end():
    with fresh() as (db, _):
        put(db, row(5, 8, event=T0), row(0, 2, home=B))
        put(db, row(8, 9, event=T0 - 5), row(9, 9))
        assert positions.next_offsets(db) == {A: 9, B: 2}
        assert positions.max_event_ms(db) == {A: T0}


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (row(4, 9), "stored up to 5 already; seek to 5"),
        (row(6, 9), r"records 5\.\.6 are missing"),
        (row(7, 6, records=0), "end before it starts"),
        (row(5, 7, records=3), "do not fit"),
        (
            RangeRow(topic="clicks", part=0, first=5, next_off=6, records=1, interactions=0),
            "1 records",
        ),
    ],
)
def test_ranges_that_break_the_rules_are_refused(bad, message):
    with fresh() as (db, _):
        put(db, row(0, 5))
        with pytest.raises(PositionError, match=message):
            put(db, bad)
        assert positions.next_offsets(db) == {A: 5}


def test_a_gap_is_accepted_on_request_and_counted():
    with fresh() as (db, _):
        put(db, row(0, 5))
        start(db, {A: 7})
        put(db, row(7, 9))
        (found,) = positions.totals(db).to_pylist()
        assert (found["gaps"], found["records"], found["next_off"]) == (1, 7, 9)


def test_two_ranges_of_one_transaction_must_touch_too():
    with fresh() as (db, _):
        put(db, row(0, 5), row(5, 6))
        with pytest.raises(PositionError):
            put(db, row(6, 8), row(7, 9))


def test_compaction_joins_what_touches_and_keeps_every_sum():
    with fresh() as (db, _):
        put(db, row(0, 5, dead=1, event=T0), row(0, 2, home=B, items=2))
        put(db, row(5, 8, event=T0 + 9, records=2))
        start(db, {A: 9})
        put(db, row(9, 12))
        before = positions.totals(db).to_pylist()
        with db.transaction() as tx:
            assert positions.compact(tx) == 2
            assert positions.compact(tx) == 0
        assert positions.totals(db).to_pylist() == before
        assert positions.max_event_ms(db) == {A: T0 + 9}
        ranges = db.query(
            "SELECT first_off, next_off FROM position_ranges ORDER BY ALL"
        ).to_pylist()
        assert [tuple(r.values()) for r in ranges] == [(0, 2), (0, 8), (9, 12)]


def test_scored_offsets_are_replaced_per_partition():
    with fresh() as (db, _):
        with db.transaction() as tx:
            positions.set_scored(tx, {A: 3, B: 4}, NOW)
            positions.set_scored(tx, {A: 5}, NOW)
            positions.set_scored(tx, {}, NOW)
        assert positions.scored_offsets(db) == {A: 5, B: 4}


def test_known_and_new_partitions_are_scored_together():
    with fresh() as (db, _):
        with db.transaction() as tx:
            positions.set_scored(tx, {A: 3}, NOW)
            positions.set_scored(tx, {A: 6, B: 1}, NOW)
        assert positions.scored_offsets(db) == {A: 6, B: 1}
