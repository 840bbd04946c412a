"""The statements of the write path: lock the seat rows, load what the commands touch, apply what was decided.

All set-based: arrays in, rows out. A list of one is the simple case of the same statement.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from operator import itemgetter
from typing import Any, NamedTuple

from sqlalchemy import (
    CTE,
    Integer,
    Uuid,
    any_,
    column,
    delete,
    func,
    insert,
    select,
    true,
    update,
)
from sqlalchemy.sql.expression import ColumnElement
from sqlalchemy.types import TypeEngine

from enrollment_service.domain.records import WAITLISTED, Event
from enrollment_service.domain.records import Enrollment as EnrollmentRow
from enrollment_service.domain.state import Pair, Seats, State
from enrollment_service.store.database import DriverConnection
from enrollment_service.store.models import CourseSeats, Enrollment, EnrollmentEvent, Student
from enrollment_service.store.statements import Prepared, array, bigint, constant, smallint, text, timestamp

_integer = Integer()
_uuid = Uuid()


def rows_of(**columns: TypeEngine[Any]) -> Any:
    """Arrays of equal length as a table: `unnest(...)`, one column per array, named after its parameter."""
    arrays = [array(name, of) for name, of in columns.items()]
    shape = [column(name, of) for name, of in columns.items()]
    return func.unnest(*arrays).table_valued(*shape).render_derived()


# --- lock -------------------------------------------------------------------------------------------------------


class LockedSeats(NamedTuple):
    """A seat row as it stands once its lock is held."""

    course_id: int
    capacity: int | None
    waitlist_capacity: int
    enroll_open_time: datetime | None
    enroll_close_time: datetime | None
    enrolled_count: int
    waitlisted_count: int
    last_sequence: int
    last_event_time: datetime | None
    version: int


_seat_columns = [getattr(CourseSeats, name) for name in LockedSeats._fields]
_wanted = CourseSeats.course_id == any_(array("course_ids"))
_locking = select(*_seat_columns).where(_wanted).order_by(CourseSeats.course_id).with_for_update(key_share=True)


# --- load -------------------------------------------------------------------------------------------------------


class Loaded(NamedTuple):
    """Locked seat rows, the live enrollments among pairs, students that do not exist, and the time after all that."""

    now: datetime
    seats: Sequence[LockedSeats]
    missing_students: Sequence[int]
    enrollments: Sequence[EnrollmentRow]


_PAIR_COLUMNS = [
    Enrollment.student_id,
    Enrollment.course_id,
    Enrollment.state,
    Enrollment.enroll_time,
    Enrollment.create_time,
    Enrollment.sequence,
]
_SEATS = slice(1, 1 + len(_seat_columns))
_SEEN = slice(_SEATS.stop, _SEATS.stop + 2)
_PAIRS = slice(_SEEN.stop, None)


def _in_arrays(source: Any, name: str) -> Any:
    """The columns of a query as arrays, in one row."""
    return select(*(func.array_agg(each).label(f"{name}_{each.key}") for each in source.c)).subquery(name)


def _pairs_in_arrays() -> Any:
    """Which students of the pairs are missing, and the live enrollments among the pairs."""
    pairs = rows_of(student_ids=bigint, pair_course_ids=bigint)
    found = Enrollment.state.is_not(None)
    source = pairs.outerjoin(Student, Student.id == pairs.c.student_ids).outerjoin(
        Enrollment,
        (Enrollment.student_id == pairs.c.student_ids) & (Enrollment.course_id == pairs.c.pair_course_ids),
    )
    return select(
        func.array_agg(pairs.c.student_ids).filter(Student.id.is_(None)).label("missing"),
        *(func.array_agg(each).filter(found).label(each.key) for each in _PAIR_COLUMNS),
    ).select_from(source)


@lru_cache
def _lock_and_load(clock: ColumnElement[datetime]) -> Prepared:
    locked = _in_arrays(_locking.cte("locked"), "seats")
    seen = _in_arrays(select(CourseSeats.course_id, CourseSeats.last_sequence).where(_wanted).subquery(), "seen")
    pairs = _pairs_in_arrays().subquery("pairs")
    return Prepared(
        select(clock.label("now"), *locked.c, *seen.c, *pairs.c).select_from(
            locked.join(seen, true()).join(pairs, true())
        ),
        "course_ids",
        "student_ids",
        "pair_course_ids",
    )


_load_pairs = Prepared(_pairs_in_arrays(), "student_ids", "pair_course_ids")


async def lock_and_load(
    connection: DriverConnection, course_ids: Iterable[int], pairs: Iterable[Pair], clock: ColumnElement[datetime]
) -> Loaded:
    """Locks the seat rows of the courses that exist, in ascending order, and loads the pairs.

    One statement locks and reads: the locked rows come as they are now, everything else as it was when the statement
    began. Whoever changes a pair moves its course's sequence on; so where no sequence has moved in between, the pairs
    are as they are now too. Where one has, because another batch held the lock, they are read again.
    """
    parameters = _transposed(pairs) or ((), ())
    row = await _lock_and_load(clock).fetch_one(connection, sorted(course_ids), *parameters)
    locked = list(map(LockedSeats._make, _rows_in(row[_SEATS])))
    missing, *columns = row[_PAIRS]
    if dict(_rows_in(row[_SEEN])) != {one.course_id: one.last_sequence for one in locked}:
        missing, *columns = await _load_pairs.fetch_one(connection, *parameters)
    return Loaded(row[0], locked, missing or (), [_as_enrollment(one) for one in _rows_in(columns)])


def _rows_in(columns: Sequence[Sequence[Any] | None]) -> Iterator[tuple[Any, ...]]:
    """Columns as rows; arrays over no row are NULL."""
    return zip(*(each or () for each in columns), strict=True)


def _as_enrollment(row: tuple[Any, ...]) -> EnrollmentRow:
    student_id, course_id, state, entered, created, sequence = row
    return EnrollmentRow(student_id, course_id, state, 0, entered, created, sequence)


_enrollment_columns = [
    Enrollment.student_id,
    Enrollment.course_id,
    Enrollment.state,
    constant(0).label("waitlist_position"),
    Enrollment.enroll_time,
    Enrollment.create_time,
    Enrollment.sequence,
]


def _first_waiters() -> Prepared:
    wanted = rows_of(course_ids=bigint, counts=bigint)
    first = (
        select(*_enrollment_columns)
        .where(Enrollment.course_id == wanted.c.course_ids, Enrollment.state == constant(WAITLISTED))
        .order_by(Enrollment.sequence)
        .limit(wanted.c.counts)
        .lateral()
    )
    return Prepared(
        select(first).select_from(wanted.join(first, true())).order_by(first.c.course_id, first.c.sequence),
        "course_ids",
        "counts",
    )


_load_waiters = _first_waiters()

_load_rosters = Prepared(
    select(*_enrollment_columns).where(Enrollment.course_id == any_(array("course_ids"))), "course_ids"
)

_load_held = Prepared(
    select(*_enrollment_columns).where(Enrollment.student_id == any_(array("student_ids"))), "student_ids"
)


async def load_waiters(connection: DriverConnection, counts: Mapping[int, int]) -> dict[int, deque[EnrollmentRow]]:
    """The first waiters of each course in order, as many as asked for."""
    queues: dict[int, deque[EnrollmentRow]] = {course_id: deque() for course_id in counts}
    if counts:
        for row in await _load_waiters.fetch(connection, list(counts), list(counts.values())):
            queues[row["course_id"]].append(EnrollmentRow(*row))
    return queues


async def load_rosters(connection: DriverConnection, course_ids: Iterable[int]) -> list[EnrollmentRow]:
    """Everybody who is enrolled in the courses or waits for them."""
    ids = list(course_ids)
    return [EnrollmentRow(*row) for row in await _load_rosters.fetch(connection, ids)] if ids else []


async def load_held(connection: DriverConnection, student_ids: Iterable[int]) -> list[EnrollmentRow]:
    """Every live enrollment of the students."""
    ids = list(student_ids)
    return [EnrollmentRow(*row) for row in await _load_held.fetch(connection, ids)] if ids else []


# --- apply ------------------------------------------------------------------------------------------------------


# Beyond so many events a decision is large; no batch of ordinary commands is.
MANY = 500

_ROW_COLUMNS = ["student_id", "course_id", "state", "sequence", "enroll_time", "create_time"]
_as_row = itemgetter(*map(EnrollmentRow._fields.index, _ROW_COLUMNS))


def _insert_rows(rows: Any) -> CTE:
    return insert(Enrollment).from_select(_ROW_COLUMNS, select(*rows.c)).cte("inserted")


def _update_rows(rows: Any) -> CTE:
    return (
        update(Enrollment)
        .values(
            state=rows.c.new_states,
            sequence=rows.c.new_sequences,
            enroll_time=rows.c.new_enroll_times,
            create_time=rows.c.new_create_times,
        )
        .where(Enrollment.student_id == rows.c.new_students, Enrollment.course_id == rows.c.new_courses)
        .cte("updated")
    )


def _delete_rows(rows: Any) -> CTE:
    return (
        delete(Enrollment)
        .where(Enrollment.student_id == rows.c.gone_students, Enrollment.course_id == rows.c.gone_courses)
        .cte("deleted")
    )


def _update_counts(rows: Any) -> CTE:
    return (
        update(CourseSeats)
        .values(
            # With the counts, because the two may only be right together.
            capacity=rows.c.seat_capacities,
            enrolled_count=rows.c.seat_enrolled,
            waitlisted_count=rows.c.seat_waitlisted,
            last_sequence=rows.c.seat_sequences,
            last_event_time=rows.c.seat_times,
        )
        .where(CourseSeats.course_id == rows.c.seat_courses)
        .cte("counted")
    )


def _append_events(rows: Any) -> CTE:
    return insert(EnrollmentEvent).from_select(list(Event._fields), select(*rows.c)).cte("logged")


# Each part of the one statement: its parameters, and how it is written on the rows that they make.
_PARTS: dict[str, tuple[dict[str, TypeEngine[Any]], Callable[[Any], CTE]]] = {
    "insert": (
        {
            "row_students": bigint,
            "row_courses": bigint,
            "row_states": smallint,
            "row_sequences": bigint,
            "row_enroll_times": timestamp,
            "row_create_times": timestamp,
        },
        _insert_rows,
    ),
    "update": (
        {
            "new_students": bigint,
            "new_courses": bigint,
            "new_states": smallint,
            "new_sequences": bigint,
            "new_enroll_times": timestamp,
            "new_create_times": timestamp,
        },
        _update_rows,
    ),
    "delete": ({"gone_students": bigint, "gone_courses": bigint}, _delete_rows),
    "count": (
        {
            "seat_courses": bigint,
            "seat_capacities": _integer,
            "seat_enrolled": _integer,
            "seat_waitlisted": _integer,
            "seat_sequences": bigint,
            "seat_times": timestamp,
        },
        _update_counts,
    ),
    "log": (
        {
            "event_courses": bigint,
            "event_sequences": bigint,
            "event_students": bigint,
            "event_previous": smallint,
            "event_states": smallint,
            "event_positions": _integer,
            "event_times": timestamp,
            "event_requests": _uuid,
            "event_actors": text,
            "event_reasons": text,
        },
        _append_events,
    ),
}


@lru_cache
def _apply_statement(parts: tuple[str, ...]) -> Prepared:
    ctes = [write(rows_of(**parameters)) for parameters, write in map(_PARTS.__getitem__, parts)]
    names = [name for part in parts for name in _PARTS[part][0]]
    return Prepared(select(constant(1)).add_cte(*ctes), *names)


async def apply(connection: DriverConnection, state: State) -> None:
    """Writes the rows, counts and events of a decision, in one statement that has only the parts it needs.

    New rows and events of large decisions, which only imports and the like make, go by COPY: it takes half as long.
    """
    inserted, updated, deleted = state.net_changes()
    events = state.events
    if len(events) > MANY:
        await _copy(connection, Enrollment.__tablename__, _ROW_COLUMNS, map(_as_row, inserted))
        await _copy(connection, EnrollmentEvent.__tablename__, Event._fields, events)
        inserted, events = [], []
    columns = {
        "insert": _transposed(map(_as_row, inserted)),
        "update": _transposed(map(_as_row, updated)),
        "delete": _transposed(deleted),
        "count": _transposed(map(_as_counts, state.touched_seats())),
        "log": _transposed(events),
    }
    parts = tuple(part for part in _PARTS if columns[part])
    if parts:
        arguments = [each for part in parts for each in columns[part]]
        await _apply_statement(parts).fetch(connection, *arguments)


async def _copy(
    connection: DriverConnection, table: str, columns: Sequence[str], rows: Iterable[tuple[Any, ...]]
) -> None:
    await connection.copy_records_to_table(table, columns=columns, records=rows)


def _as_counts(seats: Seats) -> tuple[Any, ...]:
    return (
        seats.course_id,
        seats.capacity,
        seats.enrolled_count,
        seats.waitlisted_count,
        seats.last_sequence,
        seats.last_event_time,
    )


def _transposed(rows: Iterable[Sequence[Any]]) -> list[Sequence[Any]]:
    """Rows as columns; no column where there is no row."""
    return list(zip(*rows, strict=True))
