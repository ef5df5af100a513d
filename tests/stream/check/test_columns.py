from __future__ import annotations

from stream.check.columns import guess_roles
from stream.check.sample import Column

DATES = [1_700_000_000 + 60 * i for i in range(100)]


def column(name: str, values: list[object] | None = None, kind: str = "text") -> Column:
    values = [f"{name}{i % 7}" for i in range(100)] if values is None else values
    return Column(name, kind, values, 100)  # type: ignore[arg-type]


def times(name: str) -> Column:
    return column(name, list(DATES), "whole")


def roles(*columns: Column, **given: str) -> dict[str, str]:
    return guess_roles(list(columns), given).columns


def test_columns_named_like_fields_are_those_fields() -> None:
    found = guess_roles([column("user_id"), column("item_id"), times("ts"), column("price")], {})
    assert found.columns == {"user_id": "user_id", "item_id": "item_id", "ts": "ts"}
    assert found.renamed == {}
    assert [use.field for use in found.uses] == ["user_id", "item_id", "ts", None]


def test_usual_names_are_found_whatever_their_case_and_marks() -> None:
    found = roles(
        column("Customer ID"), column("StockCode"), times("InvoiceDate"), column("ACTION")
    )
    assert found == {
        "user_id": "Customer ID",
        "item_id": "StockCode",
        "ts": "InvoiceDate",
        "event_type": "ACTION",
    }


def test_the_field_s_own_name_wins_over_a_usual_one() -> None:
    assert roles(column("customer"), column("user_id"), column("item"), times("t"))["user_id"] == (
        "user_id"
    )


def test_a_longer_name_may_end_in_a_usual_one() -> None:
    found = roles(column("src_customer_id"), column("shop_product_id"), times("ingest_timestamp"))
    assert found["user_id"] == "src_customer_id"
    assert found["item_id"] == "shop_product_id"
    assert found["ts"] == "ingest_timestamp"


def test_a_column_of_times_is_the_time_whatever_its_name() -> None:
    found = guess_roles([column("user"), column("item"), times("x")], {})
    assert found.columns["ts"] == "x"
    assert found.uses[2].evidence == "its values are times"


def test_two_nameless_columns_of_times_are_no_guess() -> None:
    assert guess_roles([column("user"), column("item"), times("x"), times("y")], {}).missing == [
        "ts"
    ]


def test_a_usual_name_with_values_that_are_no_times_is_not_the_time() -> None:
    assert "ts" not in roles(column("user"), column("item"), column("date"))


def test_an_order_number_is_a_session_only_if_it_repeats() -> None:
    base = column("user"), column("item"), times("ts")
    assert roles(*base, column("order_id"))["session_id"] == "order_id"
    once = column("order_id", [f"o{i}" for i in range(100)])
    assert "session_id" not in roles(*base, once)


def test_an_id_is_an_event_id_only_if_no_two_are_alike() -> None:
    base = column("user"), column("item"), times("ts")
    assert roles(*base, column("id", [f"e{i}" for i in range(100)]))["event_id"] == "id"
    assert "event_id" not in roles(*base, column("id"))


def test_what_is_configured_is_taken_as_it_is() -> None:
    found = guess_roles(
        [column("user_id"), column("who"), column("item"), times("ts")], {"user_id": "who"}
    )
    assert found.columns["user_id"] == "who"
    assert [use.field for use in found.uses] == [None, "user_id", "item_id", "ts"]


def test_missing_fields_are_named() -> None:
    assert guess_roles([column("who"), column("bought")], {}).missing == [
        "user_id",
        "item_id",
        "ts",
    ]


def test_a_text_column_is_no_amount() -> None:
    base = column("user"), column("item"), times("ts")
    assert "value" not in roles(*base, column("amount"))
    assert roles(*base, column("amount", ["1", "-2.5", "3e2"]))["value"] == "amount"
