"""Holding what a tortured service left against the broker's log, read back by a second client."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from infra.databases import reading
from infra.settings import load
from infra.torture.live.readback import read_back
from infra.torture.verdict import Check, compared, first_places, plain_environ, remains
from storage import journal, positions
from stream.diff import diff
from stream.slates import decode_slate, recommendation_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from infra.torture.live.traffic import Place, Sent, Topics
    from infra.torture.world import Left
    from stream.slates import Slate

_ROWS = """
SELECT topic, part, off, scores, FALSE AS dead, NULL AS raw FROM rows_all
UNION ALL SELECT topic, part, off, FALSE, TRUE, raw FROM dead_letters
"""
_ALIKE = frozenset({
    "records once each",
    "counts per partition",
    "interactions",
    "dead letters",
    "torn groups",
    "token bytes",
    "all answered",
    "doctor",
})
"""Checks of two databases that hold for the same log, whoever read it and when."""


@dataclass(frozen=True, slots=True)
class Shed:
    """Events of one user range that got no slate: the entry's partition and range, and how many."""

    topic: str
    part: int
    first: int
    after: int
    count: int


@dataclass(frozen=True, slots=True)
class Books:
    """What the database says it holds.

    Attributes:
        stored: how often each position is stored, dead letters included.
        dead: raw bytes of the dead letters.
        scored: positions of events that call for a slate.
        items: item records per topic and partition.
        shed: what was left without a slate.
    """

    stored: Counter[Place]
    dead: dict[Place, bytes | None]
    scored: set[Place]
    items: dict[tuple[str, int], int]
    shed: list[Shed]


@dataclass(frozen=True, slots=True)
class Answers:
    """What was read from the topic of slates: the first one of each id, and what repeats changed."""

    slates: dict[str, Slate]
    repeats: int
    changed: Sequence[str]


Log = dict[tuple[str, int], dict[int, bytes | None]]
"""Per topic and partition the value at each offset."""


def read_log(bootstrap: str, topics: Topics) -> Log:
    """Return all committed records of interactions and items."""
    found: Log = {}
    for topic in (topics.interactions, topics.items):
        for record in read_back(bootstrap, topic):
            found.setdefault((topic, record.part), {})[record.off] = record.value
    return found


def answers_of(values: Iterable[bytes | None]) -> Answers:
    """Return the slates in what a topic holds; a later one of the same id must be the same slate."""
    slates = [decode_slate(value or b"") for value in values]
    repeats = diff(slates, ())
    changed = [f"{one.id}: {one.detail}" for one in repeats.examples if one.kind == "repeat"]
    return Answers({slate.id: slate for slate in slates}, repeats.repeats, changed)


def read_books(left: Left) -> Books:
    """Read a database."""
    with reading(left.db, load(environ=plain_environ())) as db, db.snapshot() as at:
        rows = at.query(_ROWS).to_pylist()
        totals = positions.totals(at).to_pylist()
        entries = journal.entries(at, "shed")
    places = [((row["topic"], row["part"], row["off"]), row) for row in rows]
    return Books(
        stored=Counter(place for place, _ in places),
        dead={place: row["raw"] for place, row in places if row["dead"]},
        scored={place for place, row in places if row["scores"]},
        items={(row["topic"], row["part"]): row["items"] for row in totals if row["items"]},
        shed=[_shed(entry.ref, entry.detail) for entry in entries],
    )


def balance(log: Log, sent: Sent, books: Books, answers: Answers) -> list[Check]:
    """Return what holds and what does not."""
    return [
        _once_each(log, books),
        _acknowledged(log, sent),
        _raw(log, books),
        *answered(books, answers),
    ]


def answered(books: Books, answers: Answers) -> list[Check]:
    """Return whether every event that calls for a slate has one, or is accounted for, and repeats repeat."""
    return [
        _answered(books, answers),
        Check(
            "repeats are the same slate",
            not answers.changed,
            {"repeats": answers.repeats, "changed": len(answers.changed)},
            first_places(answers.changed),
        ),
    ]


def same_log(live: Left, replayed: Left, name: str) -> list[Check]:
    """Return the checks of a live database against one that a replay of its log made."""
    checks = compared(remains(live), remains(replayed))
    return [
        Check(f"{name}: {check.name}", check.ok, check.counts, check.places, check.text)
        for check in checks
        if check.name in _ALIKE
    ]


def _once_each(log: Log, books: Books) -> Check:
    """Every record is one row, one dead letter or one item record; none of them twice, none from elsewhere."""
    held = {(topic, part, off) for (topic, part), values in log.items() for off in values}
    item_places = {key for key, count in books.items.items() if count}
    wanted = {place for place in held if place[:2] not in item_places}
    lost = wanted - books.stored.keys()
    foreign = books.stored.keys() - held
    doubled = [place for place, count in books.stored.items() if count > 1]
    dead = Counter(place[:2] for place in books.dead)
    wrong = [
        f"{key}: {count} item records and {dead[key]} dead letters of {len(log.get(key, ()))} records"
        for key, count in books.items.items()
        if count + dead[key] != len(log.get(key, ()))
    ]
    return Check(
        "records once each",
        not (lost or foreign or doubled or wrong),
        {
            "records of the log": len(held),
            "rows": len(books.stored) - len(books.dead),
            "dead letters": len(books.dead),
            "item records": sum(books.items.values()),
            "lost": len(lost),
            "doubled": len(doubled),
            "not in the log": len(foreign),
        },
        first_places([*sorted(lost), *sorted(doubled), *sorted(foreign), *wrong]),
    )


def _acknowledged(log: Log, sent: Sent) -> Check:
    missing = [
        place
        for place, value in sent.acknowledged.items()
        if log.get(place[:2], {}).get(place[2]) != value
    ]
    back = [place for place in sent.taken_back if place[2] in log.get(place[:2], {})]
    return Check(
        "acknowledged sends are in the log",
        not (missing or back or sent.failed),
        {
            "acknowledged": len(sent.acknowledged),
            "missing": len(missing),
            "never taken": sent.failed,
            "in transactions taken back": len(sent.taken_back),
            "of those in the log": len(back),
        },
        first_places([*sorted(missing), *sorted(back)]),
    )


def _raw(log: Log, books: Books) -> Check:
    other = [
        place
        for place, raw in books.dead.items()
        if (raw or b"") != (log.get(place[:2], {}).get(place[2]) or b"")
    ]
    return Check(
        "dead letters keep their bytes",
        not other,
        {"dead letters": len(books.dead), "changed": len(other)},
        first_places(sorted(other)),
    )


def _answered(books: Books, answers: Answers) -> Check:
    """Distinct slates and shed counts add up to the events that call for a slate."""
    ids = {recommendation_id(*place): place for place in books.scored}
    without = {place for slate_id, place in ids.items() if slate_id not in answers.slates}
    unasked = [slate_id for slate_id in answers.slates if slate_id not in ids]
    shed = sum(one.count for one in books.shed)
    unexplained = sorted(place for place in without if not _was_shed(place, books.shed))
    return Check(
        "a slate per scored event",
        len(without) == shed and not (unasked or unexplained),
        {
            "scored events": len(ids),
            "slates with distinct ids": len(answers.slates),
            "shed": shed,
            "for nothing": len(unasked),
            "missing": len(unexplained),
        },
        first_places([*unexplained, *unasked]),
    )


def _was_shed(place: Place, sheds: Sequence[Shed]) -> bool:
    topic, part, off = place
    return any((s.topic, s.part) == (topic, part) and s.first <= off < s.after for s in sheds)


def _shed(ref: str, detail: Mapping[str, object]) -> Shed:
    topic, _, part = ref.rpartition("/")
    first, after, count = (int(str(detail[name])) for name in ("from", "to", "count"))
    return Shed(topic, int(part), first, after, count)
