"""Errors of the store.

StorageError
|-- LockedError             another process holds the file; carries its pid
|-- ExistsError             a file is in the place of a copy
|-- CorruptFileError        the file is damaged or not ours
|-- FatalStorageError       DuckDB gave up on the file: leave the process and start again
|-- QueryError              a statement DuckDB refused
|-- MigrationError          a schema step failed, or its text changed after it was applied
|   `-- NewerSchemaError    the file was written by a newer freshet
|-- ChecksumError           a token group's bytes are not those that were stored
|-- PositionError           position ranges overlap or leave a gap
|-- FencedError             a later pipeline took over this database
|-- GroupOrderError         token groups of a user would not be contiguous from segment 0
|-- VersionMismatchError    one model version, two different contents
`-- IdentityError           the dictionaries of users or items have holes or repeats
"""

from __future__ import annotations

from pathlib import Path


class StorageError(Exception):
    """Base of every error the store raises on purpose."""


class LockedError(StorageError):
    """Another process has the database file open.

    Attributes:
        path: The file.
        pid: The holder, or None when DuckDB did not name it.
    """

    def __init__(self, path: Path, pid: int | None) -> None:
        self.path = path
        self.pid = pid
        holder = f"process {pid}" if pid is not None else "another process"
        super().__init__(f"{path} is held by {holder}: stop it first, or wait until it ends")


class ExistsError(StorageError):
    """A file is in the place where a copy would go."""


class CorruptFileError(StorageError):
    """The file is damaged, or no database of ours."""


class CorruptWalError(CorruptFileError):
    """The write-ahead log is damaged; the file itself is whole.

    Attributes:
        path: The database file.
        at: Bytes of the write-ahead log before the damaged entry.
    """

    def __init__(self, path: Path, at: int) -> None:
        self.path = path
        self.at = at
        super().__init__(
            f"{path}.wal: damaged from byte {at} on; `freshet doctor --db {path} --repair-wal` cuts it "
            "there and keeps a copy, and a replay stores again what was cut"
        )


class DiskFullError(StorageError):
    """A write found no room: the disk is full, or a quota or a file size limit is reached.

    What was committed before is kept; the process must end, and the same command goes on later.
    """


class FatalStorageError(StorageError):
    """DuckDB invalidated the open database; only a restart of the process helps."""


class QueryError(StorageError):
    """DuckDB refused a statement."""


class MigrationError(StorageError):
    """A schema step failed or was changed after it was applied."""


class NewerSchemaError(MigrationError):
    """The file's schema is newer than this program."""


class ChecksumError(StorageError):
    """The key/value bytes of a token group do not match their checksum.

    Attributes:
        user_id: External user id.
        segment: Segment of the group.
        version: Model version of the group.
    """

    def __init__(self, user_id: str, segment: int, version: str) -> None:
        self.user_id = user_id
        self.segment = segment
        self.version = version
        super().__init__(
            f"token group of user {user_id!r}, segment {segment}, model version {version}: "
            "checksum does not match its bytes; drop this version's groups and let them be rebuilt"
        )


class PositionError(StorageError):
    """Ranges of log positions overlap or leave a gap."""


class FencedError(StorageError):
    """A later pipeline took over the database; the one that is told so must stop writing."""


class GroupOrderError(StorageError):
    """A token group would leave a hole before it."""


class VersionMismatchError(StorageError):
    """A model version is already registered with another content."""


class IdentityError(StorageError):
    """The stored dictionary of users or items is not dense."""
