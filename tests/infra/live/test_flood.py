"""Bad records on a live log: a few are kept aside, a flood stops the service."""

import re

from infra.exits import ExitCode
from tests.infra.live.conftest import READY_S, ends_of, query
from tests.stream.kafka.support import read_topic

_GOOD = re.compile(
    rb'\{"user_id":"u\d+","item_id":"i\d+","event_type":"\w+","ts":\d+,"event_id":"e\d+"\}'
)


def _spoiled(lines, every):
    """Return the good lines with every so many of them cut off in the middle, and how many those are."""
    good = [line for line in lines if _GOOD.fullmatch(line)]
    bad = [
        line[: len(line) // 2] if number % every == 0 else line for number, line in enumerate(good)
    ]
    return bad, len(good[::every])


def test_one_bad_record_in_twenty_costs_no_good_one(deployment, make_topic):
    lines, bad = _spoiled(deployment.lines(), 20)
    mirror = make_topic()
    site = deployment.site(kafka__dead_topic=mirror)
    service = deployment.start(site)
    sent = deployment.send(lines)
    service.wait_until(lambda: service.caught_up(ends_of(sent)), READY_S, "storing")
    assert service.terminate().code == ExitCode.OK
    rows = query(deployment.left(), "SELECT topic, part, off FROM rows_all")
    dead = query(deployment.left(), "SELECT topic, part, off, raw FROM dead_letters")
    assert len(dead) == bad
    assert len(rows) == len(lines) - bad
    places = {(row["topic"], row["part"], row["off"]) for row in [*rows, *dead]}
    assert places == sent.keys()
    assert all(sent[row["topic"], row["part"], row["off"]] == row["raw"] for row in dead)
    copies = read_topic(deployment.broker.bootstrap, mirror)
    assert sorted(copy.value for copy in copies) == sorted(row["raw"] for row in dead)
    assert {dict(copy.headers)["freshet.error"] for copy in copies} == {b"malformed"}


def test_a_backlog_waits_in_the_log_and_every_event_of_it_is_answered(deployment):
    sent = deployment.send(deployment.lines())
    service = deployment.start(deployment.site(live__hold_above=50, live__shed_above=0))
    service.wait_until(lambda: service.caught_up(ends_of(sent)), READY_S, "answering")
    ended = service.terminate()
    assert ended.code == ExitCode.OK
    assert '"holding"' in ended.error
    assert '"reading_on"' in ended.error
    slates = read_topic(deployment.broker.bootstrap, f"{deployment.topics.interactions}.slates")
    scored = query(deployment.left(), "SELECT count(*) AS n FROM rows_all WHERE scores")[0]["n"]
    assert len({slate.value for slate in slates}) == len(slates) == scored


def test_nothing_but_bad_records_stops_the_service_and_all_that_was_read_is_kept(deployment):
    lines, _ = _spoiled(deployment.lines(), 1)
    sent = deployment.send(lines * 2)
    service = deployment.start(deployment.site())
    ended = service.wait(READY_S)
    assert ended is not None
    assert ended.code == ExitCode.DEAD_LETTERS, ended.error
    found = query(
        deployment.left(),
        "SELECT p.topic, p.part, p.next_off, d.n FROM"
        " (SELECT topic, part, max(next_off) AS next_off FROM position_ranges GROUP BY ALL) p"
        " LEFT JOIN (SELECT topic, part, count(*) AS n FROM dead_letters GROUP BY ALL) d"
        " ON d.topic = p.topic AND d.part = p.part WHERE p.next_off > 0",
    )
    assert sum(row["n"] for row in found) >= 1_000
    assert all(row["n"] == row["next_off"] for row in found), "what was passed is a dead letter"
    assert sum(row["n"] for row in found) < len(sent), "it stopped before the end"
