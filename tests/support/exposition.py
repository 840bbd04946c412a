"""What a service exposes for Prometheus, read as Prometheus reads it."""

from __future__ import annotations

import asyncio
import http.client
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from enrollment_service.telemetry.metrics import REGISTRY
from enrollment_service.telemetry.shared import shared_metrics

PATIENCE = 20.0  # seconds


@dataclass(frozen=True)
class Exposed:
    """One scrape: every series by its name, with the labels and the value of each sample."""

    series: dict[str, list[tuple[dict[str, str], float]]]
    types: dict[str, str]

    def value(self, name: str, **labels: str) -> float:
        """The sum of the samples of a series that have these labels; none is 0."""
        samples = self.series.get(name, [])
        return sum(value for found, value in samples if labels.items() <= found.items())


class Documented(NamedTuple):
    """What a page says of a metric."""

    kind: str
    labels: str
    says: str


def documented_metrics() -> dict[str, Documented]:
    """All metrics there are, by their names as a page shows them; the parent's own comes last."""
    with shared_metrics() as shared:
        own = [family for family in shared.registry.collect() if family.samples]
    told = {}
    for family in [*REGISTRY.collect(), *own]:
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = [f"`{label}`" for label in _labels_of(family)]
        told[f"`{name}`"] = Documented(family.type, ", ".join(labels), family.documentation)
    return told


def _labels_of(family: Metric) -> Sequence[str]:
    collector: Any = REGISTRY._names_to_collectors.get(family.name)
    return () if collector is None else collector._labelnames


def parsed(text: str) -> Exposed:
    """A scrape's text."""
    series: dict[str, list[tuple[dict[str, str], float]]] = {}
    types = {}
    for family in text_string_to_metric_families(text):
        types[family.name] = family.type
        for sample in family.samples:
            series.setdefault(sample.name, []).append((dict(sample.labels), sample.value))
    return Exposed(series, types)


def asked(port: int, method: str = "GET", path: str = "/metrics") -> tuple[int, str]:
    """The status and the body of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


async def scraped(port: int) -> Exposed:
    """What is exposed on a port now."""
    status, text = await asyncio.to_thread(asked, port)
    assert status == 200, text
    return parsed(text)


async def until_exposed(port: int, name: str, values: Iterable[float], **labels: str) -> Exposed:
    """A scrape in which a series has one of these values, which it must come to have."""
    wanted = set(values)
    async with asyncio.timeout(PATIENCE):
        while True:
            exposed = await scraped(port)
            if exposed.value(name, **labels) in wanted:
                return exposed
            await asyncio.sleep(0.05)
