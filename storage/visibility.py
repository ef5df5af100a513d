"""Which refresh runs readers may see: a run's groups are readable once the journal says from which positions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from storage import runs

if TYPE_CHECKING:
    from storage.records import Reader
    from storage.runs import RunRow

_UNPUBLISHED = """
SELECT run_id FROM refresh_runs r
WHERE model_version = ? AND status <> 'failed'
  AND NOT EXISTS (SELECT 1 FROM journal j WHERE j.kind = 'group_visible' AND j.ref = CAST(r.run_id AS VARCHAR))
ORDER BY run_id
"""
_USERS = "SELECT DISTINCT user_idx FROM token_groups WHERE run_id = ? ORDER BY user_idx"


def unpublished_runs(reader: Reader, version: str) -> list[RunRow]:
    """Runs of a model version that no reader sees yet, oldest first; one that a crash cut short counts with what it stored."""
    wanted = set(reader.query(_UNPUBLISHED, (version,))["run_id"].to_pylist())
    if not wanted:
        return []
    found = [run for run in runs.list_runs(reader, limit=1 << 31) if run.run_id in wanted]
    return sorted(found, key=lambda run: run.run_id)


def users_of_run(reader: Reader, run_id: int) -> list[int]:
    """Internal ids of the users whose groups a run stored."""
    users: list[int] = reader.query(_USERS, (run_id,))["user_idx"].to_pylist()
    return users
