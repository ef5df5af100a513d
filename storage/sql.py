"""SQL of a person: one SELECT, read only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import duckdb

from storage.connection import one_line
from storage.database import Database
from storage.errors import QueryError
from storage.session import Stream

__all__ = ["select"]

_BATCH_ROWS = 2_048
"""Rows computed at once: a token group may have some ten kilobytes."""


@contextmanager
def select(db: Database, text: str, *, limit: int = 0) -> Iterator[Stream]:
    """Yield the rows of one SELECT, computed as they are read.

    The statement runs in a snapshot that is rolled back, so nothing it does can stay.

    Args:
        db: The database; this thread takes no other query of it until the block ends.
        text: One SELECT (also WITH, FROM, VALUES, SHOW, DESCRIBE).
        limit: Rows at most; 0 for all.

    Raises:
        QueryError: The text is no single SELECT, or DuckDB refused it, at once or at a later row.
    """
    statement = _one_select(text)
    capped = f"SELECT * FROM (\n{statement}\n) LIMIT {limit:d}" if limit else statement  # noqa: S608 a SELECT by intent
    with db.snapshot() as read, read.stream(capped, _BATCH_ROWS) as rows:
        yield rows


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
