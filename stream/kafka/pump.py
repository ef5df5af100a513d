"""Faust as the pump of the scorer: it says which events there are, and remembers what was answered.

Everything it does by default that loses events is turned off: concurrency above one, acknowledging when
an agent fails, tables, its own leader and web server. Whatever fails here ends the process with nothing
acknowledged; the positions of the group stay behind what was answered, never ahead of it.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import TYPE_CHECKING, Any

import faust
from faust.assignor import PartitionAssignor

from stream.errors import BrokerError, TopicError
from stream.kafka.admin import partition_counts, raise_positions
from stream.kafka.answering import AbandonedError, Answerer
from stream.kafka.connection import password, tls_context
from stream.kafka.pacing import PacedTransport
from stream.kafka.preflight import reachable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, MutableMapping

    from stream.kafka.answering import Key, Turn
    from stream.kafka.config import KafkaConfig

_LOOK_S = 0.5
_SWEEP_S = 2.0
_SESSION_S, _HEARTBEAT_S = 10.0, 3.0  # a killed member is waited for so long, 60 s by default
_COMMIT_S = 1.0
_METADATA_MS = 5_000
_BUFFERS = 4  # batches held ready


class Pump:
    """Delivers the interactions of this shard's partitions to an `Answerer`, batch by batch.

    Args:
        config: broker, topic, shard, login.
        answerer: waits and answers, in one thread of its own.
        take_max: events of one batch at most ...
        take_within_s: ... and how long its first one waits for others.
        fail: called once, in the event loop, with what went wrong. The process must end then without
            another word to the broker (`os._exit`): the events at hand are never acknowledged.
        on_turn: called in the answering thread after every batch.
        assignment_s: without a partition for so long, though the broker answers, the pump fails: a
            group that is joined while the topic is unknown is given nothing, for good.
    """

    def __init__(
        self,
        config: KafkaConfig,
        answerer: Answerer,
        *,
        take_max: int,
        take_within_s: float,
        fail: Callable[[BaseException], None],
        on_turn: Callable[[Turn], None] | None = None,
        assignment_s: float = 15.0,
    ) -> None:
        self._config = config
        self._answerer = answerer
        self._take_max = take_max
        self._within_s = take_within_s
        self._fail_process = fail
        self._on_turn = on_turn or (lambda _: None)
        self._assignment_s = assignment_s
        self._failed = False
        self._thread = ThreadPoolExecutor(1, "score")
        self._app = self._make_app()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def assigned(self) -> frozenset[Key]:
        """The partitions that are delivered now."""
        if not self._app.started or self._app.consumer is None:
            return frozenset()
        return frozenset((tp.topic, tp.partition) for tp in self._app.consumer.assignment())

    async def start(self, answered: Mapping[Key, int] | None = None) -> None:
        """Join the group and begin to deliver.

        Args:
            answered: scored positions of the database: what lies below them need not be delivered.

        Raises:
            BrokerError: as `preflight`.
            TopicError: the topic is missing, or no partition of it belongs to this shard.
        """
        topic = self._config.interactions_topic
        counts = await asyncio.to_thread(partition_counts, self._config, [topic])
        if not any(map(self._config.owns, range(counts[topic]))):
            raise TopicError(
                f"topic {topic} has {counts[topic]} partitions, none for shard"
                f" {self._config.shard} of {self._config.shards}; run fewer shards"
            )
        mine = {key: off for key, off in (answered or {}).items() if key[0] == topic and off > 0}
        if mine:
            await asyncio.to_thread(raise_positions, self._config, self._config.scorer_group, mine)
        await self._app.start()
        self._tasks = [
            asyncio.create_task(self._watch(), name="pump-watch"),
            asyncio.create_task(self._sweep(), name="pump-sweep"),
        ]

    async def stop(self, timeout_s: float) -> bool:
        """Answer and acknowledge what was delivered, then leave the group; call it before ingest stops.

        Returns:
            False when that took longer. The process must then end as after `fail`.
        """
        deadline = monotonic() + timeout_s
        for task in self._tasks:
            task.cancel()
        leaving = asyncio.ensure_future(self._app.stop())
        done, _ = await asyncio.wait({leaving}, timeout=timeout_s)
        self._answerer.abandon()
        self._thread.shutdown(wait=False, cancel_futures=True)
        if not done or self._failed:
            return False
        # A sweep may still be at work, and wait for a broker that is away.
        ending = asyncio.ensure_future(asyncio.to_thread(self._thread.shutdown))
        ended, _ = await asyncio.wait({ending}, timeout=max(0.0, deadline - monotonic()))
        return bool(ended)

    def _make_app(self) -> Any:  # noqa: ANN401 - Faust's own type says nothing of what is set here
        config = self._config
        app = _App(
            config.scorer_group,
            broker=[f"kafka://{server}" for server in config.servers],
            broker_credentials=_credentials(config),
            PartitionAssignor=_shard_assignor(config),
            table_standby_replicas=1,  # without replicas and tables Faust ignores the assignor
            store="memory://",
            autodiscover=False,
            web_enabled=False,
            topic_allow_declare=False,
            topic_disable_leader=True,
            stream_wait_empty=True,
            stream_buffer_maxsize=_BUFFERS * self._take_max,
            broker_commit_interval=_COMMIT_S,
            broker_session_timeout=_SESSION_S,
            broker_heartbeat_interval=_HEARTBEAT_S,
            consumer_metadata_max_age_ms=_METADATA_MS,
            consumer_auto_offset_reset="earliest",
        )
        app.fail = self._fail
        topic = app.topic(
            config.interactions_topic,
            key_type=bytes, key_serializer="raw", value_type=bytes, value_serializer="raw",
            allow_empty=True,
        )  # fmt: skip
        app.agent(topic, name="score", concurrency=1)(self._run)
        return app

    async def _run(self, stream: Any) -> None:  # noqa: ANN401
        """The agent. Leaving a turn acknowledges its events, however it is left: so it is not left on failure."""
        loop = asyncio.get_running_loop()
        async for events in stream.take_events(self._take_max, within=self._within_s):
            first: dict[Key, int] = {}
            ends: dict[Key, int] = {}
            for event in events:
                message = event.message
                key = (message.topic, message.partition)
                first.setdefault(key, message.offset)
                ends[key] = message.offset + 1
            try:
                await loop.run_in_executor(self._thread, self._take, first, ends, len(events))
            except BaseException as err:  # noqa: BLE001 - see above
                if isinstance(err, asyncio.CancelledError):  # Faust takes itself down
                    err = self._app.crash_reason or err
                if not isinstance(err, AbandonedError):
                    self._fail(err)
                await asyncio.Event().wait()

    def _take(self, first: dict[Key, int], ends: dict[Key, int], events: int) -> None:
        self._on_turn(self._answerer.take(first, ends, events))

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_SWEEP_S)
            try:
                await loop.run_in_executor(self._thread, self._answerer.sweep)
            except Exception as err:  # noqa: BLE001 - the process ends with it
                self._fail(err)
                return

    async def _watch(self) -> None:
        """Fail when Faust has crashed on its own, or is given no partition for long while the broker is there."""
        since = monotonic()
        while True:
            await asyncio.sleep(_LOOK_S)
            if self._app.crashed:
                reason = self._app.crash_reason
                self._fail(reason or BrokerError("the pump ended without a reason; run again"))
                return
            if self.assigned:
                since = monotonic()
            elif monotonic() - since > self._assignment_s:
                if await asyncio.to_thread(reachable, self._config):
                    self._fail(BrokerError(_no_partition(self._config, self._assignment_s)))
                    return
                since = monotonic()

    def _fail(self, err: BaseException) -> None:
        if not self._failed:
            self._failed = True
            self._fail_process(err)


class _App(faust.App):
    """An app that commits nothing when an agent fails; Faust's own commits what was acknowledged until then."""

    fail: Callable[[BaseException], None]

    def _create_directories(self) -> None:
        """Make none: they are for tables, and the working folder may be read-only."""

    def _new_transport(self) -> PacedTransport:
        return PacedTransport(self.conf.broker_consumer, self)

    async def _on_agent_error(self, agent: object, exc: BaseException) -> None:  # noqa: ARG002
        self.fail(exc)


def _shard_assignor(config: KafkaConfig) -> type[PartitionAssignor]:
    """Return an assignor that gives its one member the partitions of its shard and no others."""

    class ShardAssignor(PartitionAssignor):
        # A private hook: the version is pinned exactly.
        def _protocol_assignments(
            self,
            assignments: MutableMapping[str, Any],
            *rest: Any,  # noqa: ANN401
        ) -> MutableMapping[str, Any]:
            for assignment in assignments.values():
                for topic, parts in assignment.actives.items():
                    assignment.actives[topic] = [part for part in parts if config.owns(part)]
            return super()._protocol_assignments(assignments, *rest)

    return ShardAssignor


def _credentials(config: KafkaConfig) -> object | None:
    context = tls_context(config) if config.uses_tls else None
    if config.uses_sasl:
        return faust.SASLCredentials(
            username=config.sasl_username,
            password=password(config),
            mechanism=config.sasl_mechanism,
            ssl_context=context,
        )
    return faust.SSLCredentials(context) if context is not None else None


def _no_partition(config: KafkaConfig, seconds: float) -> str:
    return (
        f"{config.bootstrap_servers}: the group of shard {config.shard} was given no partition of"
        f" {config.interactions_topic} for {seconds:g} s; is another process of this shard"
        " running? If not, start again"
    )
