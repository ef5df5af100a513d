"""Token groups: the stored key/value caches of closed segments, one row per (user, version, segment)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from itertools import starmap

import pyarrow as pa

from storage.bounds import distinct, fetch, homes
from storage.database import Tx
from storage.digests import USERS_PER_CHUNK, feed
from storage.errors import GroupOrderError
from storage.groups import GroupRow, check_shape, from_table, to_table
from storage.records import HistoryKey, PartitionKey, Reader, wanted_users

__all__ = [
    "GroupRow",
    "digest",
    "drop_version",
    "group_counts",
    "last_keys",
    "load_groups",
    "put_groups",
]

_SELECT_SEGMENTS = "SELECT user_idx, model_version, segment FROM token_groups WHERE true"
_SELECT_HELD = "SELECT user_idx, segment, run_id FROM token_groups WHERE model_version = ?"
_SELECT_ROWS = """
SELECT * EXCLUDE (first_h_ts, last_h_ts, created_at),
    epoch_ms(first_h_ts) AS first_h_ts_ms, epoch_ms(last_h_ts) AS last_h_ts_ms,
    epoch_ms(created_at) AS created_at_ms
FROM token_groups WHERE model_version = ?
"""
_SELECT_GROUPS = _SELECT_ROWS + "AND segment BETWEEN ? AND ?"
_SELECT_RUN = _SELECT_ROWS + "AND run_id = ?"
_SELECT_ENTRIES = "SELECT journal_id, ref FROM journal WHERE kind = 'group_visible'"
_SELECT_PLACES = """
SELECT journal_id, topic, part, next_off FROM journal_positions WHERE journal_id BETWEEN ? AND ?
"""


def put_groups(
    tx: Tx, rows: Sequence[GroupRow], *, counts: Mapping[int, int] | None = None
) -> list[bool]:
    """Store token groups unless they are there already; say for each whether it was inserted.

    A stored group wins over a new one of the same (user, version, segment), so a repeated run changes
    nothing. Among equal ones in `rows` the first wins.

    Args:
        tx: The transaction.
        rows: Groups, those of a user and version oldest first.
        counts: How many groups of the rows' version each user has, from the one writer that keeps count
            of it: saves asking.

    Raises:
        GroupOrderError: A group's earlier segments are neither stored nor among `rows`.
        StorageError: The bytes of a group do not fit its shape.
    """
    if counts is None:
        stored = _stored_segments(tx, rows)
    else:
        stored = {
            (row.user_idx, row.model_version): set(range(counts[row.user_idx])) for row in rows
        }
    inserted: list[bool] = []
    new: list[GroupRow] = []
    for row in rows:
        segments = stored.setdefault((row.user_idx, row.model_version), set())
        inserted.append(row.segment not in segments)
        if row.segment not in segments:
            check_shape(row)
            segments.add(row.segment)
            new.append(row)
    for (user_idx, version), segments in stored.items():
        if segments and max(segments) != len(segments) - 1:
            raise GroupOrderError(
                f"token groups of user {user_idx}, version {version} would have a hole before segment "
                f"{max(segments)}; compress the earlier segments first"
            )
    if new:
        tx.insert("token_groups", to_table(new))
    return inserted


def load_groups(
    reader: Reader,
    users: Sequence[int],
    version: str,
    *,
    newest: int | None = None,
    as_of: Mapping[int, int] | None = None,
    counts: Mapping[int, int] | None = None,
    home: Mapping[int, PartitionKey] | None = None,
) -> list[GroupRow]:
    """Return the token groups of users under one version, by user_idx and segment.

    Args:
        reader: Where to read.
        users: Internal ids.
        version: Model version.
        newest: At most so many of each user's newest groups.
        as_of: For users named here, only groups of runs whose `group_visible` journal entry applied at
            or before this offset of the user's home partition; a hole ends a user's groups. Users not
            named get every stored group.
        counts: How many groups each user has, from the one writer that keeps count of it: saves asking.
        home: Home partition of the users in `as_of`; read where not given.

    Raises:
        ChecksumError: A group's bytes are not those that were stored.
    """
    asked = distinct(users)
    if counts is None:
        held = fetch(reader, _SELECT_HELD, asked, [version]).to_pylist()
        if as_of:
            held = _visible(reader, held, as_of, homes(reader, asked, home))
        picked = _newest_prefix(held, newest)
    else:
        picked = {(user, at) for user in asked for at in _newest(counts[user], newest)}
    if not picked:
        return []
    segments = [segment for _, segment in picked]
    table = fetch(
        reader,
        _SELECT_GROUPS,
        sorted({user for user, _ in picked}),
        [version, min(segments), max(segments)],
    )
    places = [
        place
        for place, pair in enumerate(
            zip(table["user_idx"].to_pylist(), table["segment"].to_pylist(), strict=True)
        )
        if pair in picked
    ]
    table = table.take(pa.array(places, pa.int64()))
    ordered = table.sort_by([("user_idx", "ascending"), ("segment", "ascending")])
    return from_table(ordered, lambda user: _user_id(reader, user))


def groups_of_run(
    reader: Reader, version: str, run_id: int, users: Sequence[int]
) -> list[GroupRow]:
    """Return the groups that a refresh run stored for some users, by user_idx and segment.

    Raises:
        ChecksumError: A group's bytes are not those that were stored.
    """
    table = fetch(reader, _SELECT_RUN, distinct(users), [version, run_id])
    ordered = table.sort_by([("user_idx", "ascending"), ("segment", "ascending")])
    return from_table(ordered, lambda user: _user_id(reader, user))


def group_counts(
    reader: Reader, version: str, users: Sequence[int] | None = None
) -> dict[int, int]:
    """Return the number of stored groups per user under a version; users without any are left out."""
    table = reader.query(
        """
        SELECT g.user_idx, count(*) AS n FROM token_groups g
        WHERE g.model_version = $1 AND ($2 OR g.user_idx IN (SELECT user_idx FROM wanted))
        GROUP BY g.user_idx ORDER BY g.user_idx
        """,
        [version, users is None],
        tables={"wanted": wanted_users(users or (), None)},
    )
    return dict(zip(table["user_idx"].to_pylist(), table["n"].to_pylist(), strict=True))


def last_keys(reader: Reader, version: str, users: Sequence[int]) -> dict[int, HistoryKey]:
    """Return per user the history key of the last interaction its stored groups cover."""
    table = reader.query(
        """
        SELECT g.user_idx, epoch_ms(g.last_h_ts) AS h_ts_ms, g.last_h_seq, g.last_h_part, g.last_h_off,
            g.last_displaced, g.last_row_off
        FROM token_groups g JOIN wanted w ON w.user_idx = g.user_idx
        WHERE g.model_version = $1
        QUALIFY row_number() OVER (PARTITION BY g.user_idx ORDER BY g.segment DESC) = 1
        ORDER BY g.user_idx
        """,
        [version],
        tables={"wanted": wanted_users(users, None)},
    )
    columns = [table.column(place).to_pylist() for place in range(1, 7)]
    keys = starmap(HistoryKey, zip(*columns, strict=True))
    return dict(zip(table["user_idx"].to_pylist(), keys, strict=True))


def drop_version(tx: Tx, version: str) -> int:
    """Delete every group of a version and return their number."""
    return tx.execute("DELETE FROM token_groups WHERE model_version = ?", [version])


def digest(reader: Reader, version: str) -> str:
    """Return a sha256 over the version's token groups, independent of internal ids and positions.

    Covers (user_id, version, segment, event time and seq of first and last interaction, bytes of the
    key/value cache), users by external id and groups by segment.
    """
    users = reader.query(
        "SELECT user_idx, user_id FROM users WHERE user_idx IN "
        "(SELECT user_idx FROM token_groups WHERE model_version = ?) ORDER BY user_id",
        [version],
    )
    hasher = hashlib.sha256()
    for start in range(0, users.num_rows, USERS_PER_CHUNK):
        rows = reader.query(
            """
            SELECT w.user_id, g.model_version, g.segment, epoch_ms(g.first_h_ts) AS first_ms,
                g.first_h_seq, epoch_ms(g.last_h_ts) AS last_ms, g.last_h_seq, g.kv
            FROM token_groups g JOIN chunk w ON w.user_idx = g.user_idx
            WHERE g.model_version = ?
            ORDER BY w.user_id, g.segment
            """,
            [version],
            tables={"chunk": users.slice(start, USERS_PER_CHUNK)},
        )
        feed(hasher, rows)
    return hasher.hexdigest()


def _visible(
    reader: Reader,
    held: list[dict[str, int]],
    as_of: Mapping[int, int],
    home: Mapping[int, PartitionKey],
) -> list[dict[str, int]]:
    """Leave out groups of users in `as_of` whose run did not apply yet at their offset."""
    runs = {str(row["run_id"]) for row in held if row["user_idx"] in as_of}
    table = reader.query(_SELECT_ENTRIES) if runs else None
    refs = {} if table is None else dict(zip(*table.to_pydict().values(), strict=True))
    places: dict[int, dict[PartitionKey, int]] = {j: {} for j, ref in refs.items() if ref in runs}
    if places:
        for row in reader.query(_SELECT_PLACES, [min(places), max(places)]).to_pylist():
            if row["journal_id"] in places:
                places[row["journal_id"]][row["topic"], row["part"]] = row["next_off"]
    entries: dict[str, list[dict[PartitionKey, int]]] = {}
    for journal_id, offsets in places.items():
        entries.setdefault(refs[journal_id], []).append(offsets)

    def shown(row: dict[str, int]) -> bool:
        user = row["user_idx"]
        if user not in as_of:
            return True
        found = entries.get(str(row["run_id"]), ())
        return any(offsets.get(home.get(user, ("", -1)), 0) <= as_of[user] for offsets in found)

    return [row for row in held if shown(row)]


def _newest_prefix(held: list[dict[str, int]], newest: int | None) -> set[tuple[int, int]]:
    """Return (user, segment) of each user's newest groups before the first hole."""
    segments: dict[int, set[int]] = {}
    for row in held:
        segments.setdefault(row["user_idx"], set()).add(row["segment"])
    picked: set[tuple[int, int]] = set()
    for user, has in segments.items():
        end = next(segment for segment in range(len(has) + 1) if segment not in has)
        picked.update((user, segment) for segment in _newest(end, newest))
    return picked


def _newest(count: int, newest: int | None) -> range:
    return range(0 if newest is None else max(0, count - newest), count)


def _stored_segments(tx: Tx, rows: Sequence[GroupRow]) -> dict[tuple[int, str], set[int]]:
    users = distinct([row.user_idx for row in rows])
    table = fetch(tx, _SELECT_SEGMENTS, users)
    wanted = {(row.user_idx, row.model_version) for row in rows}
    stored: dict[tuple[int, str], set[int]] = {}
    for user, version, segment in zip(
        *(column.to_pylist() for column in table.columns), strict=True
    ):
        if (user, version) in wanted:
            stored.setdefault((user, version), set()).add(segment)
    return stored


def _user_id(reader: Reader, user_idx: int) -> str:
    found = reader.query("SELECT user_id FROM users WHERE user_idx = ?", [user_idx])
    return str(found["user_id"][0].as_py()) if found.num_rows else f"#{user_idx}"
