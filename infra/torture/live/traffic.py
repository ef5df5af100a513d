"""A producer that runs beside what is tortured: a given log, some of it in transactions, some of those taken back."""

from __future__ import annotations

import random
import re
import threading
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, cast

from infra.torture.live.readback import librdkafka

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from types import ModuleType

    from confluent_kafka import KafkaError, Message, Producer

USER = re.compile(rb'"user_id": ?"([^"]*)"')
ITEM = re.compile(rb'"item_id": ?"([^"]*)"')
_ITEM_RECORD = re.compile(rb'"kind": ?"item"')
_LOT = 20
"""Records sent together: alone, or as one transaction."""
_IN_TRANSACTION, _TAKEN_BACK = 0.3, 0.3
_DELIVERY_MS = 300_000
_COMMIT_S = 20.0
_PATIENCE_S = 120.0

Place = tuple[str, int, int]
"""Topic, partition, offset."""


@dataclass(frozen=True, slots=True)
class Topics:
    """Where interactions and items go."""

    interactions: str
    items: str


@dataclass(slots=True)
class Sent:
    """What a producer was told.

    Attributes:
        acknowledged: value by position of every record that the broker said it keeps.
        taken_back: positions of records in transactions that were aborted.
        transactions: committed ones.
        failed: records the broker never took.
    """

    acknowledged: dict[Place, bytes] = field(default_factory=dict)
    taken_back: set[Place] = field(default_factory=set)
    transactions: int = 0
    failed: int = 0


class Traffic:
    """Sends a log at a steady rate on a thread of its own, through every outage of the broker.

    Args:
        log: lines of JSON; item records among them go to the topic of items.
        bootstrap: the broker.
        topics: where records go.
        rate: records a second.
        seed: which lots are transactions, and which of those are taken back.
        transactions: whether there are any.
    """

    def __init__(
        self,
        log: Path,
        bootstrap: str,
        topics: Topics,
        *,
        rate: float,
        seed: int,
        transactions: bool = True,
    ) -> None:
        self._kafka = librdkafka()
        self._lines = log.read_bytes().splitlines()
        self._topics = topics
        self._rate = rate
        self._draw = random.Random(seed)  # noqa: S311 - a plan, not a secret
        self._plain = _producer(self._kafka, bootstrap)
        self._share = _IN_TRANSACTION if transactions else 0.0
        self._transactional = _producer(self._kafka, bootstrap, transactional=f"torture-{seed}")
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="traffic", daemon=True)
        self._error: BaseException | None = None
        self.sent = Sent()
        self.offered = 0
        """Records handed to a producer so far."""

    def start(self) -> None:
        """Begin to send."""
        if self._share:
            self._transactional.init_transactions(_PATIENCE_S)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether the log has not come to its end yet."""
        return self._thread.is_alive()

    def wait_for(self, records: int, timeout_s: float) -> bool:
        """Wait until so many more records were offered, or the log is at its end; return whether it was in time."""
        goal, deadline = self.offered + records, monotonic() + timeout_s
        while self.offered < goal and self.running:
            if monotonic() > deadline:
                return False
            self._stopping.wait(0.02)
        return True

    def end(self) -> None:
        """Send no more."""
        self._stopping.set()

    def stop(self) -> Sent:
        """Send no more, wait until the broker has said what became of everything, and return it.

        Raises:
            RuntimeError: the producer failed, or the broker did not answer.
        """
        self.end()
        self._thread.join(_PATIENCE_S)
        if self._error is not None:
            raise RuntimeError(f"the producer failed: {self._error}") from self._error
        if self._thread.is_alive() or self._plain.flush(_PATIENCE_S):
            raise RuntimeError("the broker did not acknowledge what was sent")
        return self.sent

    def _run(self) -> None:
        try:
            started, done = monotonic(), 0
            for lot in self._lots():
                self._send(lot)
                done += len(lot)
                self.offered += len(lot)
                if self._stopping.wait(max(0.0, started + done / self._rate - monotonic())):
                    return
        except BaseException as err:  # noqa: BLE001 - raised where it is waited for
            self._error = err

    def _lots(self) -> Iterator[Sequence[bytes]]:
        for at in range(0, len(self._lines), _LOT):
            yield self._lines[at : at + _LOT]

    def _send(self, lot: Sequence[bytes]) -> None:
        transaction = self._draw.random() < self._share
        take_back = self._draw.random() < _TAKEN_BACK
        if not transaction:
            for line in lot:
                self._offer(self._plain, line, self.sent.acknowledged)
            self._plain.poll(0)
            return
        self._transactional.begin_transaction()
        held: dict[Place, bytes] = {}
        for line in lot:
            self._offer(self._transactional, line, held)
        self._transactional.flush(_PATIENCE_S)
        if not take_back and self._committed():
            self.sent.acknowledged |= held
            self.sent.transactions += 1
            return
        self._transactional.abort_transaction(_PATIENCE_S)
        self.sent.taken_back |= held.keys()

    def _committed(self) -> bool:
        """Commit; return False if the transaction can only be taken back."""
        deadline = monotonic() + _PATIENCE_S
        while True:
            try:
                self._transactional.commit_transaction(_COMMIT_S)
            except self._kafka.KafkaException as err:
                error = err.args[0]
                if error.txn_requires_abort():
                    return False
                if not error.retriable() or monotonic() > deadline:
                    raise
            else:
                return True

    def _offer(self, producer: Producer, line: bytes, held: dict[Place, bytes]) -> None:
        def told(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                self.sent.failed += 1
                return
            place = (message.topic(), message.partition(), message.offset())
            held[cast("Place", place)] = line

        item = _ITEM_RECORD.search(line) is not None
        topic = self._topics.items if item else self._topics.interactions
        found = (ITEM if item else USER).search(line)
        key = found[1] if found else None
        producer.produce(topic, line, key=key, on_delivery=told)


def _producer(kafka: ModuleType, bootstrap: str, transactional: str | None = None) -> Producer:
    config: dict[str, object] = {
        "bootstrap.servers": bootstrap,
        "acks": "all",
        "enable.idempotence": True,
        "linger.ms": 5,
        "reconnect.backoff.max.ms": 1_000,
        "partitioner": "murmur2_random",
        "log_level": 0,
    }
    if transactional is None:
        config["delivery.timeout.ms"] = _DELIVERY_MS
    else:
        config |= {"transactional.id": transactional, "transaction.timeout.ms": 60_000}
    made: Producer = kafka.Producer(config)
    return made
