"""The statements of the write path: lock the seat rows, load what the commands touch, apply what was decided.

All set-based: arrays in, rows out. A list of one is the simple case of the same statement.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple

from sqlalchemy import (
    CTE,
    Select,
    any_,
    bindparam,
    delete,
    func,
    insert,
    literal_column,
    null,
    select,
    true,
    update,
)
from sqlalchemy.sql.expression import ColumnElement
from sqlalchemy.types import TypeEngine

from enrollment_service.domain.records import WAITLISTED, Enrollment, Event
from enrollment_service.domain.state import NetChanges, Pair, Seats, State
from enrollment_service.store.locks import timed
from enrollment_service.store.models import EnrollmentRow, EventRow, SeatsRow, StudentRow
from enrollment_service.store.statements import (
    PIECE,
    Prepared,
    array,
    bigint,
    boolean,
    combinations_of,
    constant,
    integer,
    rows_of,
    smallint,
    text,
    timestamp,
    uuid,
)
from enrollment_service.store.transactions import DriverConnection

# --- lock -------------------------------------------------------------------------------------------------------


class LockedSeats(NamedTuple):
    """A seat row as it stands once its lock is held."""

    course_id: int
    capacity: int | None
    waitlist_capacity: int
    enroll_open_time: datetime | None
    enroll_close_time: datetime | None
    permit_required: bool
    enrolled_count: int
    waitlisted_count: int
    swap_count: int
    last_sequence: int
    last_event_time: datetime | None
    version: int


_seat_columns = [getattr(SeatsRow, name) for name in LockedSeats._fields]
_wanted = SeatsRow.course_id == any_(array("course_ids"))


def _locking(skip_locked: bool) -> Select[Any]:
    """Locks seat rows in ascending order; it waits for those that others have locked, or leaves them out."""
    wanted = select(*_seat_columns).where(_wanted).order_by(SeatsRow.course_id)
    return wanted.with_for_update(key_share=True, skip_locked=skip_locked)


# --- load -------------------------------------------------------------------------------------------------------


class Loaded(NamedTuple):
    """Locked seat rows, the live enrollments among pairs, students that do not exist, and the time after all that.

    `busy` are the courses that exist and whose rows others have locked.
    """

    now: datetime
    seats: Sequence[LockedSeats]
    busy: frozenset[int]
    missing_students: Sequence[int]
    enrollments: Sequence[Enrollment]


_PAIR_COLUMNS = [
    EnrollmentRow.student_id,
    EnrollmentRow.course_id,
    EnrollmentRow.state,
    EnrollmentRow.enroll_time,
    EnrollmentRow.create_time,
    EnrollmentRow.sequence,
    EnrollmentRow.swap_from_course_id,
    EnrollmentRow.latest_sequence,
]
_SEATS = slice(1, 1 + len(_seat_columns))
_SEEN = slice(_SEATS.stop, _SEATS.stop + 2)
_PAIRS = slice(_SEEN.stop, None)


def _in_arrays(source: Any, name: str) -> Any:
    """The columns of a query as arrays, in one row."""
    return select(*(func.array_agg(column).label(f"{name}_{column.key}") for column in source.c)).subquery(name)


def _pairs_in_arrays() -> Any:
    """Which students of the pairs are missing, and the live enrollments among the pairs."""
    pairs = rows_of(student_ids=bigint, pair_course_ids=bigint)
    found = EnrollmentRow.state.is_not(None)
    source = pairs.outerjoin(StudentRow, StudentRow.id == pairs.c.student_ids).outerjoin(
        EnrollmentRow,
        (EnrollmentRow.student_id == pairs.c.student_ids) & (EnrollmentRow.course_id == pairs.c.pair_course_ids),
    )
    return select(
        func.array_agg(pairs.c.student_ids).filter(StudentRow.id.is_(None)).label("missing"),
        *(func.array_agg(column).filter(found).label(column.key) for column in _PAIR_COLUMNS),
    ).select_from(source)


@lru_cache
def _lock_and_load(clock: ColumnElement[datetime], skip_locked: bool) -> Prepared:
    locked = _in_arrays(_locking(skip_locked).cte("locked"), "seats")
    seen = _in_arrays(select(SeatsRow.course_id, SeatsRow.last_sequence).where(_wanted).subquery(), "seen")
    pairs = _pairs_in_arrays().subquery("pairs")
    return Prepared(
        select(timed(clock).label("now"), *locked.c, *seen.c, *pairs.c).select_from(
            locked.join(seen, true()).join(pairs, true())
        )
    )


_load_pairs = Prepared(_pairs_in_arrays())


async def lock_and_load(
    connection: DriverConnection,
    course_ids: Iterable[int],
    pairs: Iterable[Pair],
    clock: ColumnElement[datetime],
    *,
    skip_locked: bool,
) -> Loaded:
    """Locks the seat rows of the courses that exist, in ascending order, and loads the pairs.

    With `skip_locked` it waits for nobody: a row that was seen and not locked is busy. Otherwise it waits for as long
    as the connection's lock_timeout says.

    One statement locks and reads: the locked rows come as they are now, everything else as it was when the statement
    began. Whoever changes a pair moves its course's sequence on; so where no sequence has moved in between, the pairs
    are as they are now too. Where one has, because another batch held the lock, they are read again.
    """
    student_ids, pair_course_ids = _transposed(pairs) or ((), ())
    wanted = {"student_ids": student_ids, "pair_course_ids": pair_course_ids}
    statement = _lock_and_load(clock, skip_locked)
    row = await statement.fetch_one(connection, course_ids=sorted(course_ids), **wanted)
    locked = list(map(LockedSeats._make, _rows_in(row[_SEATS])))
    missing, *columns = row[_PAIRS]
    seen, current = dict(_rows_in(row[_SEEN])), {seats.course_id: seats.last_sequence for seats in locked}
    busy: frozenset[int] = frozenset()
    if seen != current:
        busy = frozenset(seen.keys() - current.keys())
        missing, *columns = await _load_pairs.fetch_one(connection, **wanted)
    return Loaded(row[0], locked, busy, missing or (), list(map(_as_enrollment, _rows_in(columns))))


def _rows_in(columns: Sequence[Sequence[Any] | None]) -> Iterator[tuple[Any, ...]]:
    """Columns as rows; arrays over no row are NULL."""
    return zip(*(column or () for column in columns), strict=True)


def _as_enrollment(row: tuple[Any, ...]) -> Enrollment:
    student_id, course_id, state, entered, created, sequence, swap_from, latest = row
    return Enrollment(student_id, course_id, state, 0, entered, created, sequence, swap_from or 0, latest or 0)


_enrollment_columns = [
    EnrollmentRow.student_id,
    EnrollmentRow.course_id,
    EnrollmentRow.state,
    constant(0).label("waitlist_position"),
    EnrollmentRow.enroll_time,
    EnrollmentRow.create_time,
    EnrollmentRow.sequence,
    func.coalesce(EnrollmentRow.swap_from_course_id, constant(0)).label("swap_from_course_id"),
    func.coalesce(EnrollmentRow.latest_sequence, constant(0)).label("latest"),
]


def _first_waiters() -> Prepared:
    wanted = rows_of(course_ids=bigint, counts=bigint)
    first = (
        select(*_enrollment_columns)
        .where(EnrollmentRow.course_id == wanted.c.course_ids, EnrollmentRow.state == constant(WAITLISTED))
        .order_by(EnrollmentRow.sequence)
        .limit(wanted.c.counts)
        .lateral()
    )
    return Prepared(select(first).select_from(wanted.join(first, true())).order_by(first.c.course_id, first.c.sequence))


_load_waiters = _first_waiters()

_load_rosters = Prepared(
    select(*_enrollment_columns)
    .where(EnrollmentRow.course_id == any_(array("course_ids")))
    .order_by(EnrollmentRow.course_id, EnrollmentRow.sequence)
)

_load_held = Prepared(select(*_enrollment_columns).where(EnrollmentRow.student_id == any_(array("student_ids"))))


async def load_waiters(connection: DriverConnection, counts: Mapping[int, int]) -> dict[int, deque[Enrollment]]:
    """The first waiters of each course in order, as many as asked for."""
    queues: dict[int, deque[Enrollment]] = {course_id: deque() for course_id in counts}
    if counts:
        for row in await _load_waiters.fetch(connection, course_ids=list(counts), counts=list(counts.values())):
            queues[row["course_id"]].append(Enrollment(*row))
    return queues


async def load_rosters(connection: DriverConnection, course_ids: Iterable[int]) -> AsyncIterator[Enrollment]:
    """Everybody who is enrolled in the courses or waits for them, each course's waiters in order.

    They come in pieces: rosters may be large, and others want to go on meanwhile.
    """
    if ids := list(course_ids):
        async for row in _load_rosters.pieces(connection, course_ids=ids):
            yield Enrollment(*row)


async def load_held(connection: DriverConnection, student_ids: Iterable[int]) -> list[Enrollment]:
    """Every live enrollment of the students."""
    ids = list(student_ids)
    return [Enrollment(*row) for row in await _load_held.fetch(connection, student_ids=ids)] if ids else []


_load_targets = Prepared(
    select(EnrollmentRow.course_id, EnrollmentRow.swap_from_course_id)
    .where(EnrollmentRow.course_id == any_(array("course_ids")), EnrollmentRow.swap_from_course_id.is_not(None))
    .distinct()
)


def _upstream() -> Prepared:
    """The courses from which swaps lead to a first one, with it; up to so many."""
    reached = select(bindparam("course_id", type_=bigint).label("id")).cte("reached", recursive=True)
    step = select(EnrollmentRow.course_id).where(
        EnrollmentRow.swap_from_course_id == reached.c.id, EnrollmentRow.swap_from_course_id.is_not(None)
    )
    return Prepared(select(reached.union(step).c.id).limit(bindparam("most", type_=integer)))


_load_upstream = _upstream()


async def load_targets(connection: DriverConnection, course_ids: Iterable[int]) -> dict[int, set[int]]:
    """For each course the courses that those who wait for it would leave for it."""
    targets: dict[int, set[int]] = {course_id: set() for course_id in course_ids}
    for row in await _load_targets.fetch(connection, course_ids=list(targets)):
        targets[row[0]].add(row[1])
    return targets


async def load_upstream(connection: DriverConnection, course_id: int, most: int) -> frozenset[int]:
    """The courses from which promotions can reach this one, with it, as of now; nothing is locked."""
    rows = await _load_upstream.fetch(connection, course_id=course_id, most=most)
    return frozenset(row[0] for row in rows)


async def load_pairs(connection: DriverConnection, pairs: Iterable[Pair]) -> list[Enrollment]:
    """The live enrollments among pairs whose seat rows are locked."""
    transposed = _transposed(pairs)
    if not transposed:
        return []
    students, courses = transposed
    _, *columns = await _load_pairs.fetch_one(connection, student_ids=students, pair_course_ids=courses)
    return list(map(_as_enrollment, _rows_in(columns)))


# --- apply ------------------------------------------------------------------------------------------------------


# A decision with more events is large; no batch of ordinary commands is.
MAX_EVENTS_BY_ARRAYS = 500

_ROW_COLUMNS = ["student_id", "course_id", "state", "sequence", "enroll_time", "create_time"]
_COMMA: ColumnElement[str] = literal_column("','")
_CHANGES = Event._fields.index("changed_fields")
_WAIVED = Event._fields.index("waived_reasons")
_SWAPPED = Event._fields.index("swap_from_course_id")
_OPENED_COLUMNS = [*LockedSeats._fields[:-1]]  # the version begins at 1
_as_row = itemgetter(*map(Enrollment._fields.index, _ROW_COLUMNS))
_SWAP_COLUMNS = ["swap_from_course_id", "latest_sequence"]


def _as_swapping_row(enrollment: Enrollment) -> tuple[Any, ...]:
    """A row with what only those have who wait to swap."""
    return (*_as_row(enrollment), enrollment.swap_from_course_id or None, enrollment.latest or None)


def _insert_rows(rows: Any) -> CTE:
    columns = [*_ROW_COLUMNS, *_SWAP_COLUMNS][: len(rows.c)]
    return insert(EnrollmentRow).from_select(columns, select(*rows.c)).cte("inserted")


def _update_rows(rows: Any) -> CTE:
    return (
        update(EnrollmentRow)
        .values(
            state=rows.c.new_states,
            sequence=rows.c.new_sequences,
            enroll_time=rows.c.new_enroll_times,
            create_time=rows.c.new_create_times,
            # Who is promoted keeps nothing else any more.
            swap_from_course_id=rows.c.new_swaps if "new_swaps" in rows.c else null(),
            latest_sequence=rows.c.new_latest if "new_latest" in rows.c else null(),
        )
        .where(EnrollmentRow.student_id == rows.c.new_students, EnrollmentRow.course_id == rows.c.new_courses)
        .cte("updated")
    )


def _delete_rows(rows: Any) -> CTE:
    return (
        delete(EnrollmentRow)
        .where(EnrollmentRow.student_id == rows.c.gone_students, EnrollmentRow.course_id == rows.c.gone_courses)
        .cte("deleted")
    )


def _update_counts(rows: Any) -> CTE:
    return (
        update(SeatsRow)
        .values(
            # With the counts, because the two may only be right together.
            capacity=rows.c.seat_capacities,
            enrolled_count=rows.c.seat_enrolled,
            waitlisted_count=rows.c.seat_waitlisted,
            swap_count=rows.c.seat_swaps,
            last_sequence=rows.c.seat_sequences,
            last_event_time=rows.c.seat_times,
        )
        .where(SeatsRow.course_id == rows.c.seat_courses)
        .cte("counted")
    )


def _insert_seats(rows: Any) -> CTE:
    return insert(SeatsRow).from_select(_OPENED_COLUMNS, select(*rows.c)).cte("opened")


def _append_events(rows: Any) -> CTE:
    # An array of arrays would come out of `unnest` flat, so names come as one text.
    columns = [
        func.string_to_array(column, _COMMA) if column.key in ("event_changes", "event_waived") else column
        for column in rows.c
    ]
    return insert(EventRow).from_select(list(Event._fields[: len(columns)]), select(*columns)).cte("logged")


_EVENT_ARRAYS: dict[str, TypeEngine[Any]] = {
    "event_courses": bigint,
    "event_sequences": bigint,
    "event_kinds": smallint,
    "event_students": bigint,
    "event_previous": smallint,
    "event_states": smallint,
    "event_positions": integer,
    "event_enrolled": integer,
    "event_waitlisted": integer,
    "event_capacities": integer,
    "event_changes": text,
    "event_times": timestamp,
    "event_requests": uuid,
    "event_actors": text,
    "event_reasons": text,
}


_NEW_ROWS: dict[str, TypeEngine[Any]] = {
    "row_students": bigint,
    "row_courses": bigint,
    "row_states": smallint,
    "row_sequences": bigint,
    "row_enroll_times": timestamp,
    "row_create_times": timestamp,
}
_CHANGED_ROWS: dict[str, TypeEngine[Any]] = {
    "new_students": bigint,
    "new_courses": bigint,
    "new_states": smallint,
    "new_sequences": bigint,
    "new_enroll_times": timestamp,
    "new_create_times": timestamp,
}

# Each part of the one statement: its parameters, and how it is written on the rows that they make.
_PARTS: dict[str, tuple[dict[str, TypeEngine[Any]], Callable[[Any], CTE]]] = {
    "insert": (_NEW_ROWS, _insert_rows),
    "update": (_CHANGED_ROWS, _update_rows),
    # Instead of those where there are rows of waiters who swap among the others.
    "insert_swaps": (_NEW_ROWS | {"row_swaps": bigint, "row_latest": bigint}, _insert_rows),
    "update_swaps": (_CHANGED_ROWS | {"new_swaps": bigint, "new_latest": bigint}, _update_rows),
    "delete": ({"gone_students": bigint, "gone_courses": bigint}, _delete_rows),
    "open": (
        {
            "opened_courses": bigint,
            "opened_capacities": integer,
            "opened_waitlists": integer,
            "opened_open_times": timestamp,
            "opened_close_times": timestamp,
            "opened_permits": boolean,
            "opened_enrolled": integer,
            "opened_waitlisted": integer,
            "opened_swaps": integer,
            "opened_sequences": bigint,
            "opened_times": timestamp,
        },
        _insert_seats,
    ),
    "count": (
        {
            "seat_courses": bigint,
            "seat_capacities": integer,
            "seat_enrolled": integer,
            "seat_waitlisted": integer,
            "seat_swaps": integer,
            "seat_sequences": bigint,
            "seat_times": timestamp,
        },
        _update_counts,
    ),
    "log": (_EVENT_ARRAYS, _append_events),
    # Instead of "log" where there are events of waivers or swaps among the others.
    "log_more": (
        _EVENT_ARRAYS
        | {"event_waived": text, "event_expire_times": timestamp, "event_revoked": boolean, "event_swaps": bigint},
        _append_events,
    ),
}


# What an import of courses does beside opening some; of many events it writes the log apart.
_OPENING = [
    (before, after)
    for before, counted in (((), ()), ((), ("count",)), (("update",), ("count",)))
    for after in (counted, (*counted, "log"))
]


@lru_cache
def _apply_statement(parts: tuple[str, ...]) -> Prepared:
    ctes = [write(rows_of(**parameters)) for parameters, write in map(_PARTS.__getitem__, parts)]
    return Prepared(select(constant(1)).add_cte(*ctes))


async def apply(connection: DriverConnection, state: State, changes: NetChanges) -> None:
    """Writes the rows, counts and events of a decision, in one statement that has only the parts it needs.

    New rows and events of large decisions, which only imports and the like make, go by COPY: it takes half as long.
    What they delete goes in pieces.

    Args:
        connection: where the seat rows are locked.
        state: after the decision.
        changes: what it changed of the enrollments.
    """
    inserted, updated, deleted = changes
    events = state.events
    if len(events) > MAX_EVENTS_BY_ARRAYS:
        swapping = [*_ROW_COLUMNS, *_SWAP_COLUMNS]
        await _copy(connection, EnrollmentRow.__tablename__, swapping, map(_as_swapping_row, inserted))
        await _copy(connection, EventRow.__tablename__, Event._fields, events)
        await _delete_in_pieces(connection, deleted)
        inserted, events, deleted = [], [], []
    logged = _event_columns(events)
    swaps = "log_more" in logged or any(row.swap_from_course_id for row in updated)
    kind, as_row = ("_swaps", _as_swapping_row) if swaps else ("", _as_row)
    columns = {
        f"insert{kind}": _transposed(map(as_row, inserted)),
        f"update{kind}": _transposed(map(as_row, updated)),
        "delete": _transposed(deleted),
        "open": _transposed(map(attrgetter(*_OPENED_COLUMNS), state.opened_seats())),
        "count": _transposed(map(_as_counts, state.touched_seats())),
        **logged,
    }
    parts = tuple(part for part in _PARTS if columns.get(part))
    if parts:
        arguments = {
            name: values for part in parts for name, values in zip(_PARTS[part][0], columns[part], strict=True)
        }
        await _apply_statement(parts).fetch(connection, **arguments)


async def _delete_in_pieces(connection: DriverConnection, pairs: Sequence[Pair]) -> None:
    """So many at a time, because encoding them all at once would take the event loop too long."""
    parts = ("delete",)
    for start in range(0, len(pairs), PIECE):
        students, courses = _transposed(pairs[start : start + PIECE])
        await _apply_statement(parts).fetch(connection, gone_students=students, gone_courses=courses)


async def _copy(
    connection: DriverConnection, table: str, columns: Sequence[str], rows: Iterable[tuple[Any, ...]]
) -> None:
    await connection.copy_records_to_table(table, columns=columns, records=_in_pieces(rows))


async def _in_pieces(rows: Iterable[tuple[Any, ...]]) -> AsyncIterator[tuple[Any, ...]]:
    """The rows, with turns of the event loop in between, so that others go on while many are encoded."""
    for index, row in enumerate(rows):
        if index % PIECE == 0:
            await asyncio.sleep(0)
        yield row


def _event_columns(events: Sequence[Event]) -> dict[str, list[Sequence[Any]]]:
    """The events as columns, under the part that writes them: what only waivers have is seldom needed."""
    columns = _transposed(events)
    if not columns:
        return {}
    columns[_CHANGES] = _joined(columns[_CHANGES])
    if not any(columns[_WAIVED]) and not any(columns[_SWAPPED]):
        return {"log": columns[:_WAIVED]}
    columns[_WAIVED] = _joined(columns[_WAIVED])
    return {"log_more": columns}


def _joined(lists: Iterable[Sequence[str] | None]) -> list[str | None]:
    return [None if names is None else ",".join(names) for names in lists]


def _as_counts(seats: Seats) -> tuple[Any, ...]:
    return (
        seats.course_id,
        seats.capacity,
        seats.enrolled_count,
        seats.waitlisted_count,
        seats.swap_count,
        seats.last_sequence,
        seats.last_event_time,
    )


def _transposed(rows: Iterable[Sequence[Any]]) -> list[Sequence[Any]]:
    """Rows as columns; no column where there is no row."""
    return list(zip(*rows, strict=True))


def batch_statements(clock: ColumnElement[datetime]) -> list[Prepared]:
    """Those that a batch may send, by a clock."""
    # Who comes or goes is logged, but not together with the rows where there are many. New courses have nobody yet.
    usual = [part for part in _PARTS if part not in ("open", "log_more", "insert_swaps", "update_swaps")]
    applied = [parts for parts in combinations_of(usual) if "log" in parts]
    applied += [(*before, "open", *after) for before, after in _OPENING]
    rare = [part for part in _PARTS if part in ("insert_swaps", "update_swaps", "delete", "count", "log_more")]
    applied += [parts for parts in combinations_of(rare) if {"count", "log_more"} <= set(parts)]
    applied += [("update_swaps", "count")]
    return [
        *(_lock_and_load(clock, skip_locked) for skip_locked in (True, False)),
        *(_apply_statement(parts) for parts in [*applied, ("count",), ("delete",), ("update", "count")]),
        _load_pairs,
        _load_waiters,
        _load_rosters,
        _load_held,
        _load_targets,
        _load_upstream,
    ]
