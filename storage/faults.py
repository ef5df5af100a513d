"""Points at which a process can be made to die: named places in the code, silent unless a hook is installed.

What is durable after a crash is decided between two statements, so the places are marked where they are:
`reach("ingest.rows")` inside the transaction that stores a batch, and so on (`POINTS`). Without a hook a call
costs one comparison. `freshet torture` installs one in the processes it kills; nothing else does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

Spoil = Callable[[], object]
"""Leaves half of what comes next behind, as a crash in its middle would."""

POINTS: dict[str, str] = {
    "migration.statement": "inside a schema step, after one of its statements",
    "migration.recorded": "inside a schema step, recorded, before its commit",
    "migration.committed": "a schema step is committed, its checkpoint is not made",
    "migration.views": "inside the transaction that makes the views",
    "positions.begun": "inside the transaction that says where reading a topic begins, before its commit",
    "ingest.rows": "inside the ingest transaction: interactions are there, dead letters and positions are not",
    "ingest.commit": "inside the ingest transaction, before its commit",
    "store.committed": "a batch is committed, nothing of it is scored",
    "score.done": "a batch is committed and scored, no slate is written",
    "sink.line": "half a line of a slate is in the file",
    "sink.written": "slates are in the file, the scored positions have not moved",
    "scored.commit": "inside the transaction that moves the scored positions",
    "worker.compress": "in a process that compresses: it has its jobs, and has given nothing back",
    "tick.compressed": "token groups are computed, none is stored",
    "tick.groups": "inside a transaction that stores token groups and their run",
    "tick.stored": "token groups of some users are committed, those of the run's other users are not computed",
    "tick.journal": "inside the tick's transaction: the journal entries are written, not committed",
    "tick.applied": "the tick's journal entries are committed, caches and maintenance wait",
    "rotation.moved": "inside a rotation: rows are in the run and still in the hot table",
    "rotation.counted": "inside a rotation: counters are added, the hot rows still there",
    "rotation.deleted": "inside a rotation: the hot rows are deleted",
    "rotation.commit": "before the commit of a rotation",
    "merge.rows": "inside a merge of runs: the rows are there twice",
    "merge.counters": "inside a merge of runs: rows and counters are there twice",
    "merge.deleted": "inside a merge of runs: the old runs are deleted",
    "checkpoint.begin": "a checkpoint begins",
    "checkpoint.end": "a checkpoint is done",
    "backup.copied": "a backup is copied and opened once, and does not have its name yet",
    "restore.checked": "the copy of a backup has passed its checks, and is not in the database's place",
    "mirror.sent": "dead letters are in the mirror topic, the table does not say so",
    "dlq.sent": "dead letters are produced again, the table does not say so",
    "catchup.begin": "rows that were stored before a crash are about to be answered",
    "catchup.answered": "rows that were stored before a crash are answered",
}
"""Every point and what is half done when it is reached."""


class Hook(Protocol):
    """What is called at a point."""

    def __call__(self, point: str, spoil: Spoil | None, /) -> None:
        """Do nothing, or end the process."""
        ...


_hook: Hook | None = None


def install(hook: Hook | None) -> None:
    """Call `hook` at every point from now on; None removes it."""
    global _hook  # noqa: PLW0603 one hook per process, set once at its start
    _hook = hook


def reach(point: str, spoil: Spoil | None = None) -> None:
    """Say that this point is reached.

    Args:
        point: one of `POINTS`.
        spoil: leaves half of the next write behind; called only by a hook that ends the process here.
    """
    if _hook is not None:
        _hook(point, spoil)
