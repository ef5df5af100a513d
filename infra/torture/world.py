"""What a torture run replays: a log, a model, settings under which everything happens often."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from model.config import ModelConfig
from model.untrained import write_untrained
from stream.generate import LogShape, generate
from stream.logwriter import EVENT_TYPES

TOPIC = "log"
_VISIT_GAP_MS = 1_800_000
_DAYS = 20
_ITEMS = 48
_KNOWN_ITEMS = 40
_CHANGING, _CHANGE_EVERY = 3, 40
_OFTEN = {
    "stream.max_batch_records": 24,
    "refresh.batch_users": 2,
    "database.rotate_rows": 16,
    "database.max_runs": 2,
    "database.checkpoint_bytes": 0,
    "database.slate_log": 32,
    "log.topic": TOPIC,
}
"""Small numbers, so that a short log sees many transactions, rotations and merges."""
_GENERATED = {
    "stream.lateness_ms": 60_000,
    "stream.visit_gap_ms": _VISIT_GAP_MS,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What is replayed, and how.

    Attributes:
        log: file, folder or glob.
        items: item file, or None.
        model: checkpoint.
        columns: `--map` of the log, or None.
        config: file of settings, or None.
        settings: further settings, as `--set` takes them.
    """

    log: str
    items: str | None
    model: Path
    columns: str | None = None
    config: Path | None = None
    settings: tuple[str, ...] = ()

    def replay(
        self, left: Left, *more: str, log: str | None = None, finish: bool = True
    ) -> list[str]:
        """Return the command line that replays the log into a database and a file of slates.

        Args:
            left: where they go.
            more: further arguments.
            log: another log than the world's.
            finish: with a last tick; a run that is to be resumed must go without.
        """
        argv = ["replay", log or self.log, "--db", str(left.db), "--slates", str(left.slates)]
        argv += ["--model", str(self.model), "--quiet"]
        argv += ["--finish"] if finish else []
        argv += ["--items", self.items] if self.items else []
        argv += ["--map", self.columns] if self.columns else []
        argv += ["--config", str(self.config)] if self.config else []
        for assignment in self.settings:
            argv += ["--set", assignment]
        return [*argv, *more]


@dataclass(frozen=True, slots=True)
class Left:
    """What a run leaves behind.

    Attributes:
        folder: where the database is.
        apart: where the slates are, if elsewhere.
    """

    folder: Path
    apart: Path | None = None

    @property
    def db(self) -> Path:
        """The database."""
        return self.folder / "x.duckdb"

    @property
    def wal(self) -> Path:
        """Its write-ahead log, if there is any."""
        return self.folder / "x.duckdb.wal"

    @property
    def slates(self) -> Path:
        """The slates."""
        return (self.apart or self.folder) / "slates.jsonl"


def left_in(folder: Path) -> Left:
    """Return what a run in this folder will leave; the folder is made."""
    folder.mkdir(parents=True, exist_ok=True)
    return Left(folder)


def given_world(
    log: str, model: Path, items: str | None, columns: str | None, config: Path | None
) -> World:
    """Return the world of a log and a checkpoint that exist."""
    return World(
        log=log,
        items=items,
        model=model,
        columns=columns,
        config=config,
        settings=tuple(f"{key}={value}" for key, value in _OFTEN.items()),
    )


def made_world(folder: Path, *, events: int, users: int, seed: int, tick_events: int = 25) -> World:
    """Write a log with late, second and bad records, its items and an untrained model; return them.

    Args:
        folder: where they go.
        events: distinct good interactions.
        users: who they are of.
        seed: of the log and of the weights.
        tick_events: events from one tick to the next, about.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log, items, model = folder / "log.jsonl", folder / "items.jsonl", folder / "model.safetensors"
    config = folder / "freshet.toml"
    config.write_text("")  # named, so that one in the folder of the caller is not read
    shape = LogShape(
        items=_ITEMS, days=_DAYS, late_share=0.02, duplicate_share=0.01, bad_share=0.01
    )
    generate(log, users=users, events=events, seed=seed, shape=shape, items_path=items)
    rows = [json.loads(line) for line in items.read_text(encoding="utf-8").splitlines()]
    _add_item_records(log, [row["item_id"] for row in rows[:_CHANGING]])
    texts = {row["item_id"]: row["text"] for row in rows}
    write_untrained(model, _tiny(), list(texts)[:_KNOWN_ITEMS], texts, seed=seed)
    settings = {
        **_OFTEN,
        **_GENERATED,
        "refresh.tick_interval_s": _DAYS * 86_400 * tick_events // events,
    }
    return World(
        log=str(log),
        items=str(items),
        model=model,
        config=config,
        settings=tuple(f"{key}={value}" for key, value in settings.items()),
    )


def _add_item_records(log: Path, ids: list[str]) -> None:
    """Put item records between the events: items that go and come back, and items that are new."""
    lines = log.read_text(encoding="utf-8").splitlines(keepends=True)
    out: list[str] = []
    for number, line in enumerate(lines):
        out.append(line)
        turn, here = divmod(number, _CHANGE_EVERY)
        if here == _CHANGE_EVERY - 1:
            gone = {"kind": "item", "item_id": ids[turn % len(ids)], "available": turn % 2 == 1}
            new = {"kind": "item", "item_id": f"new{turn}", "text": "new jar"}
            out += [json.dumps(record) + "\n" for record in (gone, new)]
    log.write_text("".join(out), encoding="utf-8")


def _tiny() -> ModelConfig:
    """Segments of 8: most users get several token groups out of a short log."""
    return ModelConfig(
        n_layers=1,
        d_model=16,
        n_tokens=2,
        segment_len=8,
        r_min=8,
        r_max=64,
        divisor=8.0,
        n_buckets=8,
        n_words=64,
        event_types=EVENT_TYPES,
        visit_gap_ms=_VISIT_GAP_MS,
    )
