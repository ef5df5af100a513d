"""Reading and writing on one DuckDB cursor: sessions, snapshots, transactions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa

from storage.connection import streaming_error, translated
from storage.errors import StorageError
from storage.records import Param

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_MOST_VALUES = 128  # showing DuckDB an Arrow table costs as much as binding so many values


class Session:
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


@dataclass(frozen=True, slots=True)
class Stream:
    """Rows of one SELECT, computed as they are read: their schema, and their batches, once."""

    schema: pa.Schema
    batches: Iterator[pa.RecordBatch]


class Snapshot(Session):
    """Consistent reads: every query sees the same committed state."""

    @contextmanager
    def stream(self, sql: str, batch_rows: int) -> Iterator[Stream]:
        """Yield the result of one SELECT; until the block ends the snapshot takes no other query.

        Raises:
            QueryError: DuckDB refused the statement, at its start or while its rows are read.
            FatalStorageError: The process must end.
        """
        with translated(self._path):
            reader = self._cursor.sql(sql).to_arrow_reader(batch_rows)
        try:
            yield Stream(reader.schema, self._batches(reader))
        finally:
            reader.close()

    def _batches(self, reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
        while True:
            try:
                yield reader.read_next_batch()
            except StopIteration:
                return
            except OSError as error:  # how Arrow hands on an error of the producer
                raise streaming_error(self._path, error) from error


class Tx(Session):
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
        if data.num_rows * len(names) <= _MOST_VALUES:
            return self._insert_values(f"{table_name}({targets})", data)
        values = ", ".join(
            f"make_timestamp({name} * 1000)" if name.endswith("_ms") else name for name in names
        )
        statement = f"INSERT INTO {table_name}({targets}) SELECT {values} FROM incoming"  # noqa: S608 names checked above
        return self.execute(statement, tables={"incoming": data})

    def _insert_values(self, target: str, data: pa.Table) -> int:
        """Append a few rows as parameters of the statement."""
        row = ", ".join(
            "make_timestamp(? * 1000)" if name.endswith("_ms") else "?"
            for name in data.column_names
        )
        statement = f"INSERT INTO {target} VALUES " + ", ".join([f"({row})"] * data.num_rows)  # noqa: S608 names checked by the caller
        columns = [column.to_pylist() for column in data.columns]
        return self.execute(
            statement, [value for row in zip(*columns, strict=True) for value in row]
        )

    def on_commit(self, hook: Callable[[], None]) -> None:
        """Call `hook` after the transaction committed."""
        self._commit_hooks.append(hook)

    def on_rollback(self, hook: Callable[[], None]) -> None:
        """Call `hook` after the transaction was rolled back; hooks run newest first."""
        self._rollback_hooks.append(hook)

    def finish(self, *, committed: bool) -> None:
        """Run the hooks of one outcome; the database calls this once."""
        hooks = self._commit_hooks if committed else list(reversed(self._rollback_hooks))
        for hook in hooks:
            hook()


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
