"""How cost grows with the history, the users and the catalogue: one picture from the results."""

from __future__ import annotations

from math import floor, log10
from typing import TYPE_CHECKING, Any

from infra.plotting import pyplot

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from infra.bench.result import Result, Row

_OURS, _OTHER, _QUIET = "#1f5fbf", "#c2571a", "#e6e9ee"
_PANELS = (
    ("extend", "by history length", "events of the user's history", {
        "one-event extend": (_OURS, "o", "freshet: one-event extend"),
        "full-history forward": (_OTHER, "s", "forward pass over the history"),
    }),
    ("scoring", "by users", "active users", {"per event": (_OURS, "o", "freshet: event scored")}),
    ("scoring", "by catalogue", "items of the catalogue", {
        "per event": (_OURS, "o", "freshet: event scored"),
        "model and top-k alone": (_OTHER, "s", "model and top-k alone"),
    }),
)  # fmt: skip
"""Benchmark, part, axis, and per row name its color, mark and label."""


def growth(results: Mapping[str, Result], path: Path) -> bool:
    """Draw the panels whose benchmarks ran into an SVG; returns whether there were any.

    The same results give the same file.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    panels = [panel for panel in _PANELS if _rows(results, panel[0], panel[1])]
    if not panels:
        return False
    plot = pyplot()
    figure, axes = plot.subplots(1, len(panels), figsize=(3.6 * len(panels), 3.1), squeeze=False)
    for axis, (bench, part, label, lines) in zip(axes[0], panels, strict=True):
        rows = _rows(results, bench, part)
        for name, look in lines.items():
            _line(axis, [row for row in rows if row.what == name], look)
        _finish(axis, label)
    axes[0][0].set_ylabel("processor milliseconds")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
    plot.close(figure)
    return True


def _rows(results: Mapping[str, Result], bench: str, part: str) -> list[Row]:
    found = results.get(bench)
    return [] if found is None else found.parts().get(part, [])


def _line(axis: Any, rows: Sequence[Row], look: tuple[str, str, str]) -> None:  # noqa: ANN401 - matplotlib has no types here
    color, mark, label = look
    if not rows:
        return
    where = [row.at for row in rows]
    values = [row.value for row in rows]
    below = [max(0.0, row.value - (row.value if row.low is None else row.low)) for row in rows]
    above = [max(0.0, (row.value if row.high is None else row.high) - row.value) for row in rows]
    axis.errorbar(
        where,
        values,
        yerr=[below, above],
        fmt=f"{mark}-",
        color=color,
        lw=1.3,
        ms=4.5,
        elinewidth=0.9,
        label=label,
    )


def _finish(axis: Any, label: str) -> None:  # noqa: ANN401 - as above
    """Logarithmic axes with plain numbers; room above the lines for the legend."""
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel(label)
    low, high = axis.get_ylim()
    bottom, top = floor(log10(low)), floor(log10(high)) + 2
    axis.set_ylim(10**bottom, 10**top)
    axis.set_yticks([10**power for power in range(bottom, top)])
    left, right = (floor(log10(bound)) for bound in axis.get_xlim())
    axis.set_xlim(10**left, 10 ** (right + 1))
    axis.set_xticks([10**power for power in range(left, right + 2)])
    for ruler in (axis.xaxis, axis.yaxis):
        ruler.set_major_formatter(_plain)
        ruler.set_minor_formatter("")
    axis.grid(axis="y", color=_QUIET)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    axis.tick_params(length=0, which="both", pad=5)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=7.5, frameon=False, loc="upper left")


def _plain(value: float, place: int) -> str:
    del place
    return f"{value:,.0f}" if value >= 1 else f"{value:g}"
