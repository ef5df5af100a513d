"""One user of a replayed database in words: tokens, newest interactions, slate."""

from collections.abc import Mapping, Sequence

from infra.output import duration, iso_ms
from infra.report import Story
from storage.database import Database
from stream.inspect import GroupView, Inspector, UserView
from stream.slates import Slate

GROUPS_SHOWN = 4
NEWEST_SHOWN = 8
DATE = slice(0, 10)  # of an ISO time
HAD = "SELECT item_id, n FROM counters WHERE user_id = ?"
TYPICAL = """
    SELECT user_id FROM user_token_state
    ORDER BY abs(groups - ?), newest_event DESC, user_id LIMIT 1"""


def typical_user(db: Database, *, groups: int) -> str | None:
    """Return the user whose number of token groups is nearest to `groups`, active lately; None without tokens."""
    found = db.query(TYPICAL, [groups])["user_id"].to_pylist()
    return str(found[0]) if found else None


def tell(db: Database, found: UserView, slate: Slate, inspector: Inspector) -> Story:
    """Return a user's story.

    Args:
        db: The replayed database.
        found: The user, with ages as of the slate's time.
        slate: What the user would be shown.
        inspector: Gives the words of items.
    """
    words = inspector.texts([item.item_id for item in slate.items])
    counted = db.query(HAD, [found.user_id])
    had = dict(zip(counted["item_id"].to_pylist(), counted["n"].to_pylist(), strict=True))
    covered = sum(group.n_items for group in found.groups)
    first, newest = iso_ms(found.first_event_ms) or "-", iso_ms(found.newest_event_ms) or "-"
    return Story(
        title=f"User {found.user_id}, in words",
        intro=(
            f"{found.interactions:,} interactions from {first[DATE]} to {newest[DATE]}:"
            f" {len(found.groups)} token groups hold {covered:,} of them, {found.recents} are raw."
        ),
        tokens=[_tokens(group) for group in reversed(found.groups[-GROUPS_SHOWN:])],
        recents=_newest(found.timeline),
        slate=[
            (
                place,
                words.get(item.item_id) or item.item_id,
                item.score,
                _times(had.get(item.item_id, 0.0)),
            )
            for place, item in enumerate(slate.items, start=1)
        ],
        reason=(
            f"Asked at {iso_ms(slate.at_ms)}: {slate.reason}, {slate.coverage.groups} token groups,"
            f" {slate.coverage.recents} recents, model {slate.model_version}."
        ),
    )


def _tokens(group: GroupView) -> tuple[str, str, list[str]]:
    period = f"{(iso_ms(group.first_ms) or '')[DATE]} to {(iso_ms(group.last_ms) or '')[DATE]}"
    words = [
        " · ".join(f"{near.text or near.item_id} ({near.cosine:.2f})" for near in token)
        for token in group.tokens
    ]
    return period, f"{group.n_items} interactions, {duration(group.age_s)} old", words


def _newest(timeline: Sequence[Mapping[str, object]]) -> list[str]:
    return [
        f"{row['text'] or row['item_id']} ({(iso_ms(_int(row['ts_ms'])) or '')[DATE]})"
        for row in timeline[:NEWEST_SHOWN]
    ]


def _int(value: object) -> int:
    return int(str(value))


def _times(count: float) -> str:
    if not count:
        return "new to the user"
    return f"had {count:g} times" if count != 1 else "had once"
