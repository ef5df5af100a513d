"""Which column is what: guessed from its name first, from its values where that helps."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stream.check.times import looks_like_times

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from stream.check.sample import Column


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# Field -> names it goes by, letters and digits only, the likeliest first.
NAMES: dict[str, tuple[str, ...]] = {
    "user_id": _words(
        "userid user uid customerid customer custid clientid client visitorid visitor memberid member"
        " accountid account reviewerid buyerid shopperid personid subscriberid playerid listenerid"
        " readerid guestid deviceid cookieid anonymousid username userkey"
    ),
    "item_id": _words(
        "itemid item iid productid product sku skuid stockcode articleid article productcode itemcode"
        " asin movieid trackid songid videoid bookid newsid contentid listingid offerid adid recipeid"
        " gameid appid artistid businessid objectid entityid isbn gtin ean pid productname"
    ),
    "ts": _words(
        "ts timestamp eventtimestamp eventtime datetime time unixtime epoch servertimestamp servertime"
        " createdat occurredat loggedat orderedat purchasedat invoicedate orderdate purchasedate"
        " transactiondate eventdate tdat unixreviewtime reviewtime ratingtimestamp date when created"
        " datecreated utc"
    ),
    "event_type": _words(
        "eventtype event eventname action actiontype behavior behaviour behaviortype interactiontype"
        " interaction activity type verb"
    ),
    "seq": ("seq", "sequence", "seqno", "sequencenumber", "lineno", "linenumber"),
    "value": ("value", "quantity", "qty", "units", "amount", "count", "rating"),
    "event_id": ("eventid", "interactionid", "messageid", "msgid", "uuid", "guid", "id"),
    "session_id": _words(
        "sessionid session usersession visitid visit sid basketid basket cartid orderid order"
        " ordernumber invoice invoiceno invoiceid transactionid"
    ),
    "recommendation_id": ("recommendationid", "recommendation", "recid"),
    "props": ("props", "properties"),
}
REQUIRED = ("user_id", "item_id", "ts")
_SHORTEST_PART = 5  # letters a name must have to be believed as the end of a longer one


@dataclass(frozen=True, slots=True)
class ColumnUse:
    """What a column of the file is taken for.

    Attributes:
        column: its name in the file.
        field: the field it is read as; None where it is not read.
        evidence: why, in a few words.
        examples: some of its values.
    """

    column: str
    field: str | None
    evidence: str
    examples: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Roles:
    """The columns of a file with their meaning.

    Attributes:
        uses: every column, in the order of the file.
        columns: field -> column.
    """

    uses: list[ColumnUse]
    columns: dict[str, str] = field(default_factory=dict)

    @property
    def renamed(self) -> dict[str, str]:
        """Field -> column, where the two names differ."""
        return {name: column for name, column in self.columns.items() if name != column}

    @property
    def missing(self) -> list[str]:
        """Required fields that no column was found for."""
        return [name for name in REQUIRED if name not in self.columns]


def guess_roles(columns: Sequence[Column], given: Mapping[str, str]) -> Roles:
    """Return what each column is.

    A column named like a field is that field, because that is how files are read. After that come
    the usual names, then names that end in one, then, for the time only, the values.

    Args:
        columns: of the file, with the values of its first records.
        given: field -> column as configured; taken as it is.
    """
    found: dict[str, tuple[str, str]] = {
        name: (column, "as configured") for name, column in given.items()
    }
    free = {column.name: column for column in columns if column.name not in given.values()}
    steps: tuple[Callable[[str, dict[str, Column]], tuple[str, str] | None], ...] = (
        _named_so,
        _usual_name,
        _ends_in_usual_name,
        _by_values,
    )
    for step in steps:
        for name in NAMES:
            hit = None if name in found else step(name, free)
            if hit is not None:
                found[name] = hit
                del free[hit[0]]
    by_column = {column: (name, why) for name, (column, why) in found.items()}
    uses = []
    for column in columns:
        role, why = by_column.get(column.name, (None, ""))
        examples = tuple(dict.fromkeys(_example(value) for value in column.values[:200]))
        uses.append(ColumnUse(column.name, role, why, examples[:3]))
    return Roles(uses, {name: column for name, (column, _) in found.items()})


def _named_so(name: str, free: Mapping[str, Column]) -> tuple[str, str] | None:
    return (name, "named so") if name in free else None


def _usual_name(name: str, free: Mapping[str, Column]) -> tuple[str, str] | None:
    plain = {_plain(column): column for column in reversed(list(free))}
    for usual in NAMES[name]:
        column = plain.get(usual)
        if column is not None and (why := _fits(name, free[column])) is not None:
            return column, f"a usual name{why}"
    return None


def _ends_in_usual_name(name: str, free: Mapping[str, Column]) -> tuple[str, str] | None:
    if name not in {*REQUIRED, "event_type"}:
        return None
    for usual in NAMES[name]:
        for column in free:
            ends = len(usual) >= _SHORTEST_PART and _plain(column).endswith(usual)
            if ends and (why := _fits(name, free[column])) is not None:
                return column, f"its name ends in {usual!r}{why}"
    return None


def _by_values(name: str, free: Mapping[str, Column]) -> tuple[str, str] | None:
    if name != "ts":
        return None
    timely = [column.name for column in free.values() if looks_like_times(column)]
    return (timely[0], "its values are times") if len(timely) == 1 else None


def _fits(name: str, column: Column) -> str | None:
    """Return what the values add to the evidence, None where they speak against the field."""
    values = [str(value) for value in column.values]
    if column.type == "other":
        return "" if name == "props" else None
    if name == "ts":
        return ", its values are times" if looks_like_times(column) else None
    if name == "event_id":
        alone = len(values) == column.rows and len(set(values)) > 0.9 * len(values)
        return ", no two alike" if alone else None
    if name == "session_id":
        return ", its values repeat" if len(set(values)) < 0.9 * len(values) else None
    if name in {"user_id", "item_id"}:
        return None if column.type == "number" else ""
    if name in {"value", "seq"}:
        return "" if _numeric(column) else None
    if name == "event_type":
        few = len(set(values)) <= max(10, len(values) // 20)
        return ", few distinct values" if few and column.type == "text" else None
    return ""


def _numeric(column: Column) -> bool:
    if column.type in {"whole", "number"}:
        return True
    number = re.compile(r"[-+]?\d+(\.\d+)?([eE][-+]?\d+)?")
    return bool(column.values) and all(number.fullmatch(str(v).strip()) for v in column.values)


def _example(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name).lower()
