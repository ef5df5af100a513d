"""The pump of a service: what it is given when it starts."""

import asyncio

from infra.service.health import Health
from infra.service.pumping import FaustPump


class Deliveries:
    """Remembers below which offsets nothing need be delivered."""

    assigned = frozenset()

    async def start(self, answered):
        self.answered = answered


def test_what_is_answered_need_not_be_delivered():
    made = Deliveries()
    pump = FaustPump(lambda _: made, lambda: {("t", 0): 7}, bound_s=1.0, health=Health())
    asyncio.run(pump.start(lambda _: None))
    assert made.answered == {("t", 0): 7}
