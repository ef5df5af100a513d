"""The folder of a trial: temporary unless the user names one, and kept when the trial finds something wrong."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click


@dataclass(slots=True)
class WorkFolder:
    """An empty folder.

    Attributes:
        path: the folder.
        keep: whether a temporary one stays; one that the user named does.
    """

    path: Path
    keep: bool


@contextmanager
def work_folder(command: str, given: Path | None) -> Iterator[WorkFolder]:
    """Yield an empty folder for `command`; a temporary one goes at the end unless `keep` is set or the block raises.

    Args:
        command: names the folder.
        given: where the folder is made and kept; a temporary one when left out.
    """
    work = WorkFolder(_temporary(command) if given is None else _made(given / command), keep=True)
    try:
        yield work
    finally:
        if work.keep or given is not None:
            click.echo(f"{command}: what it left is kept in {work.path}", err=True)
        else:
            shutil.rmtree(work.path)


def _temporary(command: str) -> Path:
    return Path(tempfile.mkdtemp(prefix=f"freshet-{command}-"))


def _made(path: Path) -> Path:
    if path.exists():
        shutil.rmtree(path)
    path.mkdir(parents=True)
    return path
