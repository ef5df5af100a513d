"""The log that is shipped: where its files are, its settings, and where its time is cut."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from infra.settings import Override
from stream.clock import to_ms
from stream.evaluation.targets import Cuts

FOLDER = Path(__file__).parent / "data" / "online_retail_ii"
EVENTS = FOLDER / "events.parquet"
ITEMS = FOLDER / "items.parquet"
TARGETS = FOLDER / "targets.parquet"
CHECKPOINT = FOLDER / "checkpoint.safetensors"
NAME = "Online Retail II"
SOURCE = (
    "Online Retail II (Daqing Chen, UCI Machine Learning Repository, DOI 10.24432/C5CG6D, CC BY 4.0):"
    " 788,187 purchases of 5,852 customers of a British gift shop, December 2009 to December 2011."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """One way to cut the shipped log.

    Attributes:
        name: How reports and files call it.
        cuts: Where time is cut.
        targets: Fixed targets, None = drawn by the protocol.
    """

    name: str
    cuts: Cuts
    targets: Path | None


def settings(*more: Override) -> Sequence[Override]:
    """Return the settings the shipped log needs, then a caller's own.

    The file is in time order, so nothing is late; the lines of one basket share their time, so a
    visit is what happens at one time.
    """
    return [
        Override("stream.lateness_ms", 0, "the shipped log"),
        Override("stream.visit_gap_ms", 0, "the shipped log"),
        *more,
    ]


def _at(year: int, month: int, day: int) -> int:
    return to_ms(datetime(year, month, day, tzinfo=UTC))


MAIN = Period(
    name="main",
    cuts=Cuts(
        train_end=_at(2011, 9, 1), validation_end=_at(2011, 10, 1), test_end=_at(2011, 12, 10)
    ),
    targets=TARGETS,
)
EARLIER = Period(
    name="earlier",
    cuts=Cuts(train_end=_at(2011, 6, 1), validation_end=_at(2011, 7, 1), test_end=_at(2011, 9, 10)),
    targets=None,
)
PERIODS = {period.name: period for period in (MAIN, EARLIER)}
