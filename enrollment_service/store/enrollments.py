"""Statements that read enrollments: one pair, the courses of a student, the students of a course."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import case, func, select, true
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import InstrumentedAttribute, aliased

from enrollment_service.domain.errors import Refusal, course_not_found
from enrollment_service.domain.queries import CourseStudents, CourseStudentsQuery, HeldCourse, StudentCoursesQuery
from enrollment_service.domain.records import ENROLLED, WAITLISTED, Enrollment, EnrollmentView, Student
from enrollment_service.domain.state import Pair
from enrollment_service.store.courses import read_course
from enrollment_service.store.models import EnrollmentRow, SeatsRow, StudentRow
from enrollment_service.store.statements import Prepared, bigint, constant, integer, rows_of
from enrollment_service.store.students import student_columns
from enrollment_service.store.transactions import DriverConnection

_ahead = aliased(EnrollmentRow)
_position = case(
    (
        EnrollmentRow.state == constant(WAITLISTED),
        select(func.count())
        .select_from(_ahead)
        .where(
            _ahead.course_id == EnrollmentRow.course_id,
            _ahead.state == constant(WAITLISTED),
            _ahead.sequence <= EnrollmentRow.sequence,
        )
        .correlate(EnrollmentRow)
        .scalar_subquery(),
    ),
    else_=constant(0),
)


def _student_courses() -> Prepared:
    wanted = rows_of(student_ids=bigint, afters=bigint, limits=bigint, states=integer, ordinals=bigint)
    page = (
        select(
            EnrollmentRow.course_id,
            EnrollmentRow.state,
            EnrollmentRow.sequence,
            EnrollmentRow.enroll_time,
            # Mostly the same; then it need not be sent and decoded twice.
            func.nullif(EnrollmentRow.create_time, EnrollmentRow.enroll_time).label("create_time"),
            _position.label("waitlist_position"),
            SeatsRow.version,
            SeatsRow.enrolled_count,
            SeatsRow.waitlisted_count,
        )
        .join_from(EnrollmentRow, SeatsRow, SeatsRow.course_id == EnrollmentRow.course_id)
        .where(
            EnrollmentRow.student_id == wanted.c.student_ids,
            EnrollmentRow.course_id > wanted.c.afters,
            # The states are 1 and 2: one bit each.
            EnrollmentRow.state.op("&")(wanted.c.states) != constant(0),
        )
        .order_by(EnrollmentRow.course_id)
        .limit(wanted.c.limits)
        .correlate(wanted)
        .lateral("page")
    )
    arrays = (
        select(*(func.array_agg(column).label(column.name) for column in page.c)).select_from(page).lateral("arrays")
    )
    return Prepared(
        select(wanted.c.ordinals, *student_columns, *arrays.c).select_from(
            wanted.join(StudentRow, StudentRow.id == wanted.c.student_ids).join(arrays, true())
        )
    )


_read_student_courses = _student_courses()
_STUDENT = slice(1, 1 + len(student_columns))
_ARRAYS = _STUDENT.stop


async def read_student_courses(
    connection: DriverConnection, queries: Sequence[StudentCoursesQuery]
) -> dict[StudentCoursesQuery, tuple[Student, list[HeldCourse]]]:
    """One page of courses per query, by ascending course id; queries for students that do not exist are left out."""
    unique = list(dict.fromkeys(queries))
    student_ids, afters, limits, states = zip(*unique, strict=True)
    rows = await _read_student_courses.fetch(
        connection,
        student_ids=student_ids,
        afters=afters,
        limits=limits,
        states=states,
        ordinals=range(len(unique)),
    )
    found = {}
    for row in rows:
        held = list(map(HeldCourse._make, zip(*row[_ARRAYS:], strict=True))) if row[_ARRAYS] else []
        found[unique[row[0]]] = (Student(*row[_STUDENT]), held)
    return found


def _pairs() -> Prepared:
    wanted = rows_of(student_ids=bigint, course_ids=bigint)
    return Prepared(
        select(
            EnrollmentRow.student_id,
            EnrollmentRow.course_id,
            EnrollmentRow.state,
            _position,
            EnrollmentRow.enroll_time,
            EnrollmentRow.create_time,
            EnrollmentRow.sequence,
        ).join_from(
            wanted,
            EnrollmentRow,
            (EnrollmentRow.student_id == wanted.c.student_ids) & (EnrollmentRow.course_id == wanted.c.course_ids),
        )
    )


_read_pairs = _pairs()


async def read_enrollments(connection: DriverConnection, pairs: Sequence[Pair]) -> dict[Pair, Enrollment]:
    """The live enrollments among pairs of student and course ids."""
    student_ids, course_ids = zip(*set(pairs), strict=True)
    rows = await _read_pairs.fetch(connection, student_ids=student_ids, course_ids=course_ids)
    return {(row["student_id"], row["course_id"]): Enrollment(*row) for row in rows}


async def read_course_students(connection: AsyncConnection, query: CourseStudentsQuery) -> CourseStudents:
    """A course and a page of its students. Call it inside one snapshot.

    Raises:
        Refusal: COURSE_NOT_FOUND.
    """
    course = await read_course(connection, query.course_id)
    if course is None:
        raise Refusal([course_not_found(query.course_id)])
    return CourseStudents(course, await _read_roster(connection, query))


async def _read_roster(connection: AsyncConnection, query: CourseStudentsQuery) -> list[EnrollmentView]:
    """First the enrolled by student id, then the waiters by position."""
    state, key = query.after
    found: list[EnrollmentView] = []
    if query.states & ENROLLED and state <= ENROLLED:
        found += await _page(connection, query, ENROLLED, EnrollmentRow.student_id, key, query.limit)
    if query.states & WAITLISTED and len(found) < query.limit:
        ticket = key if state == WAITLISTED else 0
        found += await _page(connection, query, WAITLISTED, EnrollmentRow.sequence, ticket, query.limit - len(found))
    return found


async def _page(
    connection: AsyncConnection,
    query: CourseStudentsQuery,
    state: int,
    key: InstrumentedAttribute[int],
    after: int,
    limit: int,
) -> list[EnrollmentView]:
    in_state = (EnrollmentRow.course_id == query.course_id) & (EnrollmentRow.state == constant(state))
    ahead = select(func.count()).select_from(EnrollmentRow).where(in_state, key <= after).scalar_subquery()
    statement = (
        select(
            EnrollmentRow.student_id,
            ahead if state == WAITLISTED else constant(0),
            EnrollmentRow.enroll_time,
            EnrollmentRow.create_time,
            EnrollmentRow.sequence,
            *student_columns,
        )
        .join_from(EnrollmentRow, StudentRow, StudentRow.id == EnrollmentRow.student_id)
        .where(in_state, key > after)
        .order_by(key)
        .limit(limit)
    )
    page = []
    for index, row in enumerate(await connection.execute(statement)):
        student_id, waiting_before, entered, created, sequence, *student = row
        position = waiting_before + index + 1 if state == WAITLISTED else 0
        enrollment = Enrollment(student_id, query.course_id, state, position, entered, created, sequence)
        page.append(EnrollmentView(enrollment, Student(*student)))
    return page
