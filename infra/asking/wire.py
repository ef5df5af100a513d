"""How questions, answers, refusals and rows travel between a command and the owner of a database."""

from __future__ import annotations

from http.client import HTTPException
from typing import TYPE_CHECKING, TypeVar

import msgspec
import pyarrow as pa

from infra.asking.questions import AnyQuestion, AskRows, Question
from infra.errors import AnswerError, QuestionError
from infra.exits import ExitCode, error_text, exit_code

if TYPE_CHECKING:
    from collections.abc import Iterator

A = TypeVar("A")
ASK = "/ask"
ANSWER_TYPE, ROWS_TYPE = "application/msgpack", "application/vnd.apache.arrow.stream"
END, REFUSED = b"end", b"refused"
"""Keys of the metadata of a stream's last, empty batch: all rows were sent, or why not."""

_QUESTION: msgspec.msgpack.Decoder[AnyQuestion] = msgspec.msgpack.Decoder(AnyQuestion)


class Refusal(msgspec.Struct, frozen=True):
    """An error as it crosses the socket: its line, and the exit code it leads to."""

    error: str
    code: int


def encode_question(question: Question[A] | AskRows) -> bytes:
    """Return a question as bytes."""
    return msgspec.msgpack.encode(question)


def decode_question(body: bytes) -> AnyQuestion:
    """Return the question of some bytes.

    Raises:
        QuestionError: they are none that this version knows.
    """
    try:
        return _QUESTION.decode(body)
    except msgspec.DecodeError as err:
        raise QuestionError(
            f"the process that has the database does not know this question ({err});"
            " use the same version of freshet on both sides"
        ) from err


def encode_answer(found: object) -> bytes:
    """Return an answer as bytes."""
    return msgspec.msgpack.encode(found)


def decode_answer(question: Question[A], body: bytes) -> A:
    """Return the answer to a question.

    Raises:
        AnswerError: the bytes are none.
    """
    try:
        found: A = msgspec.msgpack.decode(body, type=question.answer)
    except msgspec.DecodeError as err:
        raise AnswerError(
            f"the process that has the database answered something else ({err});"
            " use the same version of freshet on both sides",
            ExitCode.USAGE,
        ) from err
    return found


def refusal(error: BaseException) -> bytes:
    """Return an error as bytes."""
    return msgspec.msgpack.encode(Refusal(error_text(error), int(exit_code(error))))


def refused(body: bytes) -> AnswerError:
    """Return the error of some bytes."""
    try:
        found = msgspec.msgpack.decode(body, type=Refusal)
    except msgspec.DecodeError:
        found = Refusal("the process that has the database refused without a word", 70)
    return AnswerError(found.error, found.code)


def last_batch(schema: pa.Schema) -> pa.RecordBatch:
    """Return the empty batch that ends a stream."""
    empty: pa.RecordBatch = pa.RecordBatch.from_pylist([], schema=schema)
    return empty


def batches(reader: pa.RecordBatchStreamReader) -> Iterator[pa.RecordBatch]:
    """Yield the batches of a stream of rows.

    Raises:
        AnswerError: the owner met an error at a later row, or ended before the last one.
    """
    while True:
        try:
            batch, metadata = reader.read_next_batch_with_custom_metadata()
        except (StopIteration, HTTPException, OSError, pa.ArrowException) as err:
            raise cut_off() from err
        notes = {} if metadata is None else dict(metadata)
        if REFUSED in notes:
            raise refused(notes[REFUSED])
        if END in notes:
            return
        yield batch


def cut_off() -> AnswerError:
    """Return the error for an owner that went away."""
    return AnswerError(
        "the process that has the database ended before it had answered; run the command again",
        ExitCode.STORAGE,
    )
