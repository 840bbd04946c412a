"""`python -m benchmarks.publish`: take the latest run into benchmarks/results/, and its tables into the documents.

Every number that a document gives of a run comes from here, between a pair of comments. A test holds them equal. The
page on performance shows the latest run, whatever it was; README and chart only a full one that was not disturbed.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.scale import FULL

PROJECT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).parent / "results"
ROUNDS, MEDIANS, CHART = "bench-rounds.json", "bench.json", "bench.svg"
_BUILD = Path("build")

_CALLS = {
    "list": "ListStudentCourses, 10 courses with details, calls/s",
    "enroll": "EnrollStudent, random courses, seats/s",
    "hot": "EnrollStudent, one popular course, seats/s",
}
_COMPARED = {
    "service": "this service",
    "echo": "bare gRPC echo",
    "go": "Go, grpc-go + pgx",
    "asyncpg": "grpc.aio + asyncpg",
    "fastapi": "FastAPI + ORM",
    "pgbench": "pgbench",
}
_COSTED = {"service": "this service", "go": "Go, a transaction a call", "asyncpg": "grpc.aio + asyncpg"}
# What a morning is taken to be: each student looks at their list so often and enrolls in so many courses, and half of
# all that happens within the first ten minutes. Cores are planned to be busy half of the time.
LISTS, ENROLLMENTS, PEAK_SECONDS, PEAK_SHARE, BUSY = 4, 5, 600, 0.5, 0.5
_MORNINGS = (10_000, 100_000, 1_000_000)

Rounds = Mapping[str, Any]


def main() -> int:
    """Publish build/; 1 if there is nothing to publish."""
    if missing := [name for name in (ROUNDS, MEDIANS, CHART) if not (_BUILD / name).exists()]:
        print(f"No {', '.join(missing)} in {_BUILD}: run `make bench` first.", file=sys.stderr)
        return 1
    rounds = json.loads((_BUILD / ROUNDS).read_text())
    good = _is_full(rounds) and not rounds["disturbed"]
    for name in (ROUNDS, MEDIANS, CHART) if good else (ROUNDS,):
        shutil.copyfile(_BUILD / name, RESULTS / name)
    if not good:
        print("The README and the chart stay: this was no full run, or it was disturbed.")
    for document, tables in rendered().items():
        path = PROJECT / document
        text = path.read_text(encoding="utf-8")
        for marker, table in tables.items():
            text = block(marker).sub(rf"\g<1>\n{table}\n\g<3>", text)
        path.write_text(text, encoding="utf-8")
    return 0


def block(marker: str) -> re.Pattern[str]:
    """What stands between the comments of a table."""
    return re.compile(rf"(<!-- {marker} -->)\n(.*?)\n(<!-- /{marker} -->)", re.DOTALL)


def rendered() -> dict[str, dict[str, str]]:
    """The tables of what is in benchmarks/results/, by document and marker."""
    rounds, medians = (json.loads((RESULTS / name).read_text()) for name in (ROUNDS, MEDIANS))
    return {
        "README.md": {"speed": _speed(medians)},
        "docs/performance.md": {
            "run": circumstances(rounds),
            "targets": _targets(rounds),
            "cores": _cores(rounds),
            "morning": _morning(rounds),
        },
    }


def _is_full(rounds: Rounds) -> bool:
    return bool(rounds["scale"]["students"] == FULL.students)


def circumstances(rounds: Rounds) -> str:
    """What the run was made with, and whether it was left alone."""
    made = "make bench" if _is_full(rounds) else "make bench QUICK=1"
    built = "optimized" if rounds["interpreter"]["optimized"] else "not optimized"
    version = rounds["postgresql"].split(",")[0].removeprefix("server_version ")
    text = f"`{made}` on {rounds['machine']}, {rounds['interpreter']['version']} ({built}), PostgreSQL {version}."
    if taken := [rounds["others"][phase] for phase in rounds["disturbed"]]:
        text += (
            f" **This run was disturbed:** other processes took {min(taken):.1f} to {max(taken):.1f} cores in"
            f" {len(taken)} of {len(rounds['others'])} phases. Ratios are wide, and times and rates say little."
        )
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [f"|{'|'.join(f' {cell} ' if cell else ' ' for cell in line)}|" for line in (head, *rows)]
    return "\n".join([lines[0], f"|{'---|' * len(head)}", *lines[1:]])


def _targets(rounds: Rounds) -> str:
    bold = {"NOT MET": "**not met**"}
    rows = [[*cells, bold.get(verdict, verdict)] for *cells, verdict in report.target_rows(rounds["samples"])]
    return _table(["", "median", "least", "greatest", "gate", "aim", ""], rows)


def _speed(found: report.Figures) -> str:
    measured = [name for name in _COMPARED if any(_of(found, call, name) for call in _CALLS)]
    rows = [[label, *(_whole(_of(found, call, name)) for name in measured)] for call, label in _CALLS.items()]
    return _table(["", *(_COMPARED[name] for name in measured)], rows)


def _cores(rounds: Rounds) -> str:
    found = report.figures(rounds["samples"])
    rows = []
    for call, label in _CALLS.items():
        for name, title in _COSTED.items():
            costs = [_cost(found, cost, call, name) for cost in ("cpu_us", "postgresql_us")]
            if costs[0] is not None:
                cells = [cell for cost in costs for cell in (_whole(cost), _whole(1e6 / cost if cost else None))]
                rows.append([label.rpartition(",")[0], title, *cells])
    return _table(["", "", "server, us a call", "calls/s a core", "PostgreSQL, us a call", "calls/s a core"], rows)


def _morning(rounds: Rounds) -> str:
    found = report.figures(rounds["samples"])
    rows = []
    for students in _MORNINGS:
        rates = {
            "list": students * LISTS * PEAK_SHARE / PEAK_SECONDS,
            "enroll": students * ENROLLMENTS * PEAK_SHARE / PEAK_SECONDS,
        }
        cells = [f"{students:,}", _whole(rates["list"]), _whole(rates["enroll"])]
        for cost in ("cpu_us", "postgresql_us"):
            spent = [rate * (_cost(found, cost, call, "service") or math.nan) for call, rate in rates.items()]
            busy = sum(spent) / 1e6
            cells += [f"{busy:.2f}", _whole(math.ceil(busy / BUSY) if busy == busy else None)]
        rows.append(cells)
    head = [
        "students",
        "lists/s",
        "enrollments/s",
        "cores of the service, busy",
        "to plan",
        "of PostgreSQL, busy",
        "to plan",
    ]
    return _table(head, rows)


def _of(found: report.Figures, group: str, name: str) -> float | None:
    """One figure; None where it is not measured, or not a figure of this contestant."""
    values = found[group]
    value = values.get(name) if isinstance(values, dict) else None
    return value if isinstance(value, float) else None


def _cost(found: report.Figures, cost: str, call: str, name: str) -> float | None:
    calls = found[cost]
    return _of(calls, call, name) if isinstance(calls, dict) else None


def _whole(value: float | None) -> str:
    return "" if value is None else f"{round(value):,}"


if __name__ == "__main__":
    sys.exit(main())
