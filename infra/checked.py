"""The tables of `freshet check`."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from infra.output import iso_ms, table
from stream.check.columns import ColumnUse
from stream.check.proposals import Proposal, percent, readable
from stream.check.report import Advice, CheckReport

_STYLES = {"problem": "bold red", "warning": "yellow", "note": "cyan"}
_MANY = 12  # rows of a table of bad records or columns


def print_report(
    out: Console, report: CheckReport, *, written: Path | None, log: Sequence[str]
) -> None:
    """Print a report: columns, figures, types, bad records, proposals, advice, what to do next."""
    out.print(_headline(report), style="bold")
    out.print(_columns(report))
    out.print(_figures(report))
    if report.sampled > 1:
        out.print(
            f"~ from {report.histories.users:,} users, one in {report.sampled} (those whose id has a"
            f" CRC-32 divisible by {report.sampled}); all other figures are exact"
        )
    if report.types:
        out.print(_types(report))
    if report.bad:
        out.print(_bad(report))
    out.print(_proposals(report.proposals))
    _print_advice(out, report.advice)
    _print_next(out, report, written, log)


def _headline(report: CheckReport) -> Text:
    files = report.files[0] if len(report.files) == 1 else f"{len(report.files)} files"
    parts = [f"{report.records:,} records", f"{report.interactions:,} events"]
    if report.item_records:
        parts.append(f"{report.item_records:,} items")
    if report.bad_records:
        parts.append(f"{report.bad_records:,} bad")
    if report.blank:
        parts.append(f"{report.blank:,} blank lines")
    return Text(f"{files}: {report.format}, {', '.join(parts)}")


def _columns(report: CheckReport) -> Table:
    rows = [
        (use.column, use.field or "-", use.evidence or "not read", _examples(use))
        for use in report.columns
    ]
    return table("columns", ["column", "read as", "why", "such as"], rows)


def _examples(use: ColumnUse) -> str:
    text = ", ".join(use.examples)
    return text if len(text) <= 40 else text[:39] + "…"


def _figures(report: CheckReport) -> Table:
    return table("the log", ["", "", ""], list(_figure_rows(report)))


def _figure_rows(report: CheckReport) -> Iterator[tuple[str, str, str]]:
    time, order, lengths, items = report.time, report.order, report.lengths, report.items
    found, about = report.histories, "~ " if report.sampled > 1 else ""
    first, last = iso_ms(time.first_ms) or "-", iso_ms(time.last_ms) or "-"
    yield "time", f"{first} to {last}", time.written
    yield "out of order", percent(order.out_of_order), _late(report)
    yield "", f"{about}{percent(found.out_of_order)} within a user", ""
    yield "at one time", f"{about}{percent(found.tied)}", "same user, same time"
    yield "second copies", f"{about}{percent(found.duplicates)}", "same user, same event_id"
    yield (
        "look alike",
        f"{about}{percent(found.same_event)}",
        "same user, time and item: a hint only",
    )
    yield "users", f"{lengths.users:,}", _lengths_text(report)
    long = (
        f"{percent(lengths.long_users)} of the users, {percent(lengths.long_events)} of the events"
    )
    yield "", f"{lengths.long:,} or longer", f"{long} (n + r_min: enough for a token group)"
    yield "items", f"{items.items:,}", _items_text(report)
    yield "repeats", f"{about}{percent(found.repeats)}", "of the events are of an item the user had"
    gaps = [readable(ms) for ms in found.gap_quantiles_ms]
    yield (
        "gaps",
        f"{about}{percent(found.zero_gaps)} are 0",
        f"others 10 % {gaps[0]}, 50 % {gaps[2]}, 90 % {gaps[4]}" if found.gaps else "",
    )
    if report.returns:
        yield "returns", f"{report.returns:,}", "negative value"


def _late(report: CheckReport) -> str:
    order = report.order
    if not order.max_ms:
        return f"largest step ahead {readable(order.furthest_ms)}"
    late = f"late by {readable(order.p50_ms)} (p50), {readable(order.p99_ms)} (p99)"
    return f"{late}, {readable(order.max_ms)} (max)"


def _lengths_text(report: CheckReport) -> str:
    parts = [f"{q * 100:.0f} % {length:,}" for q, length in report.lengths.quantiles.items()]
    return f"events per user: {', '.join(parts)}"


def _items_text(report: CheckReport) -> str:
    items = report.items
    return (
        f"{percent(items.once)} seen once, the middle one {items.median:,} times; the top 1 % are"
        f" {percent(items.top)} of the events"
    )


def _types(report: CheckReport) -> Table:
    rows = [
        (one.name, f"{one.events:,}", percent(one.share), one.role, f"{one.weight:g}", one.reason)
        for one in report.types
    ]
    more = report.distinct_types - len(rows)
    title = "event types" + (f", {more:,} more not shown" if more else "")
    right = ["events", "share", "weight"]
    return table(title, ["type", "events", "share", "role", "weight", "why"], rows, right=right)


def _bad(report: CheckReport) -> Table:
    place = "line" if report.format == "jsonl" else "row"
    rows = [
        (bad.reason, f"{bad.records:,}", f"{bad.first_file}, {place} {bad.first_row:,}", bad.detail)
        for bad in report.bad[:_MANY]
    ]
    return table("bad records", ["reason", "records", "first", "detail"], rows, right=["records"])


def _proposals(proposals: Sequence[Proposal]) -> Table:
    rows = [
        (one.key, _with_unit(one.key, one.value), one.reason)
        for one in proposals
        if not one.key.startswith("stream.event_types.")
    ]
    return table("settings that fit", ["setting", "value", "why"], rows)


def _with_unit(key: str, value: object) -> str:
    if key.endswith("_ms") and isinstance(value, int) and value:
        return f"{value} ({readable(value)})"
    return repr(value) if isinstance(value, str) and not value.isprintable() else str(value)


def _print_advice(out: Console, advice: Sequence[Advice]) -> None:
    for one in advice:
        text = Text(f"{one.level}: ", style=_STYLES[one.level])
        text.append(one.what + (f": {one.remedy}" if one.remedy else ""), style="not bold default")
        out.print(Padding(text, (0, 0, 0, 0)))


def _print_next(
    out: Console, report: CheckReport, written: Path | None, log: Sequence[str]
) -> None:
    if report.damage:
        return
    files = log[0] if len(log) == 1 and " " not in log[0] and "*" not in log[0] else f"'{log[0]}'"
    if written is None:
        out.print(f"next: freshet check {files} --write freshet.toml")
        return
    out.print(f"settings are in {written}; next:")
    out.print(f"  freshet replay {files} --config {written} --db log.duckdb", soft_wrap=True)
    out.print(f"  freshet train {files} --config {written} --out model.safetensors", soft_wrap=True)
