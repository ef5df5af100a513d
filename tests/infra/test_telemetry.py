"""Figures and logs: the table is the registry, every line has one shape, secrets and floods stay out."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from infra.telemetry import PrometheusMetrics, Quiet, configure_logs
from stream.metrics import INGEST_BATCH_SECONDS, INGEST_RECORDS, METRICS, POSITION


@pytest.fixture(autouse=True)
def logs_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def lines(out: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_the_registry_holds_the_table_and_nothing_else():
    page = PrometheusMetrics().page().decode()
    found = {
        family.name: family
        for family in text_string_to_metric_families(page)
        if family.name.startswith("freshet_") and not family.name.endswith("_created")
    }
    assert {metric.name.removesuffix("_total") for metric in METRICS} == set(found)
    for metric in METRICS:
        family = found[metric.name.removesuffix("_total")]
        assert (family.type, family.documentation) == (metric.kind, metric.meaning)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_names_follow_the_rules_of_the_table(metric):
    assert metric.name.startswith("freshet_")
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    if metric.unit == "seconds" and metric.kind != "counter":
        assert metric.name.endswith("_seconds")
    assert bool(metric.buckets) == (metric.kind == "histogram")
    assert list(metric.buckets) == sorted(set(metric.buckets))
    assert metric.meaning.endswith(".")
    assert not set(metric.labels) & {"user", "user_id", "item", "item_id"}


def test_no_name_is_given_twice():
    assert len({metric.name for metric in METRICS}) == len(METRICS) > 20


def test_figures_arrive_on_the_page():
    metrics = PrometheusMetrics()
    metrics.add(INGEST_RECORDS, 3, outcome="dead")
    metrics.set(POSITION, 7, topic="log", partition="0")
    metrics.observe(INGEST_BATCH_SECONDS, 0.02)
    page = metrics.page().decode()
    assert 'freshet_ingest_records_total{outcome="dead"} 3.0' in page
    assert 'freshet_consumer_position{partition="0",topic="log"} 7.0' in page
    assert 'freshet_ingest_batch_seconds_bucket{le="0.025"} 1.0' in page


def test_our_lines_and_those_of_libraries_have_one_shape():
    out = io.StringIO()
    configure_logs("json", "info", stream=out)
    logging.getLogger("stream.ingest").info("batch_stored", extra={"rows": 5, "topic": "log"})
    logging.getLogger("kafka.conn").warning("connection to %s lost", "broker:9092")
    ours, theirs = lines(out)
    assert ours | {"at": ""} == {
        "at": "",
        "level": "info",
        "component": "stream.ingest",
        "event": "batch_stored",
        "rows": 5,
        "topic": "log",
    }
    assert theirs["component"] == "kafka.conn"
    assert theirs["event"] == "connection to broker:9092 lost"
    assert ours["at"].endswith("+00:00")
    assert set(theirs) == {"at", "level", "component", "event"}


def test_libraries_are_quiet_below_a_warning_also_when_we_are_not():
    out = io.StringIO()
    configure_logs("json", "debug", stream=out)
    logging.getLogger("kafka.client").debug("sent %r", b"payload")
    logging.getLogger("stream.x").debug("seen")
    assert [line["event"] for line in lines(out)] == ["seen"]


def test_an_exception_is_part_of_its_line():
    out = io.StringIO()
    configure_logs("json", "info", stream=out)
    try:
        int("broken")
    except ValueError:
        logging.getLogger("infra.x").exception("failed")
    (line,) = lines(out)
    assert "ValueError: invalid literal" in line["exception"]


def test_secrets_are_hidden_wherever_they_stand():
    for log_format in ("json", "console"):
        out = io.StringIO()
        configure_logs(log_format, "info", stream=out, secrets=["hunter2", ""])
        logging.getLogger("infra.x").info("login with hunter2", extra={"url": "u:hunter2@h"})
        assert "hunter2" not in out.getvalue()
        assert "login with ***" in out.getvalue()


def test_a_flood_of_a_library_is_cut_and_counted():
    quiet = Quiet(lines=3, window_s=0.0)
    record = logging.makeLogRecord({"name": "aiokafka.conn"})
    assert all(quiet.filter(record) for _ in range(10))
    quiet = Quiet(lines=3, window_s=1e9)
    assert [quiet.filter(logging.makeLogRecord({"name": "a"})) for _ in range(5)] == [
        *[True] * 3,
        *[False] * 2,
    ]
    assert quiet.filter(logging.makeLogRecord({"name": "b"}))


def test_people_get_columns_and_programs_lines():
    out = io.StringIO()
    configure_logs("auto", "info", stream=out)
    logging.getLogger("infra.x").info("said")
    assert lines(out)[0]["event"] == "said"
    out = io.StringIO()
    configure_logs("console", "info", stream=out)
    logging.getLogger("infra.x").info("said", extra={"rows": 1})
    assert "said" in out.getvalue()
    assert not out.getvalue().startswith("{")
