"""What the bytes and headers of a record say about its encoding, and what is in the envelope.

CloudEvents follow the Kafka protocol binding 1.0.2 of the CloudEvents specification (read 2026-11): binary mode
has the attributes in `ce_` headers and the data as the value, structured mode has everything in one JSON object
of content type application/cloudevents+json. Schema framing is Confluent's wire format: a zero byte, the schema
id as four bytes, big-endian, then the payload.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import msgspec

from stream.sources.json_structs import NOTHING
from stream.sources.record_columns import DECODE_ERRORS, Bad, bad_of

if TYPE_CHECKING:
    from stream.config import Encoding
    from stream.events import Headers

Payload: TypeAlias = Literal["json", "msgpack"]

_FRAME_BYTES = 5
_ATTRIBUTES = ("ce_specversion", "ce_id", "ce_source", "ce_type")
_CONTENT_TYPE = ("content-type", "contenttype")
_CLOUDEVENTS = "application/cloudevents"
_UNREAD = ("avro", "protobuf", "xml", "thrift", "cbor")


@dataclass(frozen=True, slots=True)
class CloudEvent:
    """The attributes of a CloudEvent that stand in for fields its data does not have.

    Attributes:
        id: for the event id.
        type: for the event type.
        time: for the event time, RFC 3339.
    """

    id: str
    type: str
    time: str | None


@dataclass(frozen=True, slots=True)
class Opened:
    """A record taken out of its envelope.

    Attributes:
        encoding: of the payload.
        payload: its bytes.
        event: attributes of the envelope, where it was a CloudEvent.
        place: where the payload stands in the record, for messages.
    """

    encoding: Payload
    payload: bytes
    event: CloudEvent | None = None
    place: str = "$"


class _Structured(msgspec.Struct):
    specversion: str
    id: Annotated[str, msgspec.Meta(min_length=1)]
    source: str
    type: Annotated[str, msgspec.Meta(min_length=1)]
    time: str | None = None
    datacontenttype: str | None = None
    data: msgspec.Raw = NOTHING
    data_base64: str | None = None


_STRUCTURED = msgspec.json.Decoder(_Structured)


def is_plain(headers: Headers) -> bool:
    """Return whether headers say nothing about the encoding."""
    for name, _ in headers:
        lower = name.lower()
        if lower in _CONTENT_TYPE or lower.startswith("ce_"):
            return False
    return True


def open_record(value: bytes, headers: Headers, encoding: Encoding) -> Opened | Bad:
    """Return the payload of a record, or what is wrong with its envelope.

    Args:
        value: the record's bytes.
        headers: the record's headers.
        encoding: of the topic; "auto" goes by headers and the first byte.
    """
    if encoding == "confluent":
        return _unframed(value)
    if encoding in {"json", "msgpack"}:
        return Opened("msgpack" if encoding == "msgpack" else "json", value)
    if not headers and encoding == "auto":
        return _payload(value, "")
    named = {name.lower(): text for name, text in headers if text is not None}
    content = _content_type(named)
    if content.startswith(_CLOUDEVENTS):
        return _structured(value, content)
    if any(name.startswith("ce_") for name in named):
        return _binary(value, named, content)
    if encoding == "cloudevents":
        return _structured(value, f"{_CLOUDEVENTS}+json")
    return _payload(value, content)


def _content_type(named: dict[str, bytes]) -> str:
    return _media_type(next((named[name] for name in _CONTENT_TYPE if name in named), b""))


@lru_cache(maxsize=64)
def _media_type(found: bytes) -> str:
    return found.decode("utf-8", "replace").split(";")[0].strip().strip('"').lower()


def _payload(value: bytes, content: str) -> Opened | Bad:
    """Return plain data of a content type; one that says nothing is JSON."""
    if content and any(word in content for word in _UNREAD):
        return Bad("unsupported", f"content type {content[:60]!r}; JSON and MessagePack are read")
    if "msgpack" in content or "messagepack" in content:
        return Opened("msgpack", value)
    return _unframed(value) if value[:1] == b"\0" else Opened("json", value)


def _unframed(value: bytes) -> Opened | Bad:
    if value[:1] != b"\0":
        return Bad("malformed", "no schema framing: the first byte is not zero")
    if len(value) < _FRAME_BYTES:
        return Bad("malformed", f"schema framing is cut short: {len(value)} bytes")
    payload = value[_FRAME_BYTES:]
    if not payload.lstrip().startswith((b"{", b"[")):
        schema = int.from_bytes(value[1:_FRAME_BYTES], "big")
        return Bad(
            "unsupported",
            f"framed with schema id {schema} and no JSON, so Avro or Protobuf; only JSON is read",
        )
    return Opened("json", payload)


def _binary(value: bytes, named: dict[str, bytes], content: str) -> Opened | Bad:
    for name in _ATTRIBUTES:
        if not named.get(name):
            return Bad("missing_field", f"CloudEvent without the header `{name}`")
    opened = _payload(value, content)
    if isinstance(opened, Bad):
        return opened
    kind, time = named["ce_type"].decode("utf-8", "replace"), named.get("ce_time")
    event = CloudEvent(
        named["ce_id"].decode("utf-8", "replace"),
        kind,
        None if time is None else time.decode("utf-8", "replace"),
    )
    return Opened(opened.encoding, opened.payload, event)


def _structured(value: bytes, content: str) -> Opened | Bad:
    if content.startswith(f"{_CLOUDEVENTS}-batch"):
        return Bad("not_single", "a batch of CloudEvents where one record is one interaction")
    if content not in {f"{_CLOUDEVENTS}+json", _CLOUDEVENTS}:
        return Bad("unsupported", f"content type {content[:60]!r}; CloudEvents are read as JSON")
    try:
        found = _STRUCTURED.decode(value)
    except DECODE_ERRORS as err:
        return bad_of(err)
    event = CloudEvent(found.id, found.type, found.time)
    declared = (found.datacontenttype or "").split(";")[0].strip().lower()
    if found.data_base64 is not None:
        try:
            data = base64.b64decode(found.data_base64, validate=True)
        except (binascii.Error, ValueError):
            return Bad("malformed", "not base64 - at `$.data_base64`")
        opened = _payload(data, declared)
        if isinstance(opened, Bad):
            return opened
        return Opened(opened.encoding, opened.payload, event, "$.data_base64")
    if found.data is NOTHING:
        return Bad("missing_field", "CloudEvent without data - at `$.data`")
    opened = _payload(b"", declared)
    if isinstance(opened, Bad):
        return opened
    return Opened("json", bytes(found.data), event, "$.data")  # data of structured mode is JSON
