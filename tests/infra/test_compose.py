"""The compose file, the image, the scrape configuration and the dashboard agree with the code."""

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from infra import settings
from infra.cli import cli
from infra.reference import cli_context
from stream.metrics import METRICS

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
DOCKERFILE = (ROOT / "infra/docker/Dockerfile").read_text(encoding="utf-8")
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if "build" in service]
DASHBOARD = json.loads((ROOT / "infra/grafana/dashboards/freshet.json").read_text(encoding="utf-8"))
SUFFIXES = ("_bucket", "_sum", "_count")


def instruction(name: str) -> list[str]:
    joined = DOCKERFILE.replace("\\\n", " ")
    return re.findall(rf"^{name} (.*)$", joined, flags=re.MULTILINE)


def loaded(service: str) -> settings.Settings:
    return settings.load(environ=SERVICES[service]["environment"]).settings


def parse(arguments: list[str]) -> None:
    """Parse a command line as the program would."""
    context = cli_context()
    name, *rest = arguments
    command = cli.get_command(context, name)
    assert command is not None, name
    if isinstance(command, click.Group):
        name, *rest = rest
        command = command.commands[name]
    # Files of the image are not here; their place is checked against the Dockerfile below.
    here = [str(ROOT / "README.md") if word.startswith("/opt/") else word for word in rest]
    command.make_context(name, here, parent=context)


@pytest.mark.parametrize("name", OURS)
def test_every_command_of_the_image_can_be_typed(name: str):
    parse(list(SERVICES[name]["command"]))


def test_the_default_command_of_the_image_can_be_typed():
    (default,) = instruction("CMD")
    parse(json.loads(default))
    assert instruction("ENTRYPOINT") == ['["freshet"]']


@pytest.mark.parametrize("name", OURS)
def test_every_variable_is_a_setting(name: str):
    config = loaded(name)
    assert config.kafka.bootstrap_servers == "kafka:9092"
    listeners = SERVICES["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    assert listeners == f"PLAINTEXT://{config.kafka.bootstrap_servers}"


def test_one_port_serves_health_and_metrics_everywhere():
    port = loaded("freshet").live.http_port
    assert instruction("EXPOSE") == [str(port)]
    assert f"http://127.0.0.1:{port}/livez" in DOCKERFILE
    assert SERVICES["freshet"]["ports"] == [f"127.0.0.1:{port}:{port}"]
    scrape = yaml.safe_load((ROOT / "infra/prometheus/prometheus.yml").read_text(encoding="utf-8"))
    (job,) = scrape["scrape_configs"]
    assert job["static_configs"] == [{"targets": [f"freshet:{port}"]}]
    assert loaded("freshet").live.http_host == "0.0.0.0"  # noqa: S104 another container asks


def test_grafana_asks_the_prometheus_that_runs():
    folder = ROOT / "infra/grafana/provisioning"
    (source,) = yaml.safe_load((folder / "datasources/prometheus.yml").read_text())["datasources"]
    (port,) = SERVICES["prometheus"]["ports"]
    assert source["url"] == f"http://prometheus:{port.rsplit(':', 1)[1]}"
    (provider,) = yaml.safe_load((folder / "dashboards/freshet.yml").read_text())["providers"]
    mounts = dict(v.split(":")[:2] for v in SERVICES["grafana"]["volumes"] if v.startswith("./"))
    assert provider["options"]["path"] in mounts.values()
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{provider['options']['path']}/freshet.json"
    assert {
        panel["datasource"]["uid"] for panel in DASHBOARD["panels"] if "datasource" in panel
    } == {source["uid"]}


def named(expression: str) -> set[str]:
    return set(re.findall(r"\bfreshet_\w+", expression))


def test_the_dashboard_draws_only_metrics_that_exist():
    known = {metric.name: metric for metric in METRICS}
    asked = {
        name
        for panel in DASHBOARD["panels"]
        for target in panel.get("targets", [])
        for name in named(target["expr"])
    }
    assert asked
    for name in asked:
        base = next(
            (name.removesuffix(suffix) for suffix in SUFFIXES if name.endswith(suffix)), name
        )
        assert name in known or (base in known and known[base].kind == "histogram"), name


def test_the_labels_that_the_dashboard_names_exist():
    labels = {label for metric in METRICS for label in metric.labels} | {"le"}
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", []):
            grouped = re.findall(r"by \(([^)]*)\)", target["expr"])
            legends = re.findall(r"{{(\w+)}}", target["legendFormat"])
            used = {word.strip() for group in grouped for word in group.split(",")} | set(legends)
            assert used <= labels, target["expr"]


def test_panels_do_not_overlap_and_say_what_they_show():
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        taken |= cells
        assert panel["type"] == "row" or panel["description"], panel["title"]


def test_images_are_pinned():
    for name, service in SERVICES.items():
        tag = service["image"].rpartition(":")[2]
        assert re.match(r"v?\d+\.\d+", tag), name
    assert all(":" in image and "latest" not in image for image in instruction("ARG PYTHON_IMAGE"))


def test_services_wait_for_services_that_can_be_waited_for():
    for name, service in SERVICES.items():
        needs = service.get("depends_on", {})
        for other, how in needs.items() if isinstance(needs, dict) else ((n, {}) for n in needs):
            assert other in SERVICES, name
            if how.get("condition") == "service_healthy":
                check = SERVICES[other].get("healthcheck", {})
                from_image = other in OURS and "HEALTHCHECK" in DOCKERFILE
                assert (check and not check.get("disable")) or (from_image and not check), other


def test_named_volumes_are_declared_and_mounted_files_exist():
    used = set()
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (ROOT / source).exists(), source
            else:
                used.add(source)
    assert used == set(COMPOSE["volumes"])


def test_published_ports_are_distinct_and_local():
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert all(port.startswith("127.0.0.1:") for port in ports)
    outside = sorted(port.split(":")[1] for port in ports)
    assert all(one != two for one, two in pairwise(outside))


def test_the_image_runs_as_nobody_special_and_stops_within_the_grace_period():
    (user,) = instruction("USER")
    assert int(user) >= 1000
    assert instruction("STOPSIGNAL") == ["SIGTERM"]
    grace = float(SERVICES["freshet"]["stop_grace_period"].removesuffix("s"))
    assert loaded("freshet").live.drain_s < grace


def test_files_that_the_image_copies_exist_and_reach_it():
    kept = {
        line.removeprefix("!")
        for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
        if line.startswith("!")
    }
    for line in instruction("COPY"):
        if line.startswith("--from"):
            continue
        for source in line.split()[:-1]:
            assert (ROOT / source).exists(), source
            assert source.split("/")[0] in kept, source


def test_what_the_commands_read_from_the_image_is_copied_there():
    named_files = {
        word for name in OURS for word in SERVICES[name]["command"] if word.startswith("/opt/")
    }
    assert named_files
    for path in named_files:
        assert (ROOT / "infra/data/online_retail_ii" / Path(path).name).is_file(), path
        assert path.startswith("/opt/freshet/demo/")
    assert "COPY infra/data/online_retail_ii /opt/freshet/demo" in DOCKERFILE
