"""Event types: what each is likely to mean, told from its name."""

from __future__ import annotations

import re
from typing import NamedTuple

from stream.config import EventType


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_WORDS: tuple[tuple[EventType, str, frozenset[str]], ...] = (
    (
        EventType(role="neither"),
        "takes interest back or is none: stored and shown only",
        _words(
            "remove removed delete deleted return returned refund refunded cancel cancelled canceled"
            " dislike disliked unlike downvote unsubscribe skip skipped impression impressions exposed"
            " shown search login logout error heartbeat"
        ),
    ),
    (
        EventType(weight=4.0),
        "a purchase: the strongest interest",
        _words(
            "purchase purchased buy bought order ordered transaction checkout conversion sale sold paid"
            " payment"
        ),
    ),
    (
        EventType(weight=2.0),
        "more than a look",
        _words(
            "cart addtocart basket wishlist favorite favourite like liked save saved bookmark share"
            " rate rating review subscribe download complete completed add"
        ),
    ),
)


class TypeGuess(NamedTuple):
    """What events of one type do, and why."""

    does: EventType
    reason: str


def guess_type(name: str) -> TypeGuess:
    """Return role and weight of an event type from the words of its name."""
    spread = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
    words = set(re.split(r"[^a-z]+", spread))
    for does, reason, known in _WORDS:
        if words & known:
            return TypeGuess(does, reason)
    return TypeGuess(EventType(), "a look, or a name that says nothing: as is")
