"""The benchmarks by name; their modules are imported when they run."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from infra.bench.result import Findings
    from infra.bench.room import Room


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One benchmark.

    Attributes:
        what: what it measures, in a sentence.
        minutes: roughly how long it takes on two cores.
        long: left out unless it is named.
        broker: needs Java and a broker; left out unless it is named.
    """

    what: str
    minutes: int
    long: bool = False
    broker: bool = False


BENCHES: dict[str, Entry] = {
    "extend": Entry(
        what="One new event against tokens and recents, over a forward pass through the whole history.",
        minutes=2,
    ),
    "history": Entry(
        what="Time per event of a user with 64k events, over one with 4k and equal recents.",
        minutes=3,
    ),
    "scoring": Entry(
        what="Events scored per core-second by catalogue and users, over model and top-k alone,"
        " and over RecTools' HSTU called per user.",
        minutes=8,
    ),
    "replay": Entry(
        what="Replay of the whole shipped log: append only, with ticks, with slates, by stage.",
        minutes=15,
    ),
    "state": Entry(
        what="Bytes of a user's tokens in memory and on disk, and what one compression costs.",
        minutes=1,
    ),
    "memory": Entry(
        what="Peak memory of a replay with twice the users, and with twice the history.", minutes=6
    ),
    "reload": Entry(
        what="Scores after eviction and reload, and how long a load of 256 users takes.", minutes=2
    ),
    "scale": Entry(
        what="A generated log of 20 million events and one million users with ticks, then slates.",
        minutes=60,
        long=True,
    ),
    "ingest": Entry(
        what="Events stored from a broker per processor second, over a bare poll loop that only counts them.",
        minutes=4,
        broker=True,
    ),
    "latency": Entry(
        what="From an event's due time to its slate on the topic, over the same service without a model.",
        minutes=14,
        broker=True,
    ),
    "overload": Entry(
        what="The highest rate a service keeps up with, then three times as much for a minute.",
        minutes=8,
        broker=True,
    ),
}


def run_bench(name: str, room: Room) -> Findings:
    """Run one benchmark of `BENCHES`."""
    module = import_module(f"infra.bench.{name}")
    found: Findings = module.run(room)
    return found
