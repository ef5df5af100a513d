"""Who answers: this process, where the file is free, or the process that has it, through its socket."""

from __future__ import annotations

from contextlib import contextmanager
from functools import cached_property
from http.client import HTTPConnection, HTTPException
from typing import TYPE_CHECKING, Protocol, TypeVar

import click
import pyarrow as pa

from infra.asking import sockets, wire
from infra.asking.answers import answer, rows
from infra.databases import limits_of, reading
from storage.identities import Identities
from storage.session import Stream

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from http.client import HTTPResponse
    from pathlib import Path

    from infra.asking.questions import AskRows, Question
    from infra.settings import Loaded
    from model.engine import Engine
    from storage.database import Database
    from stream.config import PipelineConfig
    from stream.pipeline import Pipeline

A = TypeVar("A")


class Owner(Protocol):
    """The process that has a database open."""

    def ask(self, question: Question[A]) -> A:
        """Return the answer to a question.

        Raises:
            Exception: as `infra.asking.answers.answer`, or AnswerError with the same line and exit code.
        """
        ...

    def rows(self, question: AskRows) -> AbstractContextManager[Stream]:
        """Yield the rows of a SELECT, batch by batch.

        Raises:
            Exception: as `infra.asking.answers.rows`, or AnswerError with the same line and exit code.
        """
        ...


@contextmanager
def owner_of(db_path: Path, loaded: Loaded, model_path: Path | None = None) -> Iterator[Owner]:
    """Yield who answers questions to a database: its running owner, else this process, which opens the file.

    A running owner answers with its own settings and model; stderr says so where others were given.

    Args:
        db_path: the file.
        loaded: settings, for a file that is free.
        model_path: where the checkpoint is now, for a file that is free.

    Raises:
        LockedError: a process has the file that answers no questions.
        InputError: there is no such file.
    """
    found = sockets.connect(sockets.socket_of(db_path))
    if found is not None:
        with found:
            if model_path is not None or "--set" in loaded.origins.values():
                click.echo("answered by the running owner, with its settings and model", err=True)
            yield SocketOwner(found)
        return
    with reading(db_path, loaded) as db:
        yield FileOwner(OnFile(db, loaded, model_path))


class FileOwner:
    """This process, with the file open."""

    def __init__(self, held: OnFile) -> None:
        self._held = held

    def ask(self, question: Question[A]) -> A:
        """Return the answer to a question."""
        return answer(question, self._held)

    def rows(self, question: AskRows) -> AbstractContextManager[Stream]:
        """Yield the rows of a SELECT."""
        return rows(question, self._held)


class SocketOwner:
    """Another process, at the other end of a connected socket."""

    def __init__(self, connected: socket.socket) -> None:
        self._connection = HTTPConnection("owner")
        self._connection.sock = connected

    def ask(self, question: Question[A]) -> A:
        """Return the answer to a question."""
        try:
            body = self._post(question).read()
        except (HTTPException, OSError) as err:
            raise wire.cut_off() from err
        return wire.decode_answer(question, body)

    @contextmanager
    def rows(self, question: AskRows) -> Iterator[Stream]:
        """Yield the rows of a SELECT, as they arrive."""
        try:
            reader = pa.ipc.open_stream(self._post(question))
        except (HTTPException, OSError, pa.ArrowException) as err:
            raise wire.cut_off() from err
        yield Stream(reader.schema, wire.batches(reader))

    def _post(self, question: Question[A] | AskRows) -> HTTPResponse:
        self._connection.request("POST", wire.ASK, wire.encode_question(question))
        response = self._connection.getresponse()
        if response.status != 200:
            raise wire.refused(response.read())
        return response


class OnFile:
    """A database that this process opened to answer; the model is loaded for questions that need it."""

    cache = None

    def __init__(self, db: Database, loaded: Loaded, model_path: Path | None) -> None:
        self.db = db
        self._loaded = loaded
        self._model_path = model_path

    @property
    def limits(self) -> PipelineConfig:
        """The settings that bound it."""
        return limits_of(self._loaded)

    @cached_property
    def engine(self) -> Engine | None:
        """The model of its tokens."""
        from infra.wiring import engine_of  # noqa: PLC0415 it brings the model along

        return engine_of(self.db, self._model_path)

    def spare_engine(self) -> Engine | None:
        """Return the model: nothing else runs here."""
        return self.engine

    @cached_property
    def identities(self) -> Identities:
        """Internal ids of users and items."""
        return Identities.load(self.db)

    @cached_property
    def pipeline(self) -> Pipeline:
        """What answers requests."""
        from infra.wiring import answering  # noqa: PLC0415 it brings the model along

        return answering(self.db, self.engine, self.identities, self._loaded)
