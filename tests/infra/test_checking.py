"""`freshet check` on the shipped log and on what people do to logs; its settings run at once."""

import gzip
import json

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from infra.exits import ExitCode
from infra.shipped import CHECKPOINT, EVENTS

ROWS = 20_000


@pytest.fixture(scope="module")
def shipped() -> pa.Table:
    """The first rows of the shipped log."""
    return pq.read_table(EVENTS).slice(0, ROWS)


def saved(table: pa.Table, path):
    pq.write_table(table, path)
    return path


def values(report: dict) -> dict:
    return {one["key"]: one["value"] for one in report["proposals"]}


def said(report: dict, level: str) -> str:
    return "\n".join(f"{a['what']}: {a['remedy']}" for a in report["advice"] if a["level"] == level)


def replayed(freshet, log, config, folder, *more) -> dict:
    """Show the written settings, then replay the log with them."""
    shown = freshet("config", "show", "--config", config, "--json")
    assert shown.code == 0, shown.err
    db = folder / "x.duckdb"
    done = freshet("replay", log, "--config", config, "--db", db, "--json", "--quiet", *more)
    assert done.code == 0, done.err
    return done.json


def test_the_shipped_log_as_a_whole(freshet, tmp_path):
    config = tmp_path / "freshet.toml"
    outcome = freshet("check", EVENTS, "--write", config, "--json")
    assert outcome.code == 0, outcome.err
    report = outcome.json
    assert (report["records"], report["interactions"], report["bad_records"]) == (
        788_187,
        788_187,
        0,
    )
    assert (report["lengths"]["users"], report["items"]["items"]) == (5_852, 4_743)
    assert report["order"]["out_of_order"] == 0
    assert report["histories"]["tied"] > 0.99
    assert report["sampled"] == 1
    assert not said(report, "problem") + said(report, "warning")
    found = values(report)
    assert (found["stream.lateness_ms"], found["stream.visit_gap_ms"]) == (0, 0)
    assert (found["refresh.segment_len"], found["refresh.r_min"]) == (64, 64)
    done = replayed(freshet, EVENTS, config, tmp_path, "--model", CHECKPOINT, "--max-records", 500)
    assert (done["interactions"], done["slates"], done["dead"]) == (500, 500, 0)


def test_a_shuffled_copy_is_to_be_sorted(freshet, shipped, tmp_path):
    order = np.random.default_rng(0).permutation(ROWS)
    log = saved(shipped.take(pa.array(order)), tmp_path / "log.parquet")
    config = tmp_path / "freshet.toml"
    outcome = freshet("check", log, "--write", config, "--json")
    assert outcome.code == ExitCode.FOUND
    assert "not in order of time" in said(outcome.json, "problem")
    assert "sort it by time" in said(outcome.json, "problem")
    assert replayed(freshet, log, config, tmp_path, "--max-records", 2_000)["dead"] == 0


def test_a_copy_with_late_events_gets_a_lateness(freshet, shipped, tmp_path):
    ts = shipped["ts"].to_numpy()
    delay = np.where(np.arange(ROWS) % 50 == 0, 3 * 3_600_000, 0)
    log = saved(
        shipped.take(pa.array(np.argsort(ts + delay, kind="stable"))), tmp_path / "log.parquet"
    )
    outcome = freshet("check", log, "--json")
    assert outcome.code == 0
    assert values(outcome.json)["stream.lateness_ms"] == 4 * 3_600_000
    assert "of the events are late" in said(outcome.json, "note")


def test_seconds_and_columns_of_other_names(freshet, shipped, tmp_path):
    log, config = tmp_path / "log.csv", tmp_path / "freshet.toml"
    seconds = pa.array(shipped["ts"].to_numpy() // 1_000)
    table = shipped.select(["user_id", "item_id", "value"]).append_column("InvoiceDate", seconds)
    names = ["Customer ID", "StockCode", "Quantity", "InvoiceDate"]
    pyarrow.csv.write_csv(table.rename_columns(names), log)
    outcome = freshet("check", log, "--write", config, "--json")
    assert outcome.code == 0, outcome.err
    assert values(outcome.json)["log.ts_unit"] == "s"
    assert "would make them 1970-01-15" in said(outcome.json, "warning")
    done = replayed(freshet, log, config, tmp_path, "--max-records", 1_000)
    assert (done["interactions"], done["dead"]) == (1_000, 0)
    shown = freshet("sql", "select min(ts) as at from user_timeline", "--db", tmp_path / "x.duckdb")
    assert "2009-12-01T07:45:00Z" in shown.out


def test_a_broken_copy_names_what_is_broken(freshet, shipped, tmp_path):
    log = tmp_path / "log.jsonl"
    rows = [json.dumps(row) for row in shipped.slice(0, 500).to_pylist()]
    rows[100], rows[200] = rows[100][:30], '{"user_id": "13085"}'
    log.write_text("\n".join(rows)[:-25])
    outcome = freshet("check", log)
    assert outcome.code == ExitCode.FOUND
    plain = " ".join(outcome.out.replace("│", " ").split())
    for part in ("line 101", "line 201", "malformed", "missing_field", "last record is cut off"):
        assert part in plain


def test_a_copy_without_a_column_is_refused_in_one_line(freshet, shipped, tmp_path):
    log = saved(shipped.drop_columns(["user_id"]), tmp_path / "log.parquet")
    outcome = freshet("check", log)
    assert outcome.code == ExitCode.INPUT
    (line,) = outcome.err.splitlines()
    assert "no column looks like user_id" in line
    assert "--map user_id=COLUMN" in line
    assert not outcome.out


def test_a_file_damaged_on_the_way_is_reported_and_refused(freshet, made, tmp_path):
    log, config = tmp_path / "log.jsonl.gz", tmp_path / "freshet.toml"
    data = gzip.compress(made.log.read_bytes())
    log.write_bytes(data[: len(data) * 2 // 3])
    outcome = freshet("check", log, "--write", config)
    assert outcome.code == ExitCode.INPUT
    assert "restore the whole file" in outcome.err
    assert "reading ended after" in outcome.out
    assert not config.exists()


def test_the_report_is_readable(freshet, made, tmp_path):
    config = tmp_path / "freshet.toml"
    shown = freshet("check", made.log, "--write", config)
    assert shown.code == 0
    for part in (
        "read as",
        "out of order",
        "settings that fit",
        "view",
        "purchase",
        "freshet replay",
    ):
        assert part in shown.out
    assert replayed(freshet, made.log, config, tmp_path)["slates"] > 300


def test_settings_are_not_overwritten_without_force(freshet, made, tmp_path):
    config = tmp_path / "freshet.toml"
    config.write_text("# mine\n")
    refused = freshet("check", made.log, "--write", config)
    assert refused.code == ExitCode.INPUT
    assert "--force" in refused.err
    assert config.read_text() == "# mine\n"
    assert freshet("check", made.log, "--write", config, "--force").code == 0
    assert "[stream]" in config.read_text()
    assert freshet("check", made.log, "--write", tmp_path / "no" / "f.toml").code == ExitCode.INPUT


def test_what_is_configured_is_kept(freshet, made, tmp_path):
    config = tmp_path / "freshet.toml"
    flags = ("--set", "stream.lateness_ms=7000", "--map", "item_id=item_id", "--write", config)
    assert values(freshet("check", made.log, "--json", *flags).json)["stream.lateness_ms"] == 7_000
    assert 'item_id = "item_id"' in config.read_text()


def test_names_that_toml_must_quote_survive(freshet, tmp_path):
    log, config = tmp_path / "log.csv", tmp_path / "freshet.toml"
    kinds = ['add "to" cart', "page.view", "päge\\x", "a=b"]
    rows = [f'u{i % 3},i{i % 5},2023-01-{i % 28 + 1:02},"{kinds[i % 4]}"' for i in range(56)]
    head = "user #,item.id,day [UTC],type"
    rows = [
        row.replace('add "to"', 'add ""to""') for row in sorted(rows, key=lambda r: r.split(",")[2])
    ]
    log.write_text("\n".join([head, *rows]) + "\n")
    flags = ("--map", "user_id=user #,item_id=item.id,ts=day [UTC]")
    assert freshet("check", log, "--write", config, *flags).code == 0
    assert replayed(freshet, log, config, tmp_path)["interactions"] == 56
    rows = freshet("config", "show", "stream.event_types", "--config", config, "--json").json
    assert {f"stream.event_types.{kind}.weight" for kind in kinds} <= {row["key"] for row in rows}
