"""The outcome of an exactness check, for readers that have no model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ExactnessReport:
    """Scores through storage against one masked forward pass.

    Attributes:
        users: users compared.
        groups: token groups read for them.
        recents: raw interactions extended after the groups.
        candidates: items scored per user.
        state_dtype: dtype of the stored tokens.
        largest_difference: of any cosine score of any user.
        overlap: mean share of the top 10 that both ways agree on.
        allowed_difference: limit for this dtype.
        allowed_overlap: limit for this dtype.
        ok: both limits hold.
        worst_user: user with the largest difference.
    """

    users: int
    groups: int
    recents: int
    candidates: int
    state_dtype: str
    largest_difference: float
    overlap: float
    allowed_difference: float
    allowed_overlap: float
    ok: bool
    worst_user: str
