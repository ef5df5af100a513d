"""The HTML report of an evaluation: one file, pictures inside, nothing to load from elsewhere."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.figures import (
    METRIC_TITLES,
    PROTOCOL_TITLES,
    bucket_rows,
    conditions,
    difference_columns,
    difference_rows,
    method_columns,
    method_rows,
    scope,
    sentences,
)
from infra.plotting import INK, missing, pyplot
from stream.evaluation.counted import MIX
from stream.evaluation.production import RECENTS, SWAPPED, TOKENS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stream.evaluate import Evaluation
    from stream.evaluation.figures import Bucket, ProtocolFigures

QUIET = "#8a93a3"
COLORS = {TOKENS.name: "#1f5fbf", RECENTS.name: "#6fb1e8", SWAPPED.name: "#c2571a", MIX: "#3b4252"}
MARKS = ("o", "s", "^", "D", "v", "P")
TEMPLATE = "report.html"


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """One user in words: what was bought, what each token is near to, what is recommended.

    Attributes:
        title: Who and when.
        intro: A sentence of context.
        tokens: (period, age, words per token) per token group shown, newest first.
        recents: Newest interactions in words.
        slate: (place, item in words, score, whether the user ever had it).
        reason: Reason code and coverage of the slate.
    """

    title: str
    intro: str
    tokens: list[tuple[str, str, list[str]]] = field(default_factory=list)
    recents: list[str] = field(default_factory=list)
    slate: list[tuple[int, str, float, str]] = field(default_factory=list)
    reason: str = ""


def write_report(
    path: Path,
    evaluation: Evaluation,
    *,
    title: str,
    source: str,
    story: Story | None = None,
    timings: Sequence[tuple[str, str]] = (),
) -> None:
    """Write the report of an evaluation.

    Args:
        path: The HTML file.
        evaluation: The figures.
        title: Heading.
        source: What the log is and where it comes from, in a sentence.
        story: One user in words.
        timings: Stage and duration.

    Raises:
        MissingExtraError: matplotlib or jinja2 is not installed.
    """
    try:
        import jinja2  # noqa: PLC0415
    except ImportError as err:
        raise missing(err) from err
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    page = environment.get_template(TEMPLATE).render(
        title=title,
        source=source,
        sentences=sentences(evaluation),
        leaking=evaluation.leaking,
        conditions=conditions(evaluation),
        sections=[_section(figures) for figures in _all(evaluation)],
        method_columns=method_columns(),
        difference_columns=difference_columns(),
        story=story,
        timings=timings,
    )
    path.write_text(page, encoding="utf-8")


def _all(evaluation: Evaluation) -> list[ProtocolFigures]:
    extra = [evaluation.after_visit] if evaluation.after_visit is not None else []
    return [*evaluation.protocols, *extra]


def _section(figures: ProtocolFigures) -> dict[str, object]:
    ours = {one.method for one in figures.figures if one.kind == "ours"}
    return {
        "title": PROTOCOL_TITLES[figures.protocol],
        "scope": scope(figures),
        "methods": [(row, row[0] in ours) for row in method_rows(figures)],
        "differences": difference_rows(figures),
        "forest": forest(figures),
        "history": buckets_picture(figures.by_history, "interactions before the state"),
        "age": buckets_picture(figures.by_age, "age of the newest token read"),
        "history_rows": bucket_rows(figures.by_history),
        "age_rows": bucket_rows(figures.by_age),
        "history_columns": _bucket_columns(figures.by_history),
        "age_columns": _bucket_columns(figures.by_age),
        "weights": [(name, f"{value:+.3f}") for name, value in figures.mix_weights.items()],
    }


def _bucket_columns(buckets: Sequence[Bucket]) -> list[str]:
    names = list(buckets[0].methods) if buckets else []
    return ["", "users", "targets", *names]


def forest(figures: ProtocolFigures, metric: str = "recall@50") -> str:
    """Return a picture of every method's figure and interval, best on top, as a data URI."""
    shown = sorted(figures.figures, key=lambda one: one.everything[metric].value)
    shown = [one for one in shown if one.everything[metric].target_count]
    plot = pyplot()
    figure, axes = plot.subplots(figsize=(7.4, 0.9 + 0.32 * len(shown)))
    for place, one in enumerate(shown):
        estimate = one.everything[metric]
        color = COLORS.get(one.method, COLORS[TOKENS.name] if one.kind == "ours" else QUIET)
        axes.plot([estimate.low, estimate.high], [place, place], color=color, lw=2.4, alpha=0.55)
        axes.plot(estimate.value, place, "o", color=color, ms=6)
        axes.annotate(
            f"{estimate.value:.3f}".lstrip("0"),
            (estimate.high, place),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            color=INK,
        )
    axes.set_yticks(range(len(shown)), [one.method for one in shown])
    for label, one in zip(axes.get_yticklabels(), shown, strict=True):
        label.set_fontweight("bold" if one.kind == "ours" else "normal")
    axes.set_xlabel(f"{METRIC_TITLES[metric]}, 95 % interval over users")
    axes.margins(x=0.12)
    axes.grid(axis="x", color="#e6e9ee")
    return _picture(figure, axes)


def buckets_picture(buckets: Sequence[Bucket], label: str) -> str:
    """Return recall@50 of each method over buckets as a data URI; empty without buckets."""
    if not buckets:
        return ""
    plot = pyplot()
    figure, axes = plot.subplots(figsize=(7.4, 3.3))
    names = list(buckets[0].methods)
    width = 0.09
    for place, name in enumerate(names):
        shift = (place - (len(names) - 1) / 2) * width
        middle = [number + shift for number in range(len(buckets))]
        estimates = [one.methods[name] for one in buckets]
        values = [estimate.value for estimate in estimates]
        below = [max(0.0, estimate.value - estimate.low) for estimate in estimates]
        above = [max(0.0, estimate.high - estimate.value) for estimate in estimates]
        axes.errorbar(
            middle,
            values,
            yerr=[below, above],
            fmt=f"{MARKS[place % len(MARKS)]}-",
            color=COLORS.get(name, QUIET),
            lw=1.2,
            ms=5,
            elinewidth=1.0,
            label=name,
        )
    axes.set_xticks(
        range(len(buckets)), [f"{one.label}\n{one.user_count:,} users" for one in buckets]
    )
    axes.set_xlabel(label)
    axes.set_ylabel("R@50")
    axes.margins(x=0.08)
    axes.grid(axis="y", color="#e6e9ee")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return _picture(figure, axes)


def _picture(figure: Any, axes: Any) -> str:  # noqa: ANN401 - as above
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    made = io.BytesIO()
    figure.savefig(made, format="svg", bbox_inches="tight", metadata={"Date": None})
    pyplot().close(figure)
    return "data:image/svg+xml;base64," + base64.b64encode(made.getvalue()).decode()
