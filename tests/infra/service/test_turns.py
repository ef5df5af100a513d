"""Storing and answering take turns: a poll waits for the answer in hand, and no longer than its bound."""

from __future__ import annotations

import threading
from time import monotonic
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from infra.service.answering import Answering
from infra.service.health import Health
from infra.service.ingesting import Ingesting
from infra.service.journeys import Journeys
from infra.telemetry import PrometheusMetrics
from stream.clock import WallClock
from stream.config import LiveConfig
from stream.errors import SinkError
from stream.summary import Answered

if TYPE_CHECKING:
    from collections.abc import Callable

WAIT_S = 30.0


def answering(answer: Callable[..., Answered]) -> Answering:
    """Return what answers over a store in which something always waits."""
    metrics = PrometheusMetrics()
    pipeline: Any = SimpleNamespace(answer=answer, wait_answered=lambda _: False)
    return Answering(
        pipeline,
        LiveConfig(),
        health=Health(),
        metrics=metrics,
        journeys=Journeys(metrics, WallClock()),
    )


def test_storing_waits_for_an_answer_in_hand_and_no_longer():
    begun, end, passed = threading.Event(), threading.Event(), threading.Event()

    def answer(*_: object, **__: object) -> Answered:
        begun.set()
        assert end.wait(WAIT_S)
        return Answered()

    ours = answering(answer)
    beside = threading.Thread(target=ours.answer, args=({},))
    beside.start()
    assert begun.wait(WAIT_S)
    started = monotonic()
    ours.let_pass()  # it hangs: storing is not to hang with it
    assert 0.05 < monotonic() - started < WAIT_S
    waiting = threading.Thread(target=lambda: (ours.let_pass(), passed.set()))
    waiting.start()
    end.set()
    assert passed.wait(WAIT_S)
    beside.join(WAIT_S)
    waiting.join(WAIT_S)


def test_an_answer_that_fails_is_over():
    def answer(*_: object, **__: object) -> Answered:
        raise SinkError("gone", retry_after_s=None)

    ours = answering(answer)
    with pytest.raises(SinkError):
        ours.answer({})
    started = monotonic()
    for _ in range(20):
        ours.let_pass()
    assert monotonic() - started < 20 * 0.1


def test_every_poll_lets_answers_go_first():
    told: list[object] = []

    class Source:
        def poll(self, *_: object) -> SimpleNamespace:
            told.append("poll")
            storing.loop.stop()
            return SimpleNamespace(ranges={})

    pipeline: Any = SimpleNamespace(
        unanswered=lambda: 0,
        config=SimpleNamespace(stream=SimpleNamespace(batch_records=lambda **_: 10), score=True),
    )
    source: Any = Source()
    storing = Ingesting(
        pipeline,
        source,
        LiveConfig(),
        let_answer=lambda: told.append("answers"),
        after=told.append,
        hold=lambda: None,
        health=Health(),
        metrics=PrometheusMetrics(),
    )
    storing.loop.start(told.append)
    storing.loop.join(WAIT_S)
    assert told == ["answers", "poll"]
