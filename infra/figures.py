"""Figures as people read them: tables for the terminal, numbers and verdicts for every page."""

import math
from collections.abc import Iterator, Sequence

from rich.table import Table

from infra.output import iso_ms, table
from model.ranking import METRICS, Estimate
from stream.evaluate import Evaluation
from stream.evaluation.counted import MIX
from stream.evaluation.figures import Bucket, Difference, ProtocolFigures
from stream.evaluation.production import FULL, RECENTS, SWAPPED, TOKENS

PROTOCOL_TITLES = {
    "next_visit": "Next visit: asked when a visit begins, before its first event is stored",
    "next_line": "Next line: asked before each line of a visit, its earlier lines known",
    "after_visit": "After a visit: the slate its last line caused, measured on the next visit",
}
METRIC_TITLES = {"recall@10": "R@10", "recall@50": "R@50", "ndcg@10": "N@10", "mrr": "MRR"}


def number(value: float, *, signed: bool = False) -> str:
    """Return `.1107`, `+.0024`, `-` for nan: four digits, no leading zero."""
    if math.isnan(value):
        return "-"
    text = f"{abs(value):.4f}"
    text = text[1:] if text.startswith("0") else text
    sign = "-" if value < 0 and text != ".0000" else "+" if signed else ""
    return sign + text


def interval(estimate: Estimate, *, signed: bool = False) -> str:
    """Return `.1107 [.1034 .1178]`."""
    if not estimate.target_count:
        return "-"
    low, high = number(estimate.low, signed=signed), number(estimate.high, signed=signed)
    return f"{number(estimate.value, signed=signed)} [{low} {high}]"


def method_rows(figures: ProtocolFigures) -> list[list[str]]:
    """Return one row per method, its cells as in `method_columns`; recall comes with its interval."""
    return [
        [
            one.method,
            *(interval(one.everything[metric]) for metric in METRICS[:2]),
            *(number(one.everything[metric].value) for metric in METRICS[2:]),
            *(number(one.novel[metric].value) for metric in METRICS[:2]),
            number(one.cold["recall@50"].value),
        ]
        for one in figures.figures
    ]


def method_columns() -> list[str]:
    """Return the headings of `method_rows`."""
    titles = [METRIC_TITLES[metric] for metric in METRICS]
    return ["method", *titles, *(f"novel {title}" for title in titles[:2]), "cold R@50"]


def difference_rows(figures: ProtocolFigures) -> list[list[str]]:
    """Return one row per paired difference: what, R@10, R@50, N@10, and a verdict on R@50."""
    return [
        [
            f"{one.method} - {one.reference}",
            *(interval(one.everything[metric], signed=True) for metric in METRICS[:3]),
            verdict(one),
        ]
        for one in figures.differences
    ]


def difference_columns() -> list[str]:
    """Return the headings of `difference_rows`."""
    return ["difference, paired", *(METRIC_TITLES[metric] for metric in METRICS[:3]), "by R@50"]


def verdict(difference: Difference) -> str:
    """Return `better`, `worse` or `no sure difference`, by the interval of recall@50."""
    estimate = difference.everything["recall@50"]
    if estimate.low > 0:
        return "better"
    return "worse" if estimate.high < 0 else "no sure difference"


def bucket_rows(buckets: Sequence[Bucket]) -> list[list[str]]:
    """Return one row per bucket: label, users, targets, recall@50 of each method."""
    return [
        [
            one.label,
            f"{one.user_count:,}",
            f"{one.target_count:,}",
            *(interval(estimate) for estimate in one.methods.values()),
        ]
        for one in buckets
    ]


def terminal_tables(evaluation: Evaluation) -> Iterator[Table]:
    """Yield the tables of an evaluation, in reading order."""
    extra = [] if evaluation.after_visit is None else [evaluation.after_visit]
    for figures in (*evaluation.protocols, *extra):
        title = f"{PROTOCOL_TITLES[figures.protocol]}\n{scope(figures)}"
        yield _table(title, method_columns(), method_rows(figures), ours=_ours(figures))
        if figures.protocol != "after_visit" and figures.differences:
            yield _table("", difference_columns(), difference_rows(figures), ours=set())


def _ours(figures: ProtocolFigures) -> set[str]:
    return {one.method for one in figures.figures if one.kind == "ours"}


def _table(title: str, columns: list[str], rows: list[list[str]], *, ours: set[str]) -> Table:
    """Return a table whose numbers never wrap; rows of the model are bold."""
    made = table(title, columns, rows, right=columns[1:])
    for column in made.columns[1:]:
        column.no_wrap = True
    for row, cells in zip(made.rows, rows, strict=True):
        row.style = "bold" if cells[0] in ours else ""
    return made


def scope(figures: ProtocolFigures) -> str:
    """Return how much was measured, in one line."""
    text = (
        f"{figures.split} period, {figures.target_count:,} targets, {figures.state_count:,} states,"
        f" {figures.user_count:,} users; {figures.novel_share:.0%} novel to the user,"
        f" {figures.cold_share:.0%} new to the shop"
    )
    if figures.missed_share:
        text += f"; {figures.missed_share:.1%} not listed yet when asked: missed by all"
    return text


def sentences(evaluation: Evaluation) -> list[str]:
    """Return what the figures say about the tokens, in words, with their numbers."""
    said: list[str] = []
    for figures in evaluation.protocols:
        where = figures.protocol.replace("_", " ")
        for reference, text in (
            (RECENTS.name, "the same model without its tokens"),
            (SWAPPED.name, "the same model with another user's tokens"),
            (FULL.name, "the same model reading the raw history"),
            (MIX, "the tuned mix of counting rules"),
        ):
            try:
                difference = figures.difference(TOKENS.name, reference)
            except KeyError:
                continue
            estimate = difference.everything["recall@50"]
            said.append(
                f"{where}: against {text}, R@50 {interval(estimate, signed=True)}"
                f" - {verdict(difference)}"
            )
    return said


def conditions(evaluation: Evaluation) -> list[tuple[str, str]]:
    """Return how the figures were made, as name and value."""
    cuts = evaluation.cuts
    rows = [
        ("model", ", ".join(evaluation.model_versions) or "none"),
        ("fitted on events through", iso_ms(evaluation.trained_through_ms) or "-"),
        ("validation period", f"{iso_ms(cuts.train_end)} to {iso_ms(cuts.validation_end)}"),
        ("test period", f"{iso_ms(cuts.validation_end)} to {iso_ms(cuts.test_end)}"),
        ("intervals", "95 %, users resampled 1,000 times; differences paired per target"),
        ("ranking", "all known items, nothing removed; equal scores share the mean rank"),
    ]
    if evaluation.full_history_rows:
        text = f"newest {evaluation.full_history_rows:,} interactions raw: the longest seen in training"
        rows.append((FULL.name, text))
    if evaluation.leaking:
        rows.append(("LEAKAGE", "the model was fitted on events of the measured period"))
    return rows
