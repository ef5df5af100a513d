"""Helper processes that do not outlive the process that started them."""

from __future__ import annotations

import os
import subprocess
import threading
from multiprocessing import connection, parent_process
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

# A pipe's reader sees its end when every process that holds it open for writing is gone, however it died.
_WATCH = 'cat "$0" >/dev/null; kill -9 "$1"'


def end_with_parent() -> None:
    """End this process when the one that started it is gone, however it died; call it in a started process."""
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_wait, args=(parent.sentinel,), daemon=True).start()


def end_with_holders(pid: int, pipe: Path) -> tuple[subprocess.Popen[bytes], int]:
    """Watch a program that knows nothing of us: it is killed when nobody holds `pipe` any more.

    Args:
        pid: of the program.
        pipe: path of the named pipe, made here; others who need the program call `hold` on it.

    Returns:
        The watching process, to be ended before the program is waited for, so that it never kills
        another program that was given the same id; and the descriptor by which this process holds.
    """
    pipe.unlink(missing_ok=True)
    os.mkfifo(pipe)
    watch = subprocess.Popen(  # noqa: S603 - arguments of our own
        ["/bin/sh", "-c", _WATCH, str(pipe), str(pid)],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    return watch, os.open(pipe, os.O_WRONLY | os.O_CLOEXEC)


def hold(pipe: Path) -> int:
    """Return a descriptor that keeps the program of a pipe running until it is closed.

    Raises:
        OSError: no program is watched over by that pipe.
    """
    return os.open(pipe, os.O_WRONLY | os.O_CLOEXEC | os.O_NONBLOCK)


def _wait(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)  # its work was for the parent, and nobody reads it any more
