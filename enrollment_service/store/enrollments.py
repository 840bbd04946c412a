"""Statements that read enrollments: one pair, the courses of a student, the students of a course."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Integer, case, func, select, true
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import InstrumentedAttribute, aliased

from enrollment_service.domain.records import ENROLLED, WAITLISTED
from enrollment_service.domain.records import Enrollment as EnrollmentRow
from enrollment_service.domain.records import Student as StudentRow
from enrollment_service.domain.state import Pair
from enrollment_service.store.database import DriverConnection
from enrollment_service.store.models import CourseSeats, Enrollment, Student
from enrollment_service.store.seats import rows_of
from enrollment_service.store.statements import Prepared, bigint, constant
from enrollment_service.store.students import student_columns

_integer = Integer()

_ahead = aliased(Enrollment)
_position = case(
    (
        Enrollment.state == constant(WAITLISTED),
        select(func.count())
        .select_from(_ahead)
        .where(
            _ahead.course_id == Enrollment.course_id,
            _ahead.state == constant(WAITLISTED),
            _ahead.sequence <= Enrollment.sequence,
        )
        .correlate(Enrollment)
        .scalar_subquery(),
    ),
    else_=constant(0),
)


class StudentCoursesQuery(NamedTuple):
    """One page of the courses of a student: those after a course id, in states given as a bit mask."""

    student_id: int
    after: int
    limit: int
    states: int


class HeldCourse(NamedTuple):
    """A course of a student: the enrollment, which version of the details to show, and the counts.

    `create_time` is None where it is the `enroll_time`.
    """

    course_id: int
    state: int
    sequence: int
    enroll_time: datetime
    create_time: datetime | None
    waitlist_position: int
    version: int
    enrolled_count: int
    waitlisted_count: int


def _student_courses() -> Prepared:
    wanted = rows_of(student_ids=bigint, afters=bigint, limits=bigint, states=_integer, ordinals=bigint)
    page = (
        select(
            Enrollment.course_id,
            Enrollment.state,
            Enrollment.sequence,
            Enrollment.enroll_time,
            # Mostly the same; then it need not be sent and decoded twice.
            func.nullif(Enrollment.create_time, Enrollment.enroll_time).label("create_time"),
            _position.label("waitlist_position"),
            CourseSeats.version,
            CourseSeats.enrolled_count,
            CourseSeats.waitlisted_count,
        )
        .join_from(Enrollment, CourseSeats, CourseSeats.course_id == Enrollment.course_id)
        .where(
            Enrollment.student_id == wanted.c.student_ids,
            Enrollment.course_id > wanted.c.afters,
            # The states are 1 and 2: one bit each.
            Enrollment.state.op("&")(wanted.c.states) != constant(0),
        )
        .order_by(Enrollment.course_id)
        .limit(wanted.c.limits)
        .correlate(wanted)
        .lateral("page")
    )
    arrays = select(*(func.array_agg(each).label(each.name) for each in page.c)).select_from(page).lateral("arrays")
    return Prepared(
        select(wanted.c.ordinals, *student_columns, *arrays.c).select_from(
            wanted.join(Student, Student.id == wanted.c.student_ids).join(arrays, true())
        ),
        *(each.name for each in wanted.c),
    )


_read_student_courses = _student_courses()
_STUDENT = slice(1, 1 + len(student_columns))
_ARRAYS = _STUDENT.stop


async def read_student_courses(
    connection: DriverConnection, queries: Sequence[StudentCoursesQuery]
) -> dict[StudentCoursesQuery, tuple[StudentRow, list[HeldCourse]]]:
    """One page of courses per query, by ascending course id; queries for students that do not exist are left out."""
    unique = list(dict.fromkeys(queries))
    columns = zip(*unique, strict=True)
    found = {}
    for row in await _read_student_courses.fetch(connection, *columns, range(len(unique))):
        held = list(map(HeldCourse._make, zip(*row[_ARRAYS:], strict=True))) if row[_ARRAYS] else []
        found[unique[row[0]]] = (StudentRow(*row[_STUDENT]), held)
    return found


def _pairs() -> Prepared:
    wanted = rows_of(student_ids=bigint, course_ids=bigint)
    return Prepared(
        select(
            Enrollment.student_id,
            Enrollment.course_id,
            Enrollment.state,
            _position,
            Enrollment.enroll_time,
            Enrollment.create_time,
            Enrollment.sequence,
        ).join_from(
            wanted,
            Enrollment,
            (Enrollment.student_id == wanted.c.student_ids) & (Enrollment.course_id == wanted.c.course_ids),
        ),
        "student_ids",
        "course_ids",
    )


_read_pairs = _pairs()


async def read_enrollments(connection: DriverConnection, pairs: Sequence[Pair]) -> dict[Pair, EnrollmentRow]:
    """The live enrollments among pairs of student and course ids."""
    rows = await _read_pairs.fetch(connection, *zip(*set(pairs), strict=True))
    return {(row["student_id"], row["course_id"]): EnrollmentRow(*row) for row in rows}


class RosterQuery(NamedTuple):
    """One page of the students of a course: those after (state, key), in states given as a bit mask.

    The key is the student's id among the enrolled and the ticket among the waiters.
    """

    course_id: int
    after: tuple[int, int]
    limit: int
    states: int


async def read_roster(connection: AsyncConnection, query: RosterQuery) -> list[tuple[EnrollmentRow, StudentRow]]:
    """First the enrolled by student id, then the waiters by position. Call it inside one snapshot."""
    state, key = query.after
    found: list[tuple[EnrollmentRow, StudentRow]] = []
    if query.states & ENROLLED and state <= ENROLLED:
        found += await _page(connection, query, ENROLLED, Enrollment.student_id, key, query.limit)
    if query.states & WAITLISTED and len(found) < query.limit:
        ticket = key if state == WAITLISTED else 0
        found += await _page(connection, query, WAITLISTED, Enrollment.sequence, ticket, query.limit - len(found))
    return found


async def _page(
    connection: AsyncConnection,
    query: RosterQuery,
    state: int,
    key: InstrumentedAttribute[int],
    after: int,
    limit: int,
) -> list[tuple[EnrollmentRow, StudentRow]]:
    in_state = (Enrollment.course_id == query.course_id) & (Enrollment.state == constant(state))
    ahead = select(func.count()).select_from(Enrollment).where(in_state, key <= after).scalar_subquery()
    statement = (
        select(
            Enrollment.student_id,
            ahead if state == WAITLISTED else constant(0),
            Enrollment.enroll_time,
            Enrollment.create_time,
            Enrollment.sequence,
            *student_columns,
        )
        .join_from(Enrollment, Student, Student.id == Enrollment.student_id)
        .where(in_state, key > after)
        .order_by(key)
        .limit(limit)
    )
    page = []
    for index, row in enumerate(await connection.execute(statement)):
        student_id, waiting_before, entered, created, sequence, *student = row
        position = waiting_before + index + 1 if state == WAITLISTED else 0
        enrollment = EnrollmentRow(student_id, query.course_id, state, position, entered, created, sequence)
        page.append((enrollment, StudentRow(*student)))
    return page
