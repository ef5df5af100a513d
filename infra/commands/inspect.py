"""`freshet inspect user|item|tokens`: what is stored, and what the tokens mean in words."""

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

import click
from rich.console import Console
from rich.tree import Tree

from infra.asking.owner import owner_of
from infra.asking.questions import AskItem, AskTokens, AskUser
from infra.options import (
    ANY_PATH,
    TIME,
    db_option,
    json_option,
    read_settings,
    settings_options,
)
from infra.output import console, duration, iso_ms, print_json, table
from stream.clock import to_ms
from stream.inspect import GroupView, ItemView, Near, UserView
from stream.slates import Slate

model_option = click.option(
    "--model", "model_path", type=ANY_PATH, help="Where the checkpoint is now, if it moved."
)
at_option = click.option("--at", type=TIME, help="Ages and the slate as of this time.")
nearest_option = click.option(
    "--nearest", default=4, show_default=True, help="Items named per token."
)


@click.group("inspect", help="Look at a user, an item or the tokens of a user.")
def command() -> None:
    """Group of the inspection commands."""


@command.command("user")
@click.argument("user_id")
@db_option
@model_option
@at_option
@click.option("--rows", default=12, show_default=True, help="Timeline rows, newest first.")
@nearest_option
@click.option("-k", "k", default=10, show_default=True, help="Items of the slate.")
@settings_options
@json_option
def user(
    user_id: str,
    db_path: Path,
    model_path: Path | None,
    at: datetime | None,
    rows: int,
    nearest: int,
    k: int,
    config_file: Path | None,
    assignments: tuple[str, ...],
    as_json: bool,
) -> None:
    """Show one user: timeline, token groups with period, age and words, recents, counters, current slate.

    Without --at the slate is what a request at the user's newest event would get.
    """
    at_ms = None if at is None else to_ms(at)
    question = AskUser(user_id=user_id, at_ms=at_ms, rows=rows, nearest=nearest, top_k=k)
    with owner_of(db_path, read_settings(config_file, assignments), model_path) as owner:
        found = owner.ask(question)
    if as_json:
        print_json({"user": found.user, "slate": found.slate})
        return
    out = console()
    _print_head(out, found.user)
    _print_groups(out, found.user.groups)
    _print_rows(out, found.user)
    print_slate(out, found.slate, found.words)


@command.command("tokens")
@click.argument("user_id")
@db_option
@model_option
@at_option
@nearest_option
@click.option("--newest", type=click.IntRange(min=1), help="Only so many newest groups.")
@settings_options
@json_option
def tokens(
    user_id: str,
    db_path: Path,
    model_path: Path | None,
    at: datetime | None,
    nearest: int,
    newest: int | None,
    config_file: Path | None,
    assignments: tuple[str, ...],
    as_json: bool,
) -> None:
    """Show the token groups of one user: period, age, provenance, and the items each token is near to."""
    at_ms = None if at is None else to_ms(at)
    question = AskTokens(user_id=user_id, at_ms=at_ms, nearest=nearest, newest=newest)
    with owner_of(db_path, read_settings(config_file, assignments), model_path) as owner:
        found = owner.ask(question)
    if as_json:
        print_json({
            "user_id": user_id,
            "model_version": found.model_version,
            "groups": found.groups,
        })
        return
    out = console()
    _print_head(out, found)
    _print_groups(out, found.groups)
    columns = ["segment", "bytes", "run", "device", "computed at"]
    rows = [(g.segment, g.bytes, g.run_id, g.device, iso_ms(g.created_at_ms)) for g in found.groups]
    out.print(table("provenance", columns, rows, right=["segment", "bytes", "run"]))


@command.command("item")
@click.argument("item_id")
@db_option
@model_option
@click.option("--nearest", default=10, show_default=True, help="Nearest items to print.")
@settings_options
@json_option
def item(
    item_id: str,
    db_path: Path,
    model_path: Path | None,
    nearest: int,
    config_file: Path | None,
    assignments: tuple[str, ...],
    as_json: bool,
) -> None:
    """Show one item: text, availability, use, heaviest users, and the items nearest to it in the model."""
    with owner_of(db_path, read_settings(config_file, assignments), model_path) as owner:
        found = owner.ask(AskItem(item_id=item_id, nearest=nearest))
    if as_json:
        print_json(found)
        return
    _print_item(console(), found)


def print_slate(out: Console, slate: Slate, words: dict[str, str | None]) -> None:
    """Print a slate for people: why it is what it is, then its items."""
    coverage = slate.coverage
    covered = iso_ms(coverage.covered_through_ms)
    through = f" through {covered}" if covered else ""
    left_out = f", {coverage.left_out} left out" if coverage.left_out else ""
    out.print(
        f"[bold]slate at {iso_ms(slate.at_ms)}[/bold]: {slate.reason}, read-out {slate.readout},"
        f" {coverage.groups} token groups{through}, {coverage.recents} recents{left_out},"
        f" model {slate.model_version or '-'}"
    )
    rows = [
        (place, one.item_id, words.get(one.item_id), f"{one.score:.4f}")
        for place, one in enumerate(slate.items, start=1)
    ]
    out.print(table("", ["#", "item", "text", "score"], rows, right=["#", "score"]))


def _print_head(out: Console, found: UserView) -> None:
    first, newest = iso_ms(found.first_event_ms), iso_ms(found.newest_event_ms)
    out.print(
        f"[bold]user {found.user_id}[/bold]  {found.interactions:,} interactions from {first} to {newest},"
        f" partition {found.topic}[{found.part}]",
        markup=True,
    )
    covered = sum(group.n_items for group in found.groups)
    out.print(
        f"{len(found.groups)} token groups hold {covered:,} of them, {found.recents} recents are raw;"
        f" model {found.model_version or '-'}"
    )


def _print_groups(out: Console, groups: Iterable[GroupView]) -> None:
    tree = Tree("token groups, each token with the items it is nearest to", guide_style="dim")
    for group in groups:
        branch = tree.add(
            f"segment {group.segment}: {iso_ms(group.first_ms)} .. {iso_ms(group.last_ms)},"
            f" {group.n_items} interactions, {duration(group.age_s)} old"
        )
        for number, near in enumerate(group.tokens):
            branch.add(f"token {number}: {_words(near)}")
    if tree.children:
        out.print(tree, markup=False)


def _words(near: list[Near]) -> str:
    return " · ".join(f"{one.text or one.item_id} ({one.cosine:.2f})" for one in near)


def _print_rows(out: Console, found: UserView) -> None:
    columns = ["position", "time", "type", "item", "text", "value", "held by"]
    rows = [
        (
            row["position"], iso_ms(row["ts_ms"]), row["event_type"], row["item_id"], row["text"],
            row["value"], row["covered_by"],
        )
        for row in found.timeline
    ]  # fmt: skip
    out.print(table("timeline, newest first", columns, rows, right=["position", "value"]))
    favorites = [
        (row["item_id"], row["text"], row["n"], iso_ms(row["last_ts_ms"]))
        for row in found.favorites[:5]
    ]
    columns = ["item", "text", "count", "last"]
    out.print(table("counters, largest first", columns, favorites, right=["count"]))


def _print_item(out: Console, found: ItemView) -> None:
    rows = [
        ("text", found.text),
        ("available", found.available),
        ("first seen", iso_ms(found.first_seen_ms)),
        ("interactions", found.interactions),
        ("users", found.users),
        ("newest event", iso_ms(found.newest_event_ms)),
        ("known to the model", found.known_to_model),
    ]
    out.print(table(f"item {found.item_id}", ["", ""], rows))
    near = [(one.item_id, one.text, one.cosine) for one in found.nearest]
    if near:
        out.print(table("nearest items", ["item", "text", "cosine"], near, right=["cosine"]))
    users = [(row["user_id"], row["n"], iso_ms(row["last_ts_ms"])) for row in found.top_users]
    out.print(table("heaviest users", ["user", "count", "last"], users, right=["count"]))
