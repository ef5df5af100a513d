"""Where slates go: to a file that survives a kill, or nowhere at all."""

from infra.exits import ExitCode
from infra.torture.live.accounts import answers_of, read_books
from stream.slates import recommendation_id
from tests.infra.live.conftest import READY_S, ends_of
from tests.stream.kafka.support import read_topic


def test_a_file_of_slates_has_every_answer_across_a_kill(deployment):
    lines, site = deployment.lines(), deployment.site(live__shed_above=0)
    file = deployment.folder / "slates.jsonl"
    service = deployment.start(site, "--slates-file", str(file))
    sent = deployment.send(lines[:400])
    service.wait_until(lambda: service.passed("sink.written") > 0, READY_S, "first slates")
    assert service.kill().killed
    sent |= deployment.send(lines[400:])
    service = deployment.start(site, "--slates-file", str(file))
    service.wait_until(lambda: service.caught_up(ends_of(sent)), READY_S, "answering")
    assert service.terminate().code == ExitCode.OK
    found = answers_of(file.read_bytes().splitlines())
    wanted = {recommendation_id(*place) for place in read_books(deployment.left()).scored}
    assert found.slates.keys() == wanted
    assert not found.changed


def test_a_service_that_scores_nothing_stores_compresses_and_passes(deployment, admin):
    site = deployment.site()
    service = deployment.start(site, "--no-score")
    sent = deployment.send(deployment.lines())
    service.wait_until(lambda: service.caught_up(ends_of(sent)), READY_S, "storing")
    service.wait_until(
        lambda: service.figures().get("freshet_compress_segments_total", 0) > 20,
        READY_S,
        "compressing",
    )
    assert service.terminate().code == ExitCode.OK
    books = read_books(deployment.left())
    assert books.scored
    assert not books.shed
    slates = f"{deployment.topics.interactions}.slates"
    assert read_topic(deployment.broker.bootstrap, slates) == []
    groups = {group["group_id"] for group in admin.list_groups()}
    group = f"group.{deployment.topics.interactions}"
    assert group in groups
    assert f"{group}-scorer-0-of-1" not in groups
