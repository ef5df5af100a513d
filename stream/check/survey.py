"""Checks a log: reads it once, says what is in it, and proposes settings."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stream.check.advice import MANY_TYPES, Evidence, advise
from stream.check.histories import history_figures
from stream.check.proposals import (
    Proposal,
    judge_order,
    length_proposals,
    stream_proposals,
    with_given,
)
from stream.check.reading import file_proposals, log_files, read_how
from stream.check.report import CheckReport, TimeReport, TypeReport
from stream.check.summary import item_report, length_report, order_report
from stream.check.tally import KEEP_EVENTS, Tally, bad_by_size, most_common
from stream.check.times import unit_name
from stream.check.types import TypeGuess, guess_type
from stream.config import FileConfig, StreamConfig
from stream.errors import SourceError
from stream.sources.file import FileSource

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from stream.check.histories import HistoryFigures
    from stream.check.proposals import OrderVerdict
    from stream.check.reading import Reading

_POLL_RECORDS = 1 << 16
_SHOWN_TYPES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckOptions:
    """What a check is told.

    Attributes:
        log: how files are read as far as that is configured; the rest is guessed.
        stream: how events are judged.
        tick_interval_s: seconds between ticks.
        window: token groups that a slate reads; None means all.
        given: dotted settings that were configured, with their values: proposals keep them.
        keep_events: events held in memory at once; beyond that users are sampled.
    """

    log: FileConfig = field(default_factory=FileConfig)
    stream: StreamConfig = field(default_factory=StreamConfig)
    tick_interval_s: int = 86_400
    window: int | None = 32
    given: Mapping[str, object] = field(default_factory=dict)
    keep_events: int = KEEP_EVENTS


def check_log(
    patterns: Sequence[str],
    options: CheckOptions | None = None,
    progress: Callable[[int], None] | None = None,
) -> CheckReport:
    """Read a log once and return what it is like and which settings fit it.

    Args:
        patterns: files, folders or globs.
        options: what is known already.
        progress: called with the number of records read.

    Raises:
        SourceError: there is no file, it can not be opened, or no column fits user, item or time.
        ConfigError: the configured column map is wrong.
    """
    options = options or CheckOptions()
    paths = log_files(patterns)
    reading = read_how(paths, options.log)
    tally = Tally(
        lambda name: _type_of(name, options).does.in_history,
        options.stream.max_jump_ms,
        options.keep_events,
    )
    damage = _read(reading, tally, progress)
    return _report(reading, tally, options, damage)


def _read(reading: Reading, tally: Tally, progress: Callable[[int], None] | None) -> str:
    """Count all files; returns what ended the reading early, if anything did."""
    FileSource(list(reading.paths), reading.config).close()  # a wrong file is met before the work
    try:
        for path in reading.paths:
            tally.begin_file()
            with closing(FileSource(path, reading.config)) as source:
                ended = False
                while not ended:
                    batch = source.poll(_POLL_RECORDS)
                    tally.add(batch, path)
                    ended = batch.exhausted
                    if progress is not None:
                        progress(tally.records)
    except SourceError as err:
        return str(err)
    finally:
        tally.end()
    return ""


def _type_of(name: str, options: CheckOptions) -> TypeGuess:
    configured = options.stream.event_types.get(name)
    return guess_type(name) if configured is None else TypeGuess(configured, "as configured")


def _report(reading: Reading, tally: Tally, options: CheckOptions, damage: str) -> CheckReport:
    found = history_figures(tally.kept())
    tally.release()
    verdict = judge_order(tally)
    types = _types(tally, options)
    proposals = _proposals(reading, tally, found, verdict, options)
    lengths = length_report(tally.histories, proposals, options.window)
    evidence = Evidence(
        tally=tally,
        found=found,
        verdict=verdict,
        lengths=lengths,
        proposals=proposals,
        time=reading.time,
        guess=reading.guess,
        unit_in_use=options.log.ts_unit,
        unit_configured="log.ts_unit" in options.given,
        config=options.stream,
        files=len(reading.paths),
        damage=damage,
    )
    return CheckReport(
        files=[str(path) for path in reading.paths],
        format=reading.sample.format,
        records=tally.records,
        interactions=tally.interactions,
        item_records=tally.item_records,
        blank=tally.blank,
        bad_records=tally.bad_records,
        bad=bad_by_size(tally),
        returns=tally.returns,
        columns=reading.roles.uses,
        time=_time_report(reading, tally),
        order=order_report(tally, verdict),
        lengths=lengths,
        items=item_report(tally),
        types=types,
        distinct_types=len(tally.types.codes),
        histories=found,
        sampled=1 << tally.halvings,
        proposals=proposals,
        advice=advise(evidence),
        damage=damage,
    )


def _proposals(
    reading: Reading,
    tally: Tally,
    found: HistoryFigures,
    verdict: OrderVerdict,
    options: CheckOptions,
) -> list[Proposal]:
    proposals = file_proposals(reading, options.log) + _type_proposals(tally, options)
    stream = with_given(
        stream_proposals(tally, found, verdict, options.stream.max_jump_ms), options.given
    )
    # An unsorted log is to be sorted, so its lateness says nothing about what arrives meanwhile.
    waits = 0 if verdict.unsorted else int(str(stream[0].value))
    lengths = length_proposals(tally.histories, found, waits, options.tick_interval_s * 1_000)
    return proposals + stream + with_given(lengths, options.given)


def _type_proposals(tally: Tally, options: CheckOptions) -> list[Proposal]:
    """Return role and weight per event type; one type alone, or too many, need none."""
    names = [name for name, _ in most_common(tally.types, MANY_TYPES + 1)]
    if not 1 < len(names) <= MANY_TYPES:
        return []
    proposals = []
    for name in names:
        does, reason = _type_of(name, options)
        proposals.append(Proposal(f"stream.event_types.{name}.role", does.role, reason))
        proposals.append(Proposal(f"stream.event_types.{name}.weight", does.weight, reason))
    return proposals


def _types(tally: Tally, options: CheckOptions) -> list[TypeReport]:
    reports = []
    for name, count in most_common(tally.types, _SHOWN_TYPES):
        does, reason = _type_of(name, options)
        if len(tally.types.codes) == 1 and name not in options.stream.event_types:
            does, reason = options.stream.event_type(name) or does, "the only type: weight 1"
        share = count / tally.interactions
        reports.append(
            TypeReport(
                name=name,
                events=count,
                share=share,
                role=does.role,
                weight=does.weight,
                reason=reason,
            )
        )
    return reports


def _time_report(reading: Reading, tally: Tally) -> TimeReport:
    guess = reading.guess
    written = {
        "native": "a time type of the file",
        "numbers": "numbers",
        "digits": "numbers as text",
        "ISO 8601": "ISO 8601",
        "format": f"text, {reading.config.ts_format}",
        "unreadable": "unreadable",
    }[guess.form]
    if guess.unit is not None:
        written = f"{unit_name(guess.unit)} since 1970, {written}"
    if guess.form != "native" and tally.whole_days and tally.interactions:
        written += ", days only"
    return TimeReport(
        written=written,
        evidence=guess.evidence,
        first_ms=tally.first_ms if tally.interactions else None,
        last_ms=tally.last_ms if tally.interactions else None,
    )
