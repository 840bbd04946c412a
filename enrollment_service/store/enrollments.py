"""Statements that read enrollments: one pair, the courses of a student, the students of a course."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from asyncpg import Record
from sqlalchemy import case, func, join, select, true
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import InstrumentedAttribute, aliased

from enrollment_service.domain.errors import Refusal, course_not_found
from enrollment_service.domain.feed import Place
from enrollment_service.domain.queries import CourseStudents, CourseStudentsQuery, HeldCourse, StudentCoursesQuery
from enrollment_service.domain.records import ENROLLED, WAITLISTED, CountedCourse, Enrollment, EnrollmentView, Student
from enrollment_service.domain.state import Pair
from enrollment_service.store.courses import counted, counted_columns, read_course
from enrollment_service.store.events import place_column, place_of
from enrollment_service.store.models import CourseRow, EnrollmentRow, SeatsRow, StudentRow
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


_swap_columns = [
    func.coalesce(EnrollmentRow.swap_from_course_id, constant(0)),
    func.coalesce(EnrollmentRow.latest_sequence, constant(0)),
]


def _student_courses() -> Prepared:
    wanted = rows_of(student_ids=bigint, afters=bigint, limits=bigint, states=integer, ordinals=bigint)
    page = (
        select(
            EnrollmentRow.course_id,
            EnrollmentRow.state,
            # What the etag is; the position is computed here.
            func.coalesce(EnrollmentRow.latest_sequence, EnrollmentRow.sequence).label("sequence"),
            EnrollmentRow.enroll_time,
            # Mostly the same; then it need not be sent and decoded twice.
            func.nullif(EnrollmentRow.create_time, EnrollmentRow.enroll_time).label("create_time"),
            _position.label("waitlist_position"),
            SeatsRow.version,
            SeatsRow.enrolled_count,
            SeatsRow.waitlisted_count,
            EnrollmentRow.swap_from_course_id,
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
    place = select(place_column.label("place")).cte("place").prefix_with("MATERIALIZED")
    return Prepared(
        select(wanted.c.ordinals, place.c.place, *student_columns, *arrays.c).select_from(
            wanted.join(StudentRow, StudentRow.id == wanted.c.student_ids).join(arrays, true()).join(place, true())
        )
    )


_read_student_courses = _student_courses()
_STUDENT = slice(2, 2 + len(student_columns))
_ARRAYS = _STUDENT.stop


async def read_student_courses(
    connection: DriverConnection, queries: Sequence[StudentCoursesQuery]
) -> dict[StudentCoursesQuery, tuple[Student, list[HeldCourse], Place | None]]:
    """One page of courses per query, by ascending course id, and where in the log the statement has looked.

    Queries for students that do not exist are left out.
    """
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
        found[unique[row[0]]] = (Student(*row[_STUDENT]), held, place_of(row[1]))
    return found


class PairFound(NamedTuple):
    """What there is of a pair of student and course, all of one moment; each part may be missing."""

    enrollment: Enrollment | None
    student: Student | None
    course: CountedCourse | None


def _pairs() -> Prepared:
    wanted = rows_of(student_ids=bigint, course_ids=bigint)
    course = join(CourseRow, SeatsRow, SeatsRow.course_id == CourseRow.id)
    return Prepared(
        select(
            wanted.c.student_ids,
            wanted.c.course_ids,
            EnrollmentRow.state,
            _position,
            EnrollmentRow.enroll_time,
            EnrollmentRow.create_time,
            EnrollmentRow.sequence,
            *_swap_columns,
            *student_columns,
            *counted_columns,
        ).select_from(
            wanted.outerjoin(StudentRow, StudentRow.id == wanted.c.student_ids)
            .outerjoin(course, CourseRow.id == wanted.c.course_ids)
            .outerjoin(
                EnrollmentRow,
                (EnrollmentRow.student_id == wanted.c.student_ids) & (EnrollmentRow.course_id == wanted.c.course_ids),
            )
        )
    )


_read_pairs = _pairs()
_PAIR_ENROLLMENT = slice(0, len(Enrollment._fields))
_PAIR_STUDENT = slice(_PAIR_ENROLLMENT.stop, _PAIR_ENROLLMENT.stop + len(student_columns))
_PAIR_COURSE = slice(_PAIR_STUDENT.stop, None)


async def read_pairs(connection: DriverConnection, pairs: Iterable[Pair]) -> dict[Pair, PairFound]:
    """What there is of each pair of student and course ids, in one statement."""
    student_ids, course_ids = zip(*set(pairs), strict=True)
    rows = await _read_pairs.fetch(connection, student_ids=student_ids, course_ids=course_ids)
    return {(row[0], row[1]): _pair_found(row) for row in rows}


def _pair_found(row: Record) -> PairFound:
    enrollment, student, course = row[_PAIR_ENROLLMENT], row[_PAIR_STUDENT], row[_PAIR_COURSE]
    return PairFound(
        Enrollment(*enrollment) if enrollment[2] is not None else None,
        Student(*student) if student[0] is not None else None,
        counted(course) if course[0] is not None else None,
    )


async def read_course_students(connection: AsyncConnection, query: CourseStudentsQuery) -> CourseStudents:
    """A course and a page of its students. Call it inside one snapshot.

    Raises:
        Refusal: COURSE_NOT_FOUND.
    """
    course = await read_course(connection, query.course_id)
    if course is None:
        raise Refusal([course_not_found(query.course_id)])
    last = select(SeatsRow.last_sequence, place_column).where(SeatsRow.course_id == query.course_id)
    last_sequence, place = (await connection.execute(last)).one()
    return CourseStudents(course, await _read_roster(connection, query), last_sequence, place_of(place))


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
            *_swap_columns,
            *student_columns,
        )
        .join_from(EnrollmentRow, StudentRow, StudentRow.id == EnrollmentRow.student_id)
        .where(in_state, key > after)
        .order_by(key)
        .limit(limit)
    )
    page = []
    for index, row in enumerate(await connection.execute(statement)):
        student_id, waiting_before, entered, created, sequence, swap_from, latest, *student = row
        position = waiting_before + index + 1 if state == WAITLISTED else 0
        enrollment = Enrollment(
            student_id, query.course_id, state, position, entered, created, sequence, swap_from, latest
        )
        page.append(EnrollmentView(enrollment, Student(*student)))
    return page
