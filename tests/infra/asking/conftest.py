"""Databases that another process owns."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.infra.conftest import World

ROOT = Path(__file__).parents[3]


class OwnerProcess:
    """A running owner of a database."""

    def __init__(self, world: World, db: Path, slates: Path | str, limit_s: float) -> None:
        arguments = [str(world.folder), str(db), str(slates), str(limit_s)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.infra.asking.owning", *arguments],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.hear() == "ready"

    def hear(self) -> str:
        """Return the next line it says."""
        return self.process.stdout.readline().strip()

    def tell(self, line: str) -> None:
        """Send it a line."""
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def end(self) -> int:
        """Let it close its database; return its exit code."""
        self.process.stdin.close()
        return self.process.wait(30)


@contextmanager
def owning(
    world: World, db: Path, *, slates: Path | str = "", limit_s: float = 60
) -> Iterator[OwnerProcess]:
    owner = OwnerProcess(world, db, slates, limit_s)
    try:
        yield owner
    finally:
        owner.process.kill()
        owner.process.wait()
        owner.process.stdout.close()
        owner.process.stdin.close()
