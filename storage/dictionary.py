"""Strings numbered from 0 in order of first sight: a hash table of arrays, no Python object per string."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["Dictionary", "hashes"]

_SHORT = 64  # bytes of the strings that are hashed all at once
_FEW = 1024
_MULTIPLIERS = np.random.default_rng(0x5EED).integers(1, 1 << 63, 1 + _SHORT // 8, np.uint64) | 1
_SHIFT = np.uint64(32)

_T = TypeVar("_T", bound=np.generic)
Ints = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]


def hashes(texts: pa.Array) -> Hashes:
    """Return a 64-bit hash per string; equal in one process only.

    Args:
        texts: An array of `string` without nulls.
    """
    lengths = pc.binary_length(texts).to_numpy(zero_copy_only=False).astype(np.uint64)
    short = lengths <= _SHORT
    if short.all():
        return _hash_short(texts, lengths)
    out = np.empty(len(texts), np.uint64)
    out[short] = _hash_short(texts.filter(pa.array(short)), lengths[short])
    long = texts.filter(pa.array(~short)).to_pylist()
    out[~short] = np.array([hash(text) for text in long], np.int64).view(np.uint64)
    return out


def _hash_short(texts: pa.Array, lengths: Hashes) -> Hashes:
    """Hash strings by their 8-byte words, zeros behind the end; the length tells apart what that makes equal."""
    out = _mixed(lengths * _MULTIPLIERS[-1])
    if not len(texts):
        return out
    width = max(8, -(-int(lengths.max()) // 8) * 8)
    padded = pc.ascii_rpad(texts.cast(pa.binary()).cast(pa.string()), width=width, padding="\0")
    start = padded.offset * width
    words = np.frombuffer(padded.buffers()[2], np.uint64, len(padded) * width // 8, start)
    for place, word in enumerate(words.reshape(len(padded), -1).T):
        mixed = _mixed((out ^ word) * _MULTIPLIERS[place])
        out = np.where(lengths > 8 * place, mixed, out)  # whatever the longest neighbor
    return out


def _mixed(values: Hashes) -> Hashes:
    return np.asarray(values ^ (values >> _SHIFT), np.uint64)


class Dictionary:
    """Strings and their numbers, both ways.

    Memory per string: its bytes, 8 for the hash, 8 for its place, 8 to 16 in the table of slots.
    """

    def __init__(self, names: pa.Array | None = None) -> None:
        self._n = 0
        self._bytes = np.empty(_FEW * 16, np.uint8)
        self._ends = np.zeros(_FEW, np.int64)  # [i]: where string i - 1 ends
        self._hashes = np.empty(_FEW, np.uint64)
        self._slots = np.full(2 * _FEW, -1, np.int32)
        if names is not None:
            self.encode(names)

    def __len__(self) -> int:
        return self._n

    @property
    def nbytes(self) -> int:
        """Memory held, bytes."""
        arrays = (self._bytes, self._ends, self._hashes, self._slots)
        return sum(int(array.nbytes) for array in arrays)

    def encode(self, names: pa.Array) -> tuple[Ints, Ints]:
        """Return the numbers of `names` and, for each new one, the row where it first stands.

        Args:
            names: An array of `string` without nulls; new strings are numbered in its order.
        """
        coded = names.dictionary_encode()
        rows = coded.indices.to_numpy(zero_copy_only=False)
        distinct = coded.dictionary
        hashed = hashes(distinct)
        numbers = self._find(distinct, hashed)
        fresh = np.flatnonzero(numbers < 0)
        if not len(fresh):
            return numbers[rows], fresh
        numbers[fresh] = np.arange(self._n, self._n + len(fresh))
        self._add(distinct.take(pa.array(fresh)), hashed[fresh])
        first = np.empty(len(distinct), np.int64)
        first[rows[::-1]] = np.arange(len(rows))[::-1]
        return numbers[rows], first[fresh]

    def find(self, name: str) -> int | None:
        """Return the number of a string, None when it has none."""
        one = pa.array([name], pa.string())
        number = int(self._find(one, hashes(one))[0])
        return None if number < 0 else number

    def name(self, number: int) -> str:
        """Return a string by its number.

        Raises:
            IndexError: There is none of that number.
        """
        if not 0 <= number < self._n:
            raise IndexError(f"no string of number {number}")
        start, end = self._ends[number], self._ends[number + 1]
        return self._bytes[start:end].tobytes().decode()

    def names(self, numbers: Ints) -> pa.Array:
        """Return the strings of some numbers, as an array of `string`."""
        taken = self._all().take(pa.array(numbers, pa.int64()))
        return taken.cast(pa.string())

    def cut(self, size: int) -> None:
        """Forget the strings from number `size` on."""
        if size < self._n:
            self._n = size
            self._fill_slots(len(self._slots))

    def _all(self) -> pa.Array:
        """Every string, as an array over the memory held here."""
        buffers = [None, pa.py_buffer(self._ends), pa.py_buffer(self._bytes)]
        return pa.LargeStringArray.from_buffers(self._n, buffers[1], buffers[2])

    def _find(self, names: pa.Array, hashed: Hashes) -> Ints:
        """Return the numbers of distinct strings, -1 where there is none."""
        found = np.full(len(names), -1, np.int64)
        mask = np.uint64(len(self._slots) - 1)
        open_ = np.arange(len(names))
        at = (hashed & mask).astype(np.int64)
        while len(open_):
            held = self._slots[at].astype(np.int64)
            taken = held >= 0
            open_, at, held = open_[taken], at[taken], held[taken]
            same = self._hashes[held] == hashed[open_]
            same[same] = self._equal(names, open_[same], held[same])
            found[open_[same]] = held[same]
            open_, at = open_[~same], (at[~same] + 1) & int(mask)
        return found

    def _equal(self, names: pa.Array, rows: Ints, numbers: Ints) -> npt.NDArray[np.bool_]:
        given = names.take(pa.array(rows)).cast(pa.large_string())
        held = self._all().take(pa.array(numbers))
        return np.asarray(pc.equal(given, held).to_numpy(zero_copy_only=False), np.bool_)

    def _add(self, names: pa.Array, hashed: Hashes) -> None:
        start, end = self._n, self._n + len(names)
        lengths = pc.binary_length(names).to_numpy(zero_copy_only=False)
        self._ends = _grown(self._ends, end + 1)
        self._hashes = _grown(self._hashes, end)
        np.cumsum(lengths, out=self._ends[start + 1 : end + 1])
        self._ends[start + 1 : end + 1] += self._ends[start]
        size = int(self._ends[end])
        self._bytes = _grown(self._bytes, size)
        text = b"" if names.buffers()[2] is None else names.buffers()[2]
        offsets = np.frombuffer(names.buffers()[1], np.int32, len(names) + 1, 4 * names.offset)
        held = np.frombuffer(text, np.uint8)[offsets[0] : offsets[-1]]
        self._bytes[self._ends[start] : size] = held
        self._hashes[start:end] = hashed
        self._n = end
        if 2 * end > len(self._slots):
            self._fill_slots(2 * len(self._slots) * -(-end // len(self._slots)))
        else:
            self._place(np.arange(start, end))

    def _fill_slots(self, size: int) -> None:
        self._slots = np.full(1 << (size - 1).bit_length(), -1, np.int32)
        self._place(np.arange(self._n))

    def _place(self, numbers: Ints) -> None:
        """Give numbers their slots: the next free one from where the hash points."""
        mask = len(self._slots) - 1
        at = (self._hashes[numbers] & np.uint64(mask)).astype(np.int64)
        while len(numbers):
            free = self._slots[at] < 0
            self._slots[at[free]] = numbers[free]  # of several for one slot the last stays
            left = self._slots[at] != numbers
            numbers, at = numbers[left], (at[left] + 1) & mask


def _grown(array: npt.NDArray[_T], size: int) -> npt.NDArray[_T]:
    if size <= len(array):
        return array
    grown = np.empty(max(size, len(array) * 3 // 2), array.dtype)
    grown[: len(array)] = array
    return grown
