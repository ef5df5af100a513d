"""Figures of a report, computed from what was counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stream.check.report import QUANTILES, ItemReport, LengthReport, OrderReport
from stream.check.tally import most_common

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from stream.check.proposals import OrderVerdict, Proposal
    from stream.check.tally import Tally


def order_report(tally: Tally, verdict: OrderVerdict) -> OrderReport:
    """Return how far the log is from being in order of time."""
    order, events = verdict.order, max(1, tally.interactions)
    return OrderReport(
        out_of_order=order.late / events,
        in_file=tally.late_in_file / events,
        p50_ms=order.quantile(0.5),
        p99_ms=order.quantile(0.99),
        max_ms=order.largest_ms,
        furthest_ms=order.furthest_ms,
        strays=verdict.strays,
    )


def length_report(
    histories: NDArray[np.int64], proposals: Sequence[Proposal], window: int | None
) -> LengthReport:
    """Return how long histories are, against what tokens need and what a slate reads.

    Args:
        histories: events per user, int64[users].
        proposals: among them n, r_min and r_max.
        window: token groups that a slate reads; None means all.
    """
    values = {one.key: one.value for one in proposals}
    n, r_min, r_max = (
        int(str(values[key])) for key in ("refresh.segment_len", "refresh.r_min", "serving.r_max")
    )
    events = int(histories.sum())
    reach = r_max + n * window if window is not None else events
    enough = histories >= n + r_min
    quantiles = (
        np.quantile(histories, QUANTILES, method="higher")
        if len(histories)
        else [0] * len(QUANTILES)
    )
    return LengthReport(
        users=len(histories),
        events=events,
        quantiles={q: int(value) for q, value in zip(QUANTILES, quantiles, strict=True)},
        long=n + r_min,
        long_users=float(enough.mean()) if len(histories) else 0.0,
        long_events=float(histories[enough].sum() / max(1, events)),
        reach=reach,
        beyond=float(np.maximum(histories - reach, 0).sum() / max(1, events)),
    )


def item_report(tally: Tally) -> ItemReport:
    """Return how often items are used."""
    counts = np.sort(tally.items.counts)[::-1]
    if not len(counts):
        return ItemReport(items=0, once=0.0, median=0, top=0.0, most_frequent=[])
    hundredth = max(1, len(counts) // 100)
    return ItemReport(
        items=len(counts),
        once=float((counts == 1).mean()),
        median=int(np.median(counts)),
        top=float(counts[:hundredth].sum() / counts.sum()),
        most_frequent=most_common(tally.items, 5),
    )
