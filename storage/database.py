"""The one open database file: transactions, snapshots, queries."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import TracebackType

import duckdb
import pyarrow as pa

from storage import migrations
from storage.connection import connect, holder_pid, release, translated
from storage.errors import StorageError
from storage.faults import reach
from storage.records import Param, Reader
from storage.session import Session, Snapshot, Tx
from storage.torn import mend

__all__ = ["Database", "Snapshot", "Tx", "get_meta", "holder_pid", "set_meta"]


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
        self._writing_thread: int | None = None
        self._local = threading.local()
        self._sessions: list[tuple[duckdb.DuckDBPyConnection, Session]] = []
        self._closed = False

    @classmethod
    def open(
        cls, path: Path, *, now: datetime, memory_limit: str = "1GB", threads: int = 1
    ) -> Database:
        """Open the file, creating it or bringing its schema up to date; what a killed process left torn is mended.

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
        connection = connect(path, memory_limit=memory_limit, threads=threads, prepare=mend)
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
        """Run the block in the one writing transaction: commit at its end, roll back on any exception.

        Raises:
            StorageError: This thread is in a transaction already; they do not nest.
        """
        with self._writing():
            tx = Tx(self._writer, self._path)
            with translated(self._path):
                self._writer.begin()
            try:
                yield tx
                with translated(self._path):
                    self._writer.commit()
            except BaseException as error:
                tx.finish(committed=self._roll_back(error))
                raise
            tx.finish(committed=True)

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """Run the block's reads against one committed state."""
        cursor, _ = self._session()
        with translated(self._path):
            try:
                cursor.begin()
            except duckdb.InterruptException:
                _end_reading(cursor, stopped=True)
                raise
        try:
            yield Snapshot(cursor, self._path)
        finally:
            with translated(self._path):
                _end_reading(cursor)

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

    def stopper(self) -> Callable[[], None]:
        """Return what stops the query that this thread runs, for another thread to call."""
        return self._session()[0].interrupt

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """Keep writers out for the block: file and write-ahead log together are what is committed.

        Readers go on. Do not open the file in this process, not even to copy it.
        """
        with self._writing():
            self._move_log()
            yield

    def get_meta(self, key: str) -> str | None:
        """Return the value stored under `key`, None when there is none."""
        return get_meta(self, key)

    def set_meta(self, tx: Tx, key: str, value: str) -> None:
        """Store `value` under `key`, replacing what was there."""
        set_meta(tx, key, value)

    def checkpoint(self) -> bool:
        """Move the write-ahead log into the file; return whether no reader of an older state was in the way."""
        with self._writing():
            return self._move_log()

    def close(self) -> None:
        """Close every cursor and the file; closing twice does nothing."""
        if self._closed:
            return
        with self._writing():
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

    def _session(self) -> tuple[duckdb.DuckDBPyConnection, Session]:
        self._check_open()
        found: tuple[duckdb.DuckDBPyConnection, Session] | None = getattr(
            self._local, "session", None
        )
        if found is None:
            cursor = self._connection.cursor()
            found = (cursor, Session(cursor, self._path))
            self._local.session = found
            self._sessions.append(found)
        return found

    @contextmanager
    def _writing(self) -> Iterator[None]:
        if self._writing_thread == threading.get_ident():
            raise StorageError(
                f"{self._path}: already in a transaction of this thread; use that one"
            )
        with self._write_lock:
            self._check_open()
            self._writing_thread = threading.get_ident()
            try:
                yield
            finally:
                self._writing_thread = None

    def _move_log(self) -> bool:
        reach("checkpoint.begin")
        with translated(self._path):
            try:
                self._writer.execute("CHECKPOINT").fetchall()
            except duckdb.TransactionException as error:
                if "Cannot CHECKPOINT" not in str(error):
                    raise
                return False
        reach("checkpoint.end")
        return True

    def _roll_back(self, error: BaseException) -> bool:
        """Take the transaction back; say whether it had been committed after all.

        An interrupt can arrive between DuckDB's commit and ours noticing it: then nothing is left to
        roll back although no statement failed.
        """
        try:
            self._writer.rollback()
        except duckdb.Error:
            return not isinstance(error, Exception)
        return False

    def _check_open(self) -> None:
        if self._closed:
            raise StorageError(f"{self._path} is closed; open it again")


def _end_reading(cursor: duckdb.DuckDBPyConnection, *, stopped: bool = False) -> None:
    """Roll back; a stop that was meant for a query may hit this instead and leave the transaction aborted."""
    while True:
        try:
            cursor.rollback()
        except duckdb.InterruptException:
            stopped = True
        except duckdb.TransactionException:
            if not stopped:
                raise
            return
        else:
            return


def get_meta(reader: Reader, key: str) -> str | None:
    """Return the value stored under `key`, None when there is none."""
    values = reader.query("SELECT value FROM meta WHERE key = ?", [key])["value"].to_pylist()
    return str(values[0]) if values else None


def set_meta(tx: Tx, key: str, value: str) -> None:
    """Store `value` under `key`, replacing what was there."""
    tx.execute("DELETE FROM meta WHERE key = ?", [key])
    tx.execute("INSERT INTO meta VALUES (?, ?)", [key, value])
