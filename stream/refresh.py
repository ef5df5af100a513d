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
from storage import runs, tokens, visibility
from storage.faults import reach
from storage.runs import RunRow, Status
from storage.tokens import GroupRow
from stream.clock import from_ms, to_ms
from stream.errors import CompressError
from stream.history import history_key
from stream.loading import token_block
from stream.rounds import Rounds, Setbacks
from stream.segments import Chain, ChainCache, Due, SegmentRows
from stream.unread import Made, Unread

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
class Wanted:
    """What one tick compresses: its run, and segments of users by user."""

    run: RunRow
    due: list[Due]


class Refresher:
    """Compresses due segments; the only component that writes token groups, refresh runs and failures.

    Args:
        db: the shard's database.
        engine: the model version whose groups they are.
        compressor: what compresses.
        shared: model rows of items.
        backlog: what is due.
        config: how many users at once, and which chains are kept.
        patient: leave users out of a tick that cannot be compressed; otherwise the first failure ends it.
    """

    def __init__(
        self,
        db: Database,
        engine: Engine,
        compressor: Compressor,
        shared: Shared,
        backlog: Backlog,
        config: RefreshConfig,
        *,
        patient: bool = False,
    ) -> None:
        self._db = db
        self._engine = engine
        self._compressor = compressor
        self._shared = shared
        self._backlog = backlog
        self._config = config
        self._kept = ChainCache(config.chain_bytes, engine.config.window)
        self._patient = patient
        self._setbacks = Setbacks(db, engine.version)
        self._next_run = runs.next_run_id(db)
        self._unread = Unread(config.chain_bytes)

    @property
    def version(self) -> str:
        """Model version of the groups it makes."""
        return self._engine.version

    def plan(self, watermarks: Mapping[tuple[str, int], int]) -> list[Due]:
        """Due segments without a group, by user."""
        self._backlog.settle(watermarks)
        users, first, last = (column.tolist() for column in self._backlog.due())
        due = [Due(*one) for one in zip(users, first, last, strict=True)]
        return self._setbacks.without(due)

    def wanted(
        self, watermarks: Mapping[tuple[str, int], int], now: datetime, due: Sequence[Due]
    ) -> Wanted | None:
        """A run of these segments; None without any. From here on they count as compressed, for the next plan."""
        if not due:
            return None
        run = RunRow(
            run_id=self._next_run,
            model_version=self._engine.version,
            at_ms=to_ms(now),
            watermark=dict(watermarks),
            users=len(due),
            segments=sum(map(len, due)),
            seconds=0.0,
            visible_from_ms=to_ms(now) + self._config.visible_delay_s * 1000,
            status="running",
            note="",
        )
        self._next_run += 1
        self._note({d.user_idx: d.last + 1 for d in due})
        self._unread.begin(run.run_id, [d.user_idx for d in due])
        return Wanted(run, list(due))

    def run(self, wanted: Sequence[Wanted], record: Callable[[Tx], None]) -> None:
        """Compress what ticks want, all of them in one pass; groups become visible by the journal.

        Users are compressed in rounds, each with a transaction of its own. What is not stored is planned anew.

        Args:
            wanted: ticks in their order: of a user, each goes on where the one before it ended.
            record: called in the transaction of the last groups.

        Raises:
            CompressError: a round failed, and patience does not help.
        """
        due = _joined(wanted)
        rounds = Rounds(due, self._config.batch_users, patient=self._patient)
        recorded = False
        try:
            while not recorded:
                part, last = rounds.next()
                try:
                    self._round(wanted, part, record if last else None, rounds)
                except CompressError as error:
                    rounds.failed(part, error)
                else:
                    recorded = last
        finally:
            left = [d for d in due if d.user_idx not in rounds.done]
            self._note({d.user_idx: d.first for d in left})
            if wanted:
                self._setbacks.blame(rounds.blamed(), from_ms(wanted[0].run.at_ms))

    def _round(
        self,
        wanted: Sequence[Wanted],
        due: Sequence[Due],
        record: Callable[[Tx], None] | None,
        rounds: Rounds,
    ) -> None:
        """Compress some users' segments and store them; the last round also records what the ticks did."""
        started = perf_counter()
        chains = self._read_chains(due)
        groups = self._compress(due, chains, wanted) if due else []
        reach("tick.compressed")
        seconds = (perf_counter() - started) / max(1, len(wanted))
        status: Status = "running" if record is None else "done"
        rows = [_run_row(one, rounds, seconds, status) for one in wanted]
        with self._db.transaction() as tx:
            if rows:
                (runs.add_runs if rounds.first else runs.put_runs)(tx, rows)
            if groups:
                tokens.put_groups(tx, groups, counts={d.user_idx: d.first for d in due})
                self._setbacks.clear(tx, chains)
            reach("tick.groups")
            if record is not None:
                record(tx)
        rounds.succeeded(due)
        self._unread.add(groups)
        reach("tick.stored")
        for user, chain in chains.items():
            self._kept.put(user, chain)

    def _note(self, counts: Mapping[int, int]) -> None:
        """Tell the backlog how many groups users have."""
        self._backlog.compressed(
            np.fromiter(counts.keys(), np.int64, len(counts)),
            np.fromiter(counts.values(), np.int64, len(counts)),
        )

    def _compress(
        self, due: Sequence[Due], chains: Mapping[int, Chain], wanted: Sequence[Wanted]
    ) -> list[GroupRow]:
        """Groups of the due segments of some users: segment by segment, all users at once; chains grow with them."""
        items = self._shared.item_rows()
        rows = SegmentRows(self._db, self._engine, items, due, chains)
        owner = {
            (d.user_idx, segment): one.run
            for one in wanted
            for d in one.due
            for segment in range(d.first, d.last + 1)
        }
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
                groups.append(_group_row(self._engine, user, block, keys, owner[user, segment]))
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

    def unpublished(self) -> list[RunRow]:
        """Finished runs of this version without a journal entry, oldest first."""
        return visibility.unpublished_runs(self._db, self._engine.version)

    def made(self, run_id: int) -> Made:
        """What a run made; of a run of this process the groups are known once, where they fit the memory."""
        known = self._unread.take(run_id)
        if known is not None:
            return known
        return Made(visibility.users_of_run(self._db, run_id), None)


def _run_row(one: Wanted, rounds: Rounds, seconds: float, status: Status) -> RunRow:
    """A run as far as it is; users that failed are not part of it."""
    due = [d for d in one.due if d.user_idx not in rounds.suspects]
    return replace(
        one.run, users=len(due), segments=sum(map(len, due)), seconds=seconds, status=status
    )


def _joined(wanted: Sequence[Wanted]) -> list[Due]:
    """Per user all segments of several ticks, by user."""
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for one in wanted:
        for due in one.due:
            first.setdefault(due.user_idx, due.first)
            last[due.user_idx] = due.last
    return [Due(user, first[user], last[user]) for user in sorted(first)]


def _group_row(
    engine: Engine, user: int, block: TokenBlock, keys: NDArray[np.int64], run: RunRow
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
        run_id=run.run_id,
        outputs=block.outputs,
        mean_out=None,
        created_at_ms=run.at_ms,
    )
