"""One new event: extended against tokens and recents, or computed anew with the whole history.

The baseline is what a sequence model without kept state does for every event: one causal pass over
all N raw rows (the pass of training, one segment, item vectors ready). Both sides run the same
layers on the same weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from infra.bench.models import random_cache, random_chain, random_engine, random_rows, random_slots
from infra.bench.result import Findings, Gate, Row, at_least, compared, timed
from infra.bench.timing import Estimate, Spent, cpu, interleave, ratio
from model.config import ModelConfig
from model.cost import extend_flop, full_flop
from model.reference import item_vectors, masked_pass
from model.segments import build_layout

if TYPE_CHECKING:
    from collections.abc import Callable

    from infra.bench.room import Room
    from infra.bench.timing import Work
    from model.engine import Engine

CONFIG = ModelConfig(n_layers=4, d_model=64, n_heads=2, n_tokens=4, segment_len=64, window=32)
HISTORY, RECENTS = 1_280, 128
LEAST, GOAL = 100.0, ">= 500"
_ITEMS = 5_000
_EVENTS = 32
"""Extends per repetition; the recent window is RECENTS long in their middle, or the whole history."""


def run(room: Room) -> Findings:
    """Measure both sides for one user and for 16 at once at N = 1,280, then for one user at other N."""
    engine = random_engine(room.folder, CONFIG, _ITEMS)
    rows: list[Row] = []
    gates: list[Gate] = []
    history = room.size(HISTORY, 256)
    for batch in (1, 16):
        room.note(f"batch {batch}")
        repetitions = room.size(12 if batch == 1 else 6, 2)
        spent = _measure(engine, history, batch, repetitions)
        found = _compare(spent, history, batch)
        rows += found
        if batch == 1:
            gates = _gates(found, history)
    rows += _by_length(engine, room)
    return Findings(
        settings=_settings(history),
        rows=rows,
        gates=gates,
        remarks=[
            "The extend is the whole path of one event: embedding, all layers, the growing cache.",
            "The forward is bound by memory as much as by arithmetic: its attention grows with N squared.",
            "A history beyond window * n + recents costs no more: the newest 32 groups are read.",
        ],
    )


def _by_length(engine: Engine, room: Room) -> list[Row]:
    """One user at other lengths of history; the forward pass is left out where it takes minutes."""
    part, rows = "by history length", []
    for length in room.size((20, 80, 320, 640, 1_280, 2_560, 5_120), (20, 80)):
        room.note(f"history {length}")
        spent = _measure(engine, length, 1, room.size(4, 2))
        rows += [
            timed(part, "full-history forward", spent["full"], at=length),
            timed(part, "one-event extend", spent["extend"], each=_EVENTS, at=length),
            compared(part, "forward over extend", _gain(spent), at=length),
        ]
    for length in room.size((20_480, 65_536), (320,)):
        room.note(f"history {length}")
        only = interleave({"extend": _extends(engine, length, 1)}, repetitions=room.size(8, 2))
        rows.append(timed(part, "one-event extend", only["extend"], each=_EVENTS, at=length))
    return rows


def _settings(history: int) -> dict[str, object]:
    return {
        "layers": CONFIG.n_layers,
        "width": CONFIG.d_model,
        "tokens per group": CONFIG.n_tokens,
        "segment": CONFIG.segment_len,
        "history": history,
        "recents": RECENTS,
        "groups": _groups(history),
        "window": CONFIG.window,
        "weights": "random",
    }


def _groups(history: int) -> int:
    return max(0, history - RECENTS) // CONFIG.segment_len


def _measure(engine: Engine, history: int, batch: int, repetitions: int) -> dict[str, list[Spent]]:
    works = {
        "full": _full(engine, history, batch),
        "extend": _extends(engine, history, batch),
    }
    return interleave(works, repetitions=repetitions)


def _full(engine: Engine, history: int, batch: int) -> Callable[[], Work]:
    users = [random_slots(engine, history, seed=seed) for seed in range(batch)]
    layout = build_layout(users, engine.config)
    vectors = item_vectors(engine)
    return lambda: lambda: masked_pass(engine, layout, vectors)


def _extends(engine: Engine, history: int, batch: int) -> Callable[[], Work]:
    chains = [random_chain(engine, _groups(history), seed=seed) for seed in range(batch)]
    recents = max(0, min(RECENTS, history) - _EVENTS // 2)
    first = _groups(history) * engine.config.segment_len + recents
    events = [
        [random_rows(engine, 1, first=first + step, seed=seed) for seed in range(batch)]
        for step in range(_EVENTS)
    ]

    def prepare() -> Work:
        caches = [random_cache(engine, chain, recents, seed) for seed, chain in enumerate(chains)]

        def work() -> None:
            for one in events:
                engine.extend(caches, one)

        return work

    return prepare


def _compare(spent: dict[str, list[Spent]], history: int, batch: int) -> list[Row]:
    part = f"N = {history:,}, {batch} user{'s at once' if batch > 1 else ''}"
    full_once = full_flop(CONFIG, history)
    one_event = extend_flop(CONFIG, _groups(history), RECENTS)
    gain = _gain(spent)
    return [
        timed(part, "full-history forward", spent["full"]),
        timed(part, "one-event extend", spent["extend"], each=_EVENTS),
        compared(part, "time: forward over extend", gain),
        Row(part=part, what="forward", value=full_once * batch / 1e6, unit="MFLOP"),
        Row(part=part, what="extend", value=one_event * batch / 1e6, unit="MFLOP"),
        Row(part=part, what="FLOP: forward over extend", value=full_once / one_event, unit="x"),
    ]


def _gain(spent: dict[str, list[Spent]]) -> Estimate:
    """Processor time of the forward pass over that of one extend."""
    return ratio([_EVENTS * seconds for seconds in cpu(spent["full"])], cpu(spent["extend"]))


def _gates(rows: list[Row], history: int) -> list[Gate]:
    by_name = {row.what: row for row in rows}
    time, flop = by_name["time: forward over extend"], by_name["FLOP: forward over extend"]
    line = f"forward over extend, N = {history:,}, one user"
    return [
        at_least(f"{line}: time", time.value, LEAST, goal=GOAL),
        at_least(f"{line}: FLOP", flop.value, LEAST, goal=GOAL, timed=False),
    ]
