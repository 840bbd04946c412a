"""Statements about courses: create, read, change, delete, list."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from asyncpg import Record
from sqlalchemy import any_, bindparam, case, delete, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert as insert_or_skip
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import InstrumentedAttribute, aliased
from sqlalchemy.sql.expression import ColumnElement
from sqlalchemy.types import TypeEngine

from enrollment_service.domain.queries import CourseQuery, CoursesQuery
from enrollment_service.domain.records import CountedCourse, Course, NewCourse, Owners
from enrollment_service.store.course_cache import CourseCache
from enrollment_service.store.faults import StaleError
from enrollment_service.store.models import CourseRow, SeatsRow, code_key
from enrollment_service.store.prefixes import begins_with, plan_for_prefixes
from enrollment_service.store.statements import (
    Prepared,
    UpsertKeys,
    array,
    bigint,
    boolean,
    constant,
    integer,
    next_id,
    or_empty,
    parked,
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
    or_empty(CourseRow.external_id),
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


def _joined_by_keys(rows: Any) -> tuple[Any, Any, Any]:
    """Rows of codes and external ids beside the courses that have the one, and those that have the other."""
    by_code, by_external_id = aliased(CourseRow), aliased(CourseRow)
    joined = rows.outerjoin(by_code, code_key(by_code.code) == code_key(rows.c.codes)).outerjoin(
        by_external_id, by_external_id.external_id == rows.c.external_ids
    )
    return joined, by_code, by_external_id


def _keyed() -> Prepared:
    rows = rows_of(external_ids=text, codes=text, ordinals=bigint)
    joined, by_code, by_external_id = _joined_by_keys(rows)
    found = CourseRow.id == func.coalesce(by_code.id, by_external_id.id)
    return Prepared(
        select(rows.c.ordinals, *counted_columns).select_from(
            joined.join(CourseRow, found).join(SeatsRow, SeatsRow.course_id == CourseRow.id)
        )
    )


_read_by_keys = _keyed()


async def read_courses_by_keys(
    connection: DriverConnection, queries: Iterable[CourseQuery]
) -> dict[CourseQuery, CountedCourse]:
    """The courses that exist, by queries that name an external id or a code, however it is written."""
    asked = list(queries)
    rows = await _read_by_keys.fetch(
        connection,
        external_ids=[query.external_id or None for query in asked],
        codes=[query.code or None for query in asked],
        ordinals=range(len(asked)),
    )
    return {asked[ordinal]: counted(course) for ordinal, *course in rows}


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
    rows = rows_of(codes=text, titles=text, descriptions=text, external_ids=text, ordinals=bigint)
    now = bindparam("now", type_=timestamp)
    # Ids are drawn first, so that the rows which were inserted can be told apart from those that were not.
    drawn = select(next_id("courses").label("id"), *rows.c).cte("drawn")
    inserted = (
        insert_or_skip(CourseRow)
        .from_select(
            ["id", "code", "title", "description", "external_id", "create_time", "update_time"],
            select(
                drawn.c.id, drawn.c.codes, drawn.c.titles, drawn.c.descriptions, drawn.c.external_ids, now, now
            ).order_by(code_key(drawn.c.codes), drawn.c.ordinals),
        )
        .on_conflict_do_nothing()
        .returning(CourseRow.id)
        .cte("inserted")
    )
    return Prepared(select(drawn.c.ordinals, inserted.c.id).join_from(drawn, inserted, inserted.c.id == drawn.c.id))


_create_courses = _create()


def _owners() -> Prepared:
    rows = rows_of(codes=text, external_ids=text, ordinals=bigint)
    joined, by_code, by_external_id = _joined_by_keys(rows)
    return Prepared(select(rows.c.ordinals, by_code.id, by_external_id.id).select_from(joined))


_read_owners = _owners()


async def create_courses(
    connection: DriverConnection, courses: Sequence[NewCourse], now: datetime
) -> tuple[dict[int, Course], dict[int, Owners]]:
    """Creates the courses whose code and external id are free, still without their seat rows; `now` is when.

    Returns:
        The created courses by their index in `courses`, and for the other indices who has their keys.
    """
    rows = await _create_courses.fetch(
        connection,
        codes=[course.code for course in courses],
        titles=[course.title for course in courses],
        descriptions=[course.description for course in courses],
        external_ids=[course.external_id or None for course in courses],
        ordinals=range(len(courses)),
        now=now,
    )
    created = {ordinal: Course._make((new_id, *courses[ordinal], now, now, 1)) for ordinal, new_id in rows}
    keys = {index: (course.code, course.external_id) for index, course in enumerate(courses) if index not in created}
    return created, await owners_of(connection, keys)


async def owners_of(connection: DriverConnection, keys: Mapping[int, tuple[str, str]]) -> dict[int, Owners]:
    """Who has these codes, however they are written, and external ids; either may be empty."""
    if not keys:
        return {}
    codes, external_ids = zip(*keys.values(), strict=True)
    rows = await _read_owners.fetch(
        connection,
        codes=[one or None for one in codes],
        external_ids=[one or None for one in external_ids],
        ordinals=list(keys),
    )
    return {ordinal: Owners(*found) for ordinal, *found in rows}


def _upsert_keys() -> Prepared:
    rows = rows_of(codes=text, external_ids=text, ordinals=bigint)
    joined, by_code, by_external_id = _joined_by_keys(rows)
    return Prepared(
        select(code_key(rows.c.codes), by_code.id, by_external_id.id, code_key(by_external_id.code))
        .select_from(joined)
        .order_by(rows.c.ordinals)
    )


_read_upsert_keys = _upsert_keys()
_ids = rows_of(external_ids=text)
_read_ids = Prepared(
    select(CourseRow.external_id, CourseRow.id).join_from(_ids, CourseRow, CourseRow.external_id == _ids.c.external_ids)
)


async def read_ids(connection: DriverConnection, external_ids: Iterable[str]) -> dict[str, int]:
    """The ids of the courses that have these external ids."""
    return dict(await _read_ids.fetch(connection, external_ids=list(external_ids)))  # type: ignore[arg-type]


async def read_upsert_keys(connection: DriverConnection, courses: Sequence[NewCourse | None]) -> list[UpsertKeys]:
    """For each row whose keys it asks for, and who has them."""
    rows = await _read_upsert_keys.fetch(
        connection,
        codes=[None if course is None else course.code for course in courses],
        external_ids=[None if course is None else course.external_id for course in courses],
        ordinals=range(len(courses)),
    )
    return [UpsertKeys(*row) for row in rows]


# What clients write of a course, by the table it stands in, with what is written whenever any of it changes.
_TEXTS: dict[str, TypeEngine[Any]] = {
    "code": text,
    "title": text,
    "description": text,
    "external_id": text,
    "update_time": timestamp,
}
_RULES: dict[str, TypeEngine[Any]] = {
    "capacity": integer,
    "waitlist_capacity": integer,
    "enroll_open_time": timestamp,
    "enroll_close_time": timestamp,
    "permit_required": boolean,
    "version": bigint,
}


def _update_columns(key: InstrumentedAttribute[int], columns: dict[str, TypeEngine[Any]]) -> Prepared:
    """Of each row it is said which columns are new; the others keep what the database has."""
    rows = rows_of(
        ids=bigint,
        **{f"new_{name}": kind for name, kind in columns.items()},
        **dict.fromkeys(map("is_new_{}".format, columns), boolean),
    )
    values = {
        name: case((rows.c[f"is_new_{name}"], rows.c[f"new_{name}"]), else_=getattr(key.class_, name))
        for name in columns
    }
    return Prepared(update(key.class_).values(values).where(key == rows.c.ids))


_update_texts = _update_columns(CourseRow.id, _TEXTS)
_update_rules = _update_columns(SeatsRow.course_id, _RULES)


def _stored(name: str, course: Course) -> Any:
    value = getattr(course, name)
    return value or None if name == "external_id" else value


_park_codes = Prepared(update(CourseRow).values(code=parked(CourseRow.id)).where(CourseRow.id == any_(array("ids"))))
_delete_seats = Prepared(delete(SeatsRow).where(SeatsRow.course_id == any_(array("ids"))))
_delete_courses = Prepared(delete(CourseRow).where(CourseRow.id == any_(array("ids"))))


async def update_courses(connection: DriverConnection, changed: Iterable[tuple[Course, Collection[str]]]) -> None:
    """Writes what clients changed of courses whose seat rows this transaction has locked, and no other column.

    Args:
        connection: where the seat rows are locked.
        changed: each course as it is now, with the names of the fields that are new.
    """
    updated = list(changed)
    for statement, columns in ((_update_texts, _TEXTS), (_update_rules, _RULES)):
        written = [(course, names) for course, names in updated if columns.keys() & names]
        if written:
            news = {f"new_{name}": [_stored(name, course) for course, _ in written] for name in columns}
            marks = {f"is_new_{name}": [name in names for _, names in written] for name in columns}
            await statement.fetch(connection, ids=[course.course_id for course, _ in written], **news, **marks)


async def park_codes(connection: DriverConnection, course_ids: Iterable[int]) -> None:
    """Frees the codes of courses that are about to be updated, so that others can be given them before that."""
    await _park_codes.fetch(connection, ids=sorted(course_ids))


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
    return [_create_courses, _read_owners]


def batch_statements() -> list[Prepared]:
    """Those that a batch may send."""
    upserting = [_read_ids, _read_upsert_keys, _park_codes]
    return [
        _read,
        _create_courses,
        _read_owners,
        _delete_seats,
        _delete_courses,
        *upserting,
        _update_texts,
        _update_rules,
    ]


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
        statement = statement.where(begins_with(query.prefix, CourseRow.code, CourseRow.title, CourseRow.external_id))
    return [counted(row) for row in await connection.execute(statement)]
