"""Whose turn it is to write positions: each pipeline that starts on a database takes the next epoch.

DuckDB's lock keeps a second process out. The epoch keeps out what the lock does not see: an earlier pipeline
of the same process, or of a file that was put back under a running one.
"""

from __future__ import annotations

from storage.database import Tx, get_meta, set_meta
from storage.errors import FencedError

_KEY = "epoch"


def take(tx: Tx) -> int:
    """Take the next epoch: transactions that name an earlier one fail from now on."""
    epoch = int(get_meta(tx, _KEY) or 0) + 1
    set_meta(tx, _KEY, str(epoch))
    return epoch


def check(tx: Tx, epoch: int) -> None:
    """Let a transaction go on only while its pipeline's epoch is the newest.

    Raises:
        FencedError: a later pipeline has taken over; nothing of the transaction remains.
    """
    newest = int(get_meta(tx, _KEY) or 0)
    if newest != epoch:
        raise FencedError(
            f"epoch {epoch} ended when a later pipeline took epoch {newest} of this database;"
            " only that one may write, so this one must stop"
        )
