"""The counting baselines on the targets of a protocol, over the candidates the production path had."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from model.baselines.counting import (
    Baseline,
    DailyPopularity,
    Fallback,
    MostFrequent,
    MostRecent,
    Popularity,
)
from model.baselines.mix import Mix, MixFeatures, fit_mix
from model.baselines.sequence import CoOccurrence, Markov

if TYPE_CHECKING:
    from collections.abc import Callable

    from model.baselines.log import EventLog
    from stream.evaluation.ranks import RankBook
    from stream.evaluation.targets import Targets

MIX = "mix, tuned"
BLOCK_CELLS = 1_000_000  # scores held at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """The baselines of one protocol, ready to score; the mix's weights for the report."""

    baselines: tuple[Baseline, ...]
    mix_weights: dict[str, float]


def fit_baselines(events: EventLog, validation: Targets, *, train_end_ms: int) -> Counted:
    """Return every baseline of a protocol; only the mix is fitted, on the validation targets.

    Args:
        events: The whole log; each baseline reads no further than the state it is asked for.
        validation: Targets of the validation period.
        train_end_ms: Item-to-item tables count events before it and stay frozen.
    """
    popularity = DailyPopularity(events)
    fallback = Fallback(popularity)
    markov = Markov(events, fallback, until_ms=train_end_ms)
    together = CoOccurrence(events, fallback, until_ms=train_end_ms)
    line = validation.protocol == "next_line"
    features = MixFeatures(
        events, popularity, markov, together, kind="next_line" if line else "next_visit"
    )
    mix = fit_mix(features, validation.states, validation.state, validation.column)
    counted: list[Baseline] = [
        Popularity(popularity, None, "popularity, all time"),
        Popularity(popularity, 30, "popularity, 30 d"),
        Popularity(popularity, 7, "popularity, 7 d"),
        MostRecent(events, fallback),
        MostFrequent(events, fallback, None, "most frequent"),
        MostFrequent(events, fallback, 365.0, "most frequent, decay 365 d"),
        together,
    ]
    if line:
        counted.append(markov)
    weights = dict(zip(features.names, mix.weights.tolist(), strict=True))
    return Counted(baselines=(*counted, Mix(features, mix.weights, MIX)), mix_weights=weights)


def rank_baselines(
    book: RankBook, counted: Counted, on_progress: Callable[[int, int], None] | None = None
) -> None:
    """Put the ranks of every baseline into the book, for the states that were asked."""
    asked = np.flatnonzero(book.candidate_of >= 0)
    block = max(1, BLOCK_CELLS // book.events.n_items)
    for first in range(0, len(asked), block):
        chosen = asked[first : first + block]
        states = book.targets.states.take(chosen)
        for baseline in counted.baselines:
            book.put(baseline.name, chosen, baseline.scores(states))
        if on_progress is not None:
            on_progress(min(len(asked), first + block), len(asked))
