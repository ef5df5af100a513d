"""What every sink promises: one function per invariant, so that each can be seen to fail."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from stream.errors import SinkError
from stream.slates import Cause, Coverage, ScoredItem, Slate, SlateLines, recommendation_id

if TYPE_CHECKING:
    from collections.abc import Callable

    from stream.sinks import Sink


@dataclass(frozen=True)
class SinkCase:
    """A sink and a look at what it has made durable.

    Attributes:
        open: the sink, on what earlier ones wrote where it outlives them.
        stored: what is durable right now, in order, read without the sink's help.
        outlives: whether slates are still there after the sink is gone.
    """

    open: Callable[[], Sink]
    stored: Callable[[], list[Slate]]
    outlives: bool


def slate(number: int, *, text: str = "") -> Slate:
    """Return a slate for the record at offset `number`."""
    return Slate(
        id=recommendation_id("log", 0, number),
        user_id=f"u{number % 3}{text}",
        at_ms=1_700_000_000_000 + number,
        cause=Cause(topic="log", partition=0, offset=number, ts=1_700_000_000_000 + number),
        items=tuple(ScoredItem(item_id=f"i{k}", score=1.0 / (k + 1)) for k in range(number % 4)),
        model_version="v",
        coverage=Coverage(groups=0, recents=number),
        reason="recent_only",
        readout="line",
    )


def slates_are_durable_when_write_returns(case: SinkCase) -> None:
    """What was written can be read before the sink is closed."""
    sink = case.open()
    sink.write(SlateLines([slate(0), slate(1)]))
    stored = case.stored()
    sink.close()
    assert stored == [slate(0), slate(1)]


def order_is_kept(case: SinkCase) -> None:
    """Slates are stored in the order of writing, over batches of any size."""
    sink = case.open()
    numbers = [5, 3, 4, 0, 9, 9, 2]
    sink.write(SlateLines([slate(n) for n in numbers[:3]]))
    sink.write(SlateLines([slate(numbers[3])]))
    sink.write(SlateLines([slate(n) for n in numbers[4:]]))
    sink.close()
    assert [s.id for s in case.stored()] == [slate(n).id for n in numbers]


def an_empty_batch_changes_nothing(case: SinkCase) -> None:
    """Writing nothing stores nothing."""
    sink = case.open()
    sink.write(SlateLines([]))
    sink.write(SlateLines([slate(1)]))
    sink.write(SlateLines([]))
    sink.close()
    assert case.stored() == [slate(1)]


def every_character_comes_back(case: SinkCase) -> None:
    """Line ends, quotes and any script in ids do not disturb neighbors."""
    odd = [slate(n, text=text) for n, text in enumerate(("\n", '"', "\\", "é漢🛒", "\u2028\x00"))]
    sink = case.open()
    sink.write(SlateLines(odd))
    sink.close()
    assert case.stored() == odd


def reopening_goes_on_after_what_is_there(case: SinkCase) -> None:
    """A later sink adds to what earlier ones wrote."""
    if not case.outlives:
        return
    for number in range(3):
        sink = case.open()
        sink.write(SlateLines([slate(number)]))
        sink.close()
    assert case.stored() == [slate(n) for n in range(3)]


def a_closed_sink_refuses(case: SinkCase) -> None:
    """Nothing can be lost by writing after the end; closing twice is no error."""
    sink = case.open()
    sink.close()
    sink.close()
    refused = False
    try:
        sink.write(SlateLines([slate(1)]))
    except SinkError:
        refused = True
    assert refused, "a closed sink took slates"
    assert case.stored() == []


CHECKS: tuple[Callable[[SinkCase], None], ...] = (
    slates_are_durable_when_write_returns,
    order_is_kept,
    an_empty_batch_changes_nothing,
    every_character_comes_back,
    reopening_goes_on_after_what_is_there,
    a_closed_sink_refuses,
)


class SinkContract:
    """Runs every check against the `case` fixture of a subclass."""

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    def test_contract(self, check: Callable[[SinkCase], None], case: SinkCase) -> None:
        check(case)
