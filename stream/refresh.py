"""Compression of aged-out history: plan what is due, compress it, store the groups, make them visible.

What is due is derived from the log and the watermark; a tick decides only when it is compressed. A segment's group reads
the groups before it as storage holds them, so five ticks and one catch-up give the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from time import perf_counter
from typing import TYPE_CHECKING, Protocol

import numpy as np

from model.engine import SegmentJob, TokenBlock
from storage import journal, runs, tokens, visibility
from storage.faults import reach
from storage.runs import RunRow, Status
from storage.tokens import GroupRow
from stream.clock import to_ms
from stream.history import history_key
from stream.loading import token_block
from stream.segments import Chain, ChainCache, Due, SegmentRows

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from numpy.typing import NDArray

    from model.engine import Engine, Rows
    from storage.database import Database, Tx
    from stream.backlog import Backlog
    from stream.config import RefreshConfig
    from stream.shared import Shared


class Compressor(Protocol):
    """Turns segment jobs into token blocks: in this process, or in a worker that holds the same model version."""

    def compress(self, jobs: Sequence[SegmentJob]) -> list[TokenBlock]:
        """Token blocks in the order of the jobs."""
        ...


@dataclass(frozen=True, slots=True)
class RefreshReport:
    """Outcome of one tick's compression."""

    users: int
    segments: int
    run: RunRow


class Refresher:
    """Compresses due segments; the only component that writes token groups and refresh runs."""

    def __init__(
        self,
        db: Database,
        engine: Engine,
        compressor: Compressor,
        shared: Shared,
        backlog: Backlog,
        config: RefreshConfig,
    ) -> None:
        self._db = db
        self._engine = engine
        self._compressor = compressor
        self._shared = shared
        self._backlog = backlog
        self._config = config
        self._kept = ChainCache(config.chain_bytes, engine.config.window)
        self._next_run = runs.next_run_id(db)
        self._touched: dict[int, list[int]] = {}

    def plan(self, watermarks: Mapping[tuple[str, int], int]) -> list[Due]:
        """Due segments without a group, by user."""
        self._backlog.settle(watermarks)
        users, first, last = (column.tolist() for column in self._backlog.due())
        return [Due(*one) for one in zip(users, first, last, strict=True)]

    def run(
        self,
        watermarks: Mapping[tuple[str, int], int],
        now: datetime,
        record: Callable[[Tx, RunRow], None] | None = None,
    ) -> RefreshReport | None:
        """Compress everything due at the watermarks; None where nothing is. Groups become visible by `publish`.

        Args:
            watermarks: epoch ms per partition.
            now: time of the tick.
            record: called with the finished run in the transaction of its last groups.
        """
        started = perf_counter()
        due = self.plan(watermarks)
        if not due:
            return None
        total = sum(map(len, due))
        run = self._run_row(now, watermarks, len(due), total)
        step = self._config.batch_users
        for start in range(0, len(due), step):
            part = due[start : start + step]
            chains = self._read_chains(part)
            groups = self._compress(part, chains, run.run_id, now)
            reach("tick.compressed")
            last = start + step >= len(due)
            status: Status = "done" if last else "running"
            run = replace(run, seconds=perf_counter() - started, status=status)
            with self._db.transaction() as tx:
                self._store(tx, run, groups, part, first=start == 0)
                reach("tick.groups")
                if last and record is not None:
                    record(tx, run)
            reach("tick.stored")
            self._keep(groups, chains)
        self._next_run += 1
        self._touched[run.run_id] = [d.user_idx for d in due]
        return RefreshReport(len(due), total, run)

    def _store(
        self, tx: Tx, run: RunRow, groups: Sequence[GroupRow], due: Sequence[Due], *, first: bool
    ) -> None:
        """Write some of a run's groups and how far the run is."""
        if first:
            runs.add_run(tx, run)
        else:
            runs.put_run(tx, run)
        tokens.put_groups(tx, groups, counts={d.user_idx: d.first for d in due})

    def _keep(self, groups: Sequence[GroupRow], chains: Mapping[int, Chain]) -> None:
        """Take note of groups that are stored."""
        ends = {group.user_idx: group.segment + 1 for group in groups}  # oldest first
        self._backlog.compressed(
            np.fromiter(ends.keys(), np.int64, len(ends)),
            np.fromiter(ends.values(), np.int64, len(ends)),
        )
        for user, chain in chains.items():
            self._kept.put(user, chain)

    def _run_row(
        self,
        now: datetime,
        watermarks: Mapping[tuple[str, int], int],
        users: int,
        segments: int,
    ) -> RunRow:
        return RunRow(
            run_id=self._next_run,
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

    def _compress(
        self, due: Sequence[Due], chains: Mapping[int, Chain], run_id: int, now: datetime
    ) -> list[GroupRow]:
        """Groups of the due segments of some users: segment by segment, all users at once; chains grow with them."""
        items = self._shared.item_rows()
        rows = SegmentRows(self._db, self._engine, items, due, chains)
        groups: list[GroupRow] = []
        for step in range(max(map(len, due))):
            active = [(d.user_idx, d.first + step) for d in due if step < len(d)]
            blocks = self._compressor.compress([
                self._job(segment, chains[user], rows.rows(user, segment))
                for user, segment in active
            ])
            for (user, segment), block in zip(active, blocks, strict=True):
                keys = rows.keys(user, segment)
                chains[user].blocks.append(block)
                chains[user].last = history_key(keys[-1])
                groups.append(_group_row(self._engine, user, block, keys, run_id, now))
        return groups

    def _read_chains(self, due: Sequence[Due]) -> dict[int, Chain]:
        """Earlier groups per user, visible or not: a chain is built on what is stored."""
        chains = {d.user_idx: self._kept.take(d.user_idx, d.first) or Chain([], None) for d in due}
        stored = {d.user_idx: d.first for d in due if d.first and not chains[d.user_idx].blocks}
        if stored:
            found = tokens.load_groups(
                self._db,
                list(stored),
                self._engine.version,
                newest=self._engine.config.window,
                counts=stored,
            )
            for group in found:
                chain = chains[group.user_idx]
                chain.blocks.append(token_block(group))
                chain.last = group.last
        return chains

    def _job(self, segment: int, chain: Chain, rows: Rows) -> SegmentJob:
        window = self._engine.config.window
        groups = chain.blocks if window is None else chain.blocks[-window:]
        return SegmentJob(segment=segment, groups=list(groups), rows=rows)

    def publish(
        self, tx: Tx, run_id: int, positions: Mapping[tuple[str, int], int], now: datetime
    ) -> None:
        """Make a run's groups readable from the given positions on: a journal entry."""
        journal.append(tx, "group_visible", str(run_id), None, positions, now)

    def unpublished(self) -> list[RunRow]:
        """Finished runs of this version without a journal entry, oldest first."""
        return visibility.unpublished_runs(self._db, self._engine.version)

    def touched(self, run_id: int) -> list[int]:
        """Internal ids of the users whose groups a run stored; of a run of this process they are known once."""
        known = self._touched.pop(run_id, None)
        if known is not None:
            return known
        return visibility.users_of_run(self._db, run_id)


def _group_row(
    engine: Engine,
    user: int,
    block: TokenBlock,
    keys: NDArray[np.int64],
    run_id: int,
    now: datetime,
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
        first=history_key(keys[0]),
        last=history_key(keys[-1]),
        n_items=len(keys),
        first_off=int(keys[:, -1].min()),
        last_off=int(keys[:, -1].max()),
        device="cpu",
        compute_dtype=config.compute_dtype,
        run_id=run_id,
        outputs=block.outputs,
        mean_out=None,
        created_at_ms=to_ms(now),
    )
