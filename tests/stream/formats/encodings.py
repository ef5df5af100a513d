"""One event in every encoding a topic may have."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from stream.config import TopicFormat
from stream.events import Headers, Partition
from stream.formats.decoder import Decoder

if TYPE_CHECKING:
    from collections.abc import Callable

    from stream.sources.records import Records

PART = Partition("clicks", 3)
APPEND_MS = 1_700_000_100_000
CE_HEADERS: Headers = [
    ("ce_specversion", b"1.0"),
    ("ce_id", b"ce-1"),
    ("ce_source", b"/shop"),
    ("ce_type", b"view"),
]
STRUCTURED: Headers = [("content-type", b"application/cloudevents+json; charset=utf-8")]


def as_json(record: Any) -> bytes:
    return json.dumps(record).encode()


def structured(record: Any, **attributes: Any) -> bytes:
    envelope = {"specversion": "1.0", "id": "ce-1", "source": "/shop", "type": "view"}
    return as_json({**envelope, **attributes, "data": record})


def structured_base64(record: Any) -> bytes:
    envelope = json.loads(structured(None, datacontenttype="application/msgpack"))
    del envelope["data"]
    data = base64.b64encode(msgspec.msgpack.encode(record)).decode()
    return as_json({**envelope, "data_base64": data})


def framed(payload: bytes, schema: int = 7) -> bytes:
    return b"\0" + schema.to_bytes(4, "big") + payload


ENCODINGS: dict[str, Callable[[Any], tuple[bytes, Headers]]] = {
    "json": lambda r: (as_json(r), ()),
    "json with other headers": lambda r: (as_json(r), [("traceparent", b"00-1"), ("n", None)]),
    "json by content type": lambda r: (as_json(r), [("Content-Type", b"application/json")]),
    "msgpack": lambda r: (msgspec.msgpack.encode(r), [("content-type", b"application/msgpack")]),
    "x-msgpack": lambda r: (msgspec.msgpack.encode(r), [("contentType", b"application/x-msgpack")]),
    "cloudevents binary": lambda r: (as_json(r), CE_HEADERS),
    "cloudevents binary msgpack": lambda r: (
        msgspec.msgpack.encode(r),
        [*CE_HEADERS, ("content-type", b"application/msgpack")],
    ),
    "cloudevents structured": lambda r: (structured(r), STRUCTURED),
    "cloudevents structured base64": lambda r: (structured_base64(r), STRUCTURED),
    "framed": lambda r: (framed(as_json(r)), ()),
    "framed inside cloudevents": lambda r: (framed(as_json(r)), CE_HEADERS),
}


def decode(
    *records: tuple[bytes | None, Headers],
    config: TopicFormat | None = None,
    key: bytes | None = b"u",
    append_ms: int | None = APPEND_MS,
) -> Records:
    """Decode records at offsets 100, 102, 104, ..."""
    count = len(records)
    return Decoder(config).decode(
        PART,
        np.arange(count, dtype=np.int64) * 2 + 100,
        [value for value, _ in records],
        [key] * count,
        [headers for _, headers in records],
        [append_ms] * count,
    )


def fault(
    value: bytes | None,
    headers: Headers = (),
    *,
    config: TopicFormat | None = None,
    key: bytes | None = b"u",
    append_ms: int | None = APPEND_MS,
) -> tuple[str, str]:
    """Return reason and detail of a bad record, and check that all of it is kept."""
    found = decode((value, headers), config=config, key=key, append_ms=append_ms)
    assert len(found.interactions) == len(found.items) == 0
    [letter] = found.dead
    assert (letter.topic, letter.part, letter.off) == (*PART, 100)
    assert (letter.raw, letter.key, letter.append_ms) == (value, key, append_ms)
    assert letter.headers == headers
    assert letter.size == len(value or b"")
    assert letter.detail
    assert "\n" not in letter.detail
    return letter.reason, letter.detail
