from __future__ import annotations

import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from stream import generate as module
from stream.config import FileConfig
from stream.errors import ConfigError
from stream.events import EventBatch, concat_batches
from stream.generate import LogShape, generate
from stream.sources.file import FileSource
from tests.contracts.source_contract import read_all

if TYPE_CHECKING:
    from pathlib import Path

FAULTY = LogShape(late_share=0.05, duplicate_share=0.03, bad_share=0.02, sessions=True)


def whole(path: Path, config: FileConfig | None = None) -> EventBatch:
    return concat_batches(read_all(FileSource(path, config), size=5_000, polls=100), exhausted=True)


def counted(batch: EventBatch) -> tuple[int, int, int]:
    """Return distinct interactions, second copies and bad records."""
    distinct = len(pc.unique(batch.interactions["event_id"]))
    return distinct, len(batch.interactions) - distinct, len(batch.dead)


@pytest.mark.parametrize("name", ["log.jsonl", "log.jsonl.gz", "log.parquet"])
def test_the_log_holds_what_was_said(tmp_path: Path, name: str) -> None:
    said = generate(tmp_path / name, users=50, events=3_000, seed=1, shape=FAULTY)
    batch = whole(tmp_path / name)
    assert counted(batch) == (said.interactions, said.duplicates, said.bad)
    assert batch.records == said.records == 3_000 + said.duplicates + said.bad
    assert 50 < said.duplicates < 140
    assert 30 < said.bad < 100
    assert 80 < said.late < 250
    assert said.first_ms == pc.min(batch.interactions["ts"]).as_py()
    assert said.last_ms == pc.max(batch.interactions["ts"]).as_py()


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        generate(tmp_path / f"{name}.jsonl.gz", users=9, events=500, seed=seed, shape=FAULTY)
    first, again, other = ((tmp_path / f"{n}.jsonl.gz").read_bytes() for n in "abc")
    assert first == again
    assert first != other


def test_formats_agree_on_good_records(tmp_path: Path) -> None:
    for name in ("log.jsonl", "log.parquet"):
        generate(tmp_path / name, users=20, events=800, seed=3, shape=FAULTY)
    columns = ["user_id", "item_id", "event_type", "ts", "event_id", "session_id"]
    lines, rows = (
        whole(tmp_path / n).interactions.select(columns) for n in ("log.jsonl", "log.parquet")
    )
    assert lines.equals(rows)


def test_times_are_distinct_and_a_log_without_faults_is_in_order(tmp_path: Path) -> None:
    generate(tmp_path / "log.parquet", users=30, events=4_000, seed=4, shape=LogShape(days=30))
    batch = whole(tmp_path / "log.parquet")
    ts = batch.interactions["ts"].to_numpy()
    assert (np.diff(ts) > 0).all()
    assert not batch.dead
    assert set(batch.interactions["event_type"].to_pylist()) == {"view", "cart", "purchase"}
    assert batch.interactions["session_id"].null_count == 4_000


def test_delays_reach_over_slices_and_stay_within_their_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SLICE_EVENTS", 300)
    delay = 6 * 3_600_000
    shape = LogShape(days=10, late_share=0.2, duplicate_share=0.2, max_delay_ms=delay)
    said = generate(tmp_path / "log.jsonl", users=20, events=2_000, seed=5, shape=shape)
    rows = whole(tmp_path / "log.jsonl").interactions
    ts = rows["ts"].to_numpy()
    behind = np.maximum.accumulate(ts) - ts
    assert 0 < behind.max() <= delay
    assert counted(whole(tmp_path / "log.jsonl"))[0] == 2_000 == said.interactions
    assert len(np.unique(ts)) == 2_000


def test_each_reason_a_line_can_be_bad_for_occurs(tmp_path: Path) -> None:
    generate(tmp_path / "log.jsonl", users=20, events=1_000, seed=6, shape=FAULTY)
    generate(tmp_path / "log.parquet", users=20, events=1_000, seed=6, shape=FAULTY)
    of_lines = Counter(letter.reason for letter in whole(tmp_path / "log.jsonl").dead)
    assert set(of_lines) == {
        "malformed",
        "bad_type",
        "missing_field",
        "empty_field",
        "out_of_range",
    }
    of_rows = Counter(letter.reason for letter in whole(tmp_path / "log.parquet").dead)
    assert set(of_rows) == {"missing_field", "empty_field", "out_of_range"}


def test_tastes_drift(tmp_path: Path) -> None:
    """A user's genres are alike in neighboring weeks and not after a year."""
    generate(tmp_path / "log.parquet", users=3, events=30_000, seed=7, shape=LogShape(days=720))
    rows = pq.read_table(tmp_path / "log.parquet")
    month = (rows["ts"].to_numpy() - LogShape().start_ms) // (30 * 86_400_000)
    genre = pc.cast(pc.utf8_slice_codeunits(rows["item_id"], 1), pa.int64()).to_numpy() % 16
    user = rows["user_id"].to_numpy()

    def shares(of: str, at: int) -> np.ndarray:
        return np.bincount(genre[(user == of) & (month == at)], minlength=16) / max(
            1, ((user == of) & (month == at)).sum()
        )

    near = [shares(u, m) @ shares(u, m + 1) for u in ("u0", "u1", "u2") for m in (0, 4, 8, 12)]
    far = [shares(u, m) @ shares(u, m + 12) for u in ("u0", "u1", "u2") for m in (0, 4, 8, 11)]
    assert np.mean(near) > 1.5 * np.mean(far)


@pytest.mark.parametrize("name", ["items.parquet", "items.jsonl"])
def test_the_catalogue_knows_every_item_of_the_log_before_it_is_used(
    tmp_path: Path, name: str
) -> None:
    generate(tmp_path / "log.parquet", users=30, events=5_000, seed=8, items_path=tmp_path / name)
    items = whole(tmp_path / name, FileConfig(kind="item")).items
    first_seen = dict(zip(items["item_id"].to_pylist(), items["ts"].to_pylist(), strict=True))
    rows = whole(tmp_path / "log.parquet").interactions
    for item, ts in zip(rows["item_id"].to_pylist(), rows["ts"].to_pylist(), strict=True):
        assert first_seen[item] <= ts
    assert items["text"].null_count == 0
    assert len(set(first_seen.values())) > 10


def test_busy_users_have_long_histories_however_many_users_there_are(tmp_path: Path) -> None:
    for users in (5_000, 50_000):
        generate(tmp_path / "log.parquet", users=users, events=20 * users, seed=9)
        drawn = pq.read_table(tmp_path / "log.parquet", columns=["user_id"])["user_id"]
        lengths = np.sort(pc.value_counts(drawn).field("counts").to_numpy())
        assert lengths[lengths >= 128].sum() > 0.2 * lengths.sum()
        assert lengths[-1] > 50 * np.median(lengths)
        assert len(lengths) > 0.8 * users


def test_memory_does_not_grow_with_the_events(tmp_path: Path) -> None:
    script = (
        "import resource, sys; from pathlib import Path; from stream.generate import generate;"
        "generate(Path(sys.argv[1]), users=1_000_000, events=int(sys.argv[2]));"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    peaks = [
        int(subprocess.check_output([sys.executable, "-c", script, tmp_path / "a.parquet", events]))
        for events in ("200000", "800000")
    ]
    assert peaks[1] < 1.1 * peaks[0]


def test_progress_reaches_the_end(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    generate(tmp_path / "a.jsonl", users=5, events=50, progress=lambda *at: seen.append(at))
    assert seen[-1] == (50, 50)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"users": 0}, "at least 1"),
        ({"events": 30_000_000, "shape": LogShape(days=1)}, "give more days"),
        ({"path": "log.txt"}, r"end the name in \.parquet"),
    ],
)
def test_unusable_arguments_are_refused(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    wanted = {"path": "log.jsonl", "users": 5, "events": 5, **changes}
    path = tmp_path / str(wanted.pop("path"))
    with pytest.raises(ConfigError, match=message):
        generate(path, **wanted)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_unusable_shapes_are_refused() -> None:
    with pytest.raises(ConfigError, match="late_share"):
        LogShape(late_share=2)
    with pytest.raises(ConfigError, match="items"):
        LogShape(items=3)


def test_a_log_is_generated_in_one_piece_or_not_at_all(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path / "log.parquet", users=5, events=50, progress=stop)
    assert not list(tmp_path.iterdir())
