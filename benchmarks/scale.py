"""How much is loaded and how long is measured, and the targets each figure is held against."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

HOT_COURSES = 64  # empty courses with ids above the ordinary ones: one for each measure of a hot course


@dataclass(frozen=True)
class Scale:
    """Sizes of the data set, and durations in seconds."""

    students: int = 100_000
    courses: int = 5_000
    per_student: int = 10
    rounds: int = 3  # each on a fresh copy of the data
    cycles: int = 4  # turns of everybody in each round, half a second each
    slice_seconds: float = 0.5
    slice_warmup: float = 0.1
    seconds: float = 4.0  # of a phase of its own, where many calls are needed
    warmup: float = 1.0
    short_seconds: float = 2.0  # of one where few calls suffice
    growth_factor: int = 10  # students of the large data set over those of this one; 0: growth is not measured

    @property
    def stride(self) -> int:
        """The distance between the courses of one student; see dataset.py."""
        return self.courses // self.per_student

    @property
    def enrollments(self) -> int:
        """Rows loaded before anything is measured."""
        return self.students * self.per_student

    def grown(self) -> Scale:
        """The large data set: more students in as many courses, each student with as many as before."""
        return replace(self, students=self.students * self.growth_factor)


FULL = Scale()
QUICK = Scale(
    students=30_000, courses=1_500, rounds=2, cycles=3, seconds=1.2, warmup=0.4, short_seconds=0.8, growth_factor=0
)


def from_environment() -> Scale:
    """QUICK=1 in the environment asks for the small one."""
    return QUICK if os.environ.get("QUICK", "") not in ("", "0") else FULL


@dataclass(frozen=True)
class Target:
    """One line of the table: a ratio of two measures (or one measure alone) with what it must and what it should be."""

    label: str
    measure: str
    versus: str | None
    gate: float | None
    aim: float | None
    less_is_better: bool = False

    def verdict(self, value: float | None) -> str:
        """In words."""
        if value is None:
            return "not measured"
        if self.aim is not None and self._within(value, self.aim):
            return "aim met"
        if self.gate is None:
            return "" if self.aim is None else "below the aim"
        met = "gate met" if self.aim is not None else "met"
        return met if self._within(value, self.gate) else "NOT MET"

    def _within(self, value: float, limit: float) -> bool:
        return value <= limit if self.less_is_better else value >= limit


_NATIVE = "on the native transport"

# What the project aims at, and below it what is only of interest.
TARGETS = (
    Target("list / bare echo", "list.service", "list.echo", 0.50, 0.80),
    Target("enroll / bare echo", "enroll.service", "enroll.echo", 0.60, 0.90),
    Target("list / Go, one transaction a call", "list.service", "list.go", 0.6, 1),
    Target("enroll / Go, one transaction a call", "enroll.service", "enroll.go", 1.2, 1.6),
    Target("hot course / Go, one transaction a call", "hot.service", "hot.go", 3, 4),
    Target(f"list {_NATIVE} / Go", "list.native", "list.go", 1, 1.3),
    Target(f"enroll {_NATIVE} / Go", "enroll.native", "enroll.go", 2, 2.5),
    Target(f"hot course {_NATIVE} / Go", "hot.native", "hot.go", 6, 8),
    Target("list / FastAPI + ORM", "list.service", "list.fastapi", 8, 11),
    Target("enroll / FastAPI + ORM", "enroll.service", "enroll.fastapi", 8, 11),
    Target("list / grpc.aio + asyncpg pool", "list.service", "list.asyncpg", 2, 2.5),
    Target("enroll / grpc.aio + asyncpg pool", "enroll.service", "enroll.asyncpg", 2, 2.5),
    Target("hot course / pgbench at its best", "hot.service", "hot.pgbench", 2.5, None),
    Target("hot course, 2 workers / pgbench at its best", "hot.service_2_workers", "hot.pgbench", None, 4),
    Target("import / psql COPY with events", "import.service", "import.copy", 0.6, 0.8),
    Target("import students / psql COPY", "import_students.service", "import_students.copy", 0.4, 0.6),
    Target("lone enroll p50 / Go", "lone_p50_us.service", "lone_p50_us.go", 1.6, 1.2, True),
    Target("4 in flight / Go", "four_in_flight.service", "four_in_flight.go", 0.8, 1),
    Target("p99 in other courses, one row held / usual", "hol_p99", None, 2, 1.2, True),
    Target("p99 of single calls, during an import / usual", "hol_import_p99", None, 4, 2, True),
    Target("list answered in time, 3 times the load / best", "x3.list", None, 0.3, 0.6),
    Target("enroll answered in time, 3 times the load / best", "x3.enroll", None, 0.3, 0.6),
    Target("list in time, 3 times the load behind the edge / best", "x3_edge.list", None, 0.8, 0.95),
    Target("enroll in time, 3 times the load behind the edge / best", "x3_edge.enroll", None, 0.8, 0.95),
    Target("list in time, 10 times the load behind the edge / best", "x10_edge.list", None, 0.5, 0.8),
    Target("enroll in time, 10 times the load behind the edge / best", "x10_edge.enroll", None, 0.5, 0.8),
    Target("writes with 1,000 watchers / without", "watch_writes", None, 0.8, 0.95),
    Target("delivery to 1,000 watchers, p99, ms", "watch_delivery_p99_ms", None, 500, 150, True),
    Target("list with a JWT / without", "auth.list", None, 0.90, 0.97),
    Target("enroll with a JWT / without", "auth.enroll", None, 0.90, 0.97),
    Target("memory a watcher, bytes", "watch_bytes_per_watcher", None, None, 20_000, True),
    Target("history / psql COPY TO", "history.service", "history.copy", None, None),
    Target("memory that reading a history adds, MB", "history_growth_mb", None, None, 16, True),
    Target("list, 10 times the rows", "grown_list.large", "grown_list.small", 0.8, 0.95),
    Target("enroll, 10 times the rows", "grown_enroll.large", "grown_enroll.small", 0.8, 0.95),
    Target("idle RSS, MB", "memory_mb", None, 120, 90, True),
    Target("start to SERVING, s", "startup_s", None, 1.5, 0.7, True),
    Target("list / Go that batches", "list.service", "list.go_batching", None, None),
    Target("enroll / Go that batches", "enroll.service", "enroll.go_batching", None, None),
    Target("hot course / Go that batches", "hot.service", "hot.go_batching", None, None),
    Target("enroll / pgbench, 32 clients", "enroll.service", "enroll.pgbench", None, None),
    Target("explain 10 courses / list 10 courses", "explain.service", "list.service", None, None),
    Target("list, 2 workers / 1 worker", "list.service_2_workers", "list.service", None, None),
    Target("enroll, 2 workers / 1 worker", "enroll.service_2_workers", "enroll.service", None, None),
    Target("hot course, 2 workers / 1 worker", "hot.service_2_workers", "hot.service", None, None),
    Target("lone enroll p50 / one-statement handler", "lone_p50_us.service", "lone_p50_us.bare", None, None, True),
    Target("4 in flight / one-statement handler", "four_in_flight.service", "four_in_flight.bare", None, None),
    Target("list right after 3 times the load / best", "x3_after.list", None, None, None),
    Target("enroll right after 3 times the load / best", "x3_after.enroll", None, None, None),
    Target("enroll p99 at half load, ms", "p99_at_half_load_ms", None, None, None, True),
)
