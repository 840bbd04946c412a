"""The statement behind ExplainEnrollment: all that the rules look at for pairs of student and course, of one moment.

It locks nothing. What it reads stands in a `State` as a batch would have it under its locks.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache

from asyncpg import Record
from sqlalchemy import func, select, true
from sqlalchemy.sql.expression import ColumnElement

from enrollment_service.domain.errors import Reason
from enrollment_service.domain.records import Course, Enrollment, Waiver
from enrollment_service.domain.state import Pair, Seats, State
from enrollment_service.store.models import EnrollmentRow, SeatsRow, StudentRow, WaiverRow
from enrollment_service.store.statements import Prepared, bigint, rows_of
from enrollment_service.store.transactions import DriverConnection

# Who may enter depends on the seat row; the details of a course are not read.
_SINCE = datetime.min.replace(tzinfo=UTC)
_NOT_READ = Course(0, "", "", "", None, 0, None, None, "", False, _SINCE, _SINCE, 0)

_RULES = [
    SeatsRow.capacity,
    SeatsRow.waitlist_capacity,
    SeatsRow.enroll_open_time,
    SeatsRow.enroll_close_time,
    SeatsRow.permit_required,
    SeatsRow.enrolled_count,
    SeatsRow.waitlisted_count,
    SeatsRow.swap_count,
    SeatsRow.last_sequence,
    SeatsRow.last_event_time,
]


@lru_cache
def _read(clock: ColumnElement[datetime]) -> Prepared:
    pairs = rows_of(student_ids=bigint, course_ids=bigint)
    now = select(clock.label("now")).cte("clock").prefix_with("MATERIALIZED")
    lifted = (
        select(func.array_agg(WaiverRow.reason).label("reasons"), func.array_agg(WaiverRow.expire_time).label("until"))
        .where(WaiverRow.course_id == pairs.c.course_ids, WaiverRow.student_id == pairs.c.student_ids)
        .lateral("lifted")
    )
    return Prepared(
        select(
            now.c.now,
            pairs.c.student_ids,
            pairs.c.course_ids,
            StudentRow.id,
            SeatsRow.course_id,
            *_RULES,
            EnrollmentRow.state,
            EnrollmentRow.sequence,
            *lifted.c,
        ).select_from(
            pairs.join(now, true())
            .outerjoin(StudentRow, StudentRow.id == pairs.c.student_ids)
            .outerjoin(SeatsRow, SeatsRow.course_id == pairs.c.course_ids)
            .outerjoin(
                EnrollmentRow,
                (EnrollmentRow.student_id == pairs.c.student_ids) & (EnrollmentRow.course_id == pairs.c.course_ids),
            )
            .join(lifted, true())
        )
    )


async def read_state(connection: DriverConnection, pairs: Iterable[Pair], clock: ColumnElement[datetime]) -> State:
    """What the rules look at for each pair of student and course ids; nothing of it is locked."""
    student_ids, course_ids = zip(*set(pairs), strict=True)
    rows = await _read(clock).fetch(connection, student_ids=student_ids, course_ids=course_ids)
    state = State(now=rows[0]["now"])
    for row in rows:
        _add(state, row)
    return state


def _add(state: State, row: Record) -> None:
    _, student_id, course_id, student, course, *rules, place, sequence, reasons, until = row
    if student is None:
        state.missing_students.add(student_id)
    if course is not None and course_id not in state.seats:
        state.seats[course_id] = Seats(course_id, _NOT_READ, *rules)
    if place is not None:
        state.enrollments[student_id, course_id] = Enrollment(student_id, course_id, place, 0, None, None, sequence)
    if reasons:
        state.waivers[student_id, course_id] = {
            Reason(reason): Waiver(course_id, student_id, (Reason(reason),), expires, state.now, "", 0)
            for reason, expires in zip(reasons, until, strict=True)
        }
