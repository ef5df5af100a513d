"""Opening database files from settings; free of the model, so that looking at a database is quick."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.errors import InputError
from infra.settings import Loaded
from storage.database import Database
from stream.clock import WallClock
from stream.config import PipelineConfig


@contextmanager
def creating(path: Path, loaded: Loaded) -> Iterator[Database]:
    """Open the database at `path`, created if there is none, and close it at the end.

    Raises:
        InputError: its folder does not exist.
        StorageError: as `Database.open`.
    """
    if not path.parent.is_dir():
        raise InputError(f"{path.parent}: no such folder for the database; create it first")
    with _open(path, loaded) as db:
        yield db


@contextmanager
def reading(path: Path, loaded: Loaded) -> Iterator[Database]:
    """Open an existing database and close it at the end.

    Raises:
        InputError: there is none.
        StorageError: as `Database.open`.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such database; `freshet replay LOG --db {path}` makes one")
    with _open(path, loaded) as db:
        yield db


def is_database(path: Path) -> bool:
    """Return whether a file is a DuckDB database, by its first bytes; another process may have it open."""
    try:
        with path.open("rb") as file:
            return file.read(12)[8:] == b"DUCK"
    except OSError:
        return False


def limits_of(loaded: Loaded) -> PipelineConfig:
    """Return the settings that bound what a database and its pipeline take."""
    config = loaded.settings.database
    return PipelineConfig(
        stream=loaded.settings.stream,
        serving=loaded.settings.serving,
        refresh=loaded.settings.refresh,
        rotate_rows=config.rotate_rows,
        max_runs=config.max_runs,
        slate_log=config.slate_log,
    )


def _open(path: Path, loaded: Loaded) -> Database:
    config = loaded.settings.database
    return Database.open(
        path, now=WallClock().now(), memory_limit=config.memory_limit, threads=config.threads
    )
