"""The state of a database at a glance: partitions, tokens, refresh runs, failures, dead letters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from storage import dead_letters, positions
from storage.runs import FailureRow, RunRow, failures, list_runs
from storage.usage import Usage, usage
from stream.cache import CACHE_KEY, CacheUse

if TYPE_CHECKING:
    from storage.database import Database
    from stream.config import PipelineConfig

_LAG = "SELECT * REPLACE (epoch_ms(watermark) AS watermark, epoch_ms(last_read) AS last_read) FROM ingest_lag"
_COVERAGE = "SELECT * FROM coverage"
_STALE = """
    SELECT model_version, count(*) FILTER (due > 0) AS users_due, sum(due)::BIGINT AS segments_due,
        sum(missing)::BIGINT AS segments_missing, max(uncovered)::BIGINT AS most_uncovered
    FROM token_staleness GROUP BY model_version ORDER BY model_version"""
_TABLES = """
    SELECT (SELECT count(*) FROM users) AS users, (SELECT count(*) FROM items) AS items,
        (SELECT count(*) FROM rows_all) AS interactions, (SELECT count(*) FROM interactions_hot) AS hot_rows,
        (SELECT count(*) FROM token_groups) AS token_groups, (SELECT count(*) FROM journal) AS journal_entries"""

Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What a person asks first.

    Attributes:
        sizes: rows per kind.
        limits: what is bounded, each with what it takes now ("used", None where only the process that
            runs the pipeline knows) and its limit.
        cache: what the cache of states holds, and how often it helped: now in a process that scores, else when
            the newest scoring run ended; None before any such run.
        partitions: rows of the view `ingest_lag`, times in milliseconds.
        coverage: rows of the view `coverage`.
        staleness: due and missing segments per model version.
        runs: newest refresh runs.
        failures: refresh failures and quarantined users.
        dead_letters: number per partition and reason.
        lost: ranges of the log that were dropped before they were read, each with when that was accepted.
    """

    sizes: Row
    limits: dict[str, Row]
    cache: CacheUse | None
    partitions: list[Row]
    coverage: list[Row]
    staleness: list[Row]
    runs: list[RunRow]
    failures: list[FailureRow]
    dead_letters: list[Row]
    lost: list[Row]


def status(
    db: Database, config: PipelineConfig, *, cache: CacheUse | None = None, run_limit: int = 5
) -> Status:
    """Return the status of a database, its tables read in one snapshot, beside the limits of a configuration.

    Args:
        db: the database.
        config: its limits.
        cache: where the cache of a scorer stands now; None takes what the newest scoring run left.
        run_limit: refresh runs at most.
    """
    stored = None if cache else db.get_meta(CACHE_KEY)
    if stored is not None:
        cache = msgspec.json.decode(stored, type=CacheUse)
    limits = _limits(usage(db), cache, config)
    with db.snapshot() as read:
        return Status(
            sizes=read.query(_TABLES).to_pylist()[0],
            limits=limits,
            cache=cache,
            partitions=read.query(_LAG).to_pylist(),
            coverage=read.query(_COVERAGE).to_pylist(),
            staleness=read.query(_STALE).to_pylist(),
            runs=list(list_runs(read, limit=run_limit)),
            failures=list(failures(read)),
            dead_letters=dead_letters.counts(read).to_pylist(),
            lost=positions.gaps(read).to_pylist(),
        )


def _limits(used: Usage, cache: CacheUse | None, config: PipelineConfig) -> dict[str, Row]:
    return {
        name: {"used": now, "limit": limit}
        for name, now, limit in (
            ("hot_rows", used.hot_rows, config.rotate_rows),
            ("runs", used.runs, config.max_runs),
            ("slate_log", used.slate_rows, config.slate_log),
            ("file_bytes", used.file_bytes, None),
            ("wal_bytes", used.wal_bytes, None),
            ("database_memory", used.memory_bytes, used.memory_limit),
            ("database_spilled", used.spilled_bytes, None),
            ("cached_users", cache and cache.users, config.serving.max_users),
            ("cached_bytes", cache and cache.bytes, config.serving.max_bytes),
            ("arena_bytes", cache and cache.arena_bytes, config.serving.max_bytes),
            ("chain_bytes", None, config.refresh.chain_bytes),
            ("seen_bytes", None, config.stream.seen_bytes),
        )
    }
