"""From samples to figures: medians, ratios pair by pair, the tables, and the JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias

from rich.table import Table

from benchmarks.bench import Samples
from benchmarks.scale import TARGETS, Target

Figure: TypeAlias = "float | str | bool | list[str] | dict[str, Figure] | None"
Figures: TypeAlias = dict[str, Figure]

_CONTESTANTS = {
    "list": ("service", "service_2_workers", "native", "echo", "go", "go_batching", "asyncpg", "fastapi"),
    "enroll": ("service", "service_2_workers", "native", "echo", "go", "go_batching", "asyncpg", "fastapi", "pgbench"),
    "explain": ("service",),
    "hot": ("service", "service_2_workers", "native", "go", "go_batching", "pgbench"),
    "import": ("service", "copy"),
    "import_students": ("service", "copy"),
    "history": ("service", "copy"),
}
_COSTED = ("service", "echo", "go", "go_batching", "asyncpg", "fastapi")


@dataclass(frozen=True)
class Spread:
    """The median, with the least and the greatest."""

    median: float
    least: float
    greatest: float


def spread(values: list[float | None]) -> Spread | None:
    """None if no round has a value."""
    known = [value for value in values if value is not None]
    return Spread(median(known), min(known), max(known)) if known else None


def ratios(samples: Samples, target: Target) -> list[float | None]:
    """The figure of a target, pair by pair: only what was measured in one round or one cycle is compared."""
    if target.versus is None:
        return samples.get(target.measure, [])
    return _ratios(samples, target.measure, target.versus)


def _ratios(samples: Samples, measure: str, versus: str) -> list[float | None]:
    pairs = zip(samples.get(measure, []), samples.get(versus, []), strict=False)
    return [a / b if a is not None and b else None for a, b in pairs]


def figures(samples: Samples) -> Figures:
    """The medians, in the shape of build/bench.json; None for what was not measured."""

    def middle(measure: str) -> float | None:
        found = spread(samples.get(measure, []))
        return _rounded(found.median) if found else None

    def ratio(measure: str, versus: str) -> float | None:
        found = spread(_ratios(samples, measure, versus))
        return _rounded(found.median) if found else None

    def worse(*measures: str) -> float | None:
        return min((value for value in map(middle, measures) if value is not None), default=None)

    result: Figures = {
        kind: {contestant: middle(f"{kind}.{contestant}") for contestant in names}
        for kind, names in _CONTESTANTS.items()
    }
    result["growth"] = {call: ratio(f"grown_{call}.large", f"grown_{call}.small") for call in ("list", "enroll")}
    result["latency"] = {
        "lone_p50": ratio("lone_p50_us.service", "lone_p50_us.bare"),
        "lone_p50_go": ratio("lone_p50_us.service", "lone_p50_us.go"),
        "four_in_flight": ratio("four_in_flight.service", "four_in_flight.bare"),
        "four_in_flight_go": ratio("four_in_flight.service", "four_in_flight.go"),
        "p99_at_half_load_ms": middle("p99_at_half_load_ms"),
    }
    result["overload"] = {
        "x3": worse("x3.list", "x3.enroll"),
        "x3_edge": worse("x3_edge.list", "x3_edge.enroll"),
        "x10_edge": worse("x10_edge.list", "x10_edge.enroll"),
    }
    result["hol"] = {"p99_ratio": middle("hol_p99"), "import_p99_ratio": middle("hol_import_p99")}
    result["watch"] = {
        "write_ratio": middle("watch_writes"),
        "delivery_p99_ms": middle("watch_delivery_p99_ms"),
        "bytes_per_watcher": middle("watch_bytes_per_watcher"),
    }
    result["auth"] = {"ratio": worse("auth.list", "auth.enroll")}
    result["memory_mb"] = middle("memory_mb")
    result["startup_s"] = middle("startup_s")
    for cost in ("cpu_us", "postgresql_us"):
        result[cost] = {
            call: {contestant: middle(f"{cost}.{call}.{contestant}") for contestant in _COSTED}
            for call in ("list", "enroll", "hot")
        }
    return result


@dataclass(frozen=True)
class Circumstances:
    """What a run was made with, and what else went on."""

    machine: str
    interpreter: dict[str, str | bool]
    postgresql: str
    scale: dict[str, Any]
    others: dict[str, float]  # cores that other processes took, by phase
    disturbed: list[str]
    minutes: float


def write(folder: Path, samples: Samples, circumstances: Circumstances) -> None:
    """Write bench.json, and beside it every single value, for whoever wants to look closer."""
    found = figures(samples)
    found["interpreter"] = dict(circumstances.interpreter)
    found["disturbed"] = list(circumstances.disturbed)
    (folder / "bench.json").write_text(json.dumps(found, indent=2) + "\n")
    values = {measure: [None if v is None else _rounded(v) for v in row] for measure, row in samples.items()}
    lines = [f"{json.dumps(measure)}: {json.dumps(row)}" for measure, row in sorted(values.items())]
    details = json.dumps(asdict(circumstances), indent=2).rstrip("}\n")
    (folder / "bench-rounds.json").write_text(
        f'{details},\n  "samples": {{\n    ' + ",\n    ".join(lines) + "\n  }\n}\n"
    )


def medians_table(samples: Samples) -> Table:
    """What each contestant managed: medians, with the least and the greatest."""
    table = Table("", "median", "least", "greatest", title="Per second (_us: microseconds; hol: p99 in milliseconds)")
    for column in table.columns[1:]:
        column.justify = "right"
    for measure, values in sorted(samples.items()):
        if "." in measure and not measure.startswith(("x3", "auth", "cpu_us", "postgresql_us")):
            found = spread(values)
            cells = [f"{v:,.0f}" for v in (found.median, found.least, found.greatest)] if found else ["not measured"]
            table.add_row(measure, *cells)
    return table


def target_rows(samples: Samples) -> list[list[str]]:
    """Each ratio that counts: its label, median, least and greatest, gate and aim, and what became of them."""
    return [_target_row(samples, target) for target in TARGETS]


def _target_row(samples: Samples, target: Target) -> list[str]:
    found = spread(ratios(samples, target))
    cells = [f"{v:,.2f}" for v in (found.median, found.least, found.greatest)] if found else ["", "", ""]
    sign = "≤ " if target.less_is_better else "≥ "
    limits = [f"{sign}{limit:g}" if limit is not None else "" for limit in (target.gate, target.aim)]
    return [target.label, *cells, *limits, target.verdict(found.median if found else None)]


def targets_table(samples: Samples) -> Table:
    """The same, to look at."""
    table = Table("", "median", "least", "greatest", "gate", "aim", "", title="Against the targets")
    for column in table.columns[1:-1]:
        column.justify = "right"
    colors = {"aim met": "green", "met": "green", "gate met": "yellow", "NOT MET": "red"}
    for *cells, verdict in target_rows(samples):
        table.add_row(*cells, f"[{colors.get(verdict, 'default')}]{verdict}[/]")
    return table


def _rounded(value: float) -> float:
    """Four significant digits: the rest is noise."""
    return float(f"{value:.4g}")
