"""A whole log as tables: what training and evaluation read instead of polling."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stream.errors import DeadShareError, SourceError
from stream.events import EventBatch, concat_batches

if TYPE_CHECKING:
    from collections.abc import Callable

    from stream.config import StreamConfig
    from stream.sources import Source

POLL_RECORDS = 100_000
"""Records per poll: large, because nothing is stored between two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogTables:
    """A log read to its end.

    Attributes:
        interactions: rows of INTERACTION_SCHEMA in log order, repeats of an event_id left out.
        items: rows of ITEM_SCHEMA found in the log.
        records: records read.
        dead: bad records among them.
        duplicates: interactions left out.
    """

    interactions: pa.Table
    items: pa.Table
    records: int
    dead: int
    duplicates: int


def read_log(
    source: Source,
    config: StreamConfig,
    *,
    on_progress: Callable[[int], None] | None = None,
) -> LogTables:
    """Return everything a source holds.

    Raises:
        DeadShareError: more bad records than the configuration allows.
        SourceError: the source can not be read, or holds no interaction and no item.
    """
    batches: list[EventBatch] = []
    records = 0
    while not (batches and batches[-1].exhausted):
        batches.append(replace(source.poll(POLL_RECORDS, 0.0), originals=()))  # not all in memory
        records += batches[-1].records
        if on_progress is not None:
            on_progress(records)
    whole = concat_batches(batches, exhausted=True)
    _check_dead(len(whole.dead), records, config)
    if not whole.interactions.num_rows and not whole.items.num_rows:
        first = f": {whole.dead[0].detail}" if whole.dead else ""
        raise SourceError(
            f"the log holds no interaction and no item{first}; check path and columns"
        )
    interactions = without_duplicates(whole.interactions)
    return LogTables(
        interactions=interactions,
        items=whole.items,
        records=records,
        dead=len(whole.dead),
        duplicates=whole.interactions.num_rows - interactions.num_rows,
    )


def without_duplicates(interactions: pa.Table) -> pa.Table:
    """Return the rows without those whose (user_id, event_id) came before; rows without an event_id stay."""
    given = pc.is_valid(interactions["event_id"])
    if not pc.any(given).as_py():
        return interactions
    rows = pa.array(np.arange(interactions.num_rows))
    keyed = pa.table({
        "user_id": interactions["user_id"],
        "event_id": interactions["event_id"],
        "row": rows,
    }).filter(given)
    first = keyed.group_by(["user_id", "event_id"]).aggregate([("row", "min")])["row_min"]
    kept = np.asarray(pc.invert(given))
    kept[first.to_numpy()] = True
    return interactions.filter(pa.array(kept))


def _check_dead(dead: int, records: int, config: StreamConfig) -> None:
    if dead >= config.min_dead_records and dead > config.max_dead_share * records:
        raise DeadShareError(
            f"{dead:,} of {records:,} records are bad, more than stream.max_dead_share"
            f" {config.max_dead_share:g}; correct the log or its column map, or raise the share",
            dead=dead,
            records=records,
        )
