"""A process that owns a database and answers on its socket: python -m tests.infra.asking.owning FOLDER DB

It says `ready`, and closes the database when its input ends.
"""

import asyncio
import sys
from pathlib import Path

from infra.asking.app import owner_app, serve
from infra.asking.sockets import socket_of
from infra.settings import load
from infra.wiring import ReplayPlan, replaying
from tests.infra.conftest import World, world_in


def plan_of(world: World, db: Path, slates: Path | None = None) -> ReplayPlan:
    """Return what replays a world's log into a database."""
    return ReplayPlan(
        log=str(world.log),
        db_path=db,
        model_path=world.model,
        items_path=str(world.items),
        slates_path=slates,
    )


async def own(world: World, db: Path) -> None:
    loaded = load(config_file=world.config, environ={})
    with replaying(plan_of(world, db), loaded) as pipeline:
        async with serve(owner_app(pipeline), socket_of(db)):
            sys.stdout.write("ready\n")
            sys.stdout.flush()
            await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(own(world_in(Path(sys.argv[1])), Path(sys.argv[2])))
