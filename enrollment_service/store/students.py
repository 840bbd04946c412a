"""Statements about students: create, read, change, delete, list."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from sqlalchemy import any_, bindparam, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert as insert_or_skip
from sqlalchemy.ext.asyncio import AsyncConnection

from enrollment_service.domain.queries import StudentsQuery
from enrollment_service.domain.records import NewStudent, Student
from enrollment_service.store.models import StudentRow
from enrollment_service.store.prefixes import begins_with, plan_for_prefixes
from enrollment_service.store.statements import Prepared, array, bigint, next_id, rows_of, text, timestamp
from enrollment_service.store.transactions import DriverConnection

student_columns = [
    StudentRow.id,
    StudentRow.full_name,
    StudentRow.email,
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
    rows = rows_of(names=text, emails=text, ordinals=bigint)
    now = bindparam("now", type_=timestamp)
    # Ids are drawn first, so that the rows which were inserted can be told apart from those that were not.
    drawn = select(next_id("students").label("id"), *rows.c).cte("drawn")
    inserted = (
        insert_or_skip(StudentRow)
        .from_select(
            ["id", "full_name", "email", "create_time", "update_time"],
            select(drawn.c.id, drawn.c.names, drawn.c.emails, now, now).order_by(
                func.lower(drawn.c.emails), drawn.c.ordinals
            ),
        )
        .on_conflict_do_nothing()
        .returning(StudentRow.id)
        .cte("inserted")
    )
    return Prepared(select(drawn.c.ordinals, inserted.c.id).join_from(drawn, inserted, inserted.c.id == drawn.c.id))


def _owners() -> Prepared:
    rows = rows_of(emails=text, ordinals=bigint)
    return Prepared(
        select(rows.c.ordinals, StudentRow.id).join_from(
            rows, StudentRow, func.lower(StudentRow.email) == func.lower(rows.c.emails)
        )
    )


_create_students = _create()
_email_owners = _owners()


async def create_students(
    connection: DriverConnection, students: Sequence[NewStudent], now: datetime
) -> tuple[dict[int, Student], dict[int, int]]:
    """Creates the students whose e-mail address is free; `now` is when.

    Returns:
        The created students by their index in `students`, and for the other indices the id of the student who has
        the address.
    """
    emails = [student.email for student in students]
    rows = await _create_students.fetch(
        connection,
        names=[student.full_name for student in students],
        emails=emails,
        ordinals=range(len(students)),
        now=now,
    )
    created = {row["ordinals"]: Student._make((row["id"], *students[row["ordinals"]], now, now, 1)) for row in rows}
    taken = [index for index in range(len(students)) if index not in created]
    return created, await _owners_of(connection, {index: emails[index] for index in taken})


async def _owners_of(connection: DriverConnection, emails: Mapping[int, str]) -> dict[int, int]:
    if not emails:
        return {}
    rows = await _email_owners.fetch(connection, emails=list(emails.values()), ordinals=list(emails))
    return {row["ordinals"]: row["id"] for row in rows}


async def email_owner(connection: DriverConnection, email: str) -> int | None:
    """The id of the student who has this e-mail address, whatever its case."""
    return (await _owners_of(connection, {0: email})).get(0)


def _update() -> Prepared:
    rows = rows_of(ids=bigint, names=text, emails=text, update_times=timestamp, versions=bigint)
    return Prepared(
        update(StudentRow)
        .values(full_name=rows.c.names, email=rows.c.emails, update_time=rows.c.update_times, version=rows.c.versions)
        .where(StudentRow.id == rows.c.ids)
    )


_update_students = _update()
_delete_students = Prepared(delete(StudentRow).where(StudentRow.id == any_(array("ids"))))


async def update_students(connection: DriverConnection, students: Sequence[Student]) -> None:
    """Writes what clients changed of students that this transaction has locked."""
    await _update_students.fetch(
        connection,
        ids=[student.student_id for student in students],
        names=[student.full_name for student in students],
        emails=[student.email for student in students],
        update_times=[student.update_time for student in students],
        versions=[student.version for student in students],
    )


async def delete_students(connection: DriverConnection, student_ids: Sequence[int]) -> None:
    """Deletes students who are in no course any more; their events stay."""
    await _delete_students.fetch(connection, ids=student_ids)


def creation_statements() -> list[Prepared]:
    """Those that creating students may send."""
    return [_create_students, _email_owners]


def batch_statements() -> list[Prepared]:
    """Those that a batch may send."""
    locking = [_lock_to_update, _lock_to_update_or_skip, _lock_to_delete]
    return [_read, *locking, _create_students, _email_owners, _update_students, _delete_students]


async def list_students(connection: AsyncConnection, query: StudentsQuery) -> list[Student]:
    """Students by ascending id; the prefix is taken literally, whatever its case."""
    statement = select(*student_columns).where(StudentRow.id > query.after).order_by(StudentRow.id).limit(query.limit)
    if query.prefix:
        await plan_for_prefixes(connection)
        statement = statement.where(begins_with(query.prefix, StudentRow.full_name, StudentRow.email))
    return [Student._make(row) for row in await connection.execute(statement)]
