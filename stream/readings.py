"""Rows at which states are read, as arrays: what a score and a slate are made of. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from stream.facts import RowFacts
from stream.slates import Coverage, ReasonCode
from stream.verdicts import NEVER

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from model.readout import Kind
    from stream.state import UserState

    Ints = NDArray[np.int64]

_COLUMNS = ("row", "user_idx", "at_ms", "groups", "covered_ms", "recents", "left_out", "n_history")


@dataclass(frozen=True, slots=True)
class Readings:
    """R readings of one kind: everything their slates say, taken when the states stood there.

    Attributes:
        kind: which read-out scores them.
        row: what each answers: a row of the batch or a place among the requests, [R].
        user_idx: internal ids, [R].
        at_ms: times, [R].
        hidden: hidden rows, float32 [R, d].
        told: what features of the rows are made of.
        groups: token groups read, [R].
        covered_ms: event time of the last interaction inside them, NEVER for none, [R].
        recents: raw interactions read, [R].
        left_out: interactions in neither, [R].
        n_history: interactions of the whole history, [R].
    """

    kind: Kind
    row: Ints
    user_idx: Ints
    at_ms: Ints
    hidden: NDArray[np.float32]
    told: RowFacts
    groups: Ints
    covered_ms: Ints
    recents: Ints
    left_out: Ints
    n_history: Ints

    def __len__(self) -> int:
        return len(self.row)

    def slice(self, start: int, stop: int) -> Readings:
        """Readings `start:stop`, at least one."""
        cut = slice(start, stop)
        columns = {name: getattr(self, name)[cut] for name in _COLUMNS}
        told = self.told.slice(start, stop)
        return Readings(kind=self.kind, hidden=self.hidden[cut], told=told, **columns)

    def coverage(self) -> list[Coverage]:
        """What of the history each reading has seen."""
        columns = (self.groups, self.covered_ms, self.at_ms, self.recents, self.left_out)
        return [
            Coverage(
                groups=groups,
                covered_through_ms=None if covered == NEVER else covered,
                age_s=None if covered == NEVER else (at - covered) / 1000,
                recents=recents,
                left_out=left_out,
            )
            for groups, covered, at, recents, left_out in zip(
                *(column.tolist() for column in columns), strict=True
            )
        ]


def reason(coverage: Coverage, n_history: int) -> ReasonCode:
    """Why a slate is what it is."""
    if not n_history:
        return "cold_user"
    if coverage.left_out:
        return "stale_tokens"
    return "personal" if coverage.groups else "recent_only"


def portions(parts: Sequence[Readings], size: int) -> Iterator[Readings]:
    """The same readings, all of one kind, `size` at a time; what lies in one part is not copied."""
    held: list[Readings] = []
    room = size
    for part in parts:
        start = 0
        while start < len(part):
            held.append(part.slice(start, start + room))
            start += len(held[-1])
            room -= len(held[-1])
            if not room:
                yield _join(held)
                held, room = [], size
    if held:
        yield _join(held)


def _join(parts: Sequence[Readings]) -> Readings:
    if len(parts) == 1:
        return parts[0]
    told = RowFacts.join([part.told for part in parts])
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _COLUMNS}
    hidden = np.concatenate([part.hidden for part in parts])
    return Readings(kind=parts[0].kind, hidden=hidden, told=told, **columns)


_STATE_COLUMNS = ("user_idx", "groups", "covered_ms", "recents", "left_out", "n_history")


def state_values(state: UserState) -> tuple[int, ...]:
    """What readings say of a state as it stands, in the order of `state_columns`."""
    covered = NEVER if state.covered_through_ms is None else state.covered_through_ms
    return (
        state.user_idx,
        state.groups,
        covered,
        state.recents,
        state.left_out,
        state.n_history,
    )


def state_columns(values: Sequence[tuple[int, ...]]) -> dict[str, Ints]:
    """The values of R states as columns, [R] each."""
    columns = np.array(values, np.int64).reshape(-1, len(_STATE_COLUMNS)).T
    return dict(zip(_STATE_COLUMNS, columns, strict=True))
