"""SQL of a person: one SELECT, read only."""

from __future__ import annotations

import duckdb
import pyarrow as pa

from storage.connection import one_line
from storage.database import Database
from storage.errors import QueryError

__all__ = ["select"]


def select(db: Database, text: str, *, limit: int = 0) -> tuple[pa.Table, bool]:
    """Return the rows of one SELECT and whether more of them were left out.

    The statement runs in a snapshot that is rolled back, so nothing it does can stay.

    Args:
        db: The database.
        text: One SELECT (also WITH, FROM, VALUES, SHOW, DESCRIBE).
        limit: Rows at most; 0 for all.

    Raises:
        QueryError: The text is no single SELECT, or DuckDB refused it.
    """
    statement = _one_select(text)
    capped = f"SELECT * FROM (\n{statement}\n) LIMIT {limit + 1:d}" if limit else statement  # noqa: S608 a SELECT by intent
    with db.snapshot() as read:
        found = read.query(capped)
    more = bool(limit) and found.num_rows > limit
    return (found.slice(0, limit) if more else found), more


def _one_select(text: str) -> str:
    try:
        statements = duckdb.extract_statements(text)
    except duckdb.Error as error:
        raise QueryError(f"not SQL: {one_line(error)}; correct the statement") from error
    if len(statements) != 1:
        raise QueryError(f"{len(statements)} statements given; give exactly one SELECT")
    if statements[0].type != duckdb.StatementType.SELECT:
        kind = statements[0].type.name
        raise QueryError(f"a {kind} statement; only one SELECT is run here, nothing is written")
    return str(statements[0].query).strip().rstrip(";")
