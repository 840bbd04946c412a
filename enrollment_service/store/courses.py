"""Statements about courses: create, read, change, delete, list; and the memory of their details.

Details never change for one (course_id, version), so a process may remember them; counts are always read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from asyncpg import Record
from sqlalchemy import Integer, any_, delete, insert, or_, select, update
from sqlalchemy.dialects.postgresql import insert as insert_or_skip
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.sql.expression import ColumnElement

from enrollment_service.domain.records import CountedCourse, NewCourse
from enrollment_service.domain.records import Course as CourseRow
from enrollment_service.store.database import DriverConnection
from enrollment_service.store.models import Course, CourseSeats
from enrollment_service.store.prefixes import begins_with, plan_for_prefixes
from enrollment_service.store.seats import rows_of
from enrollment_service.store.statements import Prepared, array, bigint, next_id, text, timestamp

_integer = Integer()

_detail_columns = [
    Course.id,
    Course.code,
    Course.title,
    Course.description,
    CourseSeats.capacity,
    CourseSeats.waitlist_capacity,
    CourseSeats.enroll_open_time,
    CourseSeats.enroll_close_time,
    Course.create_time,
    Course.update_time,
    CourseSeats.version,
]
_counted_columns = [*_detail_columns, CourseSeats.enrolled_count, CourseSeats.waitlisted_count]


class CourseMemory:
    """The details of courses seen lately. The oldest are forgotten beyond `most`."""

    def __init__(self, most: int = 20_000) -> None:
        self._most = most
        self._courses: dict[int, CourseRow] = {}

    def get(self, course_id: int, version: int) -> CourseRow | None:
        """The details of this very version, if they are remembered."""
        course = self._courses.get(course_id)
        return course if course is not None and course.version == version else None

    def put(self, course: CourseRow) -> None:
        """Remembers what was read from a committed row."""
        if len(self._courses) >= self._most and course.course_id not in self._courses:
            del self._courses[next(iter(self._courses))]
        self._courses[course.course_id] = course


_read = Prepared(
    select(*_counted_columns).join_from(Course, CourseSeats).where(Course.id == any_(array("course_ids"))),
    "course_ids",
)


def counted(row: Sequence[object] | Record) -> CountedCourse:
    """A row of `_counted_columns` as a record."""
    *details, enrolled, waitlisted = row
    return CountedCourse(CourseRow(*details), enrolled, waitlisted)  # type: ignore[arg-type]


async def read_courses(connection: DriverConnection, course_ids: Iterable[int]) -> dict[int, CountedCourse]:
    """The courses that exist, by id."""
    ids = list(course_ids)
    found = [counted(row) for row in await _read.fetch(connection, ids)] if ids else []
    return {one.course.course_id: one for one in found}


async def read_details(
    connection: DriverConnection, versions: Iterable[tuple[int, int]], memory: CourseMemory
) -> dict[int, CourseRow]:
    """The details of courses by id, remembered or read.

    Args:
        connection: where to read what is not remembered.
        versions: ids and versions as another statement has just seen them; what is read may be newer, or gone.
        memory: what is remembered, and from now on what was read too.
    """
    details: dict[int, CourseRow] = {}
    unknown = []
    for course_id, version in versions:
        course = memory.get(course_id, version)
        if course is None:
            unknown.append(course_id)
        else:
            details[course_id] = course
    for course_id, read in (await read_courses(connection, unknown)).items():
        details[course_id] = read.course
        memory.put(read.course)
    return details


def _create() -> Prepared:
    rows = rows_of(
        codes=text, titles=text, descriptions=text, capacities=_integer, waitlist_capacities=_integer,
        open_times=timestamp, close_times=timestamp, ordinals=bigint,
    )  # fmt: skip
    # Ids are drawn first, so that the rows which were inserted can be told apart from those that were not.
    drawn = select(next_id("courses").label("id"), *rows.c).cte("drawn")
    inserted = (
        insert_or_skip(Course)
        .from_select(
            ["id", "code", "title", "description"],
            select(drawn.c.id, drawn.c.codes, drawn.c.titles, drawn.c.descriptions).order_by(
                drawn.c.codes, drawn.c.ordinals
            ),
        )
        .on_conflict_do_nothing()
        .returning(Course.id, Course.create_time, Course.update_time)
        .cte("inserted")
    )
    seats = (
        insert(CourseSeats)
        .from_select(
            ["course_id", "capacity", "waitlist_capacity", "enroll_open_time", "enroll_close_time"],
            select(
                drawn.c.id,
                drawn.c.capacities,
                drawn.c.waitlist_capacities,
                drawn.c.open_times,
                drawn.c.close_times,
            ).join_from(drawn, inserted, inserted.c.id == drawn.c.id),
        )
        .cte("seated")
    )
    return Prepared(
        select(drawn.c.ordinals, inserted.c.id, inserted.c.create_time, inserted.c.update_time)
        .join_from(drawn, inserted, inserted.c.id == drawn.c.id)
        .add_cte(seats),
        *(each.name for each in rows.c),
    )


_create_courses = _create()
_owners = Prepared(select(Course.code, Course.id).where(Course.code == any_(array("codes", text))), "codes")


async def create_courses(
    connection: DriverConnection, courses: Sequence[NewCourse]
) -> tuple[dict[int, CourseRow], dict[str, int]]:
    """Creates the courses whose code is free.

    Returns:
        The created courses by their index in `courses`, and the ids of the courses that own the other codes.
    """
    columns = [list(each) for each in zip(*courses, strict=True)]
    rows = await _create_courses.fetch(connection, *columns, list(range(len(courses))))
    created = {
        row["ordinals"]: CourseRow._make(
            (row["id"], *courses[row["ordinals"]], row["create_time"], row["update_time"], 1)
        )
        for row in rows
    }
    taken = [course.code for index, course in enumerate(courses) if index not in created]
    return created, await code_owners(connection, taken)


async def code_owners(connection: DriverConnection, codes: Sequence[str]) -> dict[str, int]:
    """The ids of the courses that have these codes."""
    rows = await _owners.fetch(connection, codes) if codes else []
    return {row["code"]: row["id"] for row in rows}


def _update_text() -> Prepared:
    rows = rows_of(ids=bigint, codes=text, titles=text, descriptions=text, update_times=timestamp)
    return Prepared(
        update(Course)
        .values(
            code=rows.c.codes, title=rows.c.titles, description=rows.c.descriptions, update_time=rows.c.update_times
        )
        .where(Course.id == rows.c.ids),
        *(each.name for each in rows.c),
    )


def _update_rules() -> Prepared:
    rows = rows_of(
        ids=bigint, capacities=_integer, waitlist_capacities=_integer, open_times=timestamp, close_times=timestamp,
        versions=bigint,
    )  # fmt: skip
    return Prepared(
        update(CourseSeats)
        .values(
            capacity=rows.c.capacities,
            waitlist_capacity=rows.c.waitlist_capacities,
            enroll_open_time=rows.c.open_times,
            enroll_close_time=rows.c.close_times,
            version=rows.c.versions,
        )
        .where(CourseSeats.course_id == rows.c.ids),
        *(each.name for each in rows.c),
    )


_update_courses_text = _update_text()
_update_courses_rules = _update_rules()
_delete_seats = Prepared(delete(CourseSeats).where(CourseSeats.course_id == any_(array("ids"))), "ids")
_delete_courses = Prepared(delete(Course).where(Course.id == any_(array("ids"))), "ids")


async def update_courses(connection: DriverConnection, courses: Sequence[CourseRow]) -> None:
    """Writes what clients changed of courses whose seat rows this transaction has locked."""
    ids = [one.course_id for one in courses]
    await _update_courses_text.fetch(
        connection,
        ids,
        [one.code for one in courses],
        [one.title for one in courses],
        [one.description for one in courses],
        [one.update_time for one in courses],
    )
    await _update_courses_rules.fetch(
        connection,
        ids,
        [one.capacity for one in courses],
        [one.waitlist_capacity for one in courses],
        [one.enroll_open_time for one in courses],
        [one.enroll_close_time for one in courses],
        [one.version for one in courses],
    )


async def delete_courses(connection: DriverConnection, course_ids: Sequence[int]) -> None:
    """Deletes courses that nobody is in any more; their events stay."""
    await _delete_seats.fetch(connection, course_ids)
    await _delete_courses.fetch(connection, course_ids)


async def read_course(connection: AsyncConnection, course_id: int) -> CountedCourse | None:
    """One course, in the caller's snapshot."""
    statement = select(*_counted_columns).join_from(Course, CourseSeats).where(Course.id == course_id)
    row = (await connection.execute(statement)).one_or_none()
    return None if row is None else counted(row)


async def list_courses(
    engine: AsyncEngine, *, after: int, limit: int, query: str, only_open: bool, clock: ColumnElement[datetime]
) -> list[CountedCourse]:
    """Courses by ascending id; `query` is a prefix of code or title, taken literally, whatever its case."""
    statement = (
        select(*_counted_columns)
        .join_from(Course, CourseSeats)
        .where(Course.id > after)
        .order_by(Course.id)
        .limit(limit)
    )
    if only_open:
        opens, closes = CourseSeats.enroll_open_time, CourseSeats.enroll_close_time
        statement = statement.where(or_(opens.is_(None), opens <= clock), or_(closes.is_(None), closes > clock))
    async with engine.connect() as connection:
        if query:
            await plan_for_prefixes(connection)
            statement = statement.where(begins_with(query, Course.code, Course.title))
        return [counted(row) for row in await connection.execute(statement)]
