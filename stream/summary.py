"""What a run and one answer did."""

from __future__ import annotations

from dataclasses import dataclass, field

STAGES = ("poll", "store", "score", "sink", "tick")


@dataclass(slots=True)
class RunSummary:
    """What a run did; seconds by stage are process wall time."""

    records: int = 0
    interactions: int = 0
    dead: int = 0
    slates: int = 0
    ticks: int = 0
    segments: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))


@dataclass(slots=True)
class Answered:
    """What one answer did; seconds by stage are process wall time.

    Attributes:
        slates: written.
        shed: scored rows left without one.
        events: rows that passed.
        applied_s: seconds until its rows had passed that are in no stage: for its turn, and for journal entries
            between the rows, such as token groups taken in.
        seconds: by stage.
    """

    slates: int = 0
    shed: int = 0
    events: int = 0
    applied_s: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)

    def spent(self, stage: str, seconds: float) -> None:
        """Add to the time of a stage."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
