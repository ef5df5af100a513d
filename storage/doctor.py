"""Checks of a database against its own rules; nothing is changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa

from storage.digests import checksum64
from storage.records import Reader

_GROUPS_PER_READ = 2048
_TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The outcome of one check.

    Attributes:
        check: What was checked.
        ok: Whether the rule holds.
        detail: Figures, or the first places where it does not hold.
    """

    check: str
    ok: bool
    detail: str


def run_checks(reader: Reader, *, segment_len: int | None = None) -> list[Finding]:
    """Run every check and return the findings in a fixed order.

    Args:
        reader: Where to read; a snapshot gives one consistent picture of a live database.
        segment_len: Interactions per segment; by default what the database says.
    """
    length = segment_len or int(
        reader.query("SELECT segment_len FROM settings")["segment_len"][0].as_py()
    )
    checks: tuple[Callable[[Reader], Finding], ...] = (
        _schema,
        _ranges_touch,
        _positions_unique,
        _positions_in_ranges,
        _counts_add_up,
        _identities,
        _counters,
        _groups_contiguous,
        lambda r: _groups_match_history(r, length),
        _checksums,
        _versions,
    )
    return [check(reader) for check in checks]


def _schema(reader: Reader) -> Finding:
    table = reader.query(
        "SELECT coalesce(max(version), 0)::BIGINT AS v, count(*) AS n FROM schema_migrations"
    )
    version, steps = table["v"][0].as_py(), table["n"][0].as_py()
    return Finding(
        check="schema",
        ok=version == steps and version > 0,
        detail=f"schema {version}, {steps} steps",
    )


def _ranges_touch(reader: Reader) -> Finding:
    broken = reader.query(
        """
        SELECT topic || '[' || part || ']: ' || before || ' then ' || first_off AS place
        FROM (SELECT *, lag(next_off) OVER (PARTITION BY topic, part ORDER BY first_off, next_off) AS before
              FROM position_ranges)
        WHERE before <> first_off
            AND (topic, part, before, first_off) NOT IN (SELECT (topic, part, first_off, next_off) FROM gaps)
        ORDER BY topic, part, first_off
        """
    )
    total = reader.query(
        "SELECT count(*) AS n, count(DISTINCT (topic, part)) AS p, (SELECT count(*) FROM gaps) AS lost "
        "FROM position_ranges"
    )
    good = f"{total['n'][0].as_py()} ranges of {total['p'][0].as_py()} partitions touch"
    if lost := total["lost"][0].as_py():
        good += f", but for {lost} accepted gaps"
    return _finding("ranges touch", broken, good)


def _positions_unique(reader: Reader) -> Finding:
    repeated = reader.query(
        """
        SELECT topic || '[' || part || ']@' || off || ' stored ' || count(*) || ' times' AS place
        FROM (SELECT topic, part, off FROM rows_all UNION ALL SELECT topic, part, off FROM dead_letters)
        GROUP BY topic, part, off HAVING count(*) > 1 ORDER BY topic, part, off LIMIT 100
        """
    )
    return _finding("positions unique", repeated, "no position is stored twice")


def _positions_in_ranges(reader: Reader) -> Finding:
    outside = reader.query(
        """
        SELECT p.topic || '[' || p.part || ']@' || p.off AS place
        FROM (SELECT topic, part, off FROM rows_all UNION ALL SELECT topic, part, off FROM dead_letters) p
        ASOF LEFT JOIN (SELECT * FROM position_ranges WHERE next_off > first_off) r
            ON r.topic = p.topic AND r.part = p.part AND p.off >= r.first_off
        WHERE r.next_off IS NULL OR p.off >= r.next_off
        ORDER BY p.topic, p.part, p.off LIMIT 100
        """
    )
    return _finding("positions within ranges", outside, "every position lies in a range")


def _counts_add_up(reader: Reader) -> Finding:
    broken = reader.query(
        """
        WITH t AS (
            SELECT topic, part, sum(records) AS records, sum(interactions) AS interactions,
                sum(dead) AS dead, sum(items) AS items
            FROM position_ranges GROUP BY topic, part
        ), i AS (SELECT topic, part, count(*) AS n FROM rows_all GROUP BY topic, part
        ), d AS (SELECT topic, part, count(*) AS n FROM dead_letters GROUP BY topic, part)
        SELECT t.topic || '[' || t.part || ']: ' || coalesce(i.n, 0) || ' interactions + '
            || coalesce(d.n, 0) || ' dead + ' || t.items || ' items of ' || t.records || ' records' AS place
        FROM t LEFT JOIN i USING (topic, part) LEFT JOIN d USING (topic, part)
        WHERE coalesce(i.n, 0) + coalesce(d.n, 0) + t.items <> t.records
            OR coalesce(i.n, 0) <> t.interactions OR coalesce(d.n, 0) <> t.dead
        ORDER BY t.topic, t.part
        """
    )
    total = reader.query("SELECT coalesce(sum(records), 0)::BIGINT AS n FROM position_ranges")
    return _finding(
        "records accounted for",
        broken,
        f"{total['n'][0].as_py()} records are interactions, dead letters or items",
    )


def _identities(reader: Reader) -> Finding:
    broken = reader.query(
        """
        SELECT 'user ' || user_id || ' repeats' AS place FROM users GROUP BY user_id HAVING count(*) > 1
        UNION ALL
        SELECT 'item ' || item_id || ' repeats' FROM items GROUP BY item_id HAVING count(*) > 1
        UNION ALL
        SELECT 'user_idx ' || user_idx || ' unknown'
        FROM (SELECT user_idx FROM rows_all UNION SELECT user_idx FROM token_groups)
        WHERE user_idx NOT IN (SELECT user_idx FROM users)
        UNION ALL
        SELECT DISTINCT 'item_idx ' || item_idx || ' unknown' FROM rows_all
        WHERE item_idx NOT IN (SELECT item_idx FROM items)
        """
    )
    return _finding("identities", broken, "users and items of all rows are known once")


def _counters(reader: Reader) -> Finding:
    broken = reader.query(
        """
        WITH stored AS (
            SELECT user_idx, item_idx, sum(n) AS n, sum(s365) AS s, max(last_ts) AS last_ts
            FROM counter_runs GROUP BY user_idx, item_idx
        ), exact AS (
            SELECT user_idx, item_idx, sum(n) AS n, sum(s365) AS s, max(ts) AS last_ts
            FROM counter_terms WHERE NOT hot GROUP BY user_idx, item_idx
        )
        SELECT 'user_idx ' || user_idx || ', item_idx ' || item_idx AS place
        FROM stored s FULL JOIN exact e USING (user_idx, item_idx)
        WHERE s.n IS NULL OR e.n IS NULL OR s.last_ts <> e.last_ts
            OR abs(s.n - e.n) > ? * greatest(1, abs(e.n)) OR abs(s.s - e.s) > ? * greatest(1, abs(e.s))
        ORDER BY user_idx, item_idx LIMIT 100
        """,
        [_TOLERANCE, _TOLERANCE],
    )
    return _finding("counters", broken, "stored sums equal those of the rotated rows")


def _groups_contiguous(reader: Reader) -> Finding:
    broken = reader.query(
        """
        SELECT u.user_id || ' under ' || g.model_version || ': ' || count(*) || ' groups up to segment '
            || max(g.segment) AS place
        FROM token_groups g LEFT JOIN users u ON u.user_idx = g.user_idx
        GROUP BY u.user_id, g.user_idx, g.model_version
        HAVING max(g.segment) <> count(*) - 1 OR count(DISTINCT g.segment) <> count(*)
        ORDER BY u.user_id, g.model_version LIMIT 100
        """
    )
    total = reader.query("SELECT count(*) AS n FROM token_groups")["n"][0].as_py()
    return _finding(
        "token groups contiguous", broken, f"{total} groups, none missing before another"
    )


def _groups_match_history(reader: Reader, segment_len: int) -> Finding:
    broken = reader.query(
        """
        WITH h AS (
            SELECT user_idx, h_ts, h_seq, h_part, h_off, displaced, off,
                row_number() OVER (PARTITION BY user_idx
                    ORDER BY h_ts, h_seq, h_part, h_off, displaced, off, topic) - 1 AS ordinal
            FROM rows_all
            WHERE in_history AND user_idx IN (SELECT user_idx FROM token_groups)
        )
        SELECT u.user_id || ' under ' || g.model_version || ', segment ' || g.segment AS place
        FROM token_groups g
        LEFT JOIN users u ON u.user_idx = g.user_idx
        LEFT JOIN h a ON a.user_idx = g.user_idx AND a.ordinal = g.segment * $1::BIGINT
        LEFT JOIN h z ON z.user_idx = g.user_idx AND z.ordinal = (g.segment + 1) * $1::BIGINT - 1
        WHERE g.n_items <> $1::BIGINT
            OR (a.h_ts, a.h_seq, a.h_part, a.h_off, a.displaced, a.off) IS DISTINCT FROM
                (g.first_h_ts, g.first_h_seq, g.first_h_part, g.first_h_off, g.first_displaced,
                 g.first_row_off)
            OR (z.h_ts, z.h_seq, z.h_part, z.h_off, z.displaced, z.off) IS DISTINCT FROM
                (g.last_h_ts, g.last_h_seq, g.last_h_part, g.last_h_off, g.last_displaced, g.last_row_off)
        ORDER BY u.user_id, g.model_version, g.segment LIMIT 100
        """,
        [segment_len],
    )
    return _finding(
        "token groups match history", broken, "first and last keys stand where they should"
    )


def _checksums(reader: Reader) -> Finding:
    table = reader.query("SELECT count(*) AS n, coalesce(max(rowid), -1) AS top FROM token_groups")
    total, top = int(table["n"][0].as_py()), int(table["top"][0].as_py())
    places: list[str] = []
    for start in range(0, top + 1, _GROUPS_PER_READ):
        table = reader.query(
            "SELECT u.user_id, g.model_version, g.segment, g.checksum, g.bytes, g.kv "
            "FROM token_groups g LEFT JOIN users u ON u.user_idx = g.user_idx "
            "WHERE g.rowid >= $1 AND g.rowid < $2 ORDER BY g.rowid",
            [start, start + _GROUPS_PER_READ],
        )
        places += [
            f"{row['user_id']} under {row['model_version']}, segment {row['segment']}"
            for row in table.to_pylist()
            if checksum64(row["kv"]) != row["checksum"] or len(row["kv"]) != row["bytes"]
        ]
    broken = pa.table({"place": pa.array(places, pa.string())})
    return _finding("checksums", broken, f"{total} groups have the bytes that were stored")


def _versions(reader: Reader) -> Finding:
    broken = reader.query(
        """
        SELECT 'groups of unregistered version ' || model_version AS place
        FROM (SELECT DISTINCT model_version FROM token_groups)
        WHERE model_version NOT IN (SELECT version FROM model_registry)
        UNION ALL
        SELECT 'version ' || version || ' registered ' || count(*) || ' times' FROM model_registry
        GROUP BY version HAVING count(*) > 1
        UNION ALL
        SELECT 'groups of unknown run ' || run_id FROM (SELECT DISTINCT run_id FROM token_groups)
        WHERE run_id NOT IN (SELECT run_id FROM refresh_runs)
        """
    )
    total = reader.query("SELECT count(*) AS n FROM model_registry")["n"][0].as_py()
    return _finding("versions", broken, f"{total} model versions; every group has one, and a run")


def _finding(check: str, broken: pa.Table, good: str) -> Finding:
    places = broken["place"].to_pylist()
    if not places:
        return Finding(check=check, ok=True, detail=good)
    shown = "; ".join(str(place) for place in places[:3])
    more = f" and {len(places) - 3} more" if len(places) > 3 else ""
    return Finding(check=check, ok=False, detail=shown + more)
