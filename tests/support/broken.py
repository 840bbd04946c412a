"""Servers with one safeguard taken out: `python -m tests.support.broken unlocked`.

Negative controls: a race test that such a server passes proves nothing about the safeguard.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from typing import Any

from enrollment_service.cli.main import cli
from enrollment_service.domain import rules
from enrollment_service.domain.commands import Command
from enrollment_service.domain.feed import Place, Snapshot
from enrollment_service.domain.footprint import Row
from enrollment_service.domain.queries import EnrollmentQuery, HeldCourse, StudentCourses, StudentCoursesQuery
from enrollment_service.domain.records import Enrollment, Student
from enrollment_service.domain.state import Seats, State
from enrollment_service.engine import batch, loading
from enrollment_service.engine.reader import Reader, _view
from enrollment_service.store import courses, enrollments, locks, requests, seats
from enrollment_service.store.course_cache import CourseCache
from tests.support.lockless import forget_the_lock

# What the database itself would catch; without these the fault shows as what it is, an oversold course.
DROP_CONSTRAINTS = """
    ALTER TABLE course_seats DROP CONSTRAINT ck_course_seats_enrolled_within_capacity;
    ALTER TABLE course_seats DROP CONSTRAINT ck_course_seats_counts_not_negative;
    ALTER TABLE enrollment_events DROP CONSTRAINT pk_enrollment_events;
    ALTER TABLE student_courses DROP CONSTRAINT pk_student_courses;
"""

# Between two locks, so that batches cross each other.
PAUSE = 0.001


def unordered() -> None:
    """Batches lock the seat rows of their courses one by one and in any order, and wait for those of others."""
    in_order = seats.lock_and_load

    async def in_disorder(connection: Any, course_ids: Collection[int], *others: Any, **_: Any) -> seats.Loaded:
        await connection.execute("SET LOCAL lock_timeout = '20s'")
        for course_id in random.sample(sorted(course_ids), len(course_ids)):
            await in_order(connection, [course_id], *others, skip_locked=False)
            await asyncio.sleep(PAUSE)
        return await in_order(connection, course_ids, *others, skip_locked=False)

    vars(seats)["lock_and_load"] = in_disorder


def unclaimed() -> None:
    """Nobody looks whether a request_id was used before."""

    async def claim(*_: Any) -> dict[Any, Any]:
        return {}

    vars(requests)["claim"] = claim


def forgetful() -> None:
    """Of several missing ids only the first is named."""
    found = rules._missing_in_plan
    vars(rules)["_missing_in_plan"] = lambda *arguments: found(*arguments)[:1]


def one_lane() -> None:
    """Everybody waits in the same lane for whatever is locked, as long as the settings allow."""
    in_lanes = seats.lock_and_load

    async def waiting(*arguments: Any, **_: Any) -> seats.Loaded:
        return await in_lanes(*arguments, skip_locked=False)

    vars(seats)["lock_and_load"] = waiting
    vars(locks)["MAX_WAIT_BRIEFLY_MS"] = 1_500


def torn_lists() -> None:
    """The details of courses are read after the places in them, whatever has happened in between."""

    async def torn(_: Reader, connection: Any, queries: Sequence[StudentCoursesQuery]) -> list[Any]:
        found = await enrollments.read_student_courses(connection, queries)
        seen = [place.course_id for _, held, _ in found.values() for place in held]
        details = await courses.read_courses(connection, seen)

        def shown(student: Student, held: Sequence[HeldCourse], place: Place | None) -> StudentCourses:
            left = [one for one in held if one.course_id in details]
            return StudentCourses(student, [(one, details[one.course_id].course) for one in left], place)

        return [shown(*found[query]) for query in queries]

    Reader._answers[StudentCoursesQuery] = torn


def torn_enrollments() -> None:
    """An enrollment and its course are read one after the other."""

    async def torn(_: Reader, connection: Any, queries: Sequence[EnrollmentQuery]) -> list[Any]:
        before, after = [await enrollments.read_pairs(connection, queries) for _ in range(2)]
        return [_view(query, *before[query]._replace(course=after[query].course)) for query in queries]

    Reader._answers[EnrollmentQuery] = torn


def unforgetting() -> None:
    """What is remembered of courses is kept when a connection had to be replaced."""
    setattr(CourseCache, "clear", lambda _: None)  # noqa: B010 - mypy would not have it assigned


def untied() -> None:
    """Courses are never locked because others hang on them; what is kept there is not seen."""
    vars(loading)["Ties"].may_bind = property(lambda _: False)


def grabbing() -> None:
    """Whoever needs many courses takes those that are free just now, and never waits for them in line."""
    look, locked = loading.first_busy, loading.lock_and_load
    busy: dict[Command[Any], Row] = {}

    def remembering(*arguments: Any) -> dict[Command[Any], Row]:
        busy.clear()
        busy.update(look(*arguments))
        return dict(busy)

    async def forgetting(*arguments: Any, **options: Any) -> loading.Locked:
        return (await locked(*arguments, **options))._replace(busy=dict(busy), tied={})

    vars(loading)["first_busy"] = remembering
    vars(batch)["lock_and_load"] = forgetting


def untraded() -> None:
    """Nobody looks for circles."""
    State._circle = lambda *_: []  # type: ignore[method-assign]


def passing() -> None:
    """Whoever waits may trade, whoever stands before them."""
    found = State._first_trader

    def anybody(state: State, seats: Seats) -> Enrollment | None:
        for student_id in list(seats.queue):
            seats.queue.move_to_end(student_id, last=False)
            if first := found(state, seats):
                return first
        return None

    State._first_trader = anybody  # type: ignore[assignment, method-assign]


def promoting_the_last() -> None:
    """Seats go to whoever has waited for the shortest time."""
    promote = State.promote

    def from_behind(state: State, seats: Seats, cause: Any) -> Any:
        seats.queue = OrderedDict.fromkeys(reversed(seats.queue))
        promoted = promote(state, seats, cause)
        seats.queue = OrderedDict.fromkeys(reversed(seats.queue))
        return promoted

    State.promote = from_behind  # type: ignore[assignment, method-assign]


def unaware_of_others() -> None:
    """Of a snapshot it is forgotten which transactions were still under way."""

    def of(text: str) -> Snapshot:
        xmax = int(text.split(":")[1])
        return Snapshot(xmax, xmax, ())

    setattr(Snapshot, "of", of)  # noqa: B010 - mypy would not have it assigned


FAULTS: dict[str, Callable[[], None]] = {
    "unlocked": forget_the_lock,
    "unordered": unordered,
    "unclaimed": unclaimed,
    "forgetful": forgetful,
    "one_lane": one_lane,
    "torn_lists": torn_lists,
    "torn_enrollments": torn_enrollments,
    "unforgetting": unforgetting,
    "untied": untied,
    "grabbing": grabbing,
    "untraded": untraded,
    "passing": passing,
    "promoting_the_last": promoting_the_last,
    "unaware_of_others": unaware_of_others,
}


if __name__ == "__main__":
    FAULTS[sys.argv[1]]()
    cli(["serve"], prog_name="broken")
