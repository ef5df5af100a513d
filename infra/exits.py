"""Exit codes of the command line: what each number means, and which error leads to it."""

from enum import IntEnum

MEANINGS: dict[int, str] = {
    0: "done",
    1: "a check found something: slates differ, doctor has findings, a gate failed",
    2: "usage or configuration: a flag, a setting, a file of settings",
    3: "input: a source, an item file or a column can not be read, or a user is in two partitions",
    4: "too many dead letters: the share of bad records passed the configured limit",
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
    UNEXPECTED = 70
    INTERRUPTED = 130


def exit_code(error: BaseException) -> ExitCode:
    """Return the exit code for an error, `UNEXPECTED` for one that no layer declares."""
    # Imported on demand: a help page must not pay for the layers, and a failed run can.
    return next((code for kinds, code in _table() if isinstance(error, kinds)), ExitCode.UNEXPECTED)


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
        ((storage_errors.StorageError,), ExitCode.STORAGE),
        ((model_errors.TrainingError,), ExitCode.INPUT),
        ((model_errors.ModelError,), ExitCode.MODEL),
        ((errors.InputError, stream_errors.StreamError, OSError), ExitCode.INPUT),
    ]
