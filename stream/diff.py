"""Compare the slates of two runs: what must be equal is, scores agree, and order differs only between near ties."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stream.slates import Slate

SCORE_TOLERANCE = 1e-3
"""Largest difference of a final score, in logits, that still counts as the same slate."""

EXACT_FIELDS = (
    "user_id",
    "at_ms",
    "cause",
    "reason",
    "coverage",
    "model_version",
    "readout",
    "popularity_cut_ms",
)
"""Fields that must be equal."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One way in which the two slates of an id differ."""

    id: str
    user_id: str
    kind: str
    detail: str


@dataclass(slots=True)
class DiffReport:
    """The verdict over two runs."""

    left: int = 0
    right: int = 0
    compared: int = 0
    repeats: int = 0
    same_order: int = 0
    largest_score_difference: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    examples: list[Difference] = field(default_factory=list)

    @property
    def equal(self) -> bool:
        """Whether the two runs count as the same."""
        return not self.counts


def diff(
    left: Iterable[Slate],
    right: Iterable[Slate],
    *,
    score_tolerance: float = SCORE_TOLERANCE,
    max_examples: int = 20,
) -> DiffReport:
    """Return how the slates of two runs differ, matched by id.

    A repeat within a run (delivery is at least once) must equal the first one; the later one is compared.
    """
    report = DiffReport()
    ours = _by_id(left, "left", report, score_tolerance, max_examples)
    theirs = _by_id(right, "right", report, score_tolerance, max_examples)
    report.left, report.right = len(ours), len(theirs)
    for slate_id, slate in ours.items():
        other = theirs.get(slate_id)
        if other is None:
            _note(
                report,
                Difference(slate_id, slate.user_id, "only_left", "no such slate on the right"),
                max_examples,
            )
            continue
        report.compared += 1
        for found in _differences(slate, other, score_tolerance, report):
            _note(report, found, max_examples)
    for slate_id, slate in theirs.items():
        if slate_id not in ours:
            _note(
                report,
                Difference(slate_id, slate.user_id, "only_right", "no such slate on the left"),
                max_examples,
            )
    return report


def _by_id(
    slates: Iterable[Slate], side: str, report: DiffReport, tolerance: float, max_examples: int
) -> dict[str, Slate]:
    found: dict[str, Slate] = {}
    for slate in slates:
        before = found.get(slate.id)
        if before is not None:
            report.repeats += 1
            for difference in _differences(before, slate, tolerance, DiffReport()):
                text = f"{side}: {difference.kind}: {difference.detail}"
                _note(report, Difference(slate.id, slate.user_id, "repeat", text), max_examples)
        found[slate.id] = slate
    return found


def _differences(
    left: Slate, right: Slate, tolerance: float, report: DiffReport
) -> list[Difference]:
    found = []
    for name in EXACT_FIELDS:
        ours, theirs = getattr(left, name), getattr(right, name)
        if ours != theirs:
            found.append(Difference(left.id, left.user_id, name, f"{ours} against {theirs}"))
    ours_scores = {item.item_id: item.score for item in left.items}
    theirs_scores = {item.item_id: item.score for item in right.items}
    kind = _ranking_difference(ours_scores, theirs_scores, tolerance, report)
    if kind is not None:
        found.append(Difference(left.id, left.user_id, *kind))
    if list(ours_scores) == list(theirs_scores):
        report.same_order += 1
    return found


def _ranking_difference(
    ours: dict[str, float], theirs: dict[str, float], tolerance: float, report: DiffReport
) -> tuple[str, str] | None:
    """Return (kind, detail) of the first way two rankings differ; dictionaries are in slate order."""
    if len(ours) != len(theirs):
        return "length", f"{len(ours)} items against {len(theirs)}"
    for item in ours.keys() & theirs.keys():
        gap = abs(ours[item] - theirs[item])
        report.largest_score_difference = max(report.largest_score_difference, gap)
        if gap > tolerance:
            return "score", f"item {item}: {ours[item]:.6f} against {theirs[item]:.6f}"
    for one, other, side in ((ours, theirs, "left"), (theirs, ours, "right")):
        # An item may drop out only if it is as close to the other side's last place as a tie.
        for item in one.keys() - other.keys():
            if one[item] > min(other.values()) + tolerance:
                return "items", f"item {item} ({one[item]:.6f}) is only on the {side}"
    return _swapped(ours, theirs, tolerance)


def _swapped(
    ours: dict[str, float], theirs: dict[str, float], tolerance: float
) -> tuple[str, str] | None:
    place = {item: index for index, item in enumerate(theirs)}
    common = [item for item in ours if item in place]
    for index, item in enumerate(common):
        for below in common[index + 1 :]:
            if place[below] < place[item] and abs(ours[item] - ours[below]) > tolerance:
                return (
                    "order",
                    f"items {item} and {below} are swapped, {abs(ours[item] - ours[below]):.6f} apart",
                )
    return None


def _note(report: DiffReport, found: Difference, max_examples: int) -> None:
    report.counts[found.kind] += 1
    if len(report.examples) < max_examples:
        report.examples.append(found)
