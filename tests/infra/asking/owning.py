"""A process that owns a database and answers on its socket, for tests: python -m tests.infra.asking.owning DB ...

It says `ready`, then obeys lines on its input until that ends: `to N` replays the log up to N records and says
`at N`.
"""

import asyncio
import sys
from pathlib import Path

from infra.asking.app import owner_app, serve
from infra.asking.sockets import socket_of
from infra.settings import load
from infra.wiring import ReplayPlan, replaying


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


async def own(folder: Path, db: Path, slates: Path | None, limit_s: float) -> None:
    plan = ReplayPlan(
        log=str(folder / "log.jsonl"),
        db_path=db,
        model_path=folder / "model.safetensors",
        items_path=str(folder / "items.jsonl"),
        slates_path=slates,
    )
    loaded = load(config_file=folder / "freshet.toml", environ={})
    with replaying(plan, loaded) as pipeline:
        async with serve(owner_app(pipeline, limit_s=limit_s), socket_of(db)):
            say("ready")
            while line := await asyncio.to_thread(sys.stdin.readline):
                goal = int(line.split()[1])
                while pipeline.summary.records < goal:
                    await asyncio.to_thread(pipeline.run, max_records=5)
                say(f"at {pipeline.summary.records}")


if __name__ == "__main__":
    folder_, db_, slates_, limit_ = sys.argv[1:]
    asyncio.run(own(Path(folder_), Path(db_), Path(slates_) if slates_ else None, float(limit_)))
