"""docker-compose.yml, read as data: what a profile adds, what is mounted, and who can reach what."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from enrollment_service.settings import Settings
from tests.support.processes import PROJECT


class Merged(yaml.SafeLoader):
    """Reads what is laid over another file, whose own values `!reset` takes away."""


def emptied(loader: Merged, node: yaml.SequenceNode) -> list[Any]:
    return list(loader.construct_sequence(node))


Merged.add_constructor("!reset", emptied)

COMPOSE: dict[str, Any] = yaml.safe_load((PROJECT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
PROFILED = {name for name, service in SERVICES.items() if "profiles" in service}


def test_without_a_profile_there_is_the_service_alone() -> None:
    assert set(SERVICES) - PROFILED == {"secrets", "db", "roles", "migrate", "server"}
    assert {name for name in PROFILED if SERVICES[name]["profiles"] == ["observability"]} == {
        "prometheus", "alertmanager", "grafana",
    }  # fmt: skip
    assert {name for name in PROFILED if SERVICES[name]["profiles"] == ["production"]} == {
        "credentials", "production", "portal", "catalog",
    }  # fmt: skip
    assert {name for name in PROFILED if SERVICES[name]["profiles"] == ["edge"]} == {"edge"}


def test_nothing_depends_on_what_a_profile_adds() -> None:
    for name in set(SERVICES) - PROFILED:
        assert set(SERVICES[name].get("depends_on", ())) & PROFILED == set()


@pytest.mark.parametrize("name", SERVICES)
def test_everything_that_is_mounted_exists(name: str) -> None:
    for volume in SERVICES[name].get("volumes", ()):
        source = volume.split(":")[0]
        if source.startswith("."):
            assert (PROJECT / source).exists(), volume
            assert volume.endswith(":ro"), volume
        else:
            assert source in COMPOSE["volumes"], volume


@pytest.mark.parametrize("name", SERVICES)
def test_only_this_machine_can_connect(name: str) -> None:
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[name].get("ports", ()))


@pytest.mark.parametrize("name", sorted(PROFILED))
def test_images_are_ours_or_of_one_version(name: str) -> None:
    if name == "edge":
        assert SERVICES[name]["image"] == "enrollment-edge"
        return
    if "build" in SERVICES[name]:
        assert SERVICES[name]["image"] == SERVICES["server"]["image"]
        return
    assert re.fullmatch(r"(prom|grafana)/\w+:v?\d+\.\d+\.\d+", SERVICES[name]["image"])


@pytest.mark.parametrize("name", ["server", "production"])
def test_the_settings_are_settings_that_a_server_may_be_started_with(name: str) -> None:
    environment = SERVICES[name]["environment"]
    assert set(environment) <= Settings.variables()
    fields = {name.removeprefix("ENROLLMENT_").lower(): value for name, value in environment.items()}
    del fields["database_password_file"]
    settings = Settings(**fields)
    assert list(settings.problems_of_serving()) == []
    assert not settings.listens_on_loopback


def test_prometheus_scrapes_what_the_server_serves() -> None:
    observability = PROJECT / "deploy" / "observability"
    prometheus = yaml.safe_load((observability / "prometheus.yml").read_text())
    (scraped,) = prometheus["scrape_configs"][0]["static_configs"][0]["targets"]
    host, _, port = scraped.partition(":")
    assert SERVICES[host]["environment"]["ENROLLMENT_METRICS_LISTEN"].endswith(f":{port}")
    (manager,) = prometheus["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"]
    assert SERVICES[manager.partition(":")[0]]["ports"][0].endswith(manager.partition(":")[2])
    source = yaml.safe_load((observability / "grafana/provisioning/datasources/prometheus.yml").read_text())
    assert source["datasources"][0]["url"] == "http://prometheus:9090"


def test_grafana_finds_its_dashboards_where_they_are_mounted() -> None:
    provider = PROJECT / "deploy/observability/grafana/provisioning/dashboards/enrollment.yml"
    path = yaml.safe_load(provider.read_text())["providers"][0]["options"]["path"]
    mounts = dict(volume.split(":")[:2][::-1] for volume in SERVICES["grafana"]["volumes"])
    assert (PROJECT / mounts[path] / "enrollment.json").exists()


def test_of_many_servers_none_has_the_port_of_this_machine_and_the_door_sees_each_leave() -> None:
    laid_over = yaml.load((PROJECT / "deploy/compose.scale.yml").read_text(), Merged)["services"]  # noqa: S506 - safe
    server, edge = laid_over["server"], laid_over["edge"]
    assert set(laid_over) <= set(SERVICES)
    assert (server["deploy"], server["ports"], edge["profiles"]) == ({"replicas": 3}, [], [])
    assert set(server["environment"]) <= Settings.variables()
    (cluster,) = yaml.safe_load((PROJECT / "deploy/edge/envoy.yaml").read_text())["static_resources"]["clusters"]
    interval = float(cluster["health_checks"][0]["interval"].removesuffix("s"))
    assert float(server["environment"]["ENROLLMENT_SHUTDOWN_DELAY"]) >= 4 * interval
    address = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]["socket_address"]
    assert address == {"address": "server", "port_value": 50051}
