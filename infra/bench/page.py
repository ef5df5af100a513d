"""`docs/performance.md`, its picture and the README's short section, written from the results alone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from infra.bench.catalog import BENCHES
from infra.bench.pictures import growth
from infra.bench.result import read_result
from infra.bench.show import cells, columns, figure, gate_cells
from infra.errors import InputError
from infra.plotting import missing

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from infra.bench.result import Result, Row

PICTURE = Path("performance") / "growth.svg"
"""Beside the page."""
_TEMPLATE = "performance.md"
_START, _END = "<!-- figures of freshet bench: start -->", "<!-- figures of freshet bench: end -->"
_HEADLINES: tuple[tuple[str, str, str, str], ...] = (
    ("extend", "N = 1,280, 1 user", "one-event extend", "one new event through the model (4 layers, 18 token groups, 128 recents)"),
    ("extend", "N = 1,280, 1 user", "time: forward over extend", "a forward pass over the 1,280 events instead, times as long"),
    ("history", "through the scorer and the database, equal number of distinct items", "long over short", "an event of a user with 64k events over one of a user with 4k"),
    ("scoring", "catalogue of 5,000", "scorer with database", "events scored, 5,000 items"),
    ("scoring", "catalogue of 20,000", "scorer with database", "events scored, 20,000 items"),
    ("scoring", "catalogue of 100,000", "scorer with database", "events scored, 100,000 items"),
    ("scoring", "catalogue of 20,000: RecTools' HSTU", "call per user over freshet's event", "RecTools' HSTU called per user, 20,000 items, times as long"),
    ("replay", "append only", "replay", "shipped log replayed, append only"),
    ("replay", "with weekly ticks", "replay", "shipped log replayed, tokens refreshed weekly"),
    ("replay", "with slates and daily ticks", "replay", "shipped log replayed, a slate per event, tokens refreshed daily"),
    ("state", "one group, stored", "payload", "tokens of 64 interactions"),
    ("reload", "load of 256 users", "p50", "256 users loaded from the file, median"),
    ("memory", "growth", "twice the users over base", "peak memory with twice the users"),
    ("memory", "growth", "twice the history over base", "peak memory with twice the history"),
    ("ingest", "events per processor second", "freshet, stored in DuckDB", "events stored from a broker"),
    ("ingest", "share", "freshet over bare kafka-python", "the same over a bare poll loop that only counts them"),
    ("latency", "100 events/s: p50", "every state in memory", "event to slate on the topic at 100 events/s, median"),
    ("latency", "500 events/s: p50", "every state in memory", "event to slate on the topic at 500 events/s, median"),
    ("overload", "sustainable", "rate", "events answered one by one, broker and producer on the same two cores"),
    ("scale", "stored with ticks, without slates", "peak memory", "peak memory, 20 million events of a million users with ticks"),
)  # fmt: skip
"""Benchmark, part and row of the README's table, and what it says there."""


def read_results(folder: Path) -> dict[str, Result]:
    """Return the results in a folder by name, in the order of the benchmarks.

    Raises:
        InputError: there is none, or one can not be read.
    """
    found = {
        name: read_result(folder / f"{name}.json")
        for name in BENCHES
        if (folder / f"{name}.json").exists()
    }
    if not found:
        raise InputError(f"{folder}: no results there; `freshet bench --all` makes them")
    return found


def write_page(folder: Path, path: Path, readme: Path | None = None) -> None:
    """Write the page and its picture, and renew the README's table where it has a place for it.

    Args:
        folder: where the results are.
        path: the page.
        readme: a file with the table's markers, or None.

    Raises:
        InputError: there are no results.
        MissingExtraError: matplotlib or jinja2 is not installed.
    """
    results = read_results(folder)
    drawn = growth(results, path.parent / PICTURE)
    path.write_text(page(results, picture=drawn), encoding="utf-8")
    if readme is not None and readme.exists():
        text = readme.read_text(encoding="utf-8")
        readme.write_text(with_headlines(text, results), encoding="utf-8")


def page(results: Mapping[str, Result], *, picture: bool = True) -> str:
    """Return the page as Markdown.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    try:
        import jinja2  # noqa: PLC0415
    except ImportError as err:
        raise missing(err) from err
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parents[1] / "templates"),
        autoescape=False,  # noqa: S701 - Markdown of our own figures, no page for a browser
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    text = environment.get_template(_TEMPLATE).render(
        machines=list(_machines(results)),
        gates=[
            (name, gate_cells(gate, judged=gate in result.missed))
            for name, result in results.items()
            for gate in result.gates
        ],
        picture=PICTURE.as_posix() if picture else "",
        behind=list(_behind(results)),
        results=[_section(result) for result in results.values()],
    )
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def with_headlines(text: str, results: Mapping[str, Result]) -> str:
    """Return a page with the table between its markers renewed; unchanged where it has no markers."""
    if _START not in text or _END not in text:
        return text
    before, _, rest = text.partition(_START)
    _, _, after = rest.partition(_END)
    return f"{before}{_START}\n{headlines(results)}\n{_END}{after}"


def headlines(results: Mapping[str, Result]) -> str:
    """Return the README's table: the figures that answer how fast, each a row of some result."""
    lines = ["| what | measured | 95 % interval |", "|---|--:|--:|"]
    for bench, part, what, label in _HEADLINES:
        rows = results[bench].parts().get(part, []) if bench in results else []
        for row in rows:
            if row.what == what:
                names = ("value", "95 % interval")
                value, interval = cells(row, names)
                lines.append(f"| {label} | {value} {row.unit} | {interval} |")
    return "\n".join(lines)


def _machines(results: Mapping[str, Result]) -> Iterator[str]:
    """A sentence per machine and set of versions that figures come from."""
    found: dict[str, list[str]] = {}
    for name, result in results.items():
        one = result.machine
        versions = ", ".join(f"{library} {number}" for library, number in result.versions.items())
        text = (
            f"{one.cpu}, {one.cores} cores, {figure(one.ram_gib)} GiB of memory, {one.kernel}; {versions};"
            f" torch and DuckDB on {one.threads} thread."
        )
        found.setdefault(text, []).append(name)
    for text, names in found.items():
        yield text if len(found) == 1 else f"{', '.join(names)}: {text}"


def _behind(results: Mapping[str, Result]) -> Iterator[str]:
    """A sentence per comparison that freshet does not win."""
    for name, result in results.items():
        for row in result.rows:
            if row.behind:
                what = cells(row, ["what"])[0]
                yield f"{name}, {row.part}: {what} is {figure(row.value)}{_bounds(row)}."


def _bounds(row: Row) -> str:
    return "" if row.low is None else f" ({figure(row.low)} to {figure(row.high)})"


def _section(result: Result) -> dict[str, object]:
    shown = {key: _setting(value) for key, value in result.settings.items()}
    parts = []
    for title, rows in result.parts().items():
        names = columns(rows)
        parts.append({
            "title": title,
            "columns": names,
            "rows": [cells(row, names) for row in rows],
        })
    return {
        "name": result.name,
        "what": result.what,
        "quick": result.quick,
        "date": result.date,
        "settings": ", ".join(f"{key} {value}" for key, value in shown.items()),
        "parts": parts,
        "remarks": result.remarks,
    }


def _setting(value: object) -> str:
    if isinstance(value, list):
        return " / ".join(_setting(one) for one in value)
    return figure(value) if isinstance(value, int | float) else str(value)
