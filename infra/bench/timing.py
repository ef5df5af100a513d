"""Timing in processor seconds, interleaved repetitions, and intervals of means and ratios."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter, process_time
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

Work: TypeAlias = "Callable[[], object]"
"""What is timed."""
Preparation: TypeAlias = "Callable[[], Work]"
"""Untimed; returns what is timed."""

_ELSEWHERE = np.ones(1 << 24)
_RESAMPLES = 4_000
_BLOCKS, _BLOCK_RESAMPLES = 20, 400
_LEVELS = (0.025, 0.975)


@dataclass(frozen=True, slots=True)
class Spent:
    """Time of one repetition: seconds of this process's processor time, and of the wall clock."""

    cpu_s: float
    wall_s: float

    def __truediv__(self, parts: float) -> Spent:
        """Return the time of one of `parts` equal parts."""
        return Spent(self.cpu_s / parts, self.wall_s / parts)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


def spend(work: Work) -> Spent:
    """Run a piece of work and return what it took."""
    wall, cpu = perf_counter(), process_time()
    work()
    return Spent(process_time() - cpu, perf_counter() - wall)


def cold() -> None:
    """Read more than a processor keeps, so that what is timed next finds nothing that was touched just before."""
    _ELSEWHERE.sum()


def interleave(
    works: Mapping[str, Preparation], *, repetitions: int, warm_up: int = 1
) -> dict[str, list[Spent]]:
    """Time several works in turn, so that what the machine does meanwhile hits all of them alike.

    The order turns by one from repetition to repetition.

    Args:
        works: what to time, by name; each is prepared anew, untimed, before every repetition.
        repetitions: timed runs of each.
        warm_up: untimed runs of each before.
    """
    names = list(works)
    spent: dict[str, list[Spent]] = {name: [] for name in names}
    for number in range(warm_up + repetitions):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            found = spend(works[name]())
            if number >= warm_up:
                spent[name].append(found)
    return spent


def mean(values: Iterable[float], *, seed: int = 0) -> Estimate:
    """Return the mean and its bootstrap interval."""
    found = np.array(list(values))
    return ratio(found.tolist(), [1.0] * len(found), seed=seed)


def ratio(over: Sequence[float], under: Sequence[float], *, seed: int = 0) -> Estimate:
    """Return the ratio of two paired series' sums and its bootstrap interval over the pairs.

    Args:
        over: what is divided, one value per repetition.
        under: what divides, measured beside it.
        seed: of the resamples.

    Raises:
        ValueError: the series differ in length or hold fewer than two pairs.
    """
    left, right = np.array(over, np.float64), np.array(under, np.float64)
    if len(left) != len(right) or len(left) < 2:
        raise ValueError(f"{len(left)} and {len(right)} repetitions make no interval; take 2 pairs")
    drawn = np.random.default_rng(seed).integers(0, len(left), (_RESAMPLES, len(left)))
    ratios = left[drawn].sum(axis=1) / right[drawn].sum(axis=1)
    low, high = np.quantile(ratios, _LEVELS)
    return Estimate(float(left.sum() / right.sum()), float(low), float(high))


def percentile(values: NDArray[np.float64], rank: int) -> Estimate:
    """Return a percentile and its 95 % interval, from resamples of blocks of neighbors: what is slow comes in runs."""
    blocks = np.array_split(values, min(_BLOCKS, len(values)))
    rng = np.random.default_rng(0)
    drawn = [
        np.percentile(
            np.concatenate([blocks[at] for at in rng.integers(0, len(blocks), len(blocks))]), rank
        )
        for _ in range(_BLOCK_RESAMPLES)
    ]
    value = float(np.percentile(values, rank))
    low, high = np.quantile(drawn, _LEVELS)
    return Estimate(value, min(value, float(low)), max(value, float(high)))


def cpu(spent: Iterable[Spent]) -> list[float]:
    """Return the processor seconds of some repetitions."""
    return [one.cpu_s for one in spent]


def wall(spent: Iterable[Spent]) -> list[float]:
    """Return the wall seconds of some repetitions."""
    return [one.wall_s for one in spent]
