"""The Unix socket of a database's owner: where it is, how it is made, how it is reached."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from infra.errors import InputError

LONGEST = 107
"""Bytes that the address of a Unix socket may have on Linux."""
_BACKLOG = 16


def socket_of(db_path: Path) -> Path:
    """Return where the owner of a database file listens: `shop.duckdb.sock` beside `shop.duckdb`."""
    real = db_path.resolve()
    return real.with_name(f"{real.name}.sock")


def connect(path: Path) -> socket.socket | None:
    """Return a connection to the owner that listens at `path`, None if nobody does."""
    found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _address(path) as address:
            found.connect(address)
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError, _NoAddressError):
        found.close()
        return None
    except OSError:
        found.close()
        raise
    return found


@contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    """Yield a socket that listens at `path`, for this user only, and remove it at the end.

    The caller has the database open, so whatever a dead owner left at `path` is replaced.

    Raises:
        InputError: the path is too long, something else is there, or another process still listens.
    """
    _clear(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as made:
        try:
            with _address(path) as address:
                made.bind(address)
        except _NoAddressError as err:
            raise InputError(str(err)) from err
        path.chmod(0o600)  # nobody can connect before it listens
        mine = path.stat()
        made.listen(_BACKLOG)
        try:
            yield made
        finally:
            with suppress(FileNotFoundError):
                if os.path.samestat(path.stat(), mine):
                    path.unlink()


class _NoAddressError(Exception):
    """There is no address short enough for a path."""


@contextmanager
def _address(path: Path) -> Iterator[str]:
    """Yield an address of `path` that is short enough: by way of its open folder, if it is not itself."""
    if len(os.fsencode(path)) <= LONGEST:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        short = f"/proc/self/fd/{folder}/{path.name}"
        if len(os.fsencode(short)) > LONGEST or not Path(f"/proc/self/fd/{folder}").exists():
            raise _NoAddressError(
                f"{path}: too long for a socket, more than {LONGEST} bytes; give the database a shorter name"
            )
        yield short
    finally:
        os.close(folder)


def _clear(path: Path) -> None:
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise InputError(f"{path}: is in the place of the owner's socket; move it away")
        alive = connect(path)
        if alive is not None:
            alive.close()
            raise InputError(f"{path}: another process listens there; stop it first")
        path.unlink()
