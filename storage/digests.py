"""Hashing of Arrow tables by content, the same on every machine."""

from __future__ import annotations

import hashlib
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

USERS_PER_CHUNK = 256
"""Users hashed together. Part of a digest's definition: another value gives other digests."""


class Hasher(Protocol):
    """What `hashlib` objects offer."""

    def update(self, data: bytes, /) -> None:
        """Take in more bytes."""


def feed(hasher: Hasher, table: pa.Table) -> None:
    """Feed a table to a hasher column by column: row count, nulls, lengths and little-endian values."""
    hasher.update(table.num_rows.to_bytes(8, "little"))
    for name in table.column_names:
        _feed_column(hasher, table[name])


def checksum64(data: bytes) -> int:
    """Return an unsigned 64-bit checksum (blake2b) of some bytes."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def _feed_column(hasher: Hasher, column: pa.ChunkedArray) -> None:
    valid = pc.is_valid(column).to_numpy()
    hasher.update(np.packbits(valid, bitorder="little").tobytes())
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        values = [value or b"" for value in column.cast(pa.binary()).to_pylist()]
        lengths = np.fromiter((len(value) for value in values), np.dtype("<i8"), len(values))
        hasher.update(lengths.tobytes())
        hasher.update(b"".join(values))
        return
    zero = False if pa.types.is_boolean(kind) else 0
    array = column.fill_null(zero).to_numpy()
    width = "<u1" if pa.types.is_boolean(kind) else f"<{array.dtype.kind}8"
    hasher.update(array.astype(width).tobytes())
