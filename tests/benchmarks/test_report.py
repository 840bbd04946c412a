"""Figures are medians of what was measured together; what was not measured is null, and nothing is estimated."""

from __future__ import annotations

import pytest

from benchmarks import report
from benchmarks.scale import TARGETS, Target

KEYS = {
    "list": {"service", "native", "echo", "go", "go_batching", "asyncpg", "fastapi"},
    "enroll": {"service", "native", "echo", "go", "go_batching", "asyncpg", "fastapi", "pgbench"},
    "hot": {"service", "service_2_workers", "native", "go", "go_batching", "pgbench"},
    "explain": {"service"},
    "import": {"service", "copy"},
    "import_students": {"service", "copy"},
    "history": {"service", "copy"},
    "growth": {"list", "enroll"},
    "latency": {"lone_p50", "lone_p50_go", "four_in_flight", "four_in_flight_go", "p99_at_half_load_ms"},
    "overload": {"x3", "x3_edge", "x10_edge"},
    "hol": {"p99_ratio", "import_p99_ratio"},
    "watch": {"write_ratio", "delivery_p99_ms", "bytes_per_watcher"},
    "auth": {"ratio"},
}


@pytest.mark.parametrize("key", KEYS)
def test_what_was_not_measured_is_null(key: str) -> None:
    group = report.figures({})[key]
    assert isinstance(group, dict)
    assert KEYS[key] <= set(group)
    assert set(group.values()) == {None}


def test_a_ratio_is_of_what_was_measured_together() -> None:
    # In the second cycle the machine was half as fast, and in the third the service failed.
    samples: dict[str, list[float | None]] = {
        "lone_p50_us.service": [800.0, 1_600.0, None, 900.0],
        "lone_p50_us.go": [400.0, 800.0, 1.0, 450.0],
    }
    latency = report.figures(samples)["latency"]
    assert isinstance(latency, dict)
    assert latency["lone_p50_go"] == 2.0
    assert latency["lone_p50"] is None


def test_of_two_calls_the_worse_one_counts() -> None:
    samples: dict[str, list[float | None]] = {"x3.list": [0.9], "x3.enroll": [0.7], "auth.list": [0.95]}
    samples |= {"x3_edge.list": [0.9], "x3_edge.enroll": [0.95], "x10_edge.list": [0.6]}
    found = report.figures(samples)
    assert found["overload"] == {"x3": 0.7, "x3_edge": 0.9, "x10_edge": 0.6}
    assert found["auth"] == {"ratio": 0.95}


@pytest.mark.parametrize(
    ("gate", "aim", "less", "value", "verdict"),
    [
        (2.0, 3.0, False, 1.9, "NOT MET"),
        (2.0, 3.0, False, 2.0, "gate met"),
        (2.0, 3.0, False, 3.0, "aim met"),
        (1.6, 1.2, True, 1.7, "NOT MET"),
        (1.6, 1.2, True, 1.6, "gate met"),
        (1.6, 1.2, True, 1.0, "aim met"),
        (2.5, None, False, 2.6, "met"),
        (None, 4.0, False, 3.0, "below the aim"),
        (None, None, False, 3.0, ""),
        (2.0, 3.0, False, None, "not measured"),
    ],
)
def test_a_target_is_met_or_not(
    gate: float | None, aim: float | None, less: bool, value: float | None, verdict: str
) -> None:
    assert Target("a row", "measure", None, gate, aim, less).verdict(value) == verdict


def test_every_target_is_a_row() -> None:
    rows = report.target_rows({})
    assert [row[0] for row in rows] == [target.label for target in TARGETS]
    assert {row[-1] for row in rows} == {"not measured"}
