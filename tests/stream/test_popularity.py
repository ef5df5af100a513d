"""Running sums of popularity equal a recomputation from the log, whatever happened meanwhile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from model.features import POPULARITY_DAYS
from storage import interactions
from storage.database import Database
from storage.records import INTERACTION_SCHEMA, PartitionKey
from stream.clock import from_ms
from stream.popularity import Popularity
from tests.stream.support import DAY_MS, NOW, START_MS

N_ITEMS = 9
KEYS: list[PartitionKey] = [("a", 0), ("a", 1), ("b", 0)]
WINDOWS = ["pall" if days is None else f"p{days}" for days in POPULARITY_DAYS]


def batch(rng: np.random.Generator, ends: dict[PartitionKey, int], clock: int, n: int) -> pa.Table:
    """Rows of several partitions, some late by months, some before 1970, some outside the history."""
    rows = []
    for _ in range(n):
        key = KEYS[int(rng.integers(len(KEYS)))]
        back = int(rng.choice([0, 0, 0, DAY_MS, 40 * DAY_MS, 400 * DAY_MS, 30_000 * DAY_MS]))
        row: dict[str, Any] = {
            field.name: 0 if pa.types.is_integer(field.type) else None
            for field in INTERACTION_SCHEMA
        }
        row |= {
            "item_idx": int(rng.integers(N_ITEMS)),
            "event_type": "view",
            "ts_ms": clock + int(rng.integers(DAY_MS)) - back,
            "h_ts_ms": clock,
            "weight": float(rng.choice([0.1, 1.0, 2.5])),
            "in_history": bool(rng.random() < 0.8),
            "topic": key[0],
            "part": key[1],
            "off": ends.get(key, 0),
        }
        row |= dict.fromkeys(("scores", "duplicate", "displaced", "late"), False)
        ends[key] = ends.get(key, 0) + int(rng.integers(1, 3))
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=INTERACTION_SCHEMA)


def recomputed(db: Database, positions: dict[PartitionKey, int], cut_ms: int) -> np.ndarray:
    table = interactions.popularity(db, from_ms(cut_ms), POPULARITY_DAYS, positions=positions)
    out = np.zeros((len(WINDOWS), N_ITEMS))
    for place, name in enumerate(WINDOWS):
        out[place, table["item_idx"].to_numpy()] = table[name].to_numpy()
    return out


@pytest.mark.parametrize("seed", range(4))
def test_running_sums_equal_a_recomputation_and_those_of_a_restart(
    tmp_path: Path, seed: int
) -> None:
    """Rows run ahead of the positions; now and then the sums start anew, told of the rows from there on."""
    rng = np.random.default_rng(seed)
    ends: dict[PartitionKey, int] = {}
    held: list[dict[PartitionKey, int]] = [{}]
    with Database.open(tmp_path / "a.db", now=NOW) as db:
        sums = Popularity(db)
        for step in range(40):
            clock = START_MS + step * 5 * DAY_MS
            rows = batch(rng, ends, clock, int(rng.integers(0, 12)))
            with db.transaction() as tx:
                interactions.append(tx, rows)
            sums.passed(rows)
            held.append(dict(ends))
            if rng.random() < 0.4:
                continue
            held = held[int(rng.integers(len(held))) :]
            found = sums.counts(held[0], clock, N_ITEMS)
            np.testing.assert_allclose(found, recomputed(db, held[0], clock), rtol=1e-12)
            anew = Popularity(db)
            np.testing.assert_array_equal(anew.counts(held[0], clock, N_ITEMS), found)
            if rng.random() < 0.3:
                sums = anew


def test_positions_or_a_cut_that_go_back_are_counted_anew(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ends: dict[PartitionKey, int] = {}
    with Database.open(tmp_path / "a.db", now=NOW) as db:
        sums = Popularity(db)
        marks = []
        for step in range(4):
            with db.transaction() as tx:
                interactions.append(tx, batch(rng, ends, START_MS + step * 90 * DAY_MS, 30))
            marks.append((dict(ends), START_MS + (step + 1) * 90 * DAY_MS))
        for place in (3, 1, 2, 0, 3):
            positions, cut = marks[place]
            found = sums.counts(positions, cut, N_ITEMS)
            np.testing.assert_allclose(found, recomputed(db, positions, cut), rtol=1e-12)


def test_a_row_told_after_it_was_read_counts_once(tmp_path: Path) -> None:
    ends: dict[PartitionKey, int] = {}
    with Database.open(tmp_path / "a.db", now=NOW) as db:
        sums = Popularity(db)
        rows = batch(np.random.default_rng(1), ends, START_MS, 20)
        with db.transaction() as tx:
            interactions.append(tx, rows)
        sums.counts({}, START_MS, N_ITEMS)  # reads the rows, which wait
        sums.passed(rows)
        cut = START_MS + 10 * DAY_MS
        found = sums.counts(ends, cut, N_ITEMS)
        np.testing.assert_allclose(found, recomputed(db, ends, cut), rtol=1e-12)
