import pytest

from storage import doctor, rotation
from tests.storage.support import HOMES, HOUR, T0, Row, compress_due, fresh, publish, store

ROWS = [Row(u, i % 4, T0 + i * HOUR, 0, 2 * i + u) for i in range(16) for u in (0, 1)]


@pytest.fixture
def sound():
    with fresh() as (db, ids):
        store(db, ids, ROWS)
        compress_due(db, ids, ROWS)
        publish(db, 1, {})
        with db.transaction() as tx:
            rotation.rotate(tx, below=dict.fromkeys(HOMES, 20), before_ms=T0 + 90 * HOUR)
        yield db


def failed(db):
    return {f.check: f.detail for f in doctor.run_checks(db) if not f.ok}


def test_a_sound_database_passes_every_check(sound):
    findings = doctor.run_checks(sound)
    assert [f.check for f in findings if not f.ok] == []
    assert len({f.check for f in findings}) == len(findings) == 11
    assert all(f.detail for f in findings)


def test_an_empty_database_is_sound():
    with fresh() as (db, _):
        assert failed(db) == {}


@pytest.mark.parametrize(
    ("fault", "check", "place"),
    [
        ("UPDATE position_ranges SET first_off = 5; INSERT INTO position_ranges "
         "SELECT * REPLACE (0 AS first_off, 3 AS next_off, 0 AS records, 0 AS interactions) "
         "FROM position_ranges", "ranges touch", "clicks[0]: 3 then 5"),
        ("UPDATE interactions_hot SET off = 3 WHERE off = 30", "positions unique", "clicks[0]@3"),
        ("UPDATE interactions_hot SET off = 99 WHERE off = 30", "positions within ranges",
         "clicks[0]@99"),
        ("DELETE FROM interactions_hot WHERE off = 30", "records accounted for",
         "31 interactions + 0 dead + 0 items of 32 records"),
        ("UPDATE users SET user_id = 'u0'", "identities", "user u0 repeats"),
        ("UPDATE interactions_hot SET item_idx = 77 WHERE off = 30", "identities", "item_idx 77"),
        ("UPDATE counter_runs SET n = n + 1 WHERE user_idx = 1 AND item_idx = 2", "counters",
         "user_idx 1, item_idx 2"),
        ("UPDATE counter_runs SET s365 = s365 * 1.001 WHERE user_idx = 1", "counters", "user_idx 1"),
        ("DELETE FROM counter_runs WHERE user_idx = 1 AND item_idx = 2", "counters", "item_idx 2"),
        ("DELETE FROM token_groups WHERE user_idx = 1 AND segment = 1", "token groups contiguous",
         "u1 under v1"),
        ("INSERT INTO token_groups SELECT * FROM token_groups WHERE user_idx = 0 AND segment = 2",
         "token groups contiguous", "u0 under v1"),
        ("UPDATE token_groups SET last_h_seq = 9 WHERE user_idx = 1 AND segment = 2",
         "token groups match history", "u1 under v1, segment 2"),
        ("UPDATE interactions_runs SET h_ts = h_ts + INTERVAL 3 HOUR WHERE off = 2",
         "token groups match history", "u0 under v1, segment 0"),
        ("UPDATE token_groups SET kv = repeat('x', 32)::BLOB WHERE segment = 1 AND user_idx = 0",
         "checksums", "u0 under v1, segment 1"),
        ("DELETE FROM model_registry", "versions", "unregistered version v1"),
        ("DELETE FROM refresh_runs", "versions", "unknown run 1"),
        ("DELETE FROM schema_migrations", "schema", "schema 0"),
    ],
)  # fmt: skip
def test_every_planted_fault_is_found_and_named(sound, fault, check, place):
    with sound.transaction() as tx:
        for statement in fault.split("; "):
            tx.execute(statement)
    found = failed(sound)
    assert check in found
    assert place in found[check]


def test_many_faults_are_counted_and_three_shown(sound):
    with sound.transaction() as tx:
        tx.execute("UPDATE token_groups SET kv = repeat('x', 32)::BLOB")
    assert failed(sound)["checksums"].endswith("and 3 more")
