"""Slates: what is recommended, to whom, because of which event, and why in this form."""

from __future__ import annotations

from functools import cache
from hashlib import sha1
from typing import TYPE_CHECKING, Literal
from uuid import UUID

import msgspec
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

ReasonCode = Literal["personal", "recent_only", "stale_tokens", "cold_user", "popular"]
ReadOutName = Literal["visit", "line", "popular"]

# gc=False: these hold no reference cycles, and the collector need not walk ten items per slate
_SPACE = UUID("6f1d9a0e-3d0c-5b0b-9a52-0c7f6c1d2e43").bytes
_HEX_PLACES = [place for place in range(36) if place not in {8, 13, 18, 23}]


class Cause(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The event that caused a slate.

    Attributes:
        topic: of its position.
        partition: of its position.
        offset: of its position.
        event_id: as the producer gave it, or None.
        ts: its event time, ms since the epoch.
    """

    topic: str
    partition: int
    offset: int
    event_id: str | None = None
    ts: int


class ScoredItem(msgspec.Struct, frozen=True, gc=False):
    """One recommended item and its score (calibrated logit; higher is better)."""

    item_id: str
    score: float


class Coverage(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What of the user's history the slate has seen.

    Attributes:
        groups: token groups read.
        covered_through_ms: event time of the last interaction inside those groups, or None.
        age_s: seconds from there to the slate's time, or None.
        recents: raw interactions read after the groups.
        left_out: interactions in neither, because the recent window was too long.
    """

    groups: int
    covered_through_ms: int | None = None
    age_s: float | None = None
    recents: int
    left_out: int = 0


class Slate(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One recommendation.

    Attributes:
        id: `recommendation_id` of the cause's position, or `request_id` for a request.
        user_id: external id.
        at_ms: the time it is for, ms since the epoch.
        cause: the event that caused it; None for a request.
        items: best first.
        model_version: version whose tokens and weights were used; empty without a model.
        coverage: what of the history was read.
        reason: why the slate is what it is.
        readout: "visit" (what next visit?), "line" (what next line of this visit?) or "popular"
            (no model).
        popularity_cut_ms: popularity counts events before this UTC midnight; None before any cut.
    """

    id: str
    user_id: str
    at_ms: int
    cause: Cause | None
    items: tuple[ScoredItem, ...]
    model_version: str
    coverage: Coverage
    reason: ReasonCode
    readout: ReadOutName
    popularity_cut_ms: int | None = None


def recommendation_ids(places: Iterable[tuple[str, int, int]]) -> list[str]:
    """Return the ids of the slates caused by the records at (topic, part, offset): the same on every repeat."""
    return _uuids([_partition_name(topic, part) + b"%d" % off for topic, part, off in places])


def recommendation_id(topic: str, part: int, off: int) -> str:
    """Return the id of the slate caused by the record at a position."""
    return recommendation_ids([(topic, part, off)])[0]


def request_id(user_id: str, at_ms: int) -> str:
    """Return the id of the slate answering a request of `user_id` at `at_ms`."""
    return _uuids([_SPACE + f"request/{at_ms}/{user_id}".encode()])[0]


@cache
def _partition_name(topic: str, part: int) -> bytes:
    return _SPACE + f"{topic}/{part}/".encode()


def _uuids(names: Iterable[bytes]) -> list[str]:
    """`str(uuid.uuid5(space, name))` (RFC 9562, 5.5) of many names behind `_SPACE`, in a tenth of the time."""
    digests = [sha1(name, usedforsecurity=False).digest() for name in names]
    raw = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 20)[:, :16].copy()
    raw[:, 6] = raw[:, 6] & 0x0F | 0x50
    raw[:, 8] = raw[:, 8] & 0x3F | 0x80
    text = np.full((len(raw), 36), ord("-"), np.uint8)
    text[:, _HEX_PLACES] = np.frombuffer(raw.tobytes().hex().encode(), np.uint8).reshape(-1, 32)
    joined = text.tobytes().decode()
    return [joined[start : start + 36] for start in range(0, len(joined), 36)]


_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(Slate)


def encode_slate(slate: Slate) -> bytes:
    """Return the slate as one line of JSON, without the newline."""
    return _ENCODER.encode(slate)


class SlateLines:
    """Slates as lines of JSON, encoded soon after they are made, while they are near the processor.

    Attributes:
        parts: lines with a newline behind each, any number of lines per part.
        users: user of each line, external id.
    """

    def __init__(self, slates: Sequence[Slate] = ()) -> None:
        self.parts: list[bytes] = []
        self.users: list[str] = []
        self.add(slates)

    def __len__(self) -> int:
        return len(self.users)

    def add(self, slates: Sequence[Slate]) -> None:
        """Encode slates behind what is there."""
        if slates:
            self.parts.append(_ENCODER.encode_lines(slates))
            self.users += [slate.user_id for slate in slates]

    def lines(self) -> Iterator[bytes]:
        """Each slate's line, without the newline."""
        for part in self.parts:
            yield from part[:-1].split(b"\n")


def decode_slate(line: bytes) -> Slate:
    """Return the slate of one JSON line.

    Raises:
        msgspec.DecodeError: the line is not a slate; the message names the field.
    """
    return _DECODER.decode(line)
