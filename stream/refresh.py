"""Compression of aged-out history: plan what is due, compress it, store the groups, make them visible.

What is due is derived from the log and the watermark; a tick decides only when it is compressed. A segment's group reads
the groups before it as storage holds them, so five ticks and one catch-up give the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from time import perf_counter
from typing import TYPE_CHECKING, Protocol

import pyarrow as pa

from model.engine import SegmentJob, TokenBlock
from storage import interactions, journal, runs, tokens, visibility
from storage.runs import RunRow
from storage.tokens import GroupRow
from stream.clock import to_ms
from stream.history import model_rows, rows_by_user
from stream.loading import token_block

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from model.engine import Engine
    from storage.database import Database, Tx
    from stream.config import RefreshConfig
    from stream.history import UserRows
    from stream.shared import Shared


class Compressor(Protocol):
    """Turns segment jobs into token blocks: in this process, or in a worker that holds the same model version."""

    def compress(self, jobs: Sequence[SegmentJob]) -> list[TokenBlock]:
        """Token blocks in the order of the jobs."""
        ...


@dataclass(frozen=True, slots=True)
class Due:
    """Segments of one user that are due and not stored: numbers first..last, one after the other."""

    user_idx: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class RefreshReport:
    """Outcome of one tick's compression."""

    users: int
    segments: int
    seconds: float
    run_id: int | None


class Refresher:
    """Compresses due segments; the only component that writes token groups and refresh runs."""

    def __init__(
        self,
        db: Database,
        engine: Engine,
        compressor: Compressor,
        shared: Shared,
        config: RefreshConfig,
    ) -> None:
        self._db = db
        self._engine = engine
        self._compressor = compressor
        self._shared = shared
        self._config = config

    def plan(self, watermarks: Mapping[tuple[str, int], int]) -> list[Due]:
        """Due segments without a group, by user."""
        table = interactions.due_counts(self._db, watermarks)
        have = tokens.group_counts(self._db, self._engine.version)
        n, r_min = self._config.segment_len, self._config.r_min
        due = []
        users, counts = table["user_idx"].to_pylist(), table["n_before"].to_pylist()
        for user, count in sorted(zip(users, counts, strict=True)):
            last = (count - r_min) // n - 1
            first = have.get(user, 0)
            if last >= first:
                due.append(Due(user, first, last))
        return due

    def run(
        self,
        watermarks: Mapping[tuple[str, int], int],
        now: datetime,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> RefreshReport:
        """Compress everything due at the watermarks; groups become visible by `publish`."""
        started = perf_counter()
        due = self.plan(watermarks)
        if not due:
            return RefreshReport(0, 0, 0.0, None)
        total = sum(d.last - d.first + 1 for d in due)
        with self._db.transaction() as tx:
            run = self._run_row(runs.next_run_id(tx), now, watermarks, len(due), total)
            runs.put_run(tx, run)
        done = 0
        for start in range(0, len(due), self._config.batch_users):
            done += self._compress(due[start : start + self._config.batch_users], run.run_id, now)
            if on_progress is not None:
                on_progress(done, total)
        seconds = perf_counter() - started
        with self._db.transaction() as tx:
            runs.put_run(tx, replace(run, seconds=seconds, status="done"))
        return RefreshReport(len(due), total, seconds, run.run_id)

    def _run_row(
        self,
        run_id: int,
        now: datetime,
        watermarks: Mapping[tuple[str, int], int],
        users: int,
        segments: int,
    ) -> RunRow:
        return RunRow(
            run_id=run_id,
            model_version=self._engine.version,
            at_ms=to_ms(now),
            watermark=dict(watermarks),
            users=users,
            segments=segments,
            seconds=0.0,
            visible_from_ms=to_ms(now) + self._config.visible_delay_s * 1000,
            status="running",
            note="",
        )

    def _compress(self, due: Sequence[Due], run_id: int, now: datetime) -> int:
        """Compress the due segments of some users, one transaction: segment by segment, all users at once."""
        rows = self._rows(due)
        chains = self._chains([d.user_idx for d in due if d.first])
        groups: list[GroupRow] = []
        for step in range(max(d.last - d.first + 1 for d in due)):
            active = [d for d in due if d.first + step <= d.last]
            jobs = [self._job(d.user_idx, d.first + step, rows, chains) for d in active]
            blocks = self._compressor.compress(jobs)
            for d, block in zip(active, blocks, strict=True):
                chains.setdefault(d.user_idx, []).append(block)
                segment = rows[d.user_idx, d.first + step]
                groups.append(_group_row(self._engine, d.user_idx, block, segment, run_id, now))
        with self._db.transaction() as tx:
            tokens.put_groups(tx, groups)
        return len(groups)

    def _rows(self, due: Sequence[Due]) -> dict[tuple[int, int], UserRows]:
        """Rows of every due segment, keyed by user and segment."""
        n = self._config.segment_len
        wanted = pa.table({
            "user_idx": pa.array([d.user_idx for d in due], pa.int64()),
            "first_ordinal": pa.array([d.first * n for d in due], pa.int64()),
            "last_ordinal": pa.array([(d.last + 1) * n - 1 for d in due], pa.int64()),
        })
        found = rows_by_user(interactions.segment_rows(self._db, wanted))
        return {
            (d.user_idx, segment): found[d.user_idx]
            .starting_at(d.first * n)
            .slice((segment - d.first) * n, (segment - d.first + 1) * n)
            for d in due
            for segment in range(d.first, d.last + 1)
        }

    def _chains(self, users: Sequence[int]) -> dict[int, list[TokenBlock]]:
        """Earlier groups of users who have some, visible or not: a chain is built on what is stored."""
        out: dict[int, list[TokenBlock]] = {}
        found = tokens.load_groups(
            self._db, users, self._engine.version, newest=self._engine.config.window
        )
        for group in found:
            out.setdefault(group.user_idx, []).append(token_block(group))
        return out

    def _job(
        self,
        user: int,
        segment: int,
        rows: Mapping[tuple[int, int], UserRows],
        chains: Mapping[int, list[TokenBlock]],
    ) -> SegmentJob:
        window = self._engine.config.window
        chain = chains.get(user, [])
        return SegmentJob(
            segment=segment,
            groups=list(chain if window is None else chain[-window:]),
            rows=model_rows(self._shared.item_rows(), self._engine, rows[user, segment]),
        )

    def publish(
        self, tx: Tx, run_id: int, positions: Mapping[tuple[str, int], int], now: datetime
    ) -> None:
        """Make a run's groups readable from the given positions on: a journal entry."""
        journal.append(tx, "group_visible", str(run_id), None, positions, now)

    def unpublished(self) -> list[RunRow]:
        """Finished runs of this version without a journal entry, oldest first."""
        return visibility.unpublished_runs(self._db, self._engine.version)

    def touched(self, run_id: int) -> list[int]:
        """Internal ids of the users whose groups a run stored."""
        return visibility.users_of_run(self._db, run_id)


def _group_row(
    engine: Engine, user: int, block: TokenBlock, rows: UserRows, run_id: int, now: datetime
) -> GroupRow:
    config = engine.config
    return GroupRow(
        user_idx=user,
        model_version=engine.version,
        segment=block.segment,
        kv=block.kv.tobytes(),
        k=config.n_tokens,
        layers=config.n_layers,
        d_kv=config.d_kv,
        dtype=config.state_dtype,
        first=rows.key(0),
        last=rows.key(len(rows) - 1),
        n_items=len(rows),
        first_off=int(rows.keys[:, -1].min()),
        last_off=int(rows.keys[:, -1].max()),
        device="cpu",
        compute_dtype=config.compute_dtype,
        run_id=run_id,
        outputs=block.outputs,
        mean_out=None,
        created_at_ms=to_ms(now),
    )
