"""Errors of the streaming layer.

StreamError
├── ConfigError            a setting of the streaming layer cannot be used
├── SourceError            a source cannot be read
│   ├── GapError           stored positions and the source no longer agree
│   │   └── LostRecordsError  the log dropped records before they were read
│   ├── StalledError       the log has more records, and none arrive
│   └── RepartitionedError the topic's partitions, or this shard's, are not those the database was built from
├── JournalError           a recorded journal cannot be read, or is of another log
├── DeadShareError         too many bad records, by share or in a row: the run stops
├── PartitionMovedError    a user's events come from a second partition, and shards or logs may not share users
├── CompressError          due segments could not be compressed; nothing of them was stored
├── EvaluationError        a log or target file cannot be evaluated as asked
│   └── LeakageError       the figures would cover events the model was fitted on
├── BrokerError            Kafka cannot be used as asked
│   ├── UnreachableError   nobody answers at its address
│   ├── TlsError           no encrypted connection comes about
│   ├── LoginError         the login is refused
│   ├── DeniedError        an ACL is missing
│   └── TopicError         a topic is missing, or is not what it should be
└── SinkError              a sink did not take slates (retry_after_s says when to try again)
    ├── SinkFullError      because the disk, a quota or a file size limit left no room
    └── UndeliveredError   because the broker did not acknowledge them; a BrokerError too

Every message is one line: what happened, where, and what to do about it.
"""

from __future__ import annotations


class StreamError(Exception):
    """Root of this package's errors."""


class ConfigError(StreamError):
    """A setting of the streaming layer cannot be used as given."""


class SourceError(StreamError):
    """A source cannot be read: missing or damaged file, missing column, unusable type."""


class GapError(SourceError):
    """Stored positions and the source disagree: records are gone or the log was replaced."""


class LostRecordsError(GapError):
    """The log dropped records before they were read: its retention is shorter than the stop was."""


class StalledError(SourceError):
    """A partition has more records than were read, and none of them arrive: only a new connection helps."""


class RepartitionedError(SourceError):
    """A topic has another number of partitions, or this shard another part of them, than the database knows."""


class JournalError(StreamError):
    """A recorded journal cannot be read, or does not belong to the log that is replayed."""


class DeadShareError(StreamError):
    """Too many records are bad, by their share of the last ones or in a row.

    Attributes:
        dead: bad records so far in this run.
        records: records read so far in this run.
    """

    def __init__(self, message: str, *, dead: int, records: int) -> None:
        super().__init__(message)
        self.dead = dead
        self.records = records


class PartitionMovedError(StreamError):
    """A user's events come from a second partition: another shard, or another log, may hold the rest."""


class CompressError(StreamError):
    """Due segments could not be compressed: what does it died, took too long or refused; none was stored.

    Attributes:
        again: whether another attempt may succeed.
    """

    def __init__(self, message: str, *, again: bool = True) -> None:
        super().__init__(message)
        self.again = again


class EvaluationError(StreamError):
    """A log, target file or period cannot be evaluated as asked."""


class LeakageError(EvaluationError):
    """The figures would cover events that the model was fitted on."""


class BrokerError(StreamError):
    """Kafka cannot be used as asked; what was acknowledged or stored before is kept."""


class UnreachableError(BrokerError):
    """Nobody answers at any of the brokers' addresses."""


class TlsError(BrokerError):
    """No encrypted connection comes about: a certificate, its name, or what the listener speaks."""


class LoginError(BrokerError):
    """The broker refuses the login, or wants one."""


class DeniedError(BrokerError):
    """The login is good, and an ACL is missing."""


class TopicError(BrokerError):
    """A topic is missing, or has other partitions than it should have."""


class SinkError(StreamError):
    """Slates could not be made durable.

    Attributes:
        retry_after_s: seconds after which a retry may succeed; None when a retry cannot help.
    """

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class SinkFullError(SinkError):
    """Slates could not be made durable because there is no room for them."""


class UndeliveredError(SinkError, BrokerError):
    """Messages were not all acknowledged by the broker."""
