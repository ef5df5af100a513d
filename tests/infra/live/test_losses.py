"""What a running service does when the log has dropped records, the disk is full, or its worker dies."""

from contextlib import suppress

from kafka import KafkaAdminClient, TopicPartition

from infra.exits import ExitCode
from infra.fuse import Fuse
from infra.torture.disks import disk
from infra.torture.live.accounts import read_log
from infra.torture.verdict import remains
from tests.infra.live.conftest import READY_S, ends_of, query


def test_records_dropped_while_stopped_are_seen_refused_and_accepted_on_request(
    deployment, admin: KafkaAdminClient, freshet
):
    lines = deployment.lines()
    site = deployment.site()
    service = deployment.start(site)
    first = deployment.send(lines[:400])
    service.wait_until(lambda: service.caught_up(ends_of(first)), READY_S, "storing")
    assert service.terminate().code == ExitCode.OK
    later = deployment.send(lines[400:])
    topic = deployment.topics.interactions
    (_, part), stored = max((key, end) for key, end in ends_of(first).items() if key[0] == topic)
    kept = stored + 5
    admin.delete_records({TopicPartition(topic, part): kept})
    refused = deployment.start(site).wait(READY_S)
    assert refused is not None
    assert refused.code == ExitCode.LOST_RECORDS
    assert f"{topic}[{part}]" in refused.said
    assert "--accept-data-loss" in refused.said
    accepting = deployment.start(site, "--accept-data-loss")
    accepting.wait_until(lambda: accepting.caught_up(ends_of(later)), READY_S, "going on")
    assert accepting.terminate().code == ExitCode.OK
    gone = {(topic, part, off) for off in range(stored, kept)}
    stored_places = remains(deployment.left()).places
    assert not gone & stored_places.keys()
    wanted = {place for place in first | later if place[0] == topic}
    assert stored_places.keys() == wanted - gone
    (lost,) = freshet("status", "--db", site.db, "--json").json["lost"]
    assert (lost["topic"], lost["part"]) == (topic, part)
    assert (lost["first_off"], lost["next_off"]) == (stored, kept)
    assert "lost, and accepted" in freshet("status", "--db", site.db).out


def _fill(folder):
    """Write a file until there is no room for another block."""
    with suppress(OSError), (folder / "ballast").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def test_a_full_disk_stops_the_service_and_nothing_is_lost(deployment):
    lines = deployment.lines()
    site = deployment.site("full")
    with disk(deployment.left("full").folder, size=8 << 20) as full:
        service = deployment.start(site, limits=full.limits)
        sent = deployment.send(lines[:200])
        service.wait_until(lambda: service.caught_up(ends_of(sent)), READY_S, "storing")
        if full.mounted:
            _fill(full.folder)
        for number in range(20):  # where files are limited instead, it takes more records
            unique = [line.replace(b'"e', b'"r%d-e' % number) for line in lines[200:]]
            sent |= deployment.send(unique)
            if service.wait(1.0) is not None:
                break
        ended = service.wait(READY_S)
        assert ended is not None, "the disk never filled up"
        assert ended.code == ExitCode.NO_ROOM, ended.error
        (full.folder / "ballast").unlink(missing_ok=True)
        full.free()
        service = deployment.start(site)
        service.wait_until(lambda: service.caught_up(ends_of(sent)), 2 * READY_S, "resuming")
        assert service.terminate().code == ExitCode.OK
        found = remains(deployment.left("full"))
    topic = deployment.topics.interactions
    assert found.places.keys() == {place for place in sent if place[0] == topic}
    assert max(found.places.values()) == 1
    assert not [check for check in found.findings if not check.ok]


def test_workers_that_die_delay_tokens_and_lose_none(deployment):
    site = deployment.site()
    service = deployment.start(site, fuse=Fuse("worker.compress", 3))
    sent = deployment.send(deployment.lines())
    service.wait_until(lambda: service.caught_up(ends_of(sent)), READY_S, "storing")
    service.wait_until(
        lambda: service.figures().get("freshet_worker_replaced_total", 0) >= 2, READY_S, "dying"
    )
    assert service.terminate().code == ExitCode.OK
    service = deployment.start(site)
    service.wait_until(
        lambda: service.figures().get("freshet_tick_seconds_count", 0) >= 2, READY_S, "ticking"
    )
    assert service.terminate().code == ExitCode.OK
    assert not query(deployment.left(), "SELECT * FROM refresh_failures WHERE quarantined")
    found = remains(deployment.left())
    assert found.groups > 20
    assert not [check for check in found.findings if not check.ok]
    assert read_log(deployment.broker.bootstrap, deployment.topics)
