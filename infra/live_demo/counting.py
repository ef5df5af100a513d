"""What the live demo counts when everything has stopped: records, slates, freshness, segments, coverage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from infra.databases import reading
from infra.settings import load
from infra.torture.live.accounts import answered, answers_of, read_books
from infra.torture.verdict import Check, first_places, plain_environ
from storage import positions
from storage.models import active
from storage.visibility import visible_groups
from stream.slates import decode_slate

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from infra.torture.world import Left
    from storage.records import Reader
    from stream.kafka.tail import Seen
    from stream.slates import Slate

_PERCENTILES = (50, 90, 99)
_SEGMENTS = """
SELECT sum(segments)::BIGINT AS n FROM refresh_runs WHERE epoch_ms(ran_at) <= ?
"""
_USERS = "SELECT user_id, user_idx FROM users"


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """What was seen from outside.

    Attributes:
        produced: records the broker acknowledged.
        failed: records it did not.
        steady_ms: when the steady rate began, ms since the epoch.
        records: of the topic of interactions.
        slates: records of the topic of slates.
        exit_code: of the service.
    """

    produced: int
    failed: int
    steady_ms: int
    records: Sequence[Seen]
    slates: Sequence[Seen]
    exit_code: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoCounts:
    """What was counted at the end.

    Attributes:
        produced: records the broker acknowledged.
        interactions: rows stored.
        items: item records stored.
        dead_letters: bad records stored.
        scored: stored events that call for a slate.
        slates: slates with distinct ids.
        shed: events that got none because a newer one of their user did.
        segments: segments compressed before the last slate.
        renewed: slates that read token groups made while the service ran.
        freshness_ms: percentiles from a record's time in the log to that of its slate, at the steady rate.
        steady_slates: slates they are of.
        checks: what had to hold.
        wall_s: seconds it took.
    """

    produced: int
    interactions: int
    items: int
    dead_letters: int
    scored: int
    slates: int
    shed: int
    segments: int
    renewed: int
    freshness_ms: Mapping[str, float]
    steady_slates: int
    checks: Sequence[Check]
    wall_s: float

    @property
    def reason(self) -> str | None:
        """The first thing that is off, as one line; None if nothing is."""
        return next((f"{one.name}: {one.detail}" for one in self.checks if not one.ok), None)


def counted(left: Left, watched: Watched, segments: int, wall_s: float) -> DemoCounts:
    """Count what is left against what was seen.

    Args:
        left: the database.
        watched: what was seen.
        segments: so many had to be compressed while slates were written.
        wall_s: seconds it took.
    """
    books, answers = read_books(left), answers_of(one.value for one in watched.slates)
    last_ms = max((one.at_ms for one in watched.slates), default=0)
    with reading(left.db, load(environ=plain_environ())) as db, db.snapshot() as at:
        totals = positions.totals(at).to_pylist()
        compressed = int(at.query(_SEGMENTS, [last_ms])["n"][0].as_py() or 0)
        coverage, renewed = _coverage(at, answers.slates.values())
    interactions, items, dead = (
        sum(row[name] for row in totals) for name in ("interactions", "items", "dead")
    )
    fresh = _freshness(watched, answers.slates)
    return DemoCounts(
        produced=watched.produced,
        interactions=interactions,
        items=items,
        dead_letters=dead,
        scored=len(books.scored),
        slates=len(answers.slates),
        shed=sum(one.count for one in books.shed),
        segments=compressed,
        renewed=renewed,
        freshness_ms={
            f"p{rank}": float(np.percentile(fresh, rank)) for rank in _PERCENTILES if len(fresh)
        },
        steady_slates=len(fresh),
        checks=[
            Check(
                "produced = stored + dead letters",
                watched.produced == interactions + items + dead and not watched.failed,
                {"produced": watched.produced, "interactions": interactions, "items": items,
                 "dead letters": dead, "failed sends": watched.failed},
            ),
            *answered(books, answers),
            Check(
                "segments compressed while scoring",
                compressed >= segments,
                {"segments": compressed, "wanted": segments},
            ),
            coverage,
            Check(
                "stopped by SIGTERM",
                watched.exit_code == 0,
                {"exit code": watched.exit_code},
            ),
        ],
        wall_s=wall_s,
    )  # fmt: skip


def _coverage(reader: Reader, slates: Iterable[Slate]) -> tuple[Check, int]:
    """Return whether every slate read exactly the token groups published below its event, and how many read any."""
    version = active(reader)
    table = reader.query(_USERS)
    users = dict(zip(table["user_id"].to_pylist(), table["user_idx"].to_pylist(), strict=True))
    found = [(users[slate.user_id], slate.cause.offset, slate) for slate in slates if slate.cause]
    asked = sorted({(user, off) for user, off, _ in found})
    visible = {} if version is None else visible_groups(reader, version.version, asked)
    wrong = [
        f"slate {slate.id}: {slate.coverage.groups} groups, not {visible.get((user, off), 0)}"
        for user, off, slate in found
        if slate.coverage.groups != visible.get((user, off), 0)
    ]
    renewed = sum(1 for _, _, slate in found if slate.coverage.groups)
    check = Check(
        "slates after a swap carry the new coverage",
        renewed > 0 and not wrong,
        {"slates with tokens": renewed, "with others than were published": len(wrong)},
        first_places(wrong),
    )
    return check, renewed


def _freshness(watched: Watched, slates: Mapping[str, Slate]) -> Sequence[float]:
    """Milliseconds from record to slate, of records sent at the steady rate."""
    sent = {(one.part, one.off): one.at_ms for one in watched.records}
    first: dict[str, int] = {}
    for record in watched.slates:
        first.setdefault(decode_slate(record.value or b"").id, record.at_ms)
    out = []
    for slate in slates.values():
        if slate.cause is not None:
            at_ms = sent[slate.cause.partition, slate.cause.offset]
            if at_ms >= watched.steady_ms:
                out.append(float(first[slate.id] - at_ms))
    return out
