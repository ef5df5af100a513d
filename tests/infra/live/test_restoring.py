"""A lost database beside a log that is still there, and a group that is lost instead."""

from infra.exits import ExitCode
from infra.torture.live.accounts import answers_of, read_books, same_log
from infra.torture.live.readback import read_back
from storage.wal import wal_of
from stream.kafka.preflight import coordinated
from stream.slates import recommendation_id
from tests.infra.live.conftest import READY_S, ends_of

_QUEUED = 'freshet_score_seconds_count{stage="queue"}'


def _ticks(service):
    return service.figures().get("freshet_tick_seconds_count", 0.0)


def _caught_up(service, ends):
    """Wait until everything is answered, and a tick began after that."""
    service.wait_until(lambda: service.caught_up(ends), READY_S, "answering everything")
    seen = _ticks(service)
    service.wait_until(lambda: _ticks(service) >= seen + 2, READY_S, "the last tick")


def _committed(admin, group):
    found = coordinated(lambda: admin.list_group_offsets({group: None})).get(group, {})
    return {(place.topic, place.partition): entry.offset for place, entry in found.items()}


def test_a_restored_file_and_the_log_give_what_a_run_without_the_loss_gives(deployment, admin):
    """The scorer's group stands ahead of the restored file: what is stored again is answered all the same."""
    lines, site, db = deployment.lines(), deployment.site(live__shed_above=0), deployment.left().db
    copy = deployment.folder / "copy.duckdb"
    service = deployment.start(site)
    sent = deployment.send(lines[:400])
    service.wait_until(lambda: service.caught_up(ends_of(sent)), READY_S, "storing")
    made = deployment.run("backup", str(copy), "--db", str(db))
    assert made.code == ExitCode.OK, made.error
    sent |= deployment.send(lines[400:])
    _caught_up(service, ends_of(sent))
    topic, group = deployment.topics.interactions, f"group.{deployment.topics.interactions}"
    ends = {key: end for key, end in ends_of(sent).items() if key[0] == topic}
    ahead = f"{group}-scorer-0-of-1"
    service.wait_until(lambda: _committed(admin, ahead) == ends, READY_S, "committing")
    service.kill()
    db.unlink()
    wal_of(db).unlink(missing_ok=True)
    assert deployment.run("restore", str(copy), "--db", str(db)).code == ExitCode.OK
    service = deployment.start(site)
    _caught_up(service, ends_of(sent))
    assert service.terminate().code == ExitCode.OK

    exported, again = deployment.folder / "log.parquet", deployment.left("again")
    assert deployment.run(*site.export(exported)).code == ExitCode.OK
    replayed = deployment.run(*site.replay(exported, again.db, "--no-score", "--finish"))
    assert replayed.code == ExitCode.OK, replayed.error
    checks = same_log(deployment.left(), again, "restored")
    assert len(checks) > 5
    assert not [check for check in checks if not check.ok]
    slates = read_back(deployment.broker.bootstrap, f"{topic}.slates")
    found = answers_of(record.value for record in slates)
    assert found.repeats >= 100, "what came after the backup is answered twice"
    wanted = {recommendation_id(*place) for place in read_books(deployment.left()).scored}
    assert found.slates.keys() == wanted


def test_a_group_that_is_lost_is_moved_to_where_the_database_stands(deployment, admin):
    site = deployment.site()
    service = deployment.start(site)
    sent = deployment.send(deployment.lines()[:300])
    ends = {key: n for key, n in ends_of(sent).items() if key[0] == deployment.topics.interactions}
    service.wait_until(lambda: service.caught_up(ends), READY_S, "storing")
    assert service.terminate().code == ExitCode.OK
    group = f"new.{deployment.topics.interactions}"
    service = deployment.start(site.with_settings(kafka__group=group))
    service.wait_until(lambda: service.ready, READY_S, "being ready")
    assert _committed(admin, f"{group}-scorer-0-of-1") == ends
    assert service.figures().get(_QUEUED, 0) == 0, "nothing of it is delivered again"
    assert service.terminate().code == ExitCode.OK
