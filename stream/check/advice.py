"""What to know about a log and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stream.check.proposals import R_MAX, R_MIN, SEGMENT_LEN, percent, readable
from stream.check.report import Advice
from stream.check.times import shown_as, unit_name
from stream.clock import DAY_MS, from_ms

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stream.check.histories import HistoryFigures
    from stream.check.proposals import OrderVerdict, Proposal
    from stream.check.report import LengthReport
    from stream.check.sample import Column
    from stream.check.tally import BadRecords, Tally
    from stream.check.times import TimeGuess
    from stream.config import StreamConfig, TimeUnit

_BEFORE_1980 = 3_652  # days since the epoch
MANY_TYPES = 50
"""More event types than that are none."""
_REMEDIES = {
    "malformed": "repair or drop these records",
    "too_large": "drop what makes them so long",
    "unknown_kind": "a line's `kind` is interaction or item; rename the key if it means something else",
    "missing_field": "write user, item and time in every record, or map another column",
    "empty_field": "write user, item and event type in every record",
    "bad_type": "write ids as text and times in one form",
    "non_finite": "write finite numbers",
    "out_of_range": "times are between 1970 and 2199: check the time unit",
}


@dataclass(frozen=True, slots=True)
class Evidence:
    """What advice is drawn from."""

    tally: Tally
    found: HistoryFigures
    verdict: OrderVerdict
    lengths: LengthReport
    proposals: list[Proposal]
    time: Column
    guess: TimeGuess
    unit_in_use: TimeUnit
    unit_configured: bool
    config: StreamConfig
    files: int
    damage: str


def advise(seen: Evidence) -> list[Advice]:
    """Return all advice, the gravest first."""
    parts = (_on_times, _on_strays, _on_bad, _on_order, _on_copies, _on_columns, _on_lengths)
    found = [one for part in parts for one in part(seen)]
    return sorted(found, key=lambda one: ("problem", "warning", "note").index(one.level))


def _on_times(seen: Evidence) -> Iterator[Advice]:
    guess = seen.guess
    if guess.problem:
        yield Advice("problem", f"times: {guess.problem}")
    if guess.unit is not None and guess.unit != seen.unit_in_use:
        date = _date(shown_as(seen.time, seen.unit_in_use))
        level, origin = (
            ("problem", "configured") if seen.unit_configured else ("warning", "default")
        )
        yield Advice(
            level,  # type: ignore[arg-type]  # one of two levels
            f"times are {unit_name(guess.unit)}; the {origin} log.ts_unit = {seen.unit_in_use!r}"
            f" would make them {date}",
            f'set log.ts_unit = "{guess.unit}"',
        )
    early = int(seen.tally.days[:_BEFORE_1980].sum())
    if early and seen.tally.interactions:
        share = percent(early / seen.tally.interactions)
        yield Advice(
            "problem" if early * 2 > seen.tally.interactions else "warning",
            f"{early:,} events ({share}) are dated before 1980",
            "a time unit too small, or 0 written for an unknown time; correct or drop them",
        )


def _on_strays(seen: Evidence) -> Iterator[Advice]:
    if seen.verdict.strays:
        yield Advice(
            "warning",
            f"{seen.verdict.strays:,} records lie far ahead of all others, up to"
            f" {_date(seen.tally.last_ms)}",
            "a replay refuses them as future-dated dead letters; correct their times to keep them",
        )


def _on_bad(seen: Evidence) -> Iterator[Advice]:
    tally, config = seen.tally, seen.config
    for bad in sorted(tally.bad.values(), key=lambda bad: -bad.records):
        yield Advice("warning", f"bad records, {bad.reason}: {bad.records:,}", _remedy(bad))
    for path in tally.cut_files:
        yield Advice("problem", f"{path}: its last record is cut off", "restore the whole file")
    if seen.damage:
        place = f"reading ended after {tally.records:,} records"
        yield Advice("problem", f"{place}: {seen.damage}", "the figures are of what came before")
    dead = tally.bad_records + seen.verdict.strays
    share = dead / max(1, tally.records)
    if share > config.max_dead_share and dead >= config.min_dead_records:
        yield Advice(
            "problem",
            f"{percent(share)} of the records are bad; a replay stops above"
            f" {percent(config.max_dead_share)}",
            "repair the log, or raise stream.max_dead_share if these may be lost",
        )
    elif not tally.interactions:
        yield Advice("problem", "no record is an event", "repair the log, or map other columns")


def _remedy(bad: BadRecords) -> str:
    numbers = bad.reason == "bad_type" and "got `int`" in bad.detail
    if numbers:
        return 'JSON ids must be text: write "item_id": "7", not 7'
    if "UTF-8" in bad.detail:
        return "the file is in another encoding: convert it to UTF-8"
    return _REMEDIES.get(bad.reason, "")


def _on_order(seen: Evidence) -> Iterator[Advice]:
    tally, order = seen.tally, seen.verdict.order
    if not order.late:
        return
    share = percent(order.late / max(1, tally.interactions))
    by = f"by {readable(order.quantile(0.99))} at p99, {readable(order.largest_ms)} at most"
    if seen.files > 1 and tally.late_in_file * 10 < order.late:
        yield Advice(
            "problem",
            f"{share} of the events are older than events of earlier files ({by})",
            "files are read in sorted path order: name them by time",
        )
    elif seen.verdict.unsorted:
        yield Advice(
            "problem",
            f"the log is not in order of time: {share} of the events are late, {by}",
            "sort it by time, then check again; a lateness as long would hold back every token as long",
        )
    else:
        yield Advice(
            "note",
            f"{share} of the events are late, {by}",
            "the proposed stream.lateness_ms waits for them",
        )


def _on_copies(seen: Evidence) -> Iterator[Advice]:
    found, tally = seen.found, seen.tally
    if found.duplicates > 0.5:
        yield Advice(
            "problem",
            f"{percent(found.duplicates)} of the event ids stand twice: they are no ids of events",
            "map another column to event_id, or rename this one so that it is not read",
        )
    elif found.duplicates:
        yield Advice(
            "note",
            f"{percent(found.duplicates)} of the events with an id are second copies, left out of histories",
        )
    if not tally.with_event_id and found.same_event > 0.001:
        yield Advice(
            "note",
            f"{percent(found.same_event)} of the events repeat user, time and item of another one;"
            " without an event_id they are kept as real repeats",
            "give events an event_id if they are copies",
        )
    if found.tied > 0.2:
        yield Advice(
            "note",
            f"{percent(found.tied)} of the events share their time with another one of the user",
            "among them the order is that of `seq`, then of the log: keep the true order there",
        )


def _on_columns(seen: Evidence) -> Iterator[Advice]:
    tally = seen.tally
    for name, distinct in (("user", tally.users), ("item", tally.items)):
        count = len(distinct.codes)
        if tally.interactions > 100 and count > 0.9 * tally.interactions:
            yield Advice(
                "problem",
                f"nearly every event has its own {name} ({count:,} of {tally.interactions:,})",
                f"that column is no {name}: map another one to {name}_id",
            )
        elif tally.interactions > 100 and count == 1:
            yield Advice(
                "warning", f"there is one {name} only", f"check what is mapped to {name}_id"
            )
    if len(tally.types.codes) > MANY_TYPES:
        yield Advice(
            "problem",
            f"there are {len(tally.types.codes):,} event types",
            "that column is no event type: map another one to event_type, or rename this one",
        )
    if tally.returns:
        share = percent(tally.returns / max(1, tally.interactions))
        yield Advice(
            "problem" if tally.returns * 2 > tally.interactions else "note",
            f"{share} of the events have a negative value: returns, kept but never learned from",
            "if it is no amount, map another column to value"
            if tally.returns * 2 > tally.interactions
            else "",
        )


def _on_lengths(seen: Evidence) -> Iterator[Advice]:
    lengths = seen.lengths
    values = {one.key: one.value for one in seen.proposals}
    names = ("refresh.segment_len", "refresh.r_min", "serving.r_max")
    lengths_in_use = tuple(values[name] for name in names)
    if lengths.events and lengths.long_events < 0.05:
        yield Advice(
            "warning",
            f"{percent(lengths.long_events)} of the events are of users with {lengths.long} or"
            " more: tokens will hold little",
            "recents and counters serve such a log",
        )
    if lengths_in_use != (SEGMENT_LEN, R_MIN, R_MAX):
        yield Advice(
            "note",
            "n {}, r_min {} and r_max {} need a model trained with them; the shipped one was trained"
            " with {}, {} and {}".format(*lengths_in_use, SEGMENT_LEN, R_MIN, R_MAX),
            "`freshet train` with the written settings makes it",
        )
    if lengths.beyond > 0.1:
        yield Advice(
            "note",
            f"{percent(lengths.beyond)} of the events lie more than {lengths.reach:,} back in their"
            " history, beyond the token groups that a slate reads",
            "counters still hold them; a larger model.segment_len reaches further",
        )


def _date(ms: int) -> str:
    if not -62_135_596_800_000 <= ms < 253_402_300_800_000:
        return "dates beyond the year 9999"
    return f"{from_ms(ms - ms % DAY_MS):%Y-%m-%d}"
