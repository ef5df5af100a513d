"""SQL of a person: one SELECT, nothing written."""

from datetime import UTC, datetime

import pytest

from storage.database import Database
from storage.errors import QueryError
from storage.sql import select


@pytest.fixture
def db(tmp_path):
    with Database.open(tmp_path / "x.duckdb", now=datetime(2024, 1, 1, tzinfo=UTC)) as opened:
        yield opened


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
    found, more = select(db, text, limit=5)
    assert found.to_pylist() == [{"a": 1}]
    assert not more


def test_tables_can_be_listed_and_described(db):
    assert "meta" in select(db, "show tables")[0]["name"].to_pylist()
    assert select(db, "describe meta")[0]["column_name"].to_pylist() == ["key", "value"]


def test_the_limit_keeps_the_order_and_says_that_there_is_more(db):
    found, more = select(db, "select * from range(100) t(n) order by n desc", limit=3)
    assert found["n"].to_pylist() == [99, 98, 97]
    assert more
    assert not select(db, "select * from range(3)", limit=3)[1]


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
    before = select(db, "from meta")[0]
    with pytest.raises(QueryError):
        select(db, text)
    assert select(db, "from meta")[0] == before


@pytest.mark.parametrize("text", ["selec 1", "select * from nowhere", "select ("])
def test_a_mistake_is_told_in_one_line(db, text):
    with pytest.raises(QueryError) as caught:
        select(db, text)
    assert "\n" not in str(caught.value)


def test_the_database_can_be_used_after_a_mistake(db):
    with pytest.raises(QueryError):
        select(db, "select * from nowhere")
    assert select(db, "select 1 as a")[0].to_pylist() == [{"a": 1}]
