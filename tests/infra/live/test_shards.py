"""Two shards on one broker: each with partitions and a file of its own."""

from infra.exits import ExitCode
from tests.infra.live.conftest import READY_S, ends_of, query

_PLACES = (
    "SELECT topic, part, off FROM rows_all UNION ALL SELECT topic, part, off FROM dead_letters"
)


def _places(deployment, name):
    rows = query(deployment.left(name), _PLACES)
    return [(row["topic"], row["part"], row["off"]) for row in rows]


def test_killing_one_shard_does_not_stop_the_other_and_together_they_hold_everything(deployment):
    lines = deployment.lines()
    topic = deployment.topics.interactions
    sites = [
        deployment.site(f"shard{number}", kafka__shard=number, kafka__shards=2)
        for number in range(2)
    ]
    services = [deployment.start(site) for site in sites]
    sent = deployment.send(lines[:300])

    def of_shard(number):
        return {key: end for key, end in ends_of(sent).items()
                if key[0] == topic and key[1] % 2 == number}  # fmt: skip

    for number, service in enumerate(services):
        service.wait_until(lambda s=service, n=number: s.caught_up(of_shard(n)), READY_S, "storing")
    assert services[1].kill().killed
    sent |= deployment.send(lines[300:])
    services[0].wait_until(lambda: services[0].caught_up(of_shard(0)), READY_S, "going on")
    again = deployment.start(sites[1])
    again.wait_until(lambda: again.caught_up(of_shard(1)), READY_S, "catching up")
    assert services[0].terminate().code == ExitCode.OK
    assert again.terminate().code == ExitCode.OK
    zero, one = _places(deployment, "shard0"), _places(deployment, "shard1")
    assert {part % 2 for _, part, _ in zero} == {0}
    assert {part % 2 for _, part, _ in one} == {1}
    assert sorted(zero + one) == sorted(place for place in sent if place[0] == topic)
