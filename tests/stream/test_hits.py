"""Live hits: each slate is compared once, with what its user did next."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pyarrow as pa
import pytest

from stream.hits import Hit, LiveHits
from stream.slates import Coverage, ReasonCode, ScoredItem, Slate


class Numbered:
    """User 3 is "u3", item 4 is "i4"."""

    def user_ids(self, user_idxs: Sequence[int], /) -> list[str]:
        return [f"u{user}" for user in user_idxs]

    def item_ids(self, item_idxs: Sequence[int], /) -> list[str]:
        return [f"i{item}" for item in item_idxs]


def slate(user: int, *items: int, reason: ReasonCode = "personal") -> Slate:
    return Slate(
        id=f"{user}{items}",
        user_id=f"u{user}",
        at_ms=0,
        cause=None,
        items=tuple(ScoredItem(item_id=f"i{item}", score=0.0) for item in items),
        model_version="",
        coverage=Coverage(groups=0, recents=0),
        reason=reason,
        readout="visit",
    )


def rows(*pairs: tuple[int, int], in_history: bool = True) -> pa.Table:
    users, items = zip(*pairs, strict=True)
    return pa.table({
        "user_idx": pa.array(users, pa.int64()),
        "item_idx": pa.array(items, pa.int64()),
        "in_history": pa.array([in_history] * len(pairs)),
    })


@pytest.fixture
def hits() -> LiveHits:
    return LiveHits(Numbered(), max_users=2)


def test_the_next_interaction_is_looked_up_in_the_last_slate(hits: LiveHits) -> None:
    hits.answered([slate(0, 1, 2), slate(1, 3, reason="cold_user")])
    assert hits.stored(rows((0, 2), (1, 9))) == [Hit("personal", "hit"), Hit("cold_user", "miss")]


def test_a_slate_is_compared_once(hits: LiveHits) -> None:
    hits.answered([slate(0, 1)])
    assert hits.stored(rows((0, 7), (0, 1))) == [Hit("personal", "miss")]
    assert hits.stored(rows((0, 1))) == []


def test_only_the_newest_slate_of_a_user_counts(hits: LiveHits) -> None:
    hits.answered([slate(0, 1), slate(0, 2, reason="recent_only")])
    assert hits.stored(rows((0, 1))) == [Hit("recent_only", "miss")]


def test_users_without_a_slate_and_rows_outside_the_history_say_nothing(hits: LiveHits) -> None:
    assert hits.stored(rows((0, 1))) == []
    hits.answered([slate(0, 1)])
    assert hits.stored(rows((0, 1), in_history=False)) == []
    assert hits.stored(rows((5, 1), (0, 1))) == [Hit("personal", "hit")]


def test_memory_is_bounded_by_users_answered_lately(hits: LiveHits) -> None:
    hits.answered([slate(user, 1) for user in range(5)])
    assert len(hits) == 2
    assert hits.stored(rows((0, 1), (4, 1))) == [Hit("personal", "hit")]
    hits.answered([slate(3, 2), slate(6, 1), slate(7, 1)])
    assert hits.stored(rows((3, 2))) == []


def test_two_threads_compare_no_slate_twice(hits: LiveHits) -> None:
    found: list[Hit] = []

    def store() -> None:
        for _ in range(200):
            found.extend(hits.stored(rows((0, 1))))

    threads = [threading.Thread(target=store) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(200):
        hits.answered([slate(0, 1)])
    for thread in threads:
        thread.join()
    found.extend(hits.stored(rows((0, 1))))
    assert 1 <= len(found) <= 200
    assert {one.outcome for one in found} == {"hit"}
