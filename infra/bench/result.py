"""What a benchmark returns and what `bench/NAME.json` holds."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import msgspec

from infra.bench.machine import Machine
from infra.bench.timing import Estimate, Spent, cpu, mean, ratio, wall
from infra.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure.

    Attributes:
        part: the table it belongs to.
        what: what was measured.
        value: the figure.
        unit: its unit; "x" is a ratio, "share" a part of 1.
        low: lower end of the 95 % interval, None for a count.
        high: upper end.
        wall: the same in wall time, None where it has none.
        at: where it lies on the axis of a picture.
        behind: whether the baseline is ahead of freshet here.
    """

    part: str
    what: str
    value: float
    unit: str = ""
    low: float | None = None
    high: float | None = None
    wall: float | None = None
    at: float | None = None
    behind: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """One requirement and whether it holds.

    Attributes:
        line: what is required.
        value: what was found.
        limit: what it must be, such as ">= 100".
        ok: whether it is.
        goal: what it should become, where that is more than the limit.
        timed: whether it is about time; such a gate is not judged in the quick form.
    """

    line: str
    value: float
    limit: str
    ok: bool
    goal: str = ""
    timed: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What one benchmark found.

    Attributes:
        settings: sizes and shapes it ran with.
        rows: the figures.
        gates: the requirements.
        remarks: how to read the figures, a sentence each.
    """

    settings: dict[str, Any]
    rows: list[Row]
    gates: list[Gate] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One benchmark's file.

    Attributes:
        name: the benchmark.
        what: what it measures, in a sentence.
        date: when it ran, ISO 8601.
        quick: the reduced form, not for claims.
        machine: where it ran.
        versions: of Python, freshet and the libraries whose speed matters.
        settings: sizes and shapes it ran with.
        rows: the figures.
        gates: the requirements.
        remarks: how to read the figures.
    """

    name: str
    what: str
    date: str
    quick: bool
    machine: Machine
    versions: dict[str, str]
    settings: dict[str, Any]
    rows: list[Row]
    gates: list[Gate]
    remarks: list[str]

    @property
    def missed(self) -> list[Gate]:
        """Gates that do not hold and are judged: in the quick form those about time are not."""
        return [gate for gate in self.gates if not gate.ok and not (self.quick and gate.timed)]

    def parts(self) -> dict[str, list[Row]]:
        """Rows by the table they belong to, in order."""
        found: dict[str, list[Row]] = {}
        for row in self.rows:
            found.setdefault(row.part, []).append(row)
        return found


def write_result(folder: Path, result: Result) -> Path:
    """Write `NAME.json` into a folder, which is made if it is not there, and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result.name}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
    return path


def read_result(path: Path) -> Result:
    """Return what a file of `write_result` holds.

    Raises:
        InputError: it is no such file.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Result)
    except msgspec.DecodeError as error:
        raise InputError(f"{path}: no benchmark's result ({error}); run the benchmark") from error


def timed(
    part: str, what: str, spent: Sequence[Spent], *, each: float = 1, at: float | None = None
) -> Row:
    """Return the row of a time in milliseconds: the mean processor time per unit of work.

    Args:
        part: the table.
        what: what was timed.
        spent: its repetitions.
        each: units of work in one repetition.
        at: where it lies on the axis of a picture.
    """
    scale = 1000 / each
    found = mean([seconds * scale for seconds in cpu(spent)])
    walls = mean([seconds * scale for seconds in wall(spent)]).value
    return estimated(part, what, found, "ms", wall=walls, at=at)


def rated(
    part: str, what: str, spent: Sequence[Spent], units: Sequence[float], unit: str = "events/s"
) -> Row:
    """Return the row of a rate per processor second; `units` of work were done in each repetition."""
    found = ratio(units, cpu(spent))
    return estimated(part, what, found, unit, wall=sum(units) / sum(wall(spent)))


def estimated(
    part: str,
    what: str,
    found: Estimate,
    unit: str,
    *,
    wall: float | None = None,
    at: float | None = None,
) -> Row:
    """Return the row of an estimate."""
    return Row(
        part=part,
        what=what,
        value=found.value,
        unit=unit,
        low=found.low,
        high=found.high,
        wall=wall,
        at=at,
    )


def compared(
    part: str, what: str, found: Estimate, unit: str = "x", *, at: float | None = None
) -> Row:
    """Return the row of a ratio that is above 1 where freshet is ahead of what it is compared with."""
    row = estimated(part, what, found, unit, at=at)
    return replace(row, behind=found.value < 1)


def at_least(line: str, value: float, limit: float, *, goal: str = "", timed: bool = True) -> Gate:
    """Return the gate of a value that must reach a limit."""
    return Gate(
        line=line, value=value, limit=f">= {limit:g}", ok=value >= limit, goal=goal, timed=timed
    )


def at_most(line: str, value: float, limit: float, *, goal: str = "", timed: bool = True) -> Gate:
    """Return the gate of a value that must stay at or below a limit."""
    return Gate(
        line=line, value=value, limit=f"<= {limit:g}", ok=value <= limit, goal=goal, timed=timed
    )


def exactly(line: str, value: float, limit: float) -> Gate:
    """Return the gate of a value that must be exactly what was computed."""
    return Gate(line=line, value=value, limit=f"= {limit:g}", ok=value == limit, timed=False)
