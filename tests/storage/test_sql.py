"""SQL of a person: one SELECT, nothing written."""

import threading
from datetime import UTC, datetime

import pyarrow as pa
import pytest

from storage.database import Database
from storage.errors import QueryError
from storage.sql import select


@pytest.fixture
def db(tmp_path):
    with Database.open(tmp_path / "x.duckdb", now=datetime(2024, 1, 1, tzinfo=UTC)) as opened:
        yield opened


def table(db, text, *, limit=0):
    with select(db, text, limit=limit) as rows:
        return pa.Table.from_batches(rows.batches, schema=rows.schema)


@pytest.mark.parametrize(
    "text",
    [
        "select 1 as a -- a comment",
        "select 1 as a;",
        "with t as (select 1 as a) select * from t",
        "from (values (1)) t(a)",
        "/* before */ select a from (select 1 as a) order by a",
    ],
)
def test_every_form_of_a_select_runs(db, text):
    assert table(db, text, limit=5).to_pylist() == [{"a": 1}]


def test_tables_can_be_listed_and_described(db):
    assert "meta" in table(db, "show tables")["name"].to_pylist()
    assert table(db, "describe meta")["column_name"].to_pylist() == ["key", "value"]


def test_the_limit_keeps_the_order(db):
    found = table(db, "select * from range(100) t(n) order by n desc", limit=3)
    assert found["n"].to_pylist() == [99, 98, 97]


def test_rows_are_computed_as_they_are_read(db):
    with select(db, "select * from range(1000000000000) t(n)") as rows:
        assert next(rows.batches)["n"][0].as_py() == 0
    assert table(db, "select 1 as a").num_rows == 1


def test_an_error_at_a_later_row_is_told_in_one_line_when_it_is_reached(db):
    text = "select if(n < 1000000, n, error('no')) as n from range(1000001) t(n)"
    with select(db, text) as rows:
        assert next(rows.batches)["n"][0].as_py() == 0
        with pytest.raises(QueryError, match="no") as caught:
            list(rows.batches)
    assert "\n" not in str(caught.value)


def test_another_thread_can_stop_a_query(db):
    stop = db.stopper()
    timer = threading.Timer(0.05, stop)
    timer.start()
    with pytest.raises(QueryError, match="Interrupt"):
        table(db, "select count(*) as n from range(1000000) a, range(1000000) b")
    timer.join()
    assert table(db, "select 1 as a").num_rows == 1


@pytest.mark.parametrize(
    "text",
    [
        "delete from meta",
        "insert into meta values ('a', 'b')",
        "create table t(a int)",
        "drop table meta",
        "attach 'other.duckdb'",
        "copy (select 1) to 'out.csv'",
        "set threads = 4",
        "pragma version",
        "explain analyze select 1",
        "select 1; select 2",
        "",
        "-- nothing",
    ],
)
def test_anything_else_is_refused(db, text):
    before = table(db, "from meta")
    with pytest.raises(QueryError):
        table(db, text)
    assert table(db, "from meta") == before


@pytest.mark.parametrize("text", ["selec 1", "select * from nowhere", "select ("])
def test_a_mistake_is_told_in_one_line(db, text):
    with pytest.raises(QueryError) as caught:
        table(db, text)
    assert "\n" not in str(caught.value)


def test_the_database_can_be_used_after_a_mistake(db):
    with pytest.raises(QueryError):
        table(db, "select * from nowhere")
    assert table(db, "select 1 as a").to_pylist() == [{"a": 1}]


def test_a_stop_that_comes_between_queries_leaves_nothing_behind(db):
    stop, over = db.stopper(), threading.Event()

    def stop_all_the_time():
        while not over.is_set():
            stop()

    thread = threading.Thread(target=stop_all_the_time)
    thread.start()
    told = set()
    for _ in range(50):
        try:
            table(db, "select count(*) as n from range(1000)")
        except QueryError as error:
            told.add(str(error).partition(": ")[2])
    over.set()
    thread.join()
    assert told == {"INTERRUPT Error: Interrupted!"}
    assert table(db, "select 1 as a").num_rows == 1
