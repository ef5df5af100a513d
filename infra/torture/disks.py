"""Disks that are full or may not be written: a small tmpfs where this process may mount one, else other means."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from infra.deployment.children import Limits

_ROOM = "64m"


@dataclass(slots=True)
class Disk:
    """A folder whose writes can be denied.

    Attributes:
        folder: the folder.
        mounted: whether it is a tmpfs of its own.
        limits: what processes that write there must be started with for now.
        how: by what means writes are denied, for the report.
    """

    folder: Path
    mounted: bool
    limits: Limits = field(default_factory=Limits)
    how: str = ""

    def free(self) -> None:
        """Give it room."""
        if self.mounted:
            _mount("-o", f"remount,size={_ROOM}", str(self.folder))
        self.limits = Limits()

    def protect(self) -> None:
        """Deny every write below the folder."""
        if self.mounted:
            _mount("-o", "remount,ro", str(self.folder))
            self.how = "tmpfs mounted read-only"
        elif os.geteuid() == 0:
            self.limits = Limits(unprivileged=True)
            self.how = "files of root, process of nobody"
        else:
            _modes(self.folder, 0o500, 0o400)
            self.how = "modes without write"

    def release(self) -> None:
        """Allow writes again."""
        if self.mounted:
            _mount("-o", "remount,rw", str(self.folder))
        elif os.geteuid() != 0:
            _modes(self.folder, 0o700, 0o600)
        self.limits = Limits()


@contextmanager
def disk(folder: Path, *, size: int | None = None) -> Iterator[Disk]:
    """Make a folder that is a disk of its own, as far as this process may.

    Args:
        folder: made if it is not there.
        size: its room, bytes; without the right to mount, the largest file a process may write there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    options = "" if size is None else f",size={size}"
    mounted = os.geteuid() == 0 and _mount(
        "-t", "tmpfs", "-o", f"mode=755{options}", "tmpfs", str(folder)
    )
    made = Disk(folder, mounted)
    if size is not None:
        made.how = f"tmpfs of {size:,} bytes" if mounted else f"RLIMIT_FSIZE of {size:,} bytes"
        made.limits = Limits() if mounted else Limits(file_bytes=size)
    try:
        yield made
    finally:
        if mounted:
            _tool("umount", "-l", str(folder))
        elif folder.exists():
            made.release()


def _mount(*arguments: str) -> bool:
    return _tool("mount", *arguments)


def _tool(name: str, *arguments: str) -> bool:
    """Run a system tool; return whether it is there and did its work."""
    found = shutil.which(name)
    if found is None:
        return False
    return subprocess.run([found, *arguments], capture_output=True, check=False).returncode == 0  # noqa: S603


def _modes(folder: Path, folder_mode: int, file_mode: int) -> None:
    folder.chmod(0o700)
    for path in folder.iterdir():
        path.chmod(file_mode)
    folder.chmod(folder_mode)
