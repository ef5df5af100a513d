"""Live hit@k: was a user's next interaction among the items of the user's last slate?

The figure is what happened, not an evaluation: slates shown to nobody count too, and only the first interaction
stored after a slate is compared with it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from stream.slates import Slate


class Names(Protocol):
    """What internal ids stand for; the database's identities."""

    def user_ids(self, user_idxs: NDArray[np.int64], /) -> list[str]:
        """Return the external ids of users."""
        ...

    def item_ids(self, item_idxs: NDArray[np.int64], /) -> list[str]:
        """Return the external ids of items."""
        ...


class Hit(NamedTuple):
    """One comparison: the reason of the slate, and whether it held the next item."""

    reason: str
    outcome: Literal["hit", "miss"]


class LiveHits:
    """The last slate of the users answered lately, each until the user's next interaction.

    Told from the thread that answers and from the one that stores.

    Args:
        names: what internal ids stand for.
        max_users: users whose slate is kept; those answered longest ago go first.
    """

    def __init__(self, names: Names, max_users: int = 10_000) -> None:
        self._names = names
        self._max_users = max_users
        self._lock = threading.Lock()
        self._last: OrderedDict[str, tuple[str, frozenset[str]]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._last)

    def answered(self, slates: Iterable[Slate]) -> None:
        """Remember slates that were written, in the order they were."""
        with self._lock:
            for slate in slates:
                self._last[slate.user_id] = (
                    slate.reason,
                    frozenset(item.item_id for item in slate.items),
                )
                self._last.move_to_end(slate.user_id)
            while len(self._last) > self._max_users:
                self._last.popitem(last=False)

    def stored(self, rows: pa.Table) -> list[Hit]:
        """Compare stored rows with the slates they follow; each slate is compared once.

        Args:
            rows: interactions as appended, in log order within a partition.
        """
        if not self._last:
            return []
        real = rows.select(["user_idx", "item_idx"]).filter(rows["in_history"])
        users = self._names.user_ids(real["user_idx"].to_numpy())
        items = self._names.item_ids(real["item_idx"].to_numpy())
        with self._lock:
            return self._compare(users, items)

    def _compare(self, users: Sequence[str], items: Sequence[str]) -> list[Hit]:
        found = []
        for user, item in zip(users, items, strict=True):
            last = self._last.pop(user, None)
            if last is not None:
                found.append(Hit(last[0], "hit" if item in last[1] else "miss"))
        return found
