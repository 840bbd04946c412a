"""Statements about students: create, read, change, delete, list."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import any_, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert as insert_or_skip
from sqlalchemy.ext.asyncio import AsyncEngine

from enrollment_service.domain.records import NewStudent
from enrollment_service.domain.records import Student as StudentRow
from enrollment_service.store.database import DriverConnection
from enrollment_service.store.models import Student
from enrollment_service.store.prefixes import begins_with, plan_for_prefixes
from enrollment_service.store.seats import rows_of
from enrollment_service.store.statements import Prepared, array, bigint, next_id, text, timestamp

student_columns = [
    Student.id,
    Student.full_name,
    Student.email,
    Student.create_time,
    Student.update_time,
    Student.version,
]

_by_id = select(*student_columns).where(Student.id == any_(array("ids"))).order_by(Student.id)
_read = Prepared(_by_id, "ids")
_lock_to_update = Prepared(_by_id.with_for_update(key_share=True), "ids")
_lock_to_delete = Prepared(_by_id.with_for_update(), "ids")


async def read_students(connection: DriverConnection, student_ids: Iterable[int]) -> dict[int, StudentRow]:
    """The students that exist, by id."""
    rows = await _read.fetch(connection, list(student_ids))
    return {row["id"]: StudentRow(*row) for row in rows}


async def lock_students(
    connection: DriverConnection, student_ids: Iterable[int], *, to_delete: bool
) -> dict[int, StudentRow]:
    """Locks and reads the students that exist, in ascending order, until the transaction ends.

    Locked to be deleted, nobody can enroll them meanwhile either.
    """
    ids = sorted(student_ids)
    if not ids:
        return {}
    rows = await (_lock_to_delete if to_delete else _lock_to_update).fetch(connection, ids)
    return {row["id"]: StudentRow(*row) for row in rows}


def _create() -> Prepared:
    rows = rows_of(names=text, emails=text, ordinals=bigint)
    # Ids are drawn first, so that the rows which were inserted can be told apart from those that were not.
    drawn = select(next_id("students").label("id"), *rows.c).cte("drawn")
    inserted = (
        insert_or_skip(Student)
        .from_select(
            ["id", "full_name", "email"],
            select(drawn.c.id, drawn.c.names, drawn.c.emails).order_by(func.lower(drawn.c.emails), drawn.c.ordinals),
        )
        .on_conflict_do_nothing()
        .returning(Student.id, Student.create_time, Student.update_time)
        .cte("inserted")
    )
    return Prepared(
        select(drawn.c.ordinals, inserted.c.id, inserted.c.create_time, inserted.c.update_time).join_from(
            drawn, inserted, inserted.c.id == drawn.c.id
        ),
        *(each.name for each in rows.c),
    )


def _owners() -> Prepared:
    rows = rows_of(emails=text, ordinals=bigint)
    return Prepared(
        select(rows.c.ordinals, Student.id).join_from(
            rows, Student, func.lower(Student.email) == func.lower(rows.c.emails)
        ),
        "emails",
        "ordinals",
    )


_create_students = _create()
_email_owners = _owners()


async def create_students(
    connection: DriverConnection, students: Sequence[NewStudent]
) -> tuple[dict[int, StudentRow], dict[int, int]]:
    """Creates the students whose e-mail address is free.

    Returns:
        The created students by their index in `students`, and for the other indices the id of the student who has
        the address.
    """
    names, emails = ([one.full_name for one in students], [one.email for one in students])
    rows = await _create_students.fetch(connection, names, emails, list(range(len(students))))
    created = {
        row["ordinals"]: StudentRow._make(
            (row["id"], *students[row["ordinals"]], row["create_time"], row["update_time"], 1)
        )
        for row in rows
    }
    taken = [index for index in range(len(students)) if index not in created]
    owners = await _email_owners.fetch(connection, [emails[index] for index in taken], taken) if taken else []
    return created, {row["ordinals"]: row["id"] for row in owners}


async def email_owner(connection: DriverConnection, email: str) -> int | None:
    """The id of the student who has this e-mail address, whatever its case."""
    rows = await _email_owners.fetch(connection, [email], [0])
    return rows[0]["id"] if rows else None


def _update() -> Prepared:
    rows = rows_of(ids=bigint, names=text, emails=text, update_times=timestamp, versions=bigint)
    return Prepared(
        update(Student)
        .values(full_name=rows.c.names, email=rows.c.emails, update_time=rows.c.update_times, version=rows.c.versions)
        .where(Student.id == rows.c.ids),
        *(each.name for each in rows.c),
    )


_update_students = _update()
_delete_students = Prepared(delete(Student).where(Student.id == any_(array("ids"))), "ids")


async def update_students(connection: DriverConnection, students: Sequence[StudentRow]) -> None:
    """Writes what clients changed of students that this transaction has locked."""
    await _update_students.fetch(
        connection,
        [one.student_id for one in students],
        [one.full_name for one in students],
        [one.email for one in students],
        [one.update_time for one in students],
        [one.version for one in students],
    )


async def delete_students(connection: DriverConnection, student_ids: Sequence[int]) -> None:
    """Deletes students who are in no course any more; their events stay."""
    await _delete_students.fetch(connection, student_ids)


async def list_students(engine: AsyncEngine, *, after: int, limit: int, query: str) -> list[StudentRow]:
    """Students by ascending id; `query` is a prefix of name or e-mail address, taken literally, whatever its case."""
    statement = select(*student_columns).where(Student.id > after).order_by(Student.id).limit(limit)
    async with engine.connect() as connection:
        if query:
            await plan_for_prefixes(connection)
            statement = statement.where(begins_with(query, Student.full_name, Student.email))
        return [StudentRow._make(row) for row in await connection.execute(statement)]
