"""Users with histories in a broker's log and in a database, for services to be measured on."""

from __future__ import annotations

from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from infra.bench.bus import Event, event_json
from infra.bench.models import shipped_shape
from infra.bench.worlds import settings
from infra.databases import creating
from infra.wiring import load_engine, pipeline_config, remember_checkpoint
from model.untrained import write_untrained
from storage.identities import Identities
from stream.clock import DAY_MS, WallClock, to_ms
from stream.formats.decoder import TopicDecoder
from stream.kafka.starting import open_source
from stream.logwriter import EVENT_TYPES
from stream.pipeline import Pipeline

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from infra.bench.bus import Ends
    from stream.kafka.config import KafkaConfig

_POLL_S = 0.1
_TAKE = 50_000
_AGO_MS = 2 * 3_600_000
_DAYS = 30
SPREAD = 64
"""As many lengths of history as rows in a segment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Crowd:
    """Who has a history.

    Attributes:
        active: users whose events arrive while something is measured.
        archive: further users.
        active_events: events in an active user's history, and for each in `SPREAD` users one more than for the one
            before: nobody's recent window is full at the same event as everybody's.
        archive_events: of each of the others.
        items: size of the catalogue.
    """

    active: int
    archive: int
    active_events: int
    archive_events: int
    items: int

    def history(self) -> Iterator[Event]:
        """Yield everything that happened, in the order of time, ended two hours ago."""
        rng = np.random.default_rng(0)
        end = to_ms(WallClock().now()) - _AGO_MS
        rounds = max(self.active_events + SPREAD, self.archive_events)
        for number in range(rounds):
            at = end - (rounds - number) * _DAYS * DAY_MS // rounds
            names = [f"b{user}" for user in range(self.archive * (number < self.archive_events))]
            names += [f"a{user}" for user in range(self.active) if number < self._events(user)]
            items = rng.integers(0, self.items, len(names)).tolist()
            for place, (name, item) in enumerate(zip(names, items, strict=True)):
                yield _event(name, item, at + place, f"h{number}-{name}")

    def _events(self, user: int) -> int:
        return self.active_events + user % SPREAD

    def live(self, users: Sequence[int], run: str) -> Iterator[Event]:
        """Yield events of active users that happen as they are asked for."""
        rng, clock = np.random.default_rng(1), WallClock()
        items = rng.integers(0, self.items, len(users)).tolist()
        for number, (user, item) in enumerate(zip(users, items, strict=True)):
            yield _event(f"a{user}", item, to_ms(clock.now()), f"{run}-{number}")

    def model(self, path: Path) -> Path:
        """Write a model of random weights and the shipped shape that knows the catalogue."""
        write_untrained(path, shipped_shape(), [f"i{item}" for item in range(self.items)])
        return path


def store_answered(config: KafkaConfig, db_path: Path, model: Path, ends: Ends) -> None:
    """Store a topic up to the ends as answered, without tokens: what is due stays due."""
    loaded, clock = settings(), WallClock()
    with ExitStack() as stack:
        db = stack.enter_context(creating(db_path, loaded))
        decode = TopicDecoder(loaded.settings.formats, config.items_topic)
        source = open_source(db, config, decode, start="earliest", now=clock.now())
        stack.enter_context(closing(source))
        engine = load_engine(model)
        pipeline = Pipeline(
            db=db,
            identities=Identities.load(db),
            engine=engine,
            source=source,
            config=pipeline_config(loaded, engine.config, score=False),
            clock=clock,
            ticks="calls",
        )
        remember_checkpoint(db, model)
        pipeline.resume()
        while pipeline.ingest.counts.records < sum(ends.values()):
            batch = source.poll(_TAKE, _POLL_S)
            if batch.ranges:
                pipeline.ingest.store(batch, now=clock.now(), scored=True)
        pipeline.maintain()


def _event(user: str, item: int, ts: int, event_id: str) -> Event:
    kind = EVENT_TYPES[item % len(EVENT_TYPES)]
    return Event(user.encode(), event_json(user, f"i{item}", kind, ts, event_id))
