"""What the database takes: rows that wait, runs, bytes on disk and in memory."""

from __future__ import annotations

from dataclasses import dataclass

from storage.database import Database
from storage.rotation import count_runs, hot_rows
from storage.wal import wal_bytes

_MEMORY = """
SELECT sum(memory_usage_bytes)::BIGINT AS used, sum(temporary_storage_bytes)::BIGINT AS spilled,
    current_setting('memory_limit') AS memory_limit
FROM duckdb_memory()
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a database takes at the moment.

    Attributes:
        hot_rows: interactions that wait for rotation.
        runs: sorted runs.
        slate_rows: slates in the log of slates.
        file_bytes: the database file.
        wal_bytes: the write-ahead log beside it.
        memory_bytes: what DuckDB holds in memory in this process.
        memory_limit: most it may hold, as DuckDB says it.
        spilled_bytes: what it has put into temporary files.
    """

    hot_rows: int
    runs: int
    slate_rows: int
    file_bytes: int
    wal_bytes: int
    memory_bytes: int
    memory_limit: str
    spilled_bytes: int


def usage(db: Database) -> Usage:
    """Return what an open database takes."""
    memory = db.query(_MEMORY).to_pylist()[0]
    slates = db.query("SELECT count(*) AS n FROM slates")["n"][0].as_py()
    return Usage(
        hot_rows=hot_rows(db),
        runs=count_runs(db),
        slate_rows=int(slates),
        file_bytes=db.path.stat().st_size,
        wal_bytes=wal_bytes(db.path),
        memory_bytes=int(memory["used"]),
        memory_limit=str(memory["memory_limit"]),
        spilled_bytes=int(memory["spilled"]),
    )
