"""Errors of the outside layer.

InfraError
├── SettingsError    a configuration file, variable or flag can not be used
├── QuestionError    a question to a database can not be answered as it was put
├── AnswerError      the process that owns a database refused a question
├── InputError       a file named on the command line can not be used
├── MismatchError    database, checkpoint and settings do not fit together
├── MissingExtraError  an optional dependency is not installed
└── BrokerUnavailableError  a Kafka broker can not be started here
"""


class InfraError(Exception):
    """Base of the errors raised by infra; the message is one line that ends with the remedy."""


class SettingsError(InfraError):
    """A configuration file, environment variable or flag can not be used."""


class InputError(InfraError):
    """A file or value named on the command line can not be used."""


class MismatchError(InfraError):
    """The database, the checkpoint and the settings do not fit together."""


class MissingExtraError(InfraError):
    """An optional dependency is not installed."""


class BrokerUnavailableError(InfraError):
    """A Kafka broker can not be started here: no Java, no jars, or it ended at once."""


class QuestionError(InfraError):
    """A question to a database can not be answered as it was put."""


class AnswerError(InfraError):
    """The process that owns a database refused a question, or ended before it had answered.

    Attributes:
        exit_code: what the command would have ended with in that process.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        self.exit_code = exit_code
        super().__init__(message)
