"""A process that pumps: answers nothing but keeps scored positions in a file, as a database would.

Arguments: bootstrap topic group shard shards folder fault assignment_s. It writes a line of JSON per turn to
`folder/turns.jsonl` and ends with code 70 where the pump fails.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

from stream.kafka.answering import Answerer
from stream.kafka.config import KafkaConfig
from stream.kafka.pump import Pump


class Recorder:
    """Everything counts as stored; what is answered is written down before it returns."""

    def __init__(self, folder: Path, fault: int) -> None:
        self._file = folder / "scored.json"
        known = json.loads(self._file.read_text()) if self._file.exists() else []
        self.scored = {(topic, part): off for topic, part, off in known}
        self._stored = dict(self.scored)
        self._left = fault

    def wait_stored(self, ends, timeout_s):
        for key, off in ends.items():
            self._stored[key] = max(off, self._stored.get(key, 0))
        return True

    def waiting(self):
        return {
            key: (self.scored.get(key, 0), off)
            for key, off in self._stored.items()
            if self.scored.get(key, 0) < off
        }

    def answer(self, upto, *, shed=False):
        self._left -= 1
        if self._left == 0:
            raise RuntimeError("the fault that was asked for")
        self.scored |= upto
        unfinished = self._file.with_suffix(".unfinished")
        unfinished.write_text(json.dumps([[*key, off] for key, off in self.scored.items()]))
        unfinished.replace(self._file)

    def settle(self):
        pass


async def main(bootstrap, topic, group, shard, shards, folder, fault, assignment_s):
    config = KafkaConfig(
        bootstrap_servers=bootstrap,
        interactions_topic=topic,
        group=group,
        shard=int(shard),
        shards=int(shards),
    )
    turns = (Path(folder) / "turns.jsonl").open("a", buffering=1)

    def record(turn):
        line = {"first": _rows(turn.first), "ends": _rows(turn.ends), "events": turn.events}
        turns.write(json.dumps(line) + "\n")

    def fail(err):
        sys.stderr.write(f"{err}\n")
        sys.stderr.flush()
        os._exit(70)

    recorder = Recorder(Path(folder), int(fault))
    answerer = Answerer(recorder, topic=topic, take_max=20, shed_above=0)
    pump = Pump(
        config,
        answerer,
        take_max=20,
        take_within_s=0.005,
        fail=fail,
        on_turn=record,
        assignment_s=float(assignment_s),
    )
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await pump.start(recorder.scored)
    await stop.wait()
    os._exit(0 if await pump.stop(20) else 1)


def _rows(offsets):
    return [[*key, off] for key, off in offsets.items()]


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
