"""Which refresh runs readers may see: a run's groups are readable once the journal says from which positions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from storage import runs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from storage.records import Reader
    from storage.runs import RunRow

_UNPUBLISHED = """
SELECT run_id FROM refresh_runs r
WHERE model_version = ? AND status <> 'failed'
  AND NOT EXISTS (SELECT 1 FROM journal j WHERE j.kind = 'group_visible' AND j.ref = CAST(r.run_id AS VARCHAR))
ORDER BY run_id
"""
_VISIBLE = """
SELECT a.user_idx, a.as_of, count(DISTINCT g.segment) AS n
FROM asked a JOIN users u ON u.user_idx = a.user_idx
JOIN token_groups g ON g.user_idx = a.user_idx AND g.model_version = $1
JOIN journal j ON j.kind = 'group_visible' AND j.ref = CAST(g.run_id AS VARCHAR)
LEFT JOIN journal_positions p
    ON p.journal_id = j.journal_id AND p.topic = u.topic AND p.part = u.part
WHERE coalesce(p.next_off, 0) <= a.as_of
GROUP BY a.user_idx, a.as_of
"""
_BY_RUN = """
SELECT g.run_id, g.model_version, u.user_id, g.segment
FROM token_groups g JOIN users u ON u.user_idx = g.user_idx ORDER BY g.run_id, g.user_idx, g.segment
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


def groups_by_run(reader: Reader) -> dict[int, tuple[str, list[tuple[str, int]]]]:
    """Model version and (external user id, segment) of the groups of every run, by user and segment."""
    table = reader.query(_BY_RUN)
    columns = (
        table[name].to_pylist() for name in ("run_id", "model_version", "user_id", "segment")
    )
    found: dict[int, tuple[str, list[tuple[str, int]]]] = {}
    for run_id, version, user_id, segment in zip(*columns, strict=True):
        found.setdefault(run_id, (version, []))[1].append((user_id, segment))
    return found


def visible_groups(
    reader: Reader, version: str, asked: Sequence[tuple[int, int]]
) -> dict[tuple[int, int], int]:
    """Number of groups a reader sees per (user, exclusive upper offset in the home partition); none is left out."""
    table = pa.table({
        "user_idx": pa.array([user for user, _ in asked], pa.int64()),
        "as_of": pa.array([off for _, off in asked], pa.int64()),
    })
    found = reader.query(_VISIBLE, [version], tables={"asked": table})
    columns = (found[name].to_pylist() for name in ("user_idx", "as_of", "n"))
    return {(user, off): n for user, off, n in zip(*columns, strict=True)}
