"""Late, duplicate, displaced, future-dated and returned events, against a slow oracle in plain Python."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.database import Database
from storage.identities import Identities
from stream.config import EventType, StreamConfig
from stream.events import Partition
from stream.ingest import Ingest
from stream.judge import SegmentRule, partition_rows
from stream.sources.memory import MemorySource
from tests.stream.support import NOW, START_MS, Event, encode, event

N, R_MIN = 2, 2
CONFIG = StreamConfig(
    event_types={
        "view": EventType(weight=1.5),
        "silent": EventType(role="history", weight=0.5),
        "ask": EventType(role="scores"),
        "note": EventType(role="neither"),
    },
    unlisted="reject",
    max_ahead_ms=15,
    max_jump_ms=40,
)
ROLES = {
    "view": (True, True),
    "silent": (True, False),
    "ask": (False, True),
    "note": (False, False),
}
WEIGHTS = {"view": 1.5, "silent": 0.5, "ask": 1.0, "note": 1.0}
Key = tuple[int, int, int, int, bool, int]


@dataclass
class Oracle:
    """Judges one record at a time, sorting and counting everything anew."""

    lateness: int
    newest: dict[int, int] = field(default_factory=dict)
    histories: dict[str, list[Key]] = field(default_factory=dict)
    originals: dict[tuple[str, str], tuple[Key, int]] = field(default_factory=dict)

    def judge(self, one: Event, part: int, off: int) -> dict[str, Any] | None:
        """Expected columns of the stored row; None for a dead letter."""
        ts, seq, newest = one["ts"], one.get("seq", 0), self.newest.get(part)
        if one["event_type"] not in ROLES or self._future(one, newest):
            return None
        watermark = None if newest is None else newest - self.lateness
        self.newest[part] = max(ts, newest if newest is not None else ts)
        own = (ts, seq, part, off, False, off)
        last = self._last_due(one["user_id"], watermark)
        duplicate = self._duplicate(one, last, watermark)
        returned = one.get("value", 0) < 0
        in_history, scores = (r and not (returned or duplicate) for r in ROLES[one["event_type"]])
        displaced = in_history and last is not None and own <= last
        place = own if not displaced or last is None else (*last[:4], True, off)
        if in_history:
            self.histories.setdefault(one["user_id"], []).append(place)
        if one.get("event_id") and not duplicate:
            self.originals[one["user_id"], one["event_id"]] = (place, ts)
        return {
            "ts_ms": ts,
            "in_history": in_history,
            "scores": scores,
            "weight": WEIGHTS[one["event_type"]],
            "late": watermark is not None and ts < watermark,
            "duplicate": duplicate,
            "displaced": displaced,
            "h_ts_ms": place[0],
            "h_seq": place[1],
            "h_off": place[3],
            "off": off,
            "part": part,
        }

    def _future(self, one: Event, newest: int | None) -> bool:
        if one.get("append_ms") is not None:
            return bool(one["ts"] > one["append_ms"] + CONFIG.max_ahead_ms)
        return newest is not None and one["ts"] > newest - self.lateness + CONFIG.max_jump_ms

    def _last_due(self, user: str, watermark: int | None) -> Key | None:
        keys = sorted(self.histories.get(user, []))
        if watermark is None:
            return None
        due = max(0, sum(key[0] < watermark for key in keys) - R_MIN) // N
        return keys[due * N - 1] if due else None

    def _duplicate(self, one: Event, last: Key | None, watermark: int | None) -> bool:
        found = self.originals.get((one["user_id"], one.get("event_id") or ""))
        if found is None:
            return False
        place, ts = found
        is_open = last is None or place > last
        return is_open or (watermark is not None and ts >= watermark - self.lateness)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """One database for all examples; each takes a topic and users of its own."""
    with Database.open(tmp_path_factory.mktemp("judge") / "a.db", now=NOW) as db:
        yield db


@pytest.fixture(scope="module")
def topics() -> Iterator[int]:
    return count()


@st.composite
def logs(draw: st.DrawFn) -> list[Event]:
    """Two users, times that mostly move on and at times fall far behind or jump ahead."""
    clock, out = START_MS, []
    for _ in range(draw(st.integers(1, 30))):
        clock += draw(st.sampled_from([0, 0, 1, 3, 6]))
        ts = clock + draw(st.sampled_from([0, 0, 0, -1, -4, -9, -30, 60]))
        kind = draw(st.sampled_from(["view", "view", "view", "silent", "ask", "note", "odd"]))
        one = event(draw(st.sampled_from("ab")), "i", ts, event_type=kind)
        one["seq"] = draw(st.integers(0, 2))
        one["value"] = draw(st.sampled_from([1, 1, 1, -1]))
        one["event_id"] = draw(st.sampled_from([None, "x", "y", "z"]))
        one["append_ms"] = draw(st.sampled_from([None, None, clock]))
        out.append(one)
    return out


@contextmanager
def ingesting(db: Database, lateness: int) -> Iterator[Ingest]:
    rule = SegmentRule(N, R_MIN)
    yield Ingest(db, Identities.load(db), replace(CONFIG, lateness_ms=lateness), rule)


def store_log(
    db: Database, log: Sequence[Event], topic: str, lateness: int, cuts: Sequence[int]
) -> None:
    """Store a log batch by batch, with a new process at every third batch."""
    source = MemorySource()
    for one in log:
        named = {k: v for k, v in one.items() if v is not None}
        named["user_id"] = f"{topic} {one['user_id']}"
        part = Partition(topic, ord(one["user_id"]) % 2)
        source.append(part, encode(named), append_ms=one["append_ms"])
    source.end()
    sizes = [*cuts, len(log)]
    while sizes:
        with ingesting(db, lateness) as ingest:
            for size in sizes[:3]:
                batch = source.poll(size)
                if batch.ranges:
                    ingest.store(batch, now=NOW)
        sizes = sizes[3:]


@settings(max_examples=20, deadline=None, derandomize=True)
@given(logs(), st.sampled_from([0, 5, 20]), st.lists(st.integers(1, 9), max_size=6))
def test_verdicts_equal_the_oracle_however_the_log_is_cut(
    store: Database, topics: Iterator[int], log: list[Event], lateness: int, cuts: list[int]
) -> None:
    expected = []
    oracle, offs = Oracle(lateness), {0: 0, 1: 0}
    for one in log:
        part = ord(one["user_id"]) % 2
        expected.append(oracle.judge(one, part, offs[part]))
        offs[part] += 1
    topic = f"t{next(topics)}"
    store_log(store, log, topic, lateness, cuts)
    rows = store.query("SELECT * FROM rows_ms WHERE topic = ?", [topic]).to_pylist()
    found = {(row["part"], row["off"]): row for row in rows}
    wanted = [one for one in expected if one]
    assert len(found) == len(wanted)
    for one in wanted:
        row = found[one["part"], one["off"]]
        assert {name: row[name] for name in one} == one
    dead = store.query("SELECT part, off FROM dead_letters WHERE topic = ?", [topic])
    assert dead.num_rows == sum(one is None for one in expected)


def judged(db: Database, topic: str, log: list[Event], cuts: Sequence[int] = ()) -> list[Any]:
    store_log(db, [{"append_ms": None} | one for one in log], topic, 0, cuts)
    return db.query("SELECT * FROM rows_ms WHERE topic = ? ORDER BY off", [topic]).to_pylist()


LATE = [event("a", "i", START_MS + ts) for ts in (10, 20, 30, 40, 50)]
"""The fifth record finds a due segment: events 10 and 20, with 30 and 40 newer."""


def test_an_event_behind_a_due_segment_joins_the_open_window_as_its_oldest(
    store: Database,
) -> None:
    rows = judged(store, "displaced", [*LATE, event("a", "late", START_MS + 15)])
    assert rows[-1]["displaced"]
    assert rows[-1]["late"]
    assert rows[-1]["ts_ms"] == START_MS + 15
    assert rows[-1]["h_ts_ms"] == START_MS + 20


def test_an_event_before_the_open_window_but_behind_no_due_segment_keeps_its_place(
    store: Database,
) -> None:
    rows = judged(store, "kept", [*LATE, event("a", "late", START_MS + 35)])
    assert rows[-1]["late"]
    assert not rows[-1]["displaced"]
    assert rows[-1]["h_ts_ms"] == START_MS + 35


@pytest.mark.parametrize("cuts", [(), (6,)])
def test_the_repeat_of_a_displaced_event_is_a_duplicate(
    store: Database, cuts: tuple[int, ...]
) -> None:
    """Its original stands in the open window, whatever its own time says."""
    late = event("a", "late", START_MS + 15, event_id="e")
    rows = judged(store, f"repeat {cuts}", [*LATE, late, late], cuts)
    assert [row["duplicate"] for row in rows[-2:]] == [False, True]


def test_a_return_is_stored_and_nothing_else(store: Database) -> None:
    rows = judged(store, "returns", [*LATE, event("a", "i", START_MS + 60, value=-2)])
    assert not rows[-1]["in_history"]
    assert not rows[-1]["scores"]
    assert rows[-1]["value"] == -2


@pytest.mark.parametrize("kind", ROLES)
def test_an_event_types_role_decides_what_it_does(store: Database, kind: str) -> None:
    rows = judged(store, f"role {kind}", [event("a", "i", START_MS, event_type=kind)])
    assert (rows[0]["in_history"], rows[0]["scores"]) == ROLES[kind]


def test_events_alike_in_everything_but_the_id_are_all_kept(
    store: Database, tmp_path: Path
) -> None:
    one = event("a", "i", START_MS)
    rows = judged(store, "alike", [one, one, one | {"event_id": "x"}, one | {"event_id": "y"}])
    assert [row["duplicate"] for row in rows] == [False] * 4


def test_rows_are_told_apart_by_topic_and_partition_in_their_order():
    table = pa.table({
        "topic": ["b", "a", "b", "a", "a"],
        "part": pa.array([1, 2, 1, 0, 2], pa.int32()),
    })
    found = [(key, rows.tolist()) for key, rows in partition_rows(table)]
    assert found == [(("b", 1), [0, 2]), (("a", 0), [3]), (("a", 2), [1, 4])]
    assert partition_rows(table.slice(0, 0)) == []
    assert [(key, rows.tolist()) for key, rows in partition_rows(table.slice(1, 1))] == [
        (("a", 2), [0])
    ]
