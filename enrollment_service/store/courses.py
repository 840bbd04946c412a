"""Statements about courses: create, read, change, delete, list."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from asyncpg import Record
from sqlalchemy import any_, bindparam, delete, or_, select, update
from sqlalchemy.dialects.postgresql import insert as insert_or_skip
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.sql.expression import ColumnElement
from sqlalchemy.types import TypeEngine

from enrollment_service.domain.queries import CoursesQuery
from enrollment_service.domain.records import CountedCourse, Course, NewCourse
from enrollment_service.store.course_cache import CourseCache
from enrollment_service.store.faults import StaleError
from enrollment_service.store.models import CourseRow, SeatsRow
from enrollment_service.store.prefixes import begins_with, plan_for_prefixes
from enrollment_service.store.statements import (
    Prepared,
    array,
    bigint,
    boolean,
    combinations_of,
    constant,
    integer,
    next_id,
    rows_of,
    text,
    timestamp,
)
from enrollment_service.store.transactions import DriverConnection

_detail_columns = [
    CourseRow.id,
    CourseRow.code,
    CourseRow.title,
    CourseRow.description,
    SeatsRow.capacity,
    SeatsRow.waitlist_capacity,
    SeatsRow.enroll_open_time,
    SeatsRow.enroll_close_time,
    SeatsRow.permit_required,
    CourseRow.create_time,
    CourseRow.update_time,
    SeatsRow.version,
]
counted_columns = [*_detail_columns, SeatsRow.enrolled_count, SeatsRow.waitlisted_count]


_read = Prepared(
    select(*counted_columns).join_from(CourseRow, SeatsRow).where(CourseRow.id == any_(array("course_ids")))
)


def counted(row: Sequence[object] | Record) -> CountedCourse:
    """A row of `counted_columns` as a record."""
    *details, enrolled, waitlisted = row
    return CountedCourse(Course(*details), enrolled, waitlisted)  # type: ignore[arg-type]


async def read_courses(connection: DriverConnection, course_ids: Iterable[int]) -> dict[int, CountedCourse]:
    """The courses that exist, by id."""
    ids = list(course_ids)
    found = [counted(row) for row in await _read.fetch(connection, course_ids=ids)] if ids else []
    return {counted.course.course_id: counted for counted in found}


async def read_details(
    connection: DriverConnection,
    versions: Iterable[tuple[int, int]],
    cache: CourseCache,
    *,
    afresh: Collection[int] = (),
) -> dict[int, Course]:
    """The details of courses by id, remembered or read.

    Args:
        connection: where to read what is not remembered.
        versions: ids and versions as another statement has just seen them.
        cache: what is remembered, and from now on what was read too.
        afresh: the ids of courses that are read even if they are remembered.

    Raises:
        StaleError: a course has another version by now, or is gone. In one snapshot, or under locks, it cannot be.
    """
    details: dict[int, Course] = {}
    unknown: dict[int, int] = {}
    for course_id, version in versions:
        course = None if course_id in afresh else cache.get(course_id, version)
        if course is None:
            unknown[course_id] = version
        else:
            details[course_id] = course
    for course, _, _ in (await read_courses(connection, unknown)).values():
        details[course.course_id] = course
        cache.put(course)
    if any(course_id not in details or details[course_id].version != seen for course_id, seen in unknown.items()):
        raise StaleError
    return details


def _create() -> Prepared:
    rows = rows_of(codes=text, titles=text, descriptions=text, ordinals=bigint)
    now = bindparam("now", type_=timestamp)
    # Ids are drawn first, so that the rows which were inserted can be told apart from those that were not.
    drawn = select(next_id("courses").label("id"), *rows.c).cte("drawn")
    inserted = (
        insert_or_skip(CourseRow)
        .from_select(
            ["id", "code", "title", "description", "create_time", "update_time"],
            select(drawn.c.id, drawn.c.codes, drawn.c.titles, drawn.c.descriptions, now, now).order_by(
                drawn.c.codes, drawn.c.ordinals
            ),
        )
        .on_conflict_do_nothing()
        .returning(CourseRow.id)
        .cte("inserted")
    )
    return Prepared(select(drawn.c.ordinals, inserted.c.id).join_from(drawn, inserted, inserted.c.id == drawn.c.id))


_create_courses = _create()
_owners = Prepared(select(CourseRow.code, CourseRow.id).where(CourseRow.code == any_(array("codes", text))))


async def create_courses(
    connection: DriverConnection, courses: Sequence[NewCourse], now: datetime
) -> tuple[dict[int, Course], dict[int, int]]:
    """Creates the courses whose code is free, still without their seat rows; `now` is when.

    Returns:
        The created courses by their index in `courses`, and for the other indices the id of the course that has the
        code.
    """
    rows = await _create_courses.fetch(
        connection,
        codes=[course.code for course in courses],
        titles=[course.title for course in courses],
        descriptions=[course.description for course in courses],
        ordinals=range(len(courses)),
        now=now,
    )
    created = {row["ordinals"]: Course._make((row["id"], *courses[row["ordinals"]], now, now, 1)) for row in rows}
    taken = {index: course.code for index, course in enumerate(courses) if index not in created}
    owners = await code_owners(connection, list(taken.values()))
    return created, {index: owners[code] for index, code in taken.items() if code in owners}


async def code_owners(connection: DriverConnection, codes: Sequence[str]) -> dict[str, int]:
    """The ids of the courses that have these codes."""
    rows = await _owners.fetch(connection, codes=codes) if codes else []
    return {row["code"]: row["id"] for row in rows}


# What clients write of a course, by the table it stands in, with what is written whenever any of it changes.
_TEXTS: dict[str, TypeEngine[Any]] = {"code": text, "title": text, "description": text, "update_time": timestamp}
_RULES: dict[str, TypeEngine[Any]] = {
    "capacity": integer,
    "waitlist_capacity": integer,
    "enroll_open_time": timestamp,
    "enroll_close_time": timestamp,
    "permit_required": boolean,
    "version": bigint,
}


@lru_cache
def _update_columns(key: InstrumentedAttribute[int], columns: tuple[tuple[str, TypeEngine[Any]], ...]) -> Prepared:
    rows = rows_of(ids=bigint, **{f"new_{name}": kind for name, kind in columns})
    values = {name: rows.c[f"new_{name}"] for name, _ in columns}
    return Prepared(update(key.class_).values(values).where(key == rows.c.ids))


_delete_seats = Prepared(delete(SeatsRow).where(SeatsRow.course_id == any_(array("ids"))))
_delete_courses = Prepared(delete(CourseRow).where(CourseRow.id == any_(array("ids"))))


async def update_courses(connection: DriverConnection, changed: Iterable[tuple[Course, Collection[str]]]) -> None:
    """Writes what clients changed of courses whose seat rows this transaction has locked, and no other column.

    Args:
        connection: where the seat rows are locked.
        changed: each course as it is now, with the names of the fields that are new.
    """
    alike: dict[frozenset[str], list[Course]] = {}
    for course, names in changed:
        alike.setdefault(frozenset(names), []).append(course)
    for new, courses in alike.items():
        for key, columns in ((CourseRow.id, _TEXTS), (SeatsRow.course_id, _RULES)):
            written = tuple((name, kind) for name, kind in columns.items() if name in new)
            if written:
                values = {f"new_{name}": [getattr(course, name) for course in courses] for name, _ in written}
                ids = [course.course_id for course in courses]
                await _update_columns(key, written).fetch(connection, ids=ids, **values)


async def delete_courses(connection: DriverConnection, course_ids: Sequence[int]) -> None:
    """Deletes courses that nobody is in any more; their events stay."""
    await _delete_seats.fetch(connection, ids=course_ids)
    await _delete_courses.fetch(connection, ids=course_ids)


@lru_cache
def _find_unsettled(clock: ColumnElement[datetime]) -> Prepared:
    """By the same condition as `Seats.is_unsettled`."""
    return Prepared(
        select(SeatsRow.course_id)
        .where(
            SeatsRow.waitlisted_count > constant(0),
            or_(SeatsRow.capacity.is_(None), SeatsRow.enrolled_count < SeatsRow.capacity),
            or_(SeatsRow.enroll_close_time.is_(None), SeatsRow.enroll_close_time > clock),
        )
        .order_by(SeatsRow.course_id)
        .limit(bindparam("most", type_=integer))
    )


async def find_unsettled(connection: DriverConnection, clock: ColumnElement[datetime], most: int) -> list[int]:
    """The ids of courses where somebody waits beside a free seat that is theirs; up to so many."""
    return [row[0] for row in await _find_unsettled(clock).fetch(connection, most=most)]


def creation_statements() -> list[Prepared]:
    """Those that creating courses may send."""
    return [_create_courses, _owners]


def batch_statements() -> list[Prepared]:
    """Those that a batch may send."""
    updates = [
        _update_columns(key, written)
        for key, columns, always in ((CourseRow.id, _TEXTS, "update_time"), (SeatsRow.course_id, _RULES, "version"))
        for written in combinations_of(columns.items())
        if always in dict(written)
    ]
    return [_read, _create_courses, _owners, _delete_seats, _delete_courses, *updates]


async def read_course(connection: AsyncConnection, course_id: int) -> CountedCourse | None:
    """One course, in the caller's snapshot."""
    statement = select(*counted_columns).join_from(CourseRow, SeatsRow).where(CourseRow.id == course_id)
    row = (await connection.execute(statement)).one_or_none()
    return None if row is None else counted(row)


async def list_courses(
    connection: AsyncConnection, query: CoursesQuery, clock: ColumnElement[datetime]
) -> list[CountedCourse]:
    """Courses by ascending id; the prefix is taken literally, whatever its case."""
    statement = (
        select(*counted_columns)
        .join_from(CourseRow, SeatsRow)
        .where(CourseRow.id > query.after)
        .order_by(CourseRow.id)
        .limit(query.limit)
    )
    if query.only_open:
        opens, closes = SeatsRow.enroll_open_time, SeatsRow.enroll_close_time
        statement = statement.where(or_(opens.is_(None), opens <= clock), or_(closes.is_(None), closes > clock))
    if query.prefix:
        await plan_for_prefixes(connection)
        statement = statement.where(begins_with(query.prefix, CourseRow.code, CourseRow.title))
    return [counted(row) for row in await connection.execute(statement)]
