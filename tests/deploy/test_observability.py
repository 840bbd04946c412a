"""The rules and the dashboard: valid to the tools that read them, at work in a Prometheus, and true of the code."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.test_workers import workers_of
from tests.docs.documents import rows, section
from tests.support.client import Client
from tests.support.debian import program
from tests.support.exposition import Exposed, scraped
from tests.support.processes import PROJECT, Processes, free_port
from tests.support.promql import (
    DASHBOARD,
    FOLDER,
    OF_PROMETHEUS,
    RULES,
    Selector,
    alerts,
    filled_in,
    grouped,
    panels,
    queries,
    selectors,
)
from tests.telemetry.test_metrics import morning

PATIENCE = 40.0  # seconds
QUERIES = list(queries())


def run(*command: str, folder: Path = FOLDER) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=50)


# --- the tools ----------------------------------------------------------------------------------------------------


def test_prometheus_accepts_its_files() -> None:
    promtool = program("promtool", "prometheus")
    checked = run(promtool, "check", "config", "prometheus.yml")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"{len(alerts())} rules found" in checked.stdout


def test_alertmanager_accepts_its_file() -> None:
    checked = run(program("amtool", "prometheus-alertmanager"), "check-config", "alertmanager.yml")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_rule_does_what_its_test_says() -> None:
    tested = run(program("promtool", "prometheus"), "test", "rules", "rules_test.yml")
    assert tested.returncode == 0, tested.stdout + tested.stderr


@pytest.mark.parametrize("name", alerts())
def test_without_a_rule_its_test_fails(name: str, tmp_path: Path) -> None:
    """So every rule has a test that sees it at work."""
    promtool = program("promtool", "prometheus")
    rules = yaml.safe_load(RULES.read_text())
    for group in rules["groups"]:
        group["rules"] = [rule for rule in group["rules"] if rule["alert"] != name]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(rules))
    (tmp_path / "rules_test.yml").write_text((FOLDER / "rules_test.yml").read_text())
    tested = run(promtool, "test", "rules", "rules_test.yml", folder=tmp_path)
    assert tested.returncode != 0
    assert name in tested.stdout + tested.stderr


# --- what they name exists ----------------------------------------------------------------------------------------


@asynccontextmanager
async def lived_in(processes: Processes) -> AsyncIterator[tuple[int, Client]]:
    """The port of the metrics of a service with two workers that has seen a morning."""
    port = free_port()
    process, client = await processes.start(METRICS_LISTEN=f"127.0.0.1:{port}", WORKERS="2")
    await workers_of(process, 2)
    await morning(client)
    yield port, client


async def test_all_that_is_named_is_exported(processes: Processes) -> None:
    async with lived_in(processes) as (port, _):
        exposed = await scraped(port)
    missing = {
        f"{where}: {selector.name} {matcher}"
        for where, query in QUERIES
        for selector in selectors(query)
        if selector.name != "up"
        for matcher in problems(selector, query, exposed)
    }
    assert missing == set()


def problems(selector: Selector, query: str, exposed: Exposed) -> Sequence[str]:
    """What a service does not export of what a selector asks for."""
    samples = exposed.series.get(selector.name)
    if samples is None:
        return ["is not exported"]
    labels = {name for found, _ in samples for name in found}
    unknown = {name for name, _, _ in selector.matchers} - labels - OF_PROMETHEUS
    if unknown:
        return [f"has no labels {unknown}"]
    if len(selectors(query)) == 1 and (strange := grouped(query) - labels - OF_PROMETHEUS):
        return [f"cannot be grouped by {strange}"]
    found = [labels for labels, _ in samples if selector.finds(labels)]
    return [] if found else [f"has no sample with {selector.matchers}"]


@pytest.mark.parametrize(
    "query",
    [
        "enrollment_no_such_thing",
        'enrollment_ready{colour="red"}',
        "sum by (colour) (enrollment_ready)",
        'rate(enrollment_calls_total{code="NO_SUCH_CODE"}[5m])',
    ],
)
def test_what_is_not_exported_would_be_noticed(query: str) -> None:
    exposed = Exposed({"enrollment_ready": [({}, 1.0)], "enrollment_calls_total": [({"code": "OK"}, 1.0)]}, {})
    (selector,) = selectors(query)
    assert problems(selector, query, exposed) != []


def test_queries_are_read_whole() -> None:
    query = 'histogram_quantile(0.9, sum by (le) (rate(enrollment_a_bucket{x=~"b|c"}[5m]))) / on (job) up > 0.5'
    assert selectors(query) == [Selector("enrollment_a_bucket", (("x", "=~", "b|c"),)), Selector("up", ())]
    assert grouped(query) == {"le", "job"}
    assert all(selectors(query) for _, query in QUERIES)


# --- in a real Prometheus -----------------------------------------------------------------------------------------


@contextmanager
def prometheus(folder: Path, target: int) -> Iterator[str]:
    """A Prometheus that goes by our files, but scrapes a port of this machine; yields its address."""
    path = program("prometheus", "prometheus")
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["scrape_configs"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{target}"]}]
    config["rule_files"] = [f"{RULES}"]
    del config["alerting"]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    options = [f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen([path, *options, f"--web.listen-address={address}"], stdout=log, stderr=log)
    try:
        yield address
    finally:
        process.terminate()
        process.wait(PATIENCE)


def asked(address: str, path: str, **fields: str) -> Any:
    url = f"http://{address}/api/v1/{path}?{urllib.parse.urlencode(fields)}"
    with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
        return json.load(answer)["data"]


async def until_scraped(address: str, times: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                found = asked(address, "query", query='count_over_time(up{job="enrollment"}[1m])')["result"]
                if found and int(found[0]["value"][1]) >= times:
                    return
            except OSError:
                pass
            await asyncio.sleep(0.2)


@pytest.mark.long
async def test_every_rule_and_query_works_in_prometheus(processes: Processes, tmp_path: Path) -> None:
    async with lived_in(processes) as (port, client):
        with prometheus(tmp_path, port) as address:
            await until_scraped(address, 2)
            await morning(client)
            await until_scraped(address, 5)
            (target,) = asked(address, "targets")["activeTargets"]
            assert (target["health"], target["lastError"]) == ("up", "")
            (group,) = asked(address, "rules")["groups"]
            assert {rule["name"]: (rule["health"], rule["state"]) for rule in group["rules"]} == dict.fromkeys(
                alerts(), ("ok", "inactive")
            )
            empty = {
                panel["title"]
                for panel in panels()
                for target in panel["targets"]
                if not asked(address, "query", query=filled_in(target["expr"]))["result"]
            }
    assert empty == set()


# --- the dashboard and the page -----------------------------------------------------------------------------------


def test_the_panels_of_the_dashboard_stand_side_by_side() -> None:
    taken: set[tuple[int, int]] = set()
    ids = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        place = panel["gridPos"]
        fields = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not fields & taken, panel["title"]
        assert all(x < 24 for x, _ in fields)
        taken |= fields
        ids.add(panel["id"])
    assert len(ids) == len(json.loads(DASHBOARD.read_text())["panels"])


def test_every_panel_says_what_it_shows_and_where_from() -> None:
    for panel in panels():
        assert panel["title"], panel
        assert panel["description"].endswith("."), panel["title"]
        assert panel["targets"], panel["title"]
        for target in panel["targets"]:
            assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            assert 'job="enrollment", instance=~"$instance"' in target["expr"], panel["title"]


def test_every_alert_has_its_runbook() -> None:
    table = {row[0].strip("`"): row for row in rows(section("docs/operating.md", "Alerts")) if len(row) == 4}
    assert set(table) == set(alerts())
    for name, alert in alerts().items():
        assert alert["annotations"]["runbook"] == "docs/operating.md#alerts"
        assert alert["labels"]["severity"] == table[name][1], name
        assert re.search(r"\w{3}", table[name][3]), name


def test_the_pictures_are_of_panels() -> None:
    shown = [row for row in rows(section("docs/operating.md", "Alerts")) if len(row) == 2]
    assert {row[0] for row in shown} <= {panel["title"] for panel in panels()}
    assert len(shown) == 4
    for _, picture in shown:
        (path,) = re.findall(r"\((images/\w+\.png)\)", picture)
        assert 1_000 < (PROJECT / "docs" / path).stat().st_size < 100_000


def test_alertmanager_knows_the_alerts_that_it_names() -> None:
    text = (FOLDER / "alertmanager.yml").read_text()
    assert set(re.findall(r"Enrollment\w+", text)) <= set(alerts())
