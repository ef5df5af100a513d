"""Exit codes of the command line: what each number means, and which error leads to it."""

from enum import IntEnum

MEANINGS: dict[int, str] = {
    0: "done",
    1: "a check found something: slates differ, doctor has findings, a gate failed",
    2: "usage or configuration: a flag, a setting, a file of settings",
    3: "input: a source, an item file or a column can not be read, or a user is in two partitions",
    4: "too many dead letters: too large a share of the last records is bad, or too many in a row; they are stored",
    5: "the database is held by another process",
    6: "storage: schema, checksum or positions of the database file",
    7: "model: the checkpoint is damaged or does not fit the database or the settings",
    8: "leakage: the figure would cover events that the model was fitted on",
    9: "no room: the disk is full, or a quota or file size limit is reached; what was committed is kept",
    10: "a process that compresses died, or could not do its work; what was committed is kept",
    20: "Kafka: nobody answers at the address of the broker",
    21: "Kafka: no encrypted connection (TLS) comes about",
    22: "Kafka: the login is refused",
    23: "Kafka: an ACL is missing",
    24: "Kafka: a topic is missing, or is not what it should be",
    25: "Kafka: a request failed, or the broker went away; what was acknowledged is kept",
    30: "lost records: the log dropped records before they were read; --accept-data-loss goes on after them",
    31: "stalled: the log has more records and none arrive; start again",
    32: "taken over: a later pipeline writes this database",
    33: "repartitioned: partitions or shards differ from those the database was built from; rebuild from the topic",
    70: "unexpected: a fault of freshet itself; --debug shows the traceback",
    130: "interrupted from the keyboard; what was committed is kept",
}


class ExitCode(IntEnum):
    """The exit codes by name; `MEANINGS` holds their text."""

    OK = 0
    FOUND = 1
    USAGE = 2
    INPUT = 3
    DEAD_LETTERS = 4
    LOCKED = 5
    STORAGE = 6
    MODEL = 7
    LEAKAGE = 8
    NO_ROOM = 9
    WORKER_DIED = 10
    UNREACHABLE = 20
    TLS = 21
    LOGIN = 22
    DENIED = 23
    TOPIC = 24
    BROKER = 25
    LOST_RECORDS = 30
    STALLED = 31
    TAKEN_OVER = 32
    REPARTITIONED = 33
    UNEXPECTED = 70
    INTERRUPTED = 130


def exit_code(error: BaseException) -> ExitCode:
    """Return the exit code for an error, `UNEXPECTED` for one that no layer declares."""
    # Imported on demand: a help page must not pay for the layers, and a failed run can.
    from infra.errors import AnswerError  # noqa: PLC0415

    if isinstance(error, AnswerError):
        return ExitCode(error.exit_code)
    return next((code for kinds, code in _table() if isinstance(error, kinds)), ExitCode.UNEXPECTED)


def error_text(error: BaseException) -> str:
    """Return an error as the one line that a person reads: what, where, and what to do."""
    from infra.errors import AnswerError  # noqa: PLC0415

    code = exit_code(error)
    if code is ExitCode.INTERRUPTED:
        return "interrupted; what was committed is kept, the same command resumes"
    if isinstance(error, OSError) and code is ExitCode.INPUT:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error} — check the path and its permissions"
    if code is ExitCode.UNEXPECTED and not isinstance(error, AnswerError):
        kind = type(error).__name__
        return f"unexpected {kind}: {error} — run again with --debug and report it"
    return str(error)


def epilog() -> str:
    """Return the exit codes as lines for a help page."""
    return "\n".join(f"  {code:>3}  {meaning}" for code, meaning in MEANINGS.items())


def _table() -> list[tuple[tuple[type[BaseException], ...], ExitCode]]:
    import model.errors as model_errors  # noqa: PLC0415
    import storage.errors as storage_errors  # noqa: PLC0415
    import stream.errors as stream_errors  # noqa: PLC0415
    from infra import errors  # noqa: PLC0415

    return [
        ((KeyboardInterrupt,), ExitCode.INTERRUPTED),
        (
            (
                errors.SettingsError,
                errors.QuestionError,
                errors.MissingExtraError,
                errors.BrokerUnavailableError,
                stream_errors.ConfigError,
            ),
            ExitCode.USAGE,
        ),
        ((stream_errors.LeakageError,), ExitCode.LEAKAGE),
        ((errors.MismatchError,), ExitCode.MODEL),
        ((stream_errors.CompressError,), ExitCode.WORKER_DIED),
        ((stream_errors.UnreachableError,), ExitCode.UNREACHABLE),
        ((stream_errors.TlsError,), ExitCode.TLS),
        ((stream_errors.LoginError,), ExitCode.LOGIN),
        ((stream_errors.DeniedError,), ExitCode.DENIED),
        ((stream_errors.TopicError,), ExitCode.TOPIC),
        ((stream_errors.BrokerError,), ExitCode.BROKER),
        ((stream_errors.DeadShareError,), ExitCode.DEAD_LETTERS),
        ((storage_errors.LockedError,), ExitCode.LOCKED),
        ((storage_errors.DiskFullError, stream_errors.SinkFullError), ExitCode.NO_ROOM),
        ((storage_errors.FencedError,), ExitCode.TAKEN_OVER),
        ((storage_errors.ExistsError,), ExitCode.INPUT),
        ((storage_errors.StorageError,), ExitCode.STORAGE),
        ((stream_errors.LostRecordsError,), ExitCode.LOST_RECORDS),
        ((stream_errors.StalledError,), ExitCode.STALLED),
        ((stream_errors.RepartitionedError,), ExitCode.REPARTITIONED),
        ((model_errors.TrainingError,), ExitCode.INPUT),
        ((model_errors.ModelError,), ExitCode.MODEL),
        ((errors.InputError, stream_errors.StreamError, OSError), ExitCode.INPUT),
    ]
