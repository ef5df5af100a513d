"""`freshet dlq list|show|replay`: bad records, why they are bad, and sending them again."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

import click

from infra.asking.owner import Owner, owner_of
from infra.asking.questions import AskLetters, Letter, MarkReplayed
from infra.errors import InputError
from infra.live import live_extra
from infra.options import db_option, json_option, read_settings, settings_options
from infra.output import console, iso_ms, print_json, table
from storage.dead_letters import Wanted
from storage.faults import reach
from stream.dead_rows import letter_of
from stream.events import DeadLetter

P = ParamSpec("P")
R = TypeVar("R")
Row = dict[str, object]

_BATCH = 500
_SHOWN = 100


@click.group("dlq", help="Look at bad records, and send them again.")
def command() -> None:
    """Group of the dead letter commands."""


def wanted_options(function: Callable[P, R]) -> Callable[P, R]:
    """Add the options that choose dead letters: --source, --part, --off, --reason."""
    for name, kind, text in (
        ("--reason", str, "Refused for this reason."),
        ("--off", int, "At this offset."),
        ("--part", int, "Of this partition."),
        ("--source", str, "Of this topic, or file log."),
    ):
        function = click.option(name, type=kind, help=text)(function)
    return function


@command.command("list")
@db_option
@wanted_options
@click.option(
    "--replayed/--open", "replayed", default=None, help="Only those produced again, or not yet."
)
@click.option(
    "--limit", default=20, show_default=True, help="Rows at most, newest first; 0 for all."
)
@settings_options
@json_option
def list_(
    db_path: Path,
    source: str | None,
    part: int | None,
    off: int | None,
    reason: str | None,
    replayed: bool | None,
    limit: int,
    config_file: Path | None,
    assignments: tuple[str, ...],
    as_json: bool,
) -> None:
    """Print how many bad records there are by partition and reason, and the newest of them."""
    chosen = Wanted(topic=source, part=part, off=off, reason=reason, replayed=replayed)
    with owner_of(db_path, read_settings(config_file, assignments)) as owner:
        found = owner.ask(AskLetters(wanted=chosen, limit=limit))
    counts, letters = found.counts, [_plain(letter) for letter in found.letters]
    if as_json:
        print_json({"counts": counts, "letters": letters})
        return
    rows = [[f"{r['topic']}[{r['part']}]", r["reason"], r["n"]] for r in counts]
    console().print(
        table("dead letters", ["partition", "reason", "records"], rows, right=["records"])
    )
    shown = [
        [
            f"{r['topic']}[{r['part']}]@{r['off']}",
            r["reason"],
            _short(r["detail"]),
            _short(r["raw"]),
            r["replayed_at"],
        ]
        for r in letters
    ]
    if shown:
        console().print(table("newest", ["position", "reason", "detail", "raw", "replayed"], shown))


@command.command("show")
@click.argument("topic")
@click.argument("part", type=int)
@click.argument("off", type=int)
@db_option
@settings_options
@json_option
def show(
    topic: str,
    part: int,
    off: int,
    db_path: Path,
    config_file: Path | None,
    assignments: tuple[str, ...],
    as_json: bool,
) -> None:
    """Print one bad record with all it came with: reason, raw bytes, key, headers, times.

    TOPIC PART OFF is its position, as `freshet dlq list` prints it.
    """
    chosen = Wanted(topic=topic, part=part, off=off)
    with owner_of(db_path, read_settings(config_file, assignments)) as owner:
        found = owner.ask(AskLetters(wanted=chosen, limit=1)).letters
    if not found:
        raise InputError(
            f"{topic}[{part}]@{off}: no dead letter there; `freshet dlq list` prints positions"
        )
    letter = _plain(found[0])
    if as_json:
        print_json(letter)
    else:
        console().print(table("", ["", ""], list(letter.items())))


@command.command("replay")
@db_option
@wanted_options
@click.option("--all", "everything", is_flag=True, help="All of them, where nothing else chooses.")
@click.option("--topic", help="Send them to this topic instead of their own: one that is repaired.")
@click.option("--again", is_flag=True, help="Also those that were produced again before.")
@settings_options
@json_option
def replay(
    db_path: Path,
    source: str | None,
    part: int | None,
    off: int | None,
    reason: str | None,
    everything: bool,
    topic: str | None,
    again: bool,
    config_file: Path | None,
    assignments: tuple[str, ...],
    as_json: bool,
) -> None:
    """Send bad records again, to their own topic or another one, and mark them as replayed.

    They keep key, headers and the time they were first appended, and say in freshet.replayed.* headers
    where they were. A crash in between may send some twice. Records of which only the first part is
    kept are left out and counted.

    \b
    freshet dlq replay --db shop.duckdb --reason unknown_event_type
    """
    if not (everything or source or reason or part is not None or off is not None):
        raise click.UsageError("choose which ones (--reason, --source, --part, --off), or --all")
    with live_extra():
        from stream.kafka.mirror import is_whole, produced_again  # noqa: PLC0415
        from stream.kafka.preflight import Access, preflight  # noqa: PLC0415
        from stream.kafka.producer import RecordProducer  # noqa: PLC0415
    loaded = read_settings(config_file, assignments)
    target = topic or source
    preflight(loaded.settings.kafka, Access(writes=(target,) if target else ()))
    chosen = Wanted(
        topic=source, part=part, off=off, reason=reason, replayed=None if again else False
    )
    with (
        owner_of(db_path, loaded) as owner,
        closing(RecordProducer(loaded.settings.kafka)) as producer,
    ):
        done = resend(
            owner,
            chosen,
            lambda letters: producer.send([produced_again(one, topic) for one in letters]),
            is_whole,
        )
    if as_json:
        print_json(done)
    else:
        click.echo(
            f"{done.replayed:,} records produced again, {done.cut:,} left out: not kept whole"
        )


@dataclass(frozen=True, slots=True)
class Resent:
    """What a replay of dead letters did: how many it sent, and how many are not kept whole."""

    replayed: int
    cut: int


def resend(
    owner: Owner,
    chosen: Wanted,
    send: Callable[[list[DeadLetter]], None],
    is_whole: Callable[[DeadLetter], bool],
) -> Resent:
    """Send letters and mark them, some hundred at a time: sent is marked, unless the process dies in between."""
    replayed = cut = 0
    after: tuple[str, int, int] | None = None
    while True:
        asked = AskLetters(wanted=chosen, limit=_BATCH, in_log_order=True, after=after)
        found = [letter_of(asdict(letter)) for letter in owner.ask(asked).letters]
        if not found:
            return Resent(replayed, cut)
        after = (found[-1].topic, found[-1].part, found[-1].off)
        whole = [letter for letter in found if is_whole(letter)]
        if whole:
            send(whole)
            reach("dlq.sent")
            owner.ask(MarkReplayed(places=[(one.topic, one.part, one.off) for one in whole]))
        replayed += len(whole)
        cut += len(found) - len(whole)


def _plain(letter: Letter) -> Row:
    """Return a letter with text in place of bytes and numbers of milliseconds."""
    return {
        **{name: getattr(letter, name) for name in ("topic", "part", "off", "reason", "detail")},
        "raw": _text(letter.raw),
        "size": letter.size,
        "key": _text(letter.key),
        "headers": letter.headers,
        "appended_at": iso_ms(letter.append_ts_ms),
        "refused_at": iso_ms(letter.ingested_at_ms),
        "replayed_at": iso_ms(letter.replayed_at_ms),
    }


def _text(value: bytes | None) -> str | None:
    """Return bytes as text; what is no UTF-8 is escaped."""
    return None if value is None else value.decode("utf-8", "backslashreplace")


def _short(value: object) -> str:
    text = "-" if value is None else str(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
