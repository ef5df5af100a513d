"""The one answer to each question, given a database that is open in this process."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from infra.asking.questions import (
    AskBackup,
    AskDoctor,
    AskItem,
    AskLetters,
    AskRows,
    AskSlate,
    AskStanding,
    AskStatus,
    AskTokens,
    AskUser,
    DoctorAnswer,
    Letter,
    Letters,
    MarkReplayed,
    Question,
    SlateAnswer,
    UserAnswer,
)
from infra.cli import installed_version
from infra.errors import InputError, QuestionError
from storage import dead_letters
from storage.backup import BackupReport, backup
from storage.doctor import run_checks
from storage.errors import QueryError
from storage.session import Stream
from storage.sql import select
from storage.standing import Standing, standing
from stream.clock import WallClock
from stream.inspect import Inspector, ItemView, UserView
from stream.status import Status, status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pyarrow as pa

    from model.engine import Engine
    from storage.database import Database
    from storage.identities import Identities
    from stream.cache import CacheUse
    from stream.config import PipelineConfig
    from stream.pipeline import Pipeline
    from stream.slates import Slate

A = TypeVar("A")


class Held(Protocol):
    """An open database with what answers need; parts are built when they are asked for first."""

    @property
    def db(self) -> Database:
        """The database."""
        ...

    @property
    def limits(self) -> PipelineConfig:
        """What it and its pipeline may take."""
        ...

    @property
    def cache(self) -> CacheUse | None:
        """Where the scorer's cache stands, if this process scores."""
        ...

    @property
    def engine(self) -> Engine | None:
        """The model of its tokens; what it computes for users is for the pipeline alone."""
        ...

    def spare_engine(self) -> Engine | None:
        """Return that model where nobody else computes with it."""
        ...

    @property
    def identities(self) -> Identities:
        """Internal ids of users and items."""
        ...

    @property
    def pipeline(self) -> Pipeline:
        """What answers requests for slates."""
        ...


def answer(question: Question[A], held: Held) -> A:
    """Return the answer to a question.

    Raises:
        InputError: there is no such user or item.
        QuestionError: the database has nothing to answer it with.
        StorageError: as the store says it.
    """
    found: A = _ANSWERS[type(question)](question, held)
    return found


@contextmanager
def rows(question: AskRows, held: Held) -> Iterator[Stream]:
    """Yield the rows of a SELECT, computed as they are read.

    Raises:
        QuestionError: it is no single SELECT, or DuckDB refused it, at once or at a later row.
    """
    with _refusing(), select(held.db, question.text, limit=question.limit) as found:
        yield Stream(found.schema, _each(found.batches))


def _each(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    with _refusing():
        yield from batches


@contextmanager
def _refusing() -> Iterator[None]:
    """A statement that DuckDB refuses is a question put wrongly, no fault of the store."""
    try:
        yield
    except QueryError as err:
        raise QuestionError(str(err)) from err


def _status(_: AskStatus, held: Held) -> Status:
    return status(held.db, held.limits, cache=held.cache)


def _standing(_: AskStanding, held: Held) -> list[Standing]:
    return standing(held.db)


def _slate(question: AskSlate, held: Held) -> SlateAnswer:
    slate = held.pipeline.recommend(question.user_id, at_ms=question.at_ms, top_k=question.top_k)
    return SlateAnswer(slate=slate, words=_words(_inspector(held), slate))


def _user(question: AskUser, held: Held) -> UserAnswer:
    inspector = _inspector(held)
    found = inspector.user(
        question.user_id, at_ms=question.at_ms, rows=question.rows, nearest=question.nearest
    )
    user = _known(found, "user", question.user_id, inspector)
    slate = held.pipeline.recommend(question.user_id, at_ms=question.at_ms, top_k=question.top_k)
    return UserAnswer(user=user, slate=slate, words=_words(inspector, slate))


def _tokens(question: AskTokens, held: Held) -> UserView:
    inspector = _inspector(held)
    found = inspector.user(
        question.user_id,
        at_ms=question.at_ms,
        rows=1,
        nearest=question.nearest,
        groups=question.newest,
    )
    return _known(found, "user", question.user_id, inspector)


def _item(question: AskItem, held: Held) -> ItemView:
    inspector = _inspector(held)
    found = inspector.item(question.item_id, nearest=question.nearest)
    return _known(found, "item", question.item_id, inspector)


def _doctor(question: AskDoctor, held: Held) -> DoctorAnswer:
    from infra.wiring import versions  # noqa: PLC0415 it brings the model along

    with held.db.snapshot() as at:
        findings = run_checks(at)
    exactness = None
    if question.exactness is not None:
        from stream.exactness import check_exactness  # noqa: PLC0415

        engine = held.spare_engine()
        if engine is None:
            raise QuestionError(
                f"{held.db.path}: has no model, so --exactness has nothing to compare; leave it out"
            )
        exactness = check_exactness(held.db, engine, users=question.exactness, seed=question.seed)
    return DoctorAnswer(
        findings=findings,
        exactness=exactness,
        versions={"freshet": installed_version(), **versions()},
    )


def _backup(question: AskBackup, held: Held) -> BackupReport:
    return backup(held.db, Path(question.out), force=question.force)


def _letters(question: AskLetters, held: Held) -> Letters:
    with held.db.snapshot() as at:
        if question.in_log_order:
            found = dead_letters.following(
                at, question.wanted, question.after, limit=question.limit
            )
        else:
            found = dead_letters.find(at, question.wanted, limit=question.limit)
        counts = dead_letters.counts(at, question.wanted).to_pylist()
    return Letters(counts=counts, letters=[Letter(**row) for row in found.to_pylist()])


def _replayed(question: MarkReplayed, held: Held) -> int:
    with held.db.transaction() as tx:
        return dead_letters.mark_replayed(tx, question.places, WallClock().now())


_ANSWERS: dict[type, Callable[[Any, Held], Any]] = {
    AskStatus: _status,
    AskStanding: _standing,
    AskSlate: _slate,
    AskUser: _user,
    AskTokens: _tokens,
    AskItem: _item,
    AskDoctor: _doctor,
    AskBackup: _backup,
    AskLetters: _letters,
    MarkReplayed: _replayed,
}


def _inspector(held: Held) -> Inspector:
    """Made for one question: in a process that runs, items and users come in between two."""
    return Inspector(held.db, held.engine, held.identities)


def _words(inspector: Inspector, slate: Slate) -> dict[str, str | None]:
    return inspector.texts([item.item_id for item in slate.items])


def _known(found: A | None, kind: str, name: str, inspector: Inspector) -> A:
    if found is None:
        similar = inspector.similar_ids(name, kind=kind)
        hint = f"; stored ids like it: {', '.join(similar)}" if similar else ""
        raise InputError(f"there is no {kind} {name!r} in the database{hint}")
    return found
