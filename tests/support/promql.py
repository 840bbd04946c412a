"""What queries name: the rules of Prometheus and the queries of the dashboard, read for series and their labels."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.support.processes import PROJECT

FOLDER = PROJECT / "deploy" / "observability"
RULES = FOLDER / "rules.yml"
DASHBOARD = FOLDER / "grafana" / "dashboards" / "enrollment.json"
# What Prometheus itself adds to every series.
OF_PROMETHEUS = {"job", "instance"}
# What Grafana fills in.
_VARIABLES = {"$__rate_interval": "1m", "$instance": ".*"}
_SELECTOR = re.compile(r"([a-z_]+)\s*(\{[^}]*\})?")
_MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
_GROUPS = re.compile(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)")
_WORDS = {"and", "or", "unless", "offset", "bool"}


@dataclass(frozen=True)
class Selector:
    """One series that a query names, with what it asks of the labels: name, operator, value."""

    name: str
    matchers: tuple[tuple[str, str, str], ...]

    def finds(self, labels: dict[str, str]) -> bool:
        """Whether a sample with these labels is meant; what Prometheus adds is not looked at."""
        return all(_holds(*matcher, labels) for matcher in self.matchers if matcher[0] not in OF_PROMETHEUS)


def _holds(name: str, operator: str, value: str, labels: dict[str, str]) -> bool:
    found = labels.get(name, "")
    matched = bool(re.fullmatch(value, found)) if "~" in operator else value == found
    return matched != operator.startswith("!")


def selectors(query: str) -> list[Selector]:
    """All series that a query names."""
    plain = _GROUPS.sub("", query)
    found = []
    for match in _SELECTOR.finditer(_without_strings_outside_braces(plain)):
        name, braces = match[1], match[2] or ""
        follows = plain[match.end() :].lstrip()
        if name in _WORDS or (follows.startswith("(") and not braces) or not re.fullmatch(r"up|enrollment_\w+", name):
            continue
        found.append(Selector(name, tuple(_MATCHER.findall(braces))))
    return found


def _without_strings_outside_braces(query: str) -> str:
    assert '"' not in re.sub(r"\{[^}]*\}", "", query), query
    return query


def grouped(query: str) -> set[str]:
    """The labels that a query groups by."""
    return {label.strip() for group in _GROUPS.findall(query) for label in group.split(",")}


def alerts() -> dict[str, dict[str, Any]]:
    """The alerts by their names."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def panels(path: Path = DASHBOARD) -> list[dict[str, Any]]:
    """The panels of the dashboard, rows left out."""
    return [panel for panel in json.loads(path.read_text())["panels"] if panel["type"] != "row"]


def filled_in(query: str) -> str:
    """A query of the dashboard as Grafana sends it."""
    for name, value in _VARIABLES.items():
        query = query.replace(name, value)
    assert "$" not in query, query
    return query


def queries() -> Iterator[tuple[str, str]]:
    """All queries, each with where it stands."""
    for name, alert in alerts().items():
        yield name, alert["expr"]
    for panel in panels():
        for target in panel["targets"]:
            yield panel["title"], filled_in(target["expr"])
