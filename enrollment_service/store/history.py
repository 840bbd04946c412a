"""Statements that read the log as of a time: up to when it can be read, and the events of a course or of a student.

They read the events of that course or that student alone, by the index that has these in their order.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import datetime
from functools import lru_cache
from typing import NamedTuple

from sqlalchemy import bindparam, func, outerjoin, select, true
from sqlalchemy.sql.expression import ColumnElement

from enrollment_service.domain.errors import DatabaseUnavailable
from enrollment_service.domain.history import Step
from enrollment_service.domain.records import OF_ENROLLMENT, WAITLISTED
from enrollment_service.store.events import place_column, place_of
from enrollment_service.store.models import EventRow, LogHorizonRow
from enrollment_service.store.statements import Prepared, bigint, constant, timestamp
from enrollment_service.store.transactions import DriverConnection


class Horizon(NamedTuple):
    """What of the log can be read, as seen at one moment.

    Attributes:
        history: which history of the database this is: the epoch and the timeline.
        now: the time.
        since: from when on the log has everything.
        stepped: None, unless the clock was set back: then events have times that are still to come. What is between
            the two times of the pair may be written anew.
    """

    history: tuple[str, int]
    now: datetime
    since: datetime
    stepped: tuple[datetime, datetime] | None


_time = bindparam("moment", type_=timestamp)
_course = EventRow.course_id == bindparam("course_id", type_=bigint)
_student = EventRow.student_id == bindparam("student_id", type_=bigint)
_of_enrollment = EventRow.kind == constant(OF_ENROLLMENT)
_steps = [getattr(EventRow, name) for name in Step._fields]


@lru_cache
def _horizon(clock: ColumnElement[datetime]) -> Prepared:
    newest = select(EventRow.event_time).order_by(EventRow.event_time.desc()).limit(constant(1)).subquery("newest")
    return Prepared(
        select(place_column, clock, LogHorizonRow.since, newest.c.event_time).select_from(
            outerjoin(LogHorizonRow, newest, true())
        )
    )


def _out_of_order() -> Prepared:
    """The lowest time of what was written after the newest event by its time; of several, after the first of them."""
    newest = EventRow.event_time == bindparam("newest", type_=timestamp)
    # Apart, so that neither is looked for in the other's order, from the very beginning of the log.
    those = select(EventRow.xid).where(newest).cte("those").prefix_with("MATERIALIZED")
    first = select(those.c.xid).order_by(those.c.xid).limit(constant(1)).scalar_subquery()
    since = select(EventRow.event_time).where(EventRow.xid > first).order_by(EventRow.xid).cte("since")
    return Prepared(select(func.min(since.prefix_with("MATERIALIZED").c.event_time)))


_lowest_after = _out_of_order()
_of_course = Prepared(select(*_steps).where(_course, EventRow.event_time <= _time).order_by(EventRow.sequence))
_of_queue = Prepared(
    select(*_steps)
    .where(
        _course,
        EventRow.event_time <= _time,
        _of_enrollment,
        (EventRow.state == constant(WAITLISTED)) | (EventRow.previous_state == constant(WAITLISTED)),
    )
    .order_by(EventRow.sequence)
)
_of_student = Prepared(
    select(*_steps)
    .where(
        _student,
        EventRow.course_id > bindparam("after", type_=bigint),
        EventRow.event_time <= _time,
        _of_enrollment,
    )
    .order_by(EventRow.course_id, EventRow.sequence)
)
_student_known = Prepared(
    select(constant(1)).where(_student, EventRow.event_time <= _time, _of_enrollment).limit(constant(1))
)


async def read_horizon(connection: DriverConnection, clock: ColumnElement[datetime]) -> Horizon:
    """What of the log can be read now.

    Raises:
        DatabaseUnavailable: this is a standby, which may see transactions as over that are not.
    """
    shown, now, since, newest = await _horizon(clock).fetch_one(connection)
    if (place := place_of(shown)) is None:
        raise DatabaseUnavailable
    stepped = None
    if newest is not None and newest > now:
        (lowest,) = await _lowest_after.fetch_one(connection, newest=newest)
        stepped = (min(now, lowest or now), newest)
    return Horizon((place.epoch, place.timeline), now, since, stepped)


async def steps_of_course(connection: DriverConnection, course_id: int, moment: datetime) -> AsyncGenerator[Step, None]:
    """The events of a course up to a time, in their order. Call it inside one snapshot."""
    async for row in _of_course.pieces(connection, course_id=course_id, moment=moment):
        yield Step(*row)


async def steps_of_queue(connection: DriverConnection, course_id: int, moment: datetime) -> AsyncGenerator[Step, None]:
    """The same, and only of those who began to wait, or had waited."""
    async for row in _of_queue.pieces(connection, course_id=course_id, moment=moment):
        yield Step(*row)


async def steps_of_student(
    connection: DriverConnection, student_id: int, after: int, moment: datetime
) -> AsyncGenerator[Step, None]:
    """The events of a student up to a time, by course, those after a course's id. Call it inside one snapshot."""
    async for row in _of_student.pieces(connection, student_id=student_id, after=after, moment=moment):
        yield Step(*row)


async def student_known(connection: DriverConnection, student_id: int, moment: datetime) -> bool:
    """Whether there are events of a student up to a time."""
    return bool(await _student_known.fetch(connection, student_id=student_id, moment=moment))
