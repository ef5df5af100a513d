"""Storing and answering take turns: a poll waits for the answer in hand, and no longer than its bound."""

from __future__ import annotations

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


def answering(answer: Callable[..., Answered]) -> Answering:
    metrics = PrometheusMetrics()
    pipeline: Any = SimpleNamespace(answer=answer)
    return Answering(
        pipeline,
        LiveConfig(),
        health=Health(),
        metrics=metrics,
        journeys=Journeys(metrics, WallClock()),
    )


def test_nothing_is_idle_while_it_is_answered():
    seen: list[bool] = []

    def answer(*_: object, **__: object) -> Answered:
        seen.append(ours.wait_idle(0.0))
        return Answered()

    ours = answering(answer)
    before = ours.wait_idle(0.0)
    ours.answer({})
    assert (before, seen, ours.wait_idle(0.0)) == (True, [False], True)


def test_an_answer_that_fails_is_over():
    def answer(*_: object, **__: object) -> Answered:
        raise SinkError("gone", retry_after_s=None)

    ours = answering(answer)
    with pytest.raises(SinkError):
        ours.answer({})
    assert ours.wait_idle(0.0)


def test_every_poll_lets_answers_go_first_and_says_for_how_long():
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
        let_answer=told.append,
        after=told.append,
        hold=lambda: None,
        health=Health(),
        metrics=PrometheusMetrics(),
    )
    storing.loop.start(told.append)
    storing.loop.join(10.0)
    bound, *rest = told
    assert rest == ["poll"]
    assert isinstance(bound, float)
    assert 0 < bound <= LiveConfig().stall_s
