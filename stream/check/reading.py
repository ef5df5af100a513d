"""How the files of a log are to be read, as far as that can be guessed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from stream.check.columns import Roles, guess_roles
from stream.check.proposals import Proposal
from stream.check.sample import Column, Sample, take_sample
from stream.check.times import TimeGuess, guess_time, looks_like_times
from stream.config import FileConfig
from stream.errors import SourceError
from stream.sources.file import find_files

if TYPE_CHECKING:
    from collections.abc import Sequence


class Reading(NamedTuple):
    """How the files of a log are read: what is configured, and guesses from the first file for the rest."""

    paths: list[Path]
    sample: Sample
    roles: Roles
    time: Column
    guess: TimeGuess
    config: FileConfig


def log_files(patterns: Sequence[str]) -> list[Path]:
    """Return the files that patterns mean, in reading order.

    Raises:
        SourceError: there are none.
    """
    found = sorted({path for pattern in patterns for path, _ in find_files(Path(pattern))})
    if not found:
        raise SourceError(f"{', '.join(patterns)}: no such file; check the path")
    return found


def read_how(paths: list[Path], configured: FileConfig) -> Reading:
    """Return how to read files, guessed from the first one as far as it is not configured.

    Raises:
        SourceError: it can not be read, or no column fits user, item or time.
        ConfigError: the configured column map is wrong.
    """
    sample = take_sample(paths[0], configured)
    roles = guess_roles(sample.columns, configured.columns)
    if roles.missing:
        raise SourceError(_missing_text(sample, roles))
    by_name = {column.name: column for column in sample.columns}
    time = by_name.get(roles.columns["ts"], Column(roles.columns["ts"], "empty"))
    guess = guess_time(time)
    config = replace(
        configured,
        columns=roles.renamed | dict(configured.columns),
        format=sample.format if not sample.named else configured.format,
        delimiter=sample.delimiter if sample.format == "csv" else configured.delimiter,
        ts_unit=guess.unit or configured.ts_unit,
        ts_format=configured.ts_format or guess.format,
    )
    return Reading(paths, sample, roles, time, guess, config)


def _missing_text(sample: Sample, roles: Roles) -> str:
    names = ", ".join(column.name for column in sample.columns) or "none"
    hints = [
        column.name
        for column in sample.columns
        if column.name not in roles.columns.values() and looks_like_times(column)
    ]
    hint = f" ({', '.join(hints)} look like times)" if hints and "ts" in roles.missing else ""
    words = " and ".join(roles.missing)
    mapping = ",".join(f"{name}=COLUMN" for name in roles.missing)
    return (
        f"{sample.path}: no column looks like {words}; it has {names}{hint}:"
        f" name {'it' if len(roles.missing) == 1 else 'them'} with --map {mapping}"
    )


def file_proposals(reading: Reading, configured: FileConfig) -> list[Proposal]:
    """Return how to read the files, as far as the defaults do not say so."""
    sample, guess, config = reading.sample, reading.guess, reading.config
    why = {use.field: use.evidence for use in reading.roles.uses}
    proposals = []
    if not sample.named:
        proposals.append(Proposal("log.format", sample.format, "the file's name does not say it"))
    usual = "\t" if ".tsv" in sample.path.suffixes else ","
    if sample.format == "csv" and sample.delimiter != usual:
        proposals.append(
            Proposal("log.delimiter", sample.delimiter, "what parts the header's names")
        )
    proposals += [
        Proposal(f"log.columns.{name}", column, why.get(name, "as configured"))
        for name, column in config.columns.items()
    ]
    if guess.unit is not None:
        proposals.append(Proposal("log.ts_unit", guess.unit, guess.evidence))
    if config.ts_format:
        why_format = "as configured" if configured.ts_format else guess.evidence
        proposals.append(Proposal("log.ts_format", config.ts_format, why_format))
    return proposals
