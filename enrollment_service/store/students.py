"""Statements about students: create, read, change, delete, list."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import any_, bindparam, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert as insert_or_skip
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import aliased

from enrollment_service.domain.queries import StudentQuery, StudentsQuery
from enrollment_service.domain.records import NewStudent, Owners, Student
from enrollment_service.store.models import StudentRow
from enrollment_service.store.prefixes import begins_with, plan_for_prefixes
from enrollment_service.store.statements import (
    Prepared,
    UpsertKeys,
    array,
    bigint,
    next_id,
    or_empty,
    parked,
    rows_of,
    text,
    timestamp,
)
from enrollment_service.store.transactions import DriverConnection

student_columns = [
    StudentRow.id,
    StudentRow.full_name,
    StudentRow.email,
    or_empty(StudentRow.external_id),
    StudentRow.create_time,
    StudentRow.update_time,
    StudentRow.version,
]

_by_id = select(*student_columns).where(StudentRow.id == any_(array("ids"))).order_by(StudentRow.id)
_read = Prepared(_by_id)
_lock_to_update = Prepared(_by_id.with_for_update(key_share=True))
_lock_to_update_or_skip = Prepared(_by_id.with_for_update(key_share=True, skip_locked=True))
_lock_to_delete = Prepared(_by_id.with_for_update())


async def read_students(connection: DriverConnection, student_ids: Iterable[int]) -> dict[int, Student]:
    """The students that exist, by id."""
    rows = await _read.fetch(connection, ids=list(student_ids))
    return {row["id"]: Student(*row) for row in rows}


def _joined_by_keys(rows: Any) -> tuple[Any, Any, Any]:
    """Rows of e-mail addresses and external ids beside the students who have the one, and those who have the other."""
    by_email, by_external_id = aliased(StudentRow), aliased(StudentRow)
    joined = rows.outerjoin(by_email, func.lower(by_email.email) == func.lower(rows.c.emails)).outerjoin(
        by_external_id, by_external_id.external_id == rows.c.external_ids
    )
    return joined, by_email, by_external_id


def _keyed() -> Prepared:
    rows = rows_of(external_ids=text, emails=text, ordinals=bigint)
    joined, by_email, by_external_id = _joined_by_keys(rows)
    found = StudentRow.id == func.coalesce(by_email.id, by_external_id.id)
    return Prepared(select(rows.c.ordinals, *student_columns).select_from(joined.join(StudentRow, found)))


_read_by_keys = _keyed()


async def read_students_by_keys(
    connection: DriverConnection, queries: Iterable[StudentQuery]
) -> dict[StudentQuery, Student]:
    """The students that exist, by queries that name an external id or an e-mail address, whatever its case."""
    asked = list(queries)
    rows = await _read_by_keys.fetch(
        connection,
        external_ids=[query.external_id or None for query in asked],
        emails=[query.email or None for query in asked],
        ordinals=range(len(asked)),
    )
    return {asked[ordinal]: Student(*student) for ordinal, *student in rows}


async def lock_students(
    connection: DriverConnection, student_ids: Iterable[int], *, to_delete: bool, skip_locked: bool
) -> tuple[dict[int, Student], set[int]]:
    """Locks and reads the students that exist, in ascending order, until the transaction ends.

    Locked to be deleted, nobody can enroll them meanwhile either.

    Returns:
        The locked students by id, and with `skip_locked` the ids of those whom others have locked.
    """
    ids = sorted(student_ids)
    if not ids:
        return {}, set()
    to_update = _lock_to_update_or_skip if skip_locked else _lock_to_update
    statement = _lock_to_delete if to_delete else to_update
    locked = {row["id"]: Student(*row) for row in await statement.fetch(connection, ids=ids)}
    missing = [student_id for student_id in ids if student_id not in locked]
    busy = set(await read_students(connection, missing)) if missing and skip_locked else set()
    return locked, busy


def _create() -> Prepared:
    rows = rows_of(names=text, emails=text, external_ids=text, ordinals=bigint)
    now = bindparam("now", type_=timestamp)
    # Ids are drawn first, so that the rows which were inserted can be told apart from those that were not.
    drawn = select(next_id("students").label("id"), *rows.c).cte("drawn")
    inserted = (
        insert_or_skip(StudentRow)
        .from_select(
            ["id", "full_name", "email", "external_id", "create_time", "update_time"],
            select(drawn.c.id, drawn.c.names, drawn.c.emails, drawn.c.external_ids, now, now).order_by(
                func.lower(drawn.c.emails), drawn.c.ordinals
            ),
        )
        .on_conflict_do_nothing()
        .returning(StudentRow.id)
        .cte("inserted")
    )
    return Prepared(select(drawn.c.ordinals, inserted.c.id).join_from(drawn, inserted, inserted.c.id == drawn.c.id))


def _owners() -> Prepared:
    rows = rows_of(emails=text, external_ids=text, ordinals=bigint)
    joined, by_email, by_external_id = _joined_by_keys(rows)
    return Prepared(select(rows.c.ordinals, by_email.id, by_external_id.id).select_from(joined))


_create_students = _create()
_read_owners = _owners()


async def create_students(
    connection: DriverConnection, students: Sequence[NewStudent], now: datetime
) -> tuple[dict[int, Student], dict[int, Owners]]:
    """Creates the students whose e-mail address and external id are free; `now` is when.

    Returns:
        The created students by their index in `students`, and for the other indices who has their keys.
    """
    rows = await _create_students.fetch(
        connection,
        names=[student.full_name for student in students],
        emails=[student.email for student in students],
        external_ids=[student.external_id or None for student in students],
        ordinals=range(len(students)),
        now=now,
    )
    created = {ordinal: Student._make((new_id, *students[ordinal], now, now, 1)) for ordinal, new_id in rows}
    keys = {
        index: (student.email, student.external_id) for index, student in enumerate(students) if index not in created
    }
    return created, await owners_of(connection, keys)


async def owners_of(connection: DriverConnection, keys: Mapping[int, tuple[str, str]]) -> dict[int, Owners]:
    """Who has these e-mail addresses, whatever their case, and external ids; either may be empty."""
    if not keys:
        return {}
    emails, external_ids = zip(*keys.values(), strict=True)
    rows = await _read_owners.fetch(
        connection,
        emails=[one or None for one in emails],
        external_ids=[one or None for one in external_ids],
        ordinals=list(keys),
    )
    return {ordinal: Owners(*found) for ordinal, *found in rows}


def _upsert_keys() -> Prepared:
    rows = rows_of(emails=text, external_ids=text, ordinals=bigint)
    joined, by_email, by_external_id = _joined_by_keys(rows)
    return Prepared(
        select(func.lower(rows.c.emails), by_email.id, by_external_id.id, func.lower(by_external_id.email))
        .select_from(joined)
        .order_by(rows.c.ordinals)
    )


_read_upsert_keys = _upsert_keys()
_ids = rows_of(external_ids=text)
_read_ids = Prepared(
    select(StudentRow.external_id, StudentRow.id).join_from(
        _ids, StudentRow, StudentRow.external_id == _ids.c.external_ids
    )
)


async def read_ids(connection: DriverConnection, external_ids: Iterable[str]) -> dict[str, int]:
    """The ids of the students who have these external ids."""
    return dict(await _read_ids.fetch(connection, external_ids=list(external_ids)))  # type: ignore[arg-type]


async def read_upsert_keys(connection: DriverConnection, students: Sequence[NewStudent | None]) -> list[UpsertKeys]:
    """For each row whose keys it asks for, and who has them."""
    rows = await _read_upsert_keys.fetch(
        connection,
        emails=[None if student is None else student.email for student in students],
        external_ids=[None if student is None else student.external_id for student in students],
        ordinals=range(len(students)),
    )
    return [UpsertKeys(*row) for row in rows]


def _update() -> Prepared:
    rows = rows_of(ids=bigint, names=text, emails=text, external_ids=text, update_times=timestamp, versions=bigint)
    return Prepared(
        update(StudentRow)
        .values(
            full_name=rows.c.names,
            email=rows.c.emails,
            external_id=rows.c.external_ids,
            update_time=rows.c.update_times,
            version=rows.c.versions,
        )
        .where(StudentRow.id == rows.c.ids)
    )


_update_students = _update()
_park_emails = Prepared(
    update(StudentRow).values(email=parked(StudentRow.id)).where(StudentRow.id == any_(array("ids")))
)
_delete_students = Prepared(delete(StudentRow).where(StudentRow.id == any_(array("ids"))))


async def update_students(connection: DriverConnection, students: Sequence[Student]) -> None:
    """Writes what clients changed of students that this transaction has locked."""
    await _update_students.fetch(
        connection,
        ids=[student.student_id for student in students],
        names=[student.full_name for student in students],
        emails=[student.email for student in students],
        external_ids=[student.external_id or None for student in students],
        update_times=[student.update_time for student in students],
        versions=[student.version for student in students],
    )


async def park_emails(connection: DriverConnection, student_ids: Iterable[int]) -> None:
    """Frees the addresses of students who are about to be updated, so that others can be given them before that."""
    await _park_emails.fetch(connection, ids=sorted(student_ids))


async def delete_students(connection: DriverConnection, student_ids: Sequence[int]) -> None:
    """Deletes students who are in no course any more; their events stay."""
    await _delete_students.fetch(connection, ids=student_ids)


def creation_statements() -> list[Prepared]:
    """Those that creating students may send."""
    return [_create_students, _read_owners]


def batch_statements() -> list[Prepared]:
    """Those that a batch may send."""
    locking = [_lock_to_update, _lock_to_update_or_skip, _lock_to_delete]
    upserting = [_read_ids, _read_upsert_keys, _park_emails]
    return [_read, *locking, _create_students, _read_owners, *upserting, _update_students, _delete_students]


async def list_students(connection: AsyncConnection, query: StudentsQuery) -> list[Student]:
    """Students by ascending id; the prefix is taken literally, whatever its case."""
    statement = select(*student_columns).where(StudentRow.id > query.after).order_by(StudentRow.id).limit(query.limit)
    if query.prefix:
        await plan_for_prefixes(connection)
        statement = statement.where(
            begins_with(query.prefix, StudentRow.full_name, StudentRow.email, StudentRow.external_id)
        )
    return [Student._make(row) for row in await connection.execute(statement)]
