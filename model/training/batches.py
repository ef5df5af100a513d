"""One step's arrays: layout, rows that carry a loss, their features, candidates and targets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.asof import AsOf, Popularity
from model.config import ModelConfig
from model.data import HistoryLog
from model.features import DAY_MS, SparseFeatures, popularity_cut
from model.losses import CandidateSet, choose_candidates
from model.ragged import ranges
from model.segments import ITEM, REQUEST, Layout, build_layout
from model.training.options import TrainOptions
from model.training.windows import Cut, Window, cut_window, window_slots

__all__ = ["Batch", "Batcher", "LossRows"]

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class LossRows:
    """Rows of one read-out in a batch.

    Attributes:
        layout_row: int64 [R], flat rows of the layout.
        sparse: features of the R rows over the candidate set; None when no feature is on.
        group: int64 [R], popularity group of each row.
        target_row: int64 [T], row of each (row, target) pair; 0..R-1 for one target a row.
        target: int64 [T], place of the target among the candidates.
        weight: float32 [T], weight of the pair in the loss.
    """

    layout_row: Ints
    sparse: SparseFeatures | None
    group: Ints
    target_row: Ints
    target: Ints
    weight: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Batch:
    """Everything one training step reads.

    Attributes:
        layout: the model's rows.
        visit: request rows and the items of the next visit.
        line: rows inside a visit and the next item.
        log_pop: float32 [G, P, C], log popularity of the candidates per cut.
        candidates: what the softmax runs over.
        events: interactions read.
    """

    layout: Layout
    visit: LossRows
    line: LossRows
    log_pop: NDArray[np.float32]
    candidates: CandidateSet
    events: int


@dataclass(frozen=True, slots=True)
class _Asked:
    """Rows that carry a loss, before the layout: history rows and windows, aligned."""

    window: Ints
    row: Ints
    index: Ints


class Batcher:
    """Makes batches from a prepared log.

    Args:
        log: the histories; only rows before ``train_end_ms`` are targets.
        config: the model.
        options: the recipe.
        train_end_ms: end of the training period.
    """

    def __init__(
        self, log: HistoryLog, config: ModelConfig, options: TrainOptions, train_end_ms: int
    ) -> None:
        self._log = log
        self._config = config
        self._options = options
        self._train_end_ms = train_end_ms
        histories = log.histories
        n_items = log.n_known
        self.stop = _stops(histories.ptr, histories.ts, train_end_ms)
        self._as_of = AsOf(histories, len(log.item_ids))
        self._popularity = Popularity(histories, len(log.item_ids))
        visit = histories.visit
        self._starts_visit = np.concatenate([[True], visit[1:] != visit[:-1]])
        trained = histories.item[histories.ts < train_end_ms]
        self._share = np.bincount(trained, minlength=n_items)[:n_items] / max(trained.shape[0], 1)
        self._item_row = np.arange(1, len(log.item_ids) + 1)
        self._features = config.readout.counters or config.readout.in_visit

    def batch(self, windows: list[Window], rng: np.random.Generator, *, aged: bool) -> Batch:
        """Draw cuts and loss rows for some windows.

        Args:
            windows: the windows of the step.
            rng: source of all draws.
            aged: weigh losses by the age of their target.
        """
        options = self._options
        full = bool(rng.random() < options.partition.full_share)
        cuts = [cut_window(window, options.partition, full=full, rng=rng) for window in windows]
        visits = [self._visits(window, cut, rng) for window, cut in zip(windows, cuts, strict=True)]
        layout = build_layout(
            [
                window_slots(self._log.histories, self._item_row, window.user, cut, starts)
                for window, cut, starts in zip(windows, cuts, visits, strict=True)
            ],
            self._config,
        )
        asked = _Asked(
            np.repeat(np.arange(len(windows)), [len(starts) for starts in visits]),
            np.concatenate(visits),
            np.concatenate([np.arange(len(starts)) for starts in visits]),
        )
        return self._assemble(layout, asked, self._lines(windows, cuts, rng), windows, rng, aged)

    def _assemble(
        self,
        layout: Layout,
        visits: _Asked,
        lines: _Asked,
        windows: list[Window],
        rng: np.random.Generator,
        aged: bool,  # noqa: FBT001
    ) -> Batch:
        histories, options = self._log.histories, self._options
        pair_row, pair_item, pair_weight = self._visit_targets(visits.row)
        line_item = histories.item[lines.row + 1]
        candidates = choose_candidates(
            self._log.n_known,
            np.unique(np.concatenate([pair_item, line_item])),
            self._share,
            limit=options.max_candidates,
            rng=rng,
        )
        cuts = popularity_cut(np.concatenate([histories.ts[visits.row], histories.ts[lines.row]]))
        log_pop, group = self._popularity.groups(cuts)
        n_visits = visits.row.shape[0]
        user = np.array([window.user for window in windows], np.int64)[visits.window]
        request_features = line_features = None
        if self._features:
            times = histories.ts[visits.row]
            request_features = candidates.narrow(self._as_of.request(user, visits.row, times))
            line_features = candidates.narrow(self._as_of.line(lines.row))
        return Batch(
            layout=layout,
            visit=LossRows(
                layout_row=_flat_rows(layout, REQUEST, visits),
                sparse=request_features,
                group=group[:n_visits],
                target_row=pair_row,
                target=candidates.local(pair_item),
                weight=pair_weight * self._age_weight(visits.row[pair_row], aged=aged),
            ),
            line=LossRows(
                layout_row=_flat_rows(layout, ITEM, lines),
                sparse=line_features,
                group=group[n_visits:],
                target_row=np.arange(lines.row.shape[0]),
                target=candidates.local(line_item),
                weight=self._age_weight(lines.row, aged=aged),
            ),
            log_pop=log_pop[:, :, candidates.columns],
            candidates=candidates,
            events=int((layout.kind == ITEM).sum()),
        )

    def _visits(self, window: Window, cut: Cut, rng: np.random.Generator) -> Ints:
        """Rows that start a visit and are asked for: inside the window, and right after it."""
        after = min(window.end, int(self.stop[window.user]) - 1)
        inside = np.append(cut.rows, after) if after == window.end else cut.rows
        starts = inside[self._starts_visit[inside]]
        first = int(self._log.histories.ptr[window.user])
        cold = rng.random() < self._options.cold_requests
        asked: Ints = starts[(starts > window.begin) | ((starts == first) & cold)]
        return asked

    def _lines(self, windows: list[Window], cuts: list[Cut], rng: np.random.Generator) -> _Asked:
        """A share of the rows whose next row is in the same visit and in the training period."""
        window = np.repeat(np.arange(len(cuts)), [cut.rows.shape[0] for cut in cuts])
        row = np.concatenate([cut.rows for cut in cuts])
        index = np.concatenate([np.arange(cut.rows.shape[0]) for cut in cuts])
        last = self.stop[np.array([item.user for item in windows], np.int64)][window] - 1
        following = np.minimum(row + 1, self._starts_visit.shape[0] - 1)
        keep = (row < last) & ~self._starts_visit[following]
        keep &= rng.random(row.shape[0]) < self._options.line_share
        return _Asked(window[keep], row[keep], index[keep])

    def _visit_targets(self, start: Ints) -> tuple[Ints, Ints, NDArray[np.float32]]:
        """Distinct items of the visits that start at these rows, as (row, item, weight) pairs."""
        visit = self._log.histories.visit
        stop = np.searchsorted(visit, visit[start], side="right")
        if not start.shape[0]:
            return start, start, np.zeros(0, np.float32)
        owner = np.searchsorted(self._log.histories.ptr, start, side="right") - 1
        stop = np.minimum(stop, self.stop[owner])
        pair, row = ranges(start, stop)
        key = pair * len(self._log.item_ids) + self._log.histories.item[row]
        pair, item = np.divmod(np.unique(key), len(self._log.item_ids))
        size = np.bincount(pair, minlength=start.shape[0])[pair]
        weight = np.minimum(1.0, self._options.visit_items / size)
        return pair, item, weight.astype(np.float32)

    def _age_weight(self, row: Ints, *, aged: bool) -> NDArray[np.float32]:
        if not aged:
            return np.ones(row.shape[0], np.float32)
        age = (self._train_end_ms - self._log.histories.ts[row]) / DAY_MS
        return np.exp(-age / self._options.age_days).astype(np.float32)


def _stops(ptr: Ints, ts: Ints, end_ms: int) -> Ints:
    """Row after each user's last row before ``end_ms``."""
    before = np.concatenate([[0], np.cumsum(ts < end_ms)])
    stops: Ints = ptr[:-1] + before[ptr[1:]] - before[ptr[:-1]]
    return stops


def _flat_rows(layout: Layout, kind: int, asked: _Asked) -> Ints:
    """Flat layout rows of (window, index) pairs of one kind."""
    rows = layout.rows_of(kind)
    if not rows.shape[0]:
        return rows
    span = int(layout.source[rows].max()) + 1
    key = layout.user[rows] * span + layout.source[rows]
    order = np.argsort(key)
    found = np.searchsorted(key[order], asked.window * span + asked.index)
    flat: Ints = rows[order[found]]
    return flat
