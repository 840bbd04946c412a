"""From samples to figures: medians, ratios round by round, the table, and the JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from rich.table import Table

from benchmarks.bench import Samples
from benchmarks.scale import TARGETS, Scale, Target

Figures = dict[str, "float | dict[str, float | None] | None"]

_CONTESTANTS = {
    "list": ("service", "echo", "fastapi", "asyncpg"),
    "enroll": ("service", "echo", "fastapi", "asyncpg", "pgbench"),
    "hot": ("service", "service_2_workers", "pgbench"),
    "import": ("service", "copy"),
    "import_students": ("service", "copy"),
}


@dataclass(frozen=True)
class Spread:
    """The median of the rounds, with the least and the greatest."""

    median: float
    least: float
    greatest: float


def spread(values: list[float | None]) -> Spread | None:
    """None if no round has a value."""
    known = [value for value in values if value is not None]
    return Spread(median(known), min(known), max(known)) if known else None


def ratios(samples: Samples, target: Target) -> list[float | None]:
    """The figure of a target, round by round: only what was measured in one round is compared."""
    above = samples.get(target.measure, [])
    if target.versus is None:
        return above
    below = samples.get(target.versus, [])
    return [a / b if a is not None and b else None for a, b in zip(above, below, strict=False)]


def figures(samples: Samples) -> Figures:
    """The medians, in the shape of build/bench.json; None for what was not measured."""

    def middle(measure: str) -> float | None:
        found = spread(samples.get(measure, []))
        return _rounded(found.median) if found else None

    def ratio(measure: str) -> float | None:
        target = next(target for target in TARGETS if target.measure == measure)
        found = spread(ratios(samples, target))
        return _rounded(found.median) if found else None

    result: Figures = {
        kind: {contestant: middle(f"{kind}.{contestant}") for contestant in names}
        for kind, names in _CONTESTANTS.items()
    }
    result["growth"] = {"list": ratio("grown_list.large"), "enroll": ratio("grown_enroll.large")}
    result["latency"] = {
        "lone_p50": ratio("lone_p50_us.service"),
        "four_in_flight": ratio("four_in_flight.service"),
        "p99_at_half_load_ms": middle("p99_at_half_load_ms"),
    }
    within = [value for value in (middle("x3.list"), middle("x3.enroll")) if value is not None]
    result["overload"] = {"x3": min(within, default=None), "x3_edge": None, "x10_edge": None}
    result["hol"] = {"p99_ratio": middle("hol_p99"), "import_p99_ratio": middle("hol_import_p99")}
    slower = [value for value in (middle("auth.list"), middle("auth.enroll")) if value is not None]
    result["auth"] = {"ratio": min(slower, default=None)}
    result["memory_mb"] = middle("memory_mb")
    result["startup_s"] = middle("startup_s")
    return result


def write(folder: Path, samples: Samples, scale: Scale, settings: str) -> None:
    """Write bench.json, and beside it every single value, for whoever wants to look closer."""
    (folder / "bench.json").write_text(json.dumps(figures(samples), indent=2) + "\n")
    details = {"scale": asdict(scale), "postgresql": settings, "samples": samples}
    (folder / "bench-rounds.json").write_text(json.dumps(details, indent=2) + "\n")


def medians_table(samples: Samples) -> Table:
    """What each contestant managed: medians, with the least and the greatest of the rounds."""
    table = Table(
        "", "median", "least", "greatest", title="Per second (lone_p50: microseconds; hol: p99 in milliseconds)"
    )
    for column in table.columns[1:]:
        column.justify = "right"
    for measure, values in sorted(samples.items()):
        if "." in measure and not measure.startswith(("x3", "auth")):
            found = spread(values)
            cells = [f"{v:,.0f}" for v in (found.median, found.least, found.greatest)] if found else ["not measured"]
            table.add_row(measure, *cells)
    return table


def targets_table(samples: Samples) -> Table:
    """The ratios that count, each with its gate and its aim."""
    table = Table("", "median", "least", "greatest", "gate", "aim", "", title="Against the targets")
    for column in table.columns[1:-1]:
        column.justify = "right"
    colors = {"aim met": "green", "gate met": "yellow", "NOT MET": "red"}
    for target in TARGETS:
        found = spread(ratios(samples, target))
        cells = [f"{v:,.2f}" for v in (found.median, found.least, found.greatest)] if found else ["", "", ""]
        verdict = target.verdict(found.median if found else None)
        sign = "≤ " if target.less_is_better else "≥ "
        limits = [f"{sign}{limit:g}" if limit is not None else "" for limit in (target.gate, target.aim)]
        table.add_row(target.label, *cells, *limits, f"[{colors.get(verdict, 'default')}]{verdict}[/]")
    return table


def _rounded(value: float) -> float:
    """Four significant digits: the rest is noise."""
    return float(f"{value:.4g}")
