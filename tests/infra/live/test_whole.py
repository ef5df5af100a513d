"""The two long commands in short: a live demo, and services that die beside a broker that dies."""

import pytest

from infra.exits import ExitCode
from infra.torture.live.report import LiveTorture, torture_live


def _from_jars(broker):
    if broker.backend != "jars":
        pytest.skip(
            f"these start brokers of their own, and there is one from {broker.backend} only"
        )


def test_the_live_demo_counts_what_it_should(broker, freshet):
    _from_jars(broker)
    done = freshet(
        "live-demo", "--users", 8, "--history", 256, "--events", 200, "--segments", 16, "--json"
    )
    assert done.code == ExitCode.OK, done.err
    found = done.json
    assert found["produced"] == found["interactions"] + found["items"] + found["dead_letters"]
    assert found["slates"] + found["shed"] == found["scored"] > 8 * 200
    assert found["segments"] >= 16
    assert found["renewed"] >= 50
    assert found["freshness_ms"]["p50"] > 0


def test_a_few_deaths_leave_books_that_balance(broker, tmp_path):
    _from_jars(broker)
    what = LiveTorture(kills=4, seed=3, events=40_000, rate=100.0)
    report = torture_live(tmp_path, what)
    assert report.ok, report.reason
    assert report.kills == 4
    assert {check.name for check in report.checks} > {
        "records once each",
        "a slate per scored event",
    }
