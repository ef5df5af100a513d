"""Hypothesis generators shared by the tests."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import strategies as st

START_MS = 1_700_000_000_000

ids = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=12)
times_ms = st.integers(0, 7_258_118_400_000 - 1)
near_times_ms = st.integers(START_MS, START_MS + 50)


@st.composite
def interactions(draw: st.DrawFn, *, times: st.SearchStrategy[int] = times_ms) -> dict[str, Any]:
    """One good interaction as a JSON object; optional fields come and go."""
    record: dict[str, Any] = {"user_id": draw(ids), "item_id": draw(ids), "ts": draw(times)}
    optional: dict[str, st.SearchStrategy[Any]] = {
        "event_type": ids,
        "seq": st.integers(-(2**63), 2**63 - 1),
        "value": st.floats(allow_nan=False, allow_infinity=False),
        "event_id": ids,
        "session_id": ids,
    }
    for name, values in optional.items():
        if draw(st.booleans()):
            record[name] = draw(values)
    return record


FAULTS: dict[str, tuple[str, Any]] = {
    "no user": ("user_id", None),
    "no item": ("item_id", None),
    "no time": ("ts", None),
    "time is text": ("ts", "yesterday"),
    "time before 1970": ("ts", -1),
    "time after 2199": ("ts", 7_258_118_400_000),
    "value is text": ("value", "many"),
    "value is infinite": ("value", math.inf),
    "seq is text": ("seq", "first"),
}
"""Faults every format can carry: name -> (field, what it holds)."""

FAULT_REASONS = {
    "no user": "missing_field",
    "no item": "missing_field",
    "no time": "missing_field",
    "time is text": "bad_type",
    "time before 1970": "out_of_range",
    "time after 2199": "out_of_range",
    "value is text": "bad_type",
    "value is infinite": "non_finite",
    "seq is text": "bad_type",
}
