"""Holding what a tortured run left against what an uninterrupted one left: one row per promise."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from infra.databases import reading
from infra.settings import load
from storage import interactions, positions, tokens
from storage.digests import feed
from storage.doctor import run_checks
from storage.models import active
from stream.diff import diff
from stream.sinks.jsonl import read_slates

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

    from infra.torture.world import Left
    from storage.doctor import Finding
    from storage.records import Reader

_TORN = ("token groups contiguous", "token groups match history", "checksums", "versions")
"""Findings of the doctor that say whether a token group is whole and in its place."""
_POSITIONS = """
SELECT topic, part, off, count(*) AS n FROM (
    SELECT topic, part, off FROM rows_all UNION ALL SELECT topic, part, off FROM dead_letters)
GROUP BY topic, part, off
"""
_DEAD = "SELECT topic, part, off, reason, raw FROM dead_letters ORDER BY topic, part, off"
_DEAD_PLACES = "SELECT topic, part, off, 1 AS n FROM dead_letters"
_LOGGED = "SELECT slate_id, model_version, reason, asked_at FROM slates ORDER BY slate_no"
_ENTRIES = """
SELECT DISTINCT kind, CASE WHEN kind = 'group_visible' THEN '' ELSE ref END AS ref,
    CASE WHEN kind = 'group_visible' THEN '' ELSE detail END AS detail, topic, part, next_off
FROM journal LEFT JOIN journal_positions USING (journal_id)
ORDER BY kind, next_off, ref, detail, topic, part
"""


@dataclass(frozen=True, slots=True)
class Check:
    """One promise and whether it held.

    Attributes:
        name: the promise.
        ok: whether it held.
        counts: what was counted; adds up over several runs.
        places: the first places where it does not hold.
        text: what was found, where nothing is counted.
    """

    name: str
    ok: bool
    counts: dict[str, int] = field(default_factory=dict)
    places: str = ""
    text: str = ""

    @property
    def detail(self) -> str:
        """What was found, for people."""
        found = ", ".join(f"{n:,} {name}" for name, n in self.counts.items())
        return (found or self.text) + self.places


@dataclass(frozen=True, slots=True)
class Remains:
    """What a run left, as far as runs are compared.

    Attributes:
        places: how often each position (topic, partition, offset) is stored, dead letters included.
        totals: counts per partition that has records; an exported log knows no others.
        interactions: digest of all rows.
        dead: digest of the dead letters.
        dead_places: their positions.
        tokens: digest of the token groups of the active version.
        groups: how many there are.
        journal: digest of what changed slates, and from which positions.
        slate_log: digest of the newest slates in the database.
        unanswered: partitions whose scored position is behind.
        findings: of the doctor.
    """

    places: Counter[tuple[str, int, int]]
    totals: list[dict[str, object]]
    interactions: str
    dead: str
    dead_places: set[tuple[str, int, int]]
    tokens: str
    groups: int
    journal: str
    slate_log: str
    unanswered: list[str]
    findings: list[Finding]


def remains(left: Left) -> Remains:
    """Read what a run left."""
    with reading(left.db, load(environ=plain_environ())) as db, db.snapshot() as at:
        version = active(at)
        ends, scored = positions.next_offsets(at), positions.scored_offsets(at)
        return Remains(
            places=_places(at.query(_POSITIONS)),
            totals=[row for row in positions.totals(at).to_pylist() if row["records"]],
            interactions=interactions.digest(at),
            dead=_digest(at, _DEAD),
            dead_places=set(_places(at.query(_DEAD_PLACES))),
            tokens="" if version is None else tokens.digest(at, version.version),
            groups=int(at.query("SELECT count(*) AS n FROM token_groups")["n"][0].as_py()),
            journal=_digest(at, _ENTRIES),
            slate_log=_digest(at, _LOGGED),
            unanswered=[f"{t}[{p}]" for (t, p), off in ends.items() if scored.get((t, p)) != off],
            findings=run_checks(at),
        )


@dataclass(frozen=True, slots=True)
class Standard:
    """What other runs are held against: a run that was left alone, read once."""

    left: Left
    remains: Remains


def standard(left: Left) -> Standard:
    """Read a run that was left alone."""
    return Standard(left, remains(left))


def verdict(expected: Standard, found: Left) -> list[Check]:
    """Return what holds and what does not of a tortured run."""
    return [*compared(remains(found), expected.remains), slates_agree(expected.left, found)]


def compared(ours: Remains, theirs: Remains) -> list[Check]:
    """Return the checks of two databases: `ours` must be whole and equal to `theirs`."""
    lost = theirs.places.keys() - ours.places.keys()
    foreign = ours.places.keys() - theirs.places.keys()
    doubled = [place for place, n in ours.places.items() if n > 1]
    torn = [f"{f.check}: {f.detail}" for f in ours.findings if f.check in _TORN and not f.ok]
    broken = [f"{f.check}: {f.detail}" for f in ours.findings if f.check not in _TORN and not f.ok]
    return [
        Check(
            "records once each",
            not lost and not doubled and not foreign,
            {
                "positions": len(ours.places),
                "lost": len(lost),
                "doubled": len(doubled),
                "not in the log": len(foreign),
            },
            first_places(sorted(lost) + sorted(doubled) + sorted(foreign)),
        ),
        _equal_rows("counts per partition", ours.totals, theirs.totals),
        _equal("interactions", ours.interactions, theirs.interactions),
        _equal("dead letters", ours.dead, theirs.dead),
        Check(
            "torn groups",
            not torn,
            {"token groups": ours.groups, "kinds of damage": len(torn)},
            first_places(torn),
        ),
        _equal("token bytes", ours.tokens, theirs.tokens),
        _equal("journal", ours.journal, theirs.journal),
        _equal("slate log", ours.slate_log, theirs.slate_log),
        Check(
            "all answered",
            not ours.unanswered,
            {"partitions with stored rows unanswered": len(ours.unanswered)},
            first_places(ours.unanswered),
        ),
        Check(
            "doctor",
            not broken,
            {"rules checked": len(ours.findings), "broken": len(broken)},
            first_places(broken),
        ),
    ]


def slates_agree(expected: Left, found: Left) -> Check:
    """Return whether the slates are those of the other run, repeats left out after they were compared."""
    report = diff(read_slates(expected.slates), read_slates(found.slates))
    found_kinds = ", ".join(f"{count:,} {kind}" for kind, count in report.counts.most_common())
    examples = [f"{found_kinds}; slate {one.id}: {one.detail}" for one in report.examples[:1]]
    return Check(
        "slates",
        report.equal,
        {
            "compared": report.compared,
            "repeats held against their first": report.repeats,
            "differences": report.counts.total(),
        },
        first_places(examples),
    )


def plain_environ() -> dict[str, str]:
    """This process's variables without those of the settings: a check reads any database alike."""
    return {name: text for name, text in os.environ.items() if not name.startswith("FRESHET_")}


def _places(table: pa.Table) -> Counter[tuple[str, int, int]]:
    columns = (table[name].to_pylist() for name in ("topic", "part", "off", "n"))
    return Counter({(t, p, off): n for t, p, off, n in zip(*columns, strict=True)})


def _digest(reader: Reader, sql: str) -> str:
    hasher = hashlib.sha256()
    feed(hasher, reader.query(sql))
    return hasher.hexdigest()


def _equal(name: str, ours: str, theirs: str) -> Check:
    """Return whether two digests are equal."""
    places = "" if ours == theirs else f"; {ours} against {theirs}"
    text = f"{'differ' if places else 'equal'} ({ours[:16]})"
    return Check(name, ours == theirs, places=places, text=text)


def _equal_rows(name: str, ours: list[dict[str, object]], theirs: list[dict[str, object]]) -> Check:
    """Return whether two tables are equal, and the rows that are in one of them only."""
    here = [f"only here {row}" for row in ours if row not in theirs]
    there = [f"only there {row}" for row in theirs if row not in ours]
    text = "equal" if ours == theirs else "differ"
    return Check(name, ours == theirs, places=first_places([*here, *there]), text=text)


def first_places(places: Sequence[object]) -> str:
    """Return the first few places as text, empty without any."""
    shown = ", ".join(str(place) for place in places[:3])
    more = f" and {len(places) - 3} more" if len(places) > 3 else ""
    return f"; {shown}{more}" if places else ""
