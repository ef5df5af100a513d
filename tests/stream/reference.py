"""What a slate should say, computed from raw stored rows by the trainer's features and one masked forward pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from model.asof import AsOf, Histories, Popularity
from model.engine import Engine
from model.features import DECAY_DAYS, SparseFeatures
from model.reference import masked_requests
from model.segments import ITEM, UserSlots, build_layout
from storage import journal
from storage.database import Database
from storage.items import all_items
from stream.slates import Slate

_KEY = ("h_ts_ms", "h_seq", "h_part", "h_off", "displaced", "off")
_ORDER = ", ".join(_KEY)
_DECAYS = ", ".join(
    f"coalesce(sum(weight * exp((ts_ms - $at) / 86400000.0 / {days})) FILTER (visit < cur), 0)"
    for days in DECAY_DAYS
)
_SQL = f"""
WITH ordered AS (
    SELECT *, lag(session_id) OVER w AS session_before, lag(h_ts_ms) OVER w AS before,
        row_number() OVER w AS place
    FROM rows_ms WHERE in_history AND user_idx = $user AND off < $upto
    WINDOW w AS (ORDER BY {_ORDER})
), visits AS (
    SELECT *, count(*) FILTER (before IS NULL OR NOT CASE
            WHEN session_id IS NOT NULL AND session_before IS NOT NULL
            THEN session_id = session_before ELSE h_ts_ms - before <= $gap END)
        OVER (ORDER BY place) AS visit
    FROM ordered
), here AS (SELECT *, max(visit) OVER () + $ahead AS cur FROM visits)
SELECT item_idx, coalesce(sum(weight) FILTER (visit < cur), 0), {_DECAYS},
    bool_or(visit = cur - 1)::INTEGER, bool_or(visit = cur)::INTEGER
FROM here GROUP BY item_idx
"""


class Reference:
    """The trainer's view of a database whose users live in one partition."""

    def __init__(self, db: Database, engine: Engine, gap_ms: int) -> None:
        self._db, self._engine, self._gap_ms = db, engine, gap_ms
        rows = db.query(
            f"SELECT * EXCLUDE (hot, h_ts) FROM rows_ms WHERE in_history ORDER BY user_idx, {_ORDER}"
        )
        self._rows: list[dict[str, Any]] = rows.to_pylist()
        self.items: pa.Table = all_items(db)
        self._ticks = journal.entries(db, "popularity")
        self._rows_of_items = engine.item_rows(self.items["item_id"].to_pylist())
        users = db.query("SELECT user_id, user_idx FROM users").to_pylist()
        self.users: dict[str, int] = {row["user_id"]: row["user_idx"] for row in users}

    def rows(self, user: int, upto: int) -> list[dict[str, Any]]:
        """A user's history below an offset, in history order."""
        return [r for r in self._rows if r["user_idx"] == user and r["off"] < upto]

    def histories(self, rows: list[dict[str, Any]]) -> Histories:
        """Rows, sorted by user, as the trainer's arrays."""
        users = [row["user_idx"] for row in rows]
        visit = np.cumsum([
            int(i == 0 or users[i] != users[i - 1] or not self._continues(rows[i - 1], row))
            for i, row in enumerate(rows)
        ])
        starts = np.unique(np.array(users), return_index=True)[1] if rows else np.zeros(0, int)
        return Histories(
            ptr=np.append(starts, len(rows)).astype(np.int64),
            item=np.array([row["item_idx"] for row in rows], np.int64),
            type_row=self._engine.type_rows([row["event_type"] for row in rows]),
            ts=np.array([row["ts_ms"] for row in rows], np.int64),
            weight=np.array([row["weight"] for row in rows], np.float64),
            visit=visit.astype(np.int64),
        )

    def _continues(self, before: dict[str, Any], row: dict[str, Any]) -> bool:
        sessions = (before["session_id"], row["session_id"])
        if None not in sessions:
            return bool(sessions[0] == sessions[1])
        return bool(row["h_ts_ms"] - before["h_ts_ms"] <= self._gap_ms)

    def features(self, slate: Slate, upto: int) -> SparseFeatures:
        """The trainer's features of a slate's row."""
        rows = self.rows(self.users[slate.user_id], upto)
        asof = AsOf(self.histories(rows), self.items.num_rows)
        last = np.array([len(rows)])
        if slate.readout == "line":
            return asof.line(last - 1)
        return asof.request(np.array([0]), last, np.array([slate.at_ms]))

    def sql(self, slate: Slate, upto: int) -> NDArray[np.float32]:
        """The same features by one SQL statement over raw rows, float32 [V, F]."""
        params = {
            "$user": self.users[slate.user_id],
            "$upto": upto,
            "$gap": self._gap_ms,
            "$ahead": int(slate.readout != "line"),
            "$at": slate.at_ms,
        }
        statement = _SQL
        for name, value in params.items():
            statement = statement.replace(name, str(value))
        columns = [column.to_numpy() for column in self._db.query(statement).columns]
        out = np.zeros((self.items.num_rows, 8), np.float32)
        item, count, *rest = columns
        out[item, 0] = count > 0
        out[item, 1] = np.log1p(count)
        out[item, 2:6] = np.log1p(np.stack(rest[:4], axis=1))
        out[item, 6:] = np.stack(rest[4:], axis=1)
        return out

    def popularity(self, slate: Slate, upto: int) -> NDArray[np.float32]:
        """Log popularity [P, V] at the slate's cut, over what was stored at the tick it was made by."""
        tick = [t for t in self._ticks if max(t.positions.values()) < upto][-1]
        assert tick.detail["cut_ms"] == slate.popularity_cut_ms
        below = max(tick.positions.values())
        rows = [row for row in self._rows if row["off"] < below]
        return Popularity(self.histories(rows), tick.detail["n_items"]).at(tick.detail["cut_ms"])

    def hidden(self, slate: Slate, upto: int) -> NDArray[np.float64]:
        """Hidden row [d] of the slate's row: one masked forward pass over tokens and recents."""
        rows = self.rows(self.users[slate.user_id], upto)
        recents, left_out = slate.coverage.recents, slate.coverage.left_out
        covered = len(rows) - recents - left_out
        n = self._engine.config.segment_len
        assert covered % n == left_out % n == 0
        kept = np.r_[0:covered, covered + left_out : len(rows)]
        picked = [rows[i] for i in kept]
        line = slate.readout == "line"
        slots = UserSlots(
            item_row=self._rows_of_items[[row["item_idx"] for row in picked]],
            type_row=self._engine.type_rows([row["event_type"] for row in picked]),
            time_ms=np.array([row["h_ts_ms"] for row in picked], np.int64),
            ordinal=kept.astype(np.int64),
            closed=np.full(covered // n, n),
            request_time_ms=np.array([] if line else [slate.at_ms], np.int64),
            request_at=np.array([] if line else [len(kept)], np.int64),
            request_segment=np.array([] if line else [covered // n], np.int64),
        )
        if not line:
            return np.asarray(masked_requests(self._engine, [slots])[0])
        layout = build_layout([slots], self._engine.config)
        at = layout.rows_of(ITEM)
        newest = at[np.argmax(layout.source[at])]
        with torch.inference_mode():
            return np.asarray(self._engine.model(layout)[newest].double().numpy())

    def scores(
        self, slate: Slate, upto: int, log_pop: NDArray[np.float32] | None = None
    ) -> dict[str, float]:
        """Final score of every candidate, as training's read-out computes it."""
        log_pop = self.popularity(slate, upto) if log_pop is None else log_pop
        width = log_pop.shape[1]
        features = self.features(slate, upto)
        sparse = features.where(features.item < width)
        ids = self.items["item_id"].to_pylist()[:width]
        vectors = self._engine.candidate_vectors(ids, self.items["text"].to_pylist()[:width])
        hidden = torch.from_numpy(self.hidden(slate, upto)[None]).to(vectors.dtype)
        kind = slate.readout
        assert kind != "popular"
        with torch.inference_mode():
            out = self._engine.readout(
                kind, hidden, vectors, log_pop[None], np.zeros(1, np.int64), sparse
            )
        return dict(zip(ids, out[0].tolist(), strict=True))
