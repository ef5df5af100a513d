"""The optional bounded log of served slates in the database."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pyarrow as pa

from storage import slates as slate_store

if TYPE_CHECKING:
    from collections.abc import Sequence

    from storage.database import Tx
    from storage.identities import Identities
    from stream.slates import Slate


def log_slates(tx: Tx, slates: Sequence[Slate], identities: Identities, *, keep: int) -> None:
    """Append slates and keep the newest `keep` of all; 0 keeps no log."""
    if not keep or not slates:
        return
    slate_store.append(tx, pa.Table.from_pylist([_row(s, identities) for s in slates[-keep:]]))
    slate_store.trim(tx, keep)


def _row(slate: Slate, identities: Identities) -> dict[str, object]:
    cause = slate.cause
    detail = {
        "coverage": slate.coverage,
        "readout": slate.readout,
        "cut_ms": slate.popularity_cut_ms,
    }
    return {
        "slate_id": slate.id,
        "user_idx": identities.find_user(slate.user_id),
        "at_ms": slate.at_ms,
        "topic": cause.topic if cause else "",
        "part": cause.partition if cause else 0,
        "off": cause.offset if cause else 0,
        "model_version": slate.model_version,
        "reason": slate.reason,
        "items": msgspec.json.encode(slate.items).decode(),
        "detail": msgspec.json.encode(detail).decode(),
    }
