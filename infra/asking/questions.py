"""What can be asked of a database, and what each answer holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

import msgspec

from storage.backup import BackupReport
from storage.dead_letters import Wanted
from storage.doctor import Finding
from storage.standing import Standing
from stream.exactness_report import ExactnessReport
from stream.inspect import ItemView, UserView
from stream.slates import Slate
from stream.status import Status

A_co = TypeVar("A_co", covariant=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class SlateAnswer:
    """A slate, and the descriptions of its items by id."""

    slate: Slate
    words: dict[str, str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class UserAnswer:
    """A user as stored, and a slate for them with the descriptions of its items by id."""

    user: UserView
    slate: Slate
    words: dict[str, str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorAnswer:
    """What the checks of a database found.

    Attributes:
        findings: one per rule.
        exactness: scores through storage against one forward pass, if that was asked.
        versions: of freshet and its libraries in the process that checked.
    """

    findings: list[Finding]
    exactness: ExactnessReport | None
    versions: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """One bad record as stored: the columns of `dead_letters`, times in milliseconds."""

    topic: str
    part: int
    off: int
    reason: str
    detail: str | None
    raw: bytes | None
    key: bytes | None
    headers: str | None
    append_ts_ms: int | None
    size: int | None
    ingested_at_ms: int
    replayed_at_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Letters:
    """Bad records, and how many there are by partition and reason (topic, part, reason, n)."""

    counts: list[dict[str, str | int]]
    letters: list[Letter]


class Question(msgspec.Struct, Generic[A_co], frozen=True, kw_only=True, tag=True):
    """A question whose answer is an `A_co`.

    Attributes:
        answer: type of the answer, for whoever decodes it.
        patient: it may take as long as it needs while somebody waits for it.
    """

    answer: ClassVar[object]
    patient: ClassVar[bool] = False


class AskStatus(Question[Status], frozen=True, tag="status"):
    """Sizes, positions, tokens, what is bounded."""

    answer = Status


class AskStanding(Question[list[Standing]], frozen=True, tag="standing"):
    """How far does the database go in each partition?"""

    answer = list[Standing]


class AskSlate(Question[SlateAnswer], frozen=True, kw_only=True, tag="slate"):
    """What would a user be recommended?

    Attributes:
        user_id: external id; one that nobody knows is a cold user.
        at_ms: time of the request, None for the newest event stored.
        top_k: items, None for as many as are configured.
    """

    user_id: str
    at_ms: int | None = None
    top_k: int | None = None
    answer = SlateAnswer


class AskUser(Question[UserAnswer], frozen=True, kw_only=True, tag="user"):
    """What is stored of a user?

    Attributes:
        user_id: external id.
        at_ms: ages and the slate are as of this time; None for the newest event.
        rows: timeline rows at most.
        nearest: items named per token.
        top_k: items of the slate.
    """

    user_id: str
    at_ms: int | None = None
    rows: int
    nearest: int
    top_k: int
    answer = UserAnswer


class AskTokens(Question[UserView], frozen=True, kw_only=True, tag="tokens"):
    """Which token groups does a user have?

    Attributes:
        user_id: external id.
        at_ms: ages are counted to this time; None for the user's newest event.
        nearest: items named per token.
        newest: only so many newest groups.
    """

    user_id: str
    at_ms: int | None = None
    nearest: int
    newest: int | None = None
    answer = UserView


class AskItem(Question[ItemView], frozen=True, kw_only=True, tag="item"):
    """What is stored of an item, and which `nearest` items are near to it in the model?"""

    item_id: str
    nearest: int
    answer = ItemView


class AskDoctor(Question[DoctorAnswer], frozen=True, kw_only=True, tag="doctor"):
    """Is the database whole?

    Attributes:
        exactness: for so many users, compare stored tokens with one forward pass.
        seed: which users.
    """

    exactness: int | None = None
    seed: int = 0
    answer = DoctorAnswer
    patient = True


class AskBackup(Question[BackupReport], frozen=True, kw_only=True, tag="backup"):
    """Write a copy of the database to `out`, an absolute path; `force` lets it replace a file."""

    out: str
    force: bool = False
    answer = BackupReport
    patient = True


class AskLetters(Question[Letters], frozen=True, kw_only=True, tag="letters"):
    """Which records are bad?

    Attributes:
        wanted: which are meant.
        limit: letters at most, 0 for all.
        in_log_order: by position instead of newest first; a limit is needed then.
        after: position after which to go on, in log order.
    """

    wanted: Wanted
    limit: int
    in_log_order: bool = False
    after: tuple[str, int, int] | None = None
    answer = Letters


class MarkReplayed(Question[int], frozen=True, kw_only=True, tag="replayed"):
    """Note that the bad records at these (topic, part, off) were produced again."""

    places: list[tuple[str, int, int]]
    answer = int


class AskRows(msgspec.Struct, frozen=True, kw_only=True, tag="rows"):
    """The rows of one SELECT, at most `limit` of them, 0 for all; answered by a stream of batches."""

    text: str
    limit: int


AnyQuestion = (
    AskStatus
    | AskStanding
    | AskSlate
    | AskUser
    | AskTokens
    | AskItem
    | AskDoctor
    | AskBackup
    | AskLetters
    | MarkReplayed
    | AskRows
)
