"""How much is loaded and how long is measured, and the targets each figure is held against."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

HOT_COURSES = 32  # empty courses with ids above the ordinary ones: one for each measure of a hot course


@dataclass(frozen=True)
class Scale:
    """Sizes of the data set, and durations in seconds."""

    students: int = 100_000
    courses: int = 5_000
    per_student: int = 10
    rounds: int = 3
    seconds: float = 4.0
    warmup: float = 1.0
    short_seconds: float = 2.0  # where few calls suffice: one or four in flight, pgbench's hunt for its best
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
QUICK = Scale(students=30_000, courses=1_500, seconds=1.2, warmup=0.4, short_seconds=0.8, growth_factor=0)


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
        return "gate met" if self._within(value, self.gate) else "NOT MET"

    def _within(self, value: float, limit: float) -> bool:
        return value <= limit if self.less_is_better else value >= limit


TARGETS = (
    Target("list / bare echo", "list.service", "list.echo", 0.60, 0.95),
    Target("enroll / bare echo", "enroll.service", "enroll.echo", 0.65, 0.95),
    Target("list / FastAPI + ORM", "list.service", "list.fastapi", 8, 11),
    Target("enroll / FastAPI + ORM", "enroll.service", "enroll.fastapi", 8, 11),
    Target("list / asyncpg, a transaction a call", "list.service", "list.asyncpg", 1.5, 2.2),
    Target("enroll / asyncpg, a transaction a call", "enroll.service", "enroll.asyncpg", 1.5, 2.2),
    Target("hot course / pgbench at its best", "hot.service", "hot.pgbench", 1.5, 3),
    Target("hot course, 2 workers / pgbench at its best", "hot.service_2_workers", "hot.pgbench", None, 3),
    Target("enroll / pgbench, 32 clients", "enroll.service", "enroll.pgbench", 0.4, 0.7),
    Target("enroll, 2 workers / pgbench, 32 clients", "enroll.service_2_workers", "enroll.pgbench", None, 0.7),
    Target("import / psql COPY with events", "import.service", "import.copy", 0.6, 0.8),
    Target("import students / psql COPY", "import_students.service", "import_students.copy", 0.4, 0.6),
    Target("lone enroll p50 / bare asyncpg handler", "lone_p50_us.service", "lone_p50_us.bare", 2.0, 1.3, True),
    Target("4 in flight / bare asyncpg handler", "four_in_flight.service", "four_in_flight.bare", 0.8, 1.0),
    Target("list answered in time, 3 times the load / best", "x3.list", None, 0.3, 0.6),
    Target("enroll answered in time, 3 times the load / best", "x3.enroll", None, 0.3, 0.6),
    Target("list right after it / best", "x3_after.list", None, 0.8, 0.95),
    Target("enroll right after it / best", "x3_after.enroll", None, 0.8, 0.95),
    Target("p99 in other courses, one row held / usual", "hol_p99", None, 2, 1.2, True),
    Target("p99 of single calls, during an import / usual", "hol_import_p99", None, 4, 2, True),
    Target("list with a JWT / without", "auth.list", None, 0.90, 0.97),
    Target("enroll with a JWT / without", "auth.enroll", None, 0.90, 0.97),
    Target("list, 10 times the rows", "grown_list.large", "grown_list.small", 0.8, 0.95),
    Target("enroll, 10 times the rows", "grown_enroll.large", "grown_enroll.small", 0.8, 0.95),
    Target("enroll p99 at half load, ms", "p99_at_half_load_ms", None, None, None, True),
    Target("idle RSS, MB", "memory_mb", None, 110, 80, True),
    Target("start to SERVING, s", "startup_s", None, 1.5, 0.7, True),
)
