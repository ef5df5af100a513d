"""Looking at a database: inspect, recommend, status, sql, doctor."""

import csv
import io
import json
import re

import pytest

from infra.exits import ExitCode


def events(world) -> list[dict]:
    rows = []
    for line in world.log.read_text().splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        good = isinstance(row.get("item_id"), str) and row["item_id"] and row["ts"] > 0
        if good and row.get("user_id"):
            rows.append(row)
    return rows


def busiest(world) -> str:
    users = [row["user_id"] for row in events(world)]
    return max(sorted(set(users)), key=users.count)


def test_inspect_user_shows_history_tokens_in_words_recents_and_a_slate(freshet, made):
    user = busiest(made)
    shown = freshet("inspect", "user", user, "--db", made.db, "--rows", 5, "--json").json
    found, slate = shown["user"], shown["slate"]
    distinct = {row["event_id"]: row for row in events(made) if row["user_id"] == user}
    assert found["interactions"] == len(distinct)
    assert found["recents"] + 8 * len(found["groups"]) == len(distinct)
    assert found["newest_event_ms"] == max(row["ts"] for row in distinct.values())
    assert len(found["timeline"]) == 5
    for number, group in enumerate(found["groups"]):
        assert group["segment"] == number
        assert group["n_items"] == 8
        assert group["first_ms"] <= group["last_ms"]
        assert [len(near) for near in group["tokens"]] == [4, 4]
    assert slate["reason"] == "personal"
    assert slate["coverage"]["recents"] == found["recents"]
    assert len(slate["items"]) == 10


def test_inspect_user_reads_well(freshet, made):
    out = freshet("inspect", "user", busiest(made), "--db", made.db).out
    for part in (
        "token groups hold",
        "segment 0:",
        "token 1:",
        "timeline, newest first",
        "slate at",
    ):
        assert part in out
    assert re.search(r"interactions, \d+ (d|h|min)", out)


def test_nearest_items_of_a_token_are_sorted_by_cosine(freshet, made):
    shown = freshet("inspect", "tokens", busiest(made), "--db", made.db, "--nearest", 6, "--json")
    for group in shown.json["groups"]:
        for near in group["tokens"]:
            cosines = [one["cosine"] for one in near]
            assert cosines == sorted(cosines, reverse=True)
            assert all(one["text"] for one in near)


def test_only_the_newest_groups_are_shown_on_request(freshet, made):
    user = busiest(made)
    everything = freshet("inspect", "tokens", user, "--db", made.db, "--json").json["groups"]
    newest = freshet("inspect", "tokens", user, "--db", made.db, "--newest", 2, "--json").json
    assert newest["groups"] == everything[-2:]


def test_inspect_item_counts_what_the_log_says(freshet, made):
    rows = {row["event_id"]: row for row in events(made)}.values()
    item = max(row["item_id"] for row in rows)
    shown = freshet("inspect", "item", item, "--db", made.db, "--json").json
    assert shown["interactions"] == sum(row["item_id"] == item for row in rows)
    assert shown["users"] == len({row["user_id"] for row in rows if row["item_id"] == item})
    assert item not in {one["item_id"] for one in shown["nearest"]}
    assert "heaviest users" in freshet("inspect", "item", item, "--db", made.db).out


@pytest.mark.parametrize("kind", ["user", "item", "tokens"])
def test_an_unknown_id_is_answered_with_ids_like_it(freshet, made, kind):
    outcome = freshet("inspect", kind, "u99" if kind != "item" else "i999", "--db", made.db)
    assert outcome.code == ExitCode.INPUT
    assert "stored ids like it" in outcome.err or "there is no" in outcome.err


def test_recommend_equals_the_slate_of_inspect(freshet, made):
    user = busiest(made)
    one = freshet("recommend", user, "--db", made.db, "-k", 10, "--json").json
    other = freshet("inspect", "user", user, "--db", made.db, "--json").json["slate"]
    assert one == other
    assert "slate at" in freshet("recommend", user, "--db", made.db).out


def test_recommend_at_a_time_is_for_that_time(freshet, made):
    shown = freshet("recommend", busiest(made), "--db", made.db, "--at", "2024-03-01", "--json")
    assert shown.json["at_ms"] == 1_709_251_200_000


def test_a_user_nobody_knows_gets_a_slate_that_says_so(freshet, made):
    shown = freshet("recommend", "nobody", "--db", made.db, "-k", 3, "--json").json
    assert shown["reason"] == "cold_user"
    assert len(shown["items"]) == 3


def test_settings_that_contradict_the_database_are_refused(freshet, made):
    outcome = freshet("recommend", "u1", "--db", made.db, "--set", "stream.lateness_ms=5")
    assert outcome.code == ExitCode.USAGE
    assert "lateness_ms = 60000" in outcome.err


def test_settings_that_contradict_the_model_are_refused(freshet, made):
    outcome = freshet("recommend", "u1", "--db", made.db, "--set", "stream.visit_gap_ms=5")
    assert outcome.code == ExitCode.MODEL
    assert "1800000" in outcome.err


def test_status_adds_up(freshet, made):
    shown = freshet("status", "--db", made.db, "--json").json
    log = next(row for row in shown["partitions"] if row["topic"] == "log.jsonl")
    lines = len(made.log.read_text().splitlines())
    assert log["records"] == log["next_off"] == log["scored_off"] == lines
    assert log["dead"] == sum(row["n"] for row in shown["dead_letters"])
    assert log["records"] == log["interactions"] + log["dead"]
    assert "partitions" in freshet("status", "--db", made.db).out


def test_status_says_what_is_bounded_and_how_much_of_it_is_used(freshet, made):
    shown = freshet("status", "--db", made.db, "--json", "--set", "database.rotate_rows=7").json
    limits = shown["limits"]
    assert limits["hot_rows"] == {"used": shown["sizes"]["hot_rows"], "limit": 7}
    assert limits["runs"]["used"] <= limits["runs"]["limit"]
    assert limits["file_bytes"]["used"] == made.db.stat().st_size
    assert 0 < limits["database_memory"]["used"] < 1 << 30
    assert limits["database_memory"]["limit"].endswith("iB")
    cache = shown["cache"]
    assert cache["users"] == cache["misses"] - cache["evictions"] > 0
    assert limits["cached_users"] == {"used": cache["users"], "limit": 10_000}
    assert 0 < limits["arena_bytes"]["used"] < limits["cached_bytes"]["used"]


def test_sql_prints_tables_json_and_csv(freshet, made):
    query = "select user_id, groups from user_token_state order by groups desc, user_id"
    as_json = freshet("sql", query, "--db", made.db, "--json").json
    as_csv = list(csv.reader(io.StringIO(freshet("sql", query, "--db", made.db, "--csv").out)))
    assert as_json["columns"] == as_csv[0] == ["user_id", "groups"]
    assert [[row["user_id"], str(row["groups"])] for row in as_json["rows"]] == as_csv[1:]
    table = freshet("sql", query, "--db", made.db)
    assert as_json["rows"][0]["user_id"] in table.out
    assert f"{len(as_json['rows'])} rows" in table.err


def test_sql_says_when_rows_are_left_out(freshet, made):
    outcome = freshet("sql", "select * from range(10)", "--db", made.db, "--limit", 3)
    assert "only the first 3 rows" in outcome.err
    assert freshet("sql", "from range(10)", "--db", made.db, "--limit", 3, "--json").json["more"]


def test_sql_reads_a_query_from_a_file(freshet, made, tmp_path):
    query = tmp_path / "query.sql"
    query.write_text("select 42 as answer;")
    assert freshet("sql", "--file", query, "--db", made.db, "--csv").out == "answer\n42\n"


@pytest.mark.parametrize("query", ["drop table meta", "selec 1", "select 1; select 2", ""])
def test_sql_refuses_anything_but_one_select(freshet, made, query):
    outcome = freshet("sql", query, "--db", made.db)
    assert outcome.code == ExitCode.USAGE
    assert len(outcome.err.strip().splitlines()) == 1


def test_doctor_finds_nothing_in_a_whole_database(freshet, made):
    shown = freshet("doctor", "--db", made.db, "--json")
    assert shown.code == 0
    assert shown.json["healthy"]
    assert {"freshet", "duckdb", "torch"} <= set(shown.json["versions"])
    assert "checksums" in freshet("doctor", "--db", made.db).out


def test_doctor_compares_stored_tokens_with_one_forward_pass(freshet, made):
    shown = freshet("doctor", "--db", made.db, "--exactness", 5, "--json")
    assert shown.code == 0
    exact = shown.json["exactness"]
    assert exact["users"] == 5
    assert exact["groups"] > 5
    assert 0 < exact["largest_difference"] <= 5e-3
    assert exact["overlap"] >= 0.99
    printed = freshet("doctor", "--db", made.db, "--exactness", 5).out
    assert "largest score difference" in printed
    assert "top-10 overlap" in printed
