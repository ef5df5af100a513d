"""The one open database file: transactions, snapshots, queries."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from types import TracebackType

import duckdb
import pyarrow as pa

from storage import migrations
from storage.connection import connect, holder_pid, release, translated
from storage.errors import StorageError
from storage.records import Param, Reader

__all__ = ["Database", "Snapshot", "Tx", "get_meta", "holder_pid", "set_meta"]

_NAME = re.compile(r"[a-z][a-z0-9_]*")


class _Session:
    """Reads on one DuckDB cursor, which belongs to one thread at a time."""

    def __init__(self, cursor: duckdb.DuckDBPyConnection, path: Path) -> None:
        self._cursor = cursor
        self._path = path

    def query(
        self,
        sql: str,
        params: Sequence[Param] = (),
        *,
        tables: Mapping[str, pa.Table] | None = None,
    ) -> pa.Table:
        """Return the whole result of one SELECT.

        Args:
            sql: The statement; parameters as `?` or `$1`.
            params: Their values.
            tables: Arrow tables the statement names, visible to it only.

        Raises:
            QueryError: DuckDB refused the statement.
            FatalStorageError: The process must end.
        """
        with translated(self._path), _registered(self._cursor, tables or {}):
            relation = self._cursor.sql(sql, params=list(params) or None)
            if relation is None:
                raise StorageError("query() takes one SELECT; write through a transaction")
            return relation.to_arrow_table()


class Snapshot(_Session):
    """Consistent reads: every query sees the same committed state."""


class Tx(_Session):
    """A running transaction: reads see its own writes, nobody else's view changes before commit."""

    def __init__(self, cursor: duckdb.DuckDBPyConnection, path: Path) -> None:
        super().__init__(cursor, path)
        self._commit_hooks: list[Callable[[], None]] = []
        self._rollback_hooks: list[Callable[[], None]] = []

    def execute(
        self,
        sql: str,
        params: Sequence[Param] = (),
        *,
        tables: Mapping[str, pa.Table] | None = None,
    ) -> int:
        """Run one statement and return how many rows it changed.

        Raises:
            QueryError: DuckDB refused the statement.
            FatalStorageError: The process must end.
        """
        with translated(self._path), _registered(self._cursor, tables or {}):
            rows = self._cursor.execute(sql, list(params) or None).fetchall()
        return int(rows[0][0]) if rows and isinstance(rows[0][0], int) else 0

    def insert(self, table_name: str, data: pa.Table) -> int:
        """Append an Arrow table and return its number of rows.

        Columns are matched by name; a column `x_ms` (epoch milliseconds) fills the TIMESTAMP column `x`.

        Raises:
            QueryError: A column is unknown, missing or of a wrong type.
        """
        if data.num_rows == 0:
            return 0
        names = [str(name) for name in data.column_names]
        for name in (table_name, *names):
            if not _NAME.fullmatch(name):
                raise StorageError(f"{name!r} is no column or table name of the store")
        targets = ", ".join(name.removesuffix("_ms") for name in names)
        values = ", ".join(
            f"make_timestamp({name} * 1000)" if name.endswith("_ms") else name for name in names
        )
        statement = f"INSERT INTO {table_name}({targets}) SELECT {values} FROM incoming"  # noqa: S608 names checked above
        return self.execute(statement, tables={"incoming": data})

    def on_commit(self, hook: Callable[[], None]) -> None:
        """Call `hook` after the transaction committed."""
        self._commit_hooks.append(hook)

    def on_rollback(self, hook: Callable[[], None]) -> None:
        """Call `hook` after the transaction was rolled back; hooks run newest first."""
        self._rollback_hooks.append(hook)

    def _finish(self, *, committed: bool) -> None:
        hooks = self._commit_hooks if committed else list(reversed(self._rollback_hooks))
        for hook in hooks:
            hook()


class Database:
    """One DuckDB file, owned by this process.

    Threads read through their own cursors; writes are serialized by one lock. Do not open the file by
    other means in the owning process: closing such a handle drops DuckDB's lock on it.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, path: Path) -> None:
        self._connection = connection
        self._writer = connection.cursor()
        self._path = path
        self._write_lock = threading.Lock()
        self._local = threading.local()
        self._sessions: list[tuple[duckdb.DuckDBPyConnection, _Session]] = []
        self._closed = False

    @classmethod
    def open(
        cls, path: Path, *, now: datetime, memory_limit: str = "1GB", threads: int = 1
    ) -> Database:
        """Open the file, creating it or bringing its schema up to date.

        Args:
            path: The database file.
            now: Time recorded with migrations.
            memory_limit: DuckDB's limit, such as `1GB`.
            threads: DuckDB's threads.

        Raises:
            LockedError: Another process has the file; the message names its pid.
            NewerSchemaError: A newer freshet wrote the file.
            CorruptFileError: The file is damaged or not ours.
            MigrationError: A schema step failed or was changed after it ran.
        """
        connection = connect(path, memory_limit=memory_limit, threads=threads)
        try:
            with translated(path):
                migrations.migrate(connection, path=path, now=now)
            return cls(connection, path)
        except BaseException:
            connection.close()
            release(path)
            raise

    @property
    def path(self) -> Path:
        """The database file."""
        return self._path

    @contextmanager
    def transaction(self) -> Iterator[Tx]:
        """Run the block in the one writing transaction: commit at its end, roll back on any exception."""
        with self._write_lock:
            self._check_open()
            tx = Tx(self._writer, self._path)
            with translated(self._path):
                self._writer.begin()
            try:
                yield tx
                with translated(self._path):
                    self._writer.commit()
            except BaseException:
                self._roll_back(tx)
                raise
            tx._finish(committed=True)  # noqa: SLF001 same module

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """Run the block's reads against one committed state."""
        cursor, _ = self._session()
        with translated(self._path):
            cursor.begin()
        try:
            yield Snapshot(cursor, self._path)
        finally:
            with translated(self._path):
                cursor.rollback()

    def query(
        self,
        sql: str,
        params: Sequence[Param] = (),
        *,
        tables: Mapping[str, pa.Table] | None = None,
    ) -> pa.Table:
        """Return the whole result of one SELECT, read on this thread's own cursor.

        Raises:
            QueryError: DuckDB refused the statement.
            FatalStorageError: The process must end.
        """
        return self._session()[1].query(sql, params, tables=tables)

    def get_meta(self, key: str) -> str | None:
        """Return the value stored under `key`, None when there is none."""
        return get_meta(self, key)

    def set_meta(self, tx: Tx, key: str, value: str) -> None:
        """Store `value` under `key`, replacing what was there."""
        set_meta(tx, key, value)

    def checkpoint(self) -> None:
        """Move the write-ahead log into the file."""
        with self._write_lock, translated(self._path):
            self._check_open()
            self._writer.execute("CHECKPOINT").fetchall()

    def close(self) -> None:
        """Close every cursor and the file; closing twice does nothing."""
        with self._write_lock:
            if self._closed:
                return
            self._closed = True
            for cursor, _ in self._sessions:
                cursor.close()
            self._writer.close()
            self._connection.close()
            release(self._path)

    def __enter__(self) -> Database:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _session(self) -> tuple[duckdb.DuckDBPyConnection, _Session]:
        self._check_open()
        found: tuple[duckdb.DuckDBPyConnection, _Session] | None = getattr(
            self._local, "session", None
        )
        if found is None:
            cursor = self._connection.cursor()
            found = (cursor, _Session(cursor, self._path))
            self._local.session = found
            self._sessions.append(found)
        return found

    def _roll_back(self, tx: Tx) -> None:
        # The first error is the one to report, and a refused commit leaves nothing to roll back.
        with suppress(duckdb.Error):
            self._writer.rollback()
        tx._finish(committed=False)  # noqa: SLF001 same module

    def _check_open(self) -> None:
        if self._closed:
            raise StorageError(f"{self._path} is closed; open it again")


def get_meta(reader: Reader, key: str) -> str | None:
    """Return the value stored under `key`, None when there is none."""
    values = reader.query("SELECT value FROM meta WHERE key = ?", [key])["value"].to_pylist()
    return str(values[0]) if values else None


def set_meta(tx: Tx, key: str, value: str) -> None:
    """Store `value` under `key`, replacing what was there."""
    tx.execute("DELETE FROM meta WHERE key = ?", [key])
    tx.execute("INSERT INTO meta VALUES (?, ?)", [key, value])


@contextmanager
def _registered(
    cursor: duckdb.DuckDBPyConnection, tables: Mapping[str, pa.Table]
) -> Iterator[None]:
    for name, table in tables.items():
        cursor.register(name, table)
    try:
        yield
    finally:
        for name in tables:
            cursor.unregister(name)
