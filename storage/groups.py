"""One token group as a record, and as a row of Arrow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from storage.digests import checksum64
from storage.errors import ChecksumError, StorageError
from storage.records import HistoryKey

_KEY_TYPES = (
    ("h_ts_ms", pa.int64()),
    ("h_seq", pa.int64()),
    ("h_part", pa.int32()),
    ("h_off", pa.int64()),
    ("displaced", pa.bool_()),
    ("row_off", pa.int64()),
)
_PLAIN_TYPES: tuple[tuple[str, pa.DataType], ...] = (
    ("user_idx", pa.int64()),
    ("model_version", pa.string()),
    ("segment", pa.int32()),
    ("k", pa.int32()),
    ("layers", pa.int32()),
    ("d_kv", pa.int32()),
    ("dtype", pa.string()),
    ("checksum", pa.uint64()),
    ("n_items", pa.int32()),
    ("first_off", pa.int64()),
    ("last_off", pa.int64()),
    ("device", pa.string()),
    ("compute_dtype", pa.string()),
    ("run_id", pa.int64()),
    ("created_at_ms", pa.int64()),
    ("kv", pa.binary()),
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GroupRow:
    """One token group as stored.

    Attributes:
        user_idx: Internal user id.
        model_version: Version of the model that made it.
        segment: Which closed segment it stands for.
        kv: Bytes of the key/value cache, C order [layers, 2, k, d_kv] of `dtype`.
        k: Tokens in the group.
        layers: Layers.
        d_kv: Width of keys and values.
        dtype: `float16`, `float32` or `float64`.
        first: History key of the segment's first interaction.
        last: History key of its last interaction; the tokens' time is its `h_ts_ms`.
        n_items: Interactions in the segment.
        first_off: Smallest log offset among them.
        last_off: Largest log offset among them.
        device: Where it was computed.
        compute_dtype: In which type it was computed.
        run_id: Refresh run that made it.
        outputs: Token output vectors, float32 [k, d].
        created_at_ms: Time of writing.
        mean_out: Their mean, float32 [d]; computed when left out.
        checksum: Of `kv`; computed when left out.
    """

    user_idx: int
    model_version: str
    segment: int
    kv: bytes
    k: int
    layers: int
    d_kv: int
    dtype: str
    first: HistoryKey
    last: HistoryKey
    n_items: int
    first_off: int
    last_off: int
    device: str
    compute_dtype: str
    run_id: int
    outputs: npt.NDArray[np.float32]
    created_at_ms: int
    mean_out: npt.NDArray[np.float32] | None = None
    checksum: int | None = None

    @property
    def last_ordinal(self) -> int:
        """Place of the segment's last interaction in the whole history, from 0."""
        return (self.segment + 1) * self.n_items - 1

    @property
    def nbytes(self) -> int:
        """Memory of its arrays."""
        return len(self.kv) + self.outputs.nbytes

    def kv_array(self) -> np.ndarray:
        """Return the key/value cache, shape [layers, 2, k, d_kv], read-only."""
        return np.frombuffer(self.kv, np.dtype(self.dtype)).reshape(
            self.layers, 2, self.k, self.d_kv
        )


def check_shape(row: GroupRow) -> None:
    """Raise StorageError when a group's bytes do not fit its shape."""
    expected = row.layers * 2 * row.k * row.d_kv * np.dtype(row.dtype).itemsize
    if len(row.kv) != expected:
        raise StorageError(
            f"token group of user {row.user_idx}, segment {row.segment}: {len(row.kv)} bytes, "
            f"but {row.layers} x 2 x {row.k} x {row.d_kv} {row.dtype} are {expected}"
        )


def to_table(rows: Sequence[GroupRow]) -> pa.Table:
    """Return groups as rows for the groups table; checksums and means are computed where left out."""
    columns: dict[str, pa.Array] = {
        name: pa.array([getattr(row, name) for row in rows], kind)
        for name, kind in _PLAIN_TYPES
        if name != "checksum"
    }
    checksums = [checksum64(row.kv) if row.checksum is None else row.checksum for row in rows]
    columns["checksum"] = pa.array(checksums, pa.uint64())
    columns["bytes"] = pa.array([len(row.kv) for row in rows], pa.int64())
    for end in ("first", "last"):
        for place, (name, kind) in enumerate(_KEY_TYPES):
            values = [getattr(row, end)[place] for row in rows]
            columns[f"{end}_{name}"] = pa.array(values, kind)
    floats = pa.list_(pa.float32())
    means = [row.outputs.mean(axis=0) if row.mean_out is None else row.mean_out for row in rows]
    columns["outputs"] = pa.array([_flat(row.outputs) for row in rows], floats)
    columns["mean_out"] = pa.array([_flat(mean) for mean in means], floats)
    return pa.table(columns)


def _flat(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return np.ascontiguousarray(values, np.float32).reshape(-1)


def from_table(table: pa.Table, user_id: Callable[[int], str]) -> list[GroupRow]:
    """Return the groups of a table's rows.

    Args:
        table: Rows of the groups table, times as epoch ms.
        user_id: External id of an internal one, asked only for an error.

    Raises:
        ChecksumError: A group's bytes are not those that were stored.
    """
    columns = {name: table[name].to_pylist() for name, _ in _PLAIN_TYPES}
    names = [name for name, _ in _PLAIN_TYPES]
    ends = {
        end: [table[f"{end}_{name}"].to_pylist() for name, _ in _KEY_TYPES]
        for end in ("first", "last")
    }
    outputs = _vectors(table["outputs"])
    means = _vectors(table["mean_out"])
    groups = []
    for place in range(table.num_rows):
        plain = {name: columns[name][place] for name in names}
        if checksum64(plain["kv"]) != plain["checksum"]:
            raise ChecksumError(
                user_id(plain["user_idx"]), plain["segment"], plain["model_version"]
            )
        groups.append(
            GroupRow(
                **plain,
                first=HistoryKey(*(values[place] for values in ends["first"])),
                last=HistoryKey(*(values[place] for values in ends["last"])),
                outputs=outputs[place].reshape(plain["k"], -1),
                mean_out=means[place],
            )
        )
    return groups


def _vectors(column: pa.ChunkedArray) -> list[npt.NDArray[np.float32]]:
    return [np.asarray(value.values.to_numpy(), np.float32) for value in column]
