"""Looking at one user, one item, one user's tokens: what is stored, and what the tokens mean in words."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from storage import items as item_store
from storage.identities import Identities
from storage.tokens import load_groups

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa
    from numpy.typing import NDArray

    from model.engine import Engine
    from storage.database import Database
    from storage.records import Reader
    from storage.tokens import GroupRow

_USER = """
    SELECT u.user_id, u.topic, u.part, epoch_ms(u.first_seen) AS first_seen_ms, h.interactions,
        epoch_ms(h.first_event) AS first_event_ms, epoch_ms(h.newest_event) AS newest_event_ms
    FROM users u JOIN user_history h ON h.user_idx = u.user_idx WHERE u.user_id = ?"""
_TIMELINE = """
    SELECT position, epoch_ms(ts) AS ts_ms, event_type, item_id, text, value, covered_by, duplicate, late, displaced,
        topic, part, off
    FROM user_timeline WHERE user_id = ? ORDER BY position DESC LIMIT ?"""
_RECENTS = "SELECT count(*) AS n FROM user_timeline WHERE user_id = ? AND covered_by = 'recent'"
_FAVORITES = """
    SELECT c.item_id, i.text, c.n, c.s365, epoch_ms(c.last_ts) AS last_ts_ms
    FROM counters c JOIN items i ON i.item_idx = c.item_idx
    WHERE c.user_id = ? ORDER BY c.n DESC, c.last_ts DESC, c.item_id LIMIT ?"""
_ITEM = """
    SELECT i.item_id, i.text, i.available, epoch_ms(i.first_seen) AS first_seen_ms, i.source,
        count(r.ts) FILTER (r.in_history) AS interactions,
        count(DISTINCT r.user_idx) FILTER (r.in_history) AS users,
        epoch_ms(max(r.ts) FILTER (r.in_history)) AS newest_event_ms
    FROM items i LEFT JOIN rows_all r ON r.item_idx = i.item_idx
    WHERE i.item_id = ? GROUP BY ALL"""
_BUYERS = """
    SELECT user_id, n, epoch_ms(last_ts) AS last_ts_ms FROM counters
    WHERE item_id = ? ORDER BY n DESC, last_ts DESC, user_id LIMIT ?"""
_TEXTS = "SELECT item_id, text FROM items WHERE item_id IN (SELECT unnest(?))"

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Near:
    """A candidate item near a vector; `cosine` is their similarity."""

    item_id: str
    text: str | None
    cosine: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupView:
    """One token group: which part of the history it holds, how old that is, and what its tokens are near to.

    Attributes:
        segment: number of the segment.
        first_ms: event time of its first interaction.
        last_ms: event time of its last interaction.
        age_s: seconds from the last interaction to the time asked.
        n_items: interactions in it.
        bytes: size of the stored keys and values.
        run_id: refresh run that wrote it.
        device: where it was computed.
        created_at_ms: when it was computed.
        tokens: nearest items of each of the K tokens; empty without a model.
    """

    segment: int
    first_ms: int
    last_ms: int
    age_s: float
    n_items: int
    bytes: int
    run_id: int
    device: str
    created_at_ms: int
    tokens: list[list[Near]] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class UserView:
    """One user as stored.

    Attributes:
        user_id: external id.
        topic: of the user's home partition.
        part: of the user's home partition.
        interactions: length of the history.
        first_event_ms: event time of its first interaction, None without history.
        newest_event_ms: event time of its newest interaction, None without history.
        recents: history rows after the last token group.
        model_version: version of the groups shown; None without a model.
        groups: token groups, oldest first.
        favorites: items with the largest counts (item_id, text, n, s365, last_ts_ms).
        timeline: newest rows first, returns and duplicates included.
    """

    user_id: str
    topic: str
    part: int
    interactions: int
    first_event_ms: int | None
    newest_event_ms: int | None
    recents: int
    model_version: str | None
    groups: list[GroupView]
    favorites: list[Row]
    timeline: list[Row]


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemView:
    """One item as stored: catalogue row, use, heaviest users, nearest items of the model.

    Attributes:
        item_id: external id.
        text: description, if there is one.
        available: whether it may be recommended.
        first_seen_ms: first sight, ms since the epoch.
        source: what announced it: an item record or an interaction.
        interactions: history rows with it.
        users: users with it in their history.
        newest_event_ms: event time of the newest one.
        known_to_model: it has a row of its own in the model; None without a model.
        nearest: nearest other items; empty without a model.
        top_users: heaviest users (user_id, n, last_ts_ms).
    """

    item_id: str
    text: str | None
    available: bool
    first_seen_ms: int | None
    source: str | None
    interactions: int
    users: int
    newest_event_ms: int | None
    known_to_model: bool | None
    nearest: list[Near]
    top_users: list[Row]


class Inspector:
    """Answers questions about one database; reads only.

    Args:
        db: the database.
        engine: the model of the tokens; without one, tokens have no words.
        identities: internal ids, if they are in memory already.
    """

    def __init__(
        self, db: Database, engine: Engine | None, identities: Identities | None = None
    ) -> None:
        self._db = db
        self._engine = engine
        self._ids = identities or Identities.load(db)
        self._catalogue: _Catalogue | None = None

    def user(
        self,
        user_id: str,
        *,
        at_ms: int | None = None,
        rows: int = 20,
        nearest: int = 5,
        groups: int | None = None,
    ) -> UserView | None:
        """Return what is stored of a user, None if there is no such user.

        Args:
            user_id: external id.
            at_ms: ages are counted to this time; None takes the user's newest event.
            rows: timeline rows and favorites at most.
            nearest: items per token.
            groups: newest token groups at most; None for all.
        """
        with self._db.snapshot() as read:
            found = read.query(_USER, [user_id]).to_pylist()
            if not found:
                return None
            row = found[0]
            timeline = read.query(_TIMELINE, [user_id, rows]).to_pylist()
            favorites = read.query(_FAVORITES, [user_id, rows]).to_pylist()
            recents = int(read.query(_RECENTS, [user_id])["n"][0].as_py())
            stored = self._groups(read, user_id, groups)
        until = at_ms if at_ms is not None else (row["newest_event_ms"] or 0)
        return UserView(
            user_id=user_id,
            topic=row["topic"],
            part=row["part"],
            interactions=row["interactions"],
            first_event_ms=row["first_event_ms"],
            newest_event_ms=row["newest_event_ms"],
            recents=recents,
            model_version=self._engine.version if self._engine else None,
            groups=[self._view(group, until, nearest) for group in stored],
            favorites=favorites,
            timeline=timeline,
        )

    def item(self, item_id: str, *, rows: int = 10, nearest: int = 10) -> ItemView | None:
        """Return what is stored of an item, None if there is no such item."""
        with self._db.snapshot() as read:
            found = read.query(_ITEM, [item_id]).to_pylist()
            if not found:
                return None
            top_users = read.query(_BUYERS, [item_id, rows]).to_pylist()
        known, near = None, list[Near]()
        if self._engine is not None:
            known = item_id in set(self._engine.vocabulary)
            near = self._items(self._engine).beside(item_id, nearest)
        return ItemView(**found[0], known_to_model=known, nearest=near, top_users=top_users)

    def texts(self, item_ids: Sequence[str]) -> dict[str, str | None]:
        """Return the description of each item that has a row, by id."""
        found = self._db.query(_TEXTS, [list(item_ids)])
        pairs = zip(found["item_id"].to_pylist(), found["text"].to_pylist(), strict=True)
        return dict(pairs)

    def similar_ids(self, text: str, *, kind: str, limit: int = 3) -> list[str]:
        """Return stored ids that start like `text`; `kind` is "user" or "item"."""
        table, column = ("users", "user_id") if kind == "user" else ("items", "item_id")
        sql = (
            f"SELECT {column} AS id FROM {table} WHERE starts_with({column}, ?) ORDER BY 1 LIMIT ?"  # noqa: S608 names fixed above
        )
        found = self._db.query(sql, [text[: max(1, len(text) - 1)], limit])
        return [str(name) for name in found["id"].to_pylist()]

    def _groups(self, read: Reader, user_id: str, newest: int | None) -> list[GroupRow]:
        user_idx = self._ids.find_user(user_id)
        if self._engine is None or user_idx is None:
            return []
        return load_groups(read, [user_idx], self._engine.version, newest=newest)

    def _view(self, group: GroupRow, at_ms: int, nearest: int) -> GroupView:
        near = None if self._engine is None else self._items(self._engine).near
        words = [near(vector, nearest) for vector in group.outputs] if near else []
        return GroupView(
            segment=group.segment,
            first_ms=group.first.h_ts_ms,
            last_ms=group.last.h_ts_ms,
            age_s=max(0, at_ms - group.last.h_ts_ms) / 1000,
            n_items=group.n_items,
            bytes=len(group.kv),
            run_id=group.run_id,
            device=group.device,
            created_at_ms=group.created_at_ms,
            tokens=words,
        )

    def _items(self, engine: Engine) -> _Catalogue:
        if self._catalogue is None:
            self._catalogue = _Catalogue(engine, item_store.all_items(self._db))
        return self._catalogue


class _Catalogue:
    """Candidate vectors with their words."""

    def __init__(self, engine: Engine, items: pa.Table) -> None:
        self._ids: list[str] = items["item_id"].to_pylist()
        self._texts: list[str | None] = items["text"].to_pylist()
        self._vectors = np.asarray(engine.candidate_vectors(self._ids, self._texts))

    def near(
        self, vector: NDArray[np.float32], count: int, *, without: Sequence[int] = ()
    ) -> list[Near]:
        """Return the items with the largest cosine, best first."""
        norm = float(np.linalg.norm(vector))
        scores = self._vectors @ (vector / norm if norm else vector)
        scores[list(without)] = -np.inf
        order = np.argsort(-scores, kind="stable")[:count]
        return [Near(self._ids[i], self._texts[i], float(scores[i])) for i in order]

    def beside(self, item_id: str, count: int) -> list[Near]:
        """Return the items nearest to another one, itself left out."""
        place = self._ids.index(item_id)
        return self.near(self._vectors[place], count, without=[place])
