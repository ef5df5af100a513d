"""Schema steps: each is run and recorded in one transaction, then the file is checkpointed.

Steps are SQL files `schema/NNN_name.sql` or functions in `STEPS`. A step never changes after it was
released; views are not steps, they are made again whenever `views.sql` differs from what the file has.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import duckdb

from storage.connection import no_room, one_line
from storage.errors import CorruptFileError, MigrationError, NewerSchemaError
from storage.faults import reach

SCHEMA_DIR = Path(__file__).parent / "schema"
VIEWS_FILE = Path(__file__).parent / "views.sql"

Apply = Callable[[duckdb.DuckDBPyConnection], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One schema step.

    Attributes:
        version: Its number; steps are numbered from 1 without holes.
        name: A short name.
        checksum: Of its text, so that a changed step is noticed.
        apply: Runs it inside an open transaction.
    """

    version: int
    name: str
    checksum: str
    apply: Apply


def sql_step(path: Path) -> Step:
    """Return the step of a file `NNN_name.sql`."""
    text = path.read_text(encoding="utf-8")
    number, _, name = path.stem.partition("_")

    def apply(connection: duckdb.DuckDBPyConnection) -> None:
        for statement in connection.extract_statements(text):
            connection.execute(statement)
            reach("migration.statement")

    return Step(version=int(number), name=name, checksum=_checksum(text), apply=apply)


def function_step(version: int, function: Apply) -> Step:
    """Return the step of a function that gets the connection inside the open transaction."""
    return Step(
        version=version,
        name=str(getattr(function, "__name__", "step")),
        checksum=_checksum(inspect.getsource(function)),
        apply=function,
    )


def all_steps() -> list[Step]:
    """Return every step of this program in order."""
    return sorted((sql_step(path) for path in SCHEMA_DIR.glob("*.sql")), key=lambda s: s.version)


def migrate(
    connection: duckdb.DuckDBPyConnection,
    *,
    path: Path,
    now: datetime,
    steps: Sequence[Step] | None = None,
) -> list[Step]:
    """Bring the file's schema up to date and return the steps that ran.

    Raises:
        NewerSchemaError: The file has a schema this program does not know.
        MigrationError: A step failed (nothing of it remains) or was changed after it was applied.
        CorruptFileError: The file has tables, but none of ours.
    """
    steps = all_steps() if steps is None else list(steps)
    applied = _applied(connection, path)
    newest = steps[-1].version if steps else 0
    if applied and max(applied) > newest:
        raise NewerSchemaError(
            f"{path}: schema {max(applied)} is newer than {newest}, the newest this program knows; "
            "update freshet, or open a copy written by this version"
        )
    for step in steps:
        if step.version in applied and applied[step.version] != step.checksum:
            raise MigrationError(
                f"{path}: schema step {step.version} ({step.name}) differs from the one applied to this "
                "file; restore the released step and add a new one"
            )
    pending = [step for step in steps if step.version not in applied]
    for step in pending:
        _run(connection, step, path, now)
    _make_views(connection, path)
    return pending


def schema_version(connection: duckdb.DuckDBPyConnection, path: Path) -> int:
    """Return the number of the newest applied step, 0 for an empty file."""
    return max(_applied(connection, path), default=0)


def _applied(connection: duckdb.DuckDBPyConnection, path: Path) -> dict[int, str]:
    names = {
        str(name)
        for (name,) in connection.execute(
            "SELECT table_name FROM duckdb_tables() WHERE NOT internal"
        ).fetchall()
    }
    if "schema_migrations" in names:
        rows = connection.execute("SELECT version, checksum FROM schema_migrations").fetchall()
        return {int(version): str(checksum) for version, checksum in rows}
    if names:
        raise CorruptFileError(
            f"{path}: a DuckDB file, but not one of freshet's (it has no schema_migrations table); "
            "choose another path"
        )
    return {}


def _run(connection: duckdb.DuckDBPyConnection, step: Step, path: Path, now: datetime) -> None:
    at = now.astimezone(UTC).replace(tzinfo=None)
    connection.begin()
    try:
        connection.execute(
            "CREATE TABLE IF NOT EXISTS schema_migrations(version INTEGER NOT NULL, "
            "name VARCHAR NOT NULL, checksum VARCHAR NOT NULL, applied_at TIMESTAMP NOT NULL)"
        )
        step.apply(connection)
        connection.execute(
            "INSERT INTO schema_migrations VALUES (?, ?, ?, ?)",
            [step.version, step.name, step.checksum, at],
        )
        reach("migration.recorded")
        connection.commit()
    except Exception as error:
        _take_back(connection)
        raise no_room(path, error) or MigrationError(
            f"{path}: schema step {step.version} ({step.name}) failed and was taken back: {one_line(error)}"
        ) from error
    reach("migration.committed")
    connection.execute("CHECKPOINT").fetchall()  # no DDL may wait in the write-ahead log


def _make_views(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    text = VIEWS_FILE.read_text(encoding="utf-8")
    checksum = _checksum(text)
    rows = connection.execute("SELECT value FROM meta WHERE key = 'views_checksum'").fetchall()
    if rows == [(checksum,)]:
        return
    connection.begin()
    try:
        connection.execute(text)
        connection.execute("DELETE FROM meta WHERE key = 'views_checksum'")
        connection.execute("INSERT INTO meta VALUES ('views_checksum', ?)", [checksum])
        reach("migration.views")
        connection.commit()
    except duckdb.Error as error:
        _take_back(connection)
        raise no_room(path, error) or MigrationError(
            f"{path}: the views could not be made: {one_line(error)}"
        ) from error
    connection.execute("CHECKPOINT").fetchall()


def _take_back(connection: duckdb.DuckDBPyConnection) -> None:
    """Roll back; a commit that failed has done it already, and its error is the one to tell."""
    with suppress(duckdb.Error):
        connection.rollback()


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:32]
