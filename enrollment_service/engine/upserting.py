"""Rows that name students and courses by the numbers of another system: looked up before the locks, checked under them.

For imports of students and courses also what is new is inserted here, and found out who has the keys that are wanted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, TypeVar

from enrollment_service.domain.commands import Command, Import, ImportCourses, ImportStudents, Reconcile, Upsert
from enrollment_service.domain.records import Course, NewCourse, NewStudent, Student
from enrollment_service.domain.state import State, Upserts
from enrollment_service.store import courses, students
from enrollment_service.store.faults import StaleError
from enrollment_service.store.statements import UpsertKeys
from enrollment_service.store.transactions import DriverConnection

Row = TypeVar("Row", NewStudent, NewCourse)


async def look_up(connection: DriverConnection, commands: Sequence[Command[Any]]) -> None:
    """Finds out whom the external ids in the commands stand for, so that it is known what to lock."""
    for command in commands:
        if isinstance(command, ImportStudents):
            command.found = await _ids(connection, students, command.external_ids)
        elif isinstance(command, ImportCourses):
            command.found = await _ids(connection, courses, command.external_ids)
        elif isinstance(command, Import) and command.student_external_ids:
            command.found_students = await _ids(connection, students, command.student_external_ids)
            command.found_courses = await _ids(connection, courses, command.course_external_ids)
        elif isinstance(command, Reconcile) and command.course_external_id:
            command.found_students = await _ids(connection, students, command.student_external_ids)
            (command.found_course,) = await _ids(connection, courses, [command.course_external_id])


async def check(connection: DriverConnection, commands: Sequence[Command[Any]]) -> None:
    """Returns if the external ids in commands about enrollments still stand for the same, now that rows are locked.

    Raises:
        StaleError: one of them does not.
    """
    for command in commands:
        if isinstance(command, Import | Reconcile):
            found = command.found_students, tuple(command.locks)
            await look_up(connection, [command])
            if (command.found_students, tuple(command.locks)) != found:
                raise StaleError


async def _ids(connection: DriverConnection, store: ModuleType, external_ids: Sequence[str]) -> tuple[int, ...]:
    wanted = {one for one in external_ids if one}
    known: Mapping[str, int] = await store.read_ids(connection, wanted) if wanted else {}
    return tuple(known.get(one, 0) for one in external_ids)


async def insert_rows(connection: DriverConnection, state: State, command: Upsert) -> None:
    """Inserts what is new of an import, and reads who has the keys of its rows; who was found is locked.

    Raises:
        StaleError: an external id stands for somebody else than when it was looked up.
    """
    new = [index for index, row in enumerate(command.rows) if row is not None and not command.found[index]]
    created: dict[int, Student | Course] = {}
    ids = list(command.found)
    if isinstance(command, ImportStudents):
        made, _ = await students.create_students(connection, [_row(command.students, at) for at in new], state.now)
        for number, student in made.items():
            created[new[number]] = state.students[student.student_id] = student
            ids[new[number]] = student.student_id
    elif isinstance(command, ImportCourses):
        opened, _ = await courses.create_courses(connection, [_row(command.courses, at) for at in new], state.now)
        for number, course in opened.items():
            created[new[number]] = course
            ids[new[number]] = course.course_id
    # What was created asks for nothing any more; whoever asks for its key is told that it holds it.
    asking = [index for index, row in enumerate(command.rows) if row is not None and index not in created]
    keys = await _keys(connection, command, asking)
    if any((key.found or 0) != ids[index] for index, key in keys.items()):
        raise StaleError
    state.upserts[command] = _upserts(created, ids, keys)


async def _keys(connection: DriverConnection, command: Upsert, asking: Sequence[int]) -> dict[int, UpsertKeys]:
    """The keys that some rows ask for, and who has them, by the index of the row."""
    if not asking:
        return {}
    if isinstance(command, ImportStudents):
        read = await students.read_upsert_keys(connection, [command.students[index] for index in asking])
    else:
        assert isinstance(command, ImportCourses)  # noqa: S101 - for the type checker
        read = await courses.read_upsert_keys(connection, [command.courses[index] for index in asking])
    return dict(zip(asking, read, strict=True))


def _row(rows: Sequence[Row | None], index: int) -> Row:
    row = rows[index]
    assert row is not None  # noqa: S101 - for the type checker
    return row


def _upserts(created: Mapping[int, Student | Course], ids: Sequence[int], keys: Mapping[int, UpsertKeys]) -> Upserts:
    holders = {key.wanted: key.holder for key in keys.values() if key.holder and key.wanted}
    had = {key.found: key.had for key in keys.values() if key.found and key.had}
    holders.update((key, holder) for holder, key in had.items())
    return Upserts(created, ids, {index: key.wanted or "" for index, key in keys.items()}, holders, had)
