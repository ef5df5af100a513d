"""A benchmark's figures as cells: one form for the terminal and for the page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from infra.output import table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from infra.bench.result import Gate, Result, Row

GATE_COLUMNS = ("", "required", "found", "limit", "goal")


def figure(value: float | None) -> str:
    """Return a figure with three or four significant digits, thousands set apart."""
    if value is None:
        return ""
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def columns(rows: Sequence[Row]) -> tuple[str, ...]:
    """Return the columns that some rows need: no interval and no wall time where none has any."""
    found = ["what", "value"]
    if any(row.low is not None for row in rows):
        found.append("95 % interval")
    if any(row.wall is not None for row in rows):
        found.append("in wall time")
    return (*found, "unit")


def cells(row: Row, names: Sequence[str]) -> list[str]:
    """Return the cells of one row under some columns."""
    what = row.what if row.at is None else f"{row.what} at {figure(row.at)}"
    interval = "" if row.low is None else f"{figure(row.low)} to {figure(row.high)}"
    known = {
        "what": what,
        "value": figure(row.value),
        "95 % interval": interval,
        "in wall time": figure(row.wall),
        "unit": row.unit,
    }
    return [known[name] for name in names]


def gate_cells(gate: Gate, *, judged: bool = True) -> list[str]:
    """Return the cells of a requirement; one that is not judged is neither ok nor missed."""
    verdict = "ok" if gate.ok else "MISSED" if judged else "-"
    return [verdict, gate.line, figure(gate.value), gate.limit, gate.goal]


def tables(result: Result) -> list[Table]:
    """Return the terminal's tables of a benchmark: one per part, then the requirements."""
    right = ("value", "95 % interval", "in wall time", "found", "limit")
    made = []
    for part, rows in result.parts().items():
        names = columns(rows)
        made.append(table(part, names, [cells(row, names) for row in rows], right=right))
    if result.gates:
        judged = result.missed
        lines = [gate_cells(gate, judged=gate in judged) for gate in result.gates]
        made.append(table("requirements", GATE_COLUMNS, lines, right=right))
    return made
