"""One batch in one transaction: claim request ids, lock, load, decide, apply. The caller commits."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy.sql.expression import ColumnElement

from enrollment_service.domain.commands import Answer, Command, EnrollmentsAnswer
from enrollment_service.domain.errors import EnrollmentError, Reason
from enrollment_service.domain.rules import decide
from enrollment_service.domain.state import State
from enrollment_service.engine import replies
from enrollment_service.engine.loading import lock_and_load
from enrollment_service.store import courses, requests, seats, students
from enrollment_service.store.courses import CourseMemory
from enrollment_service.store.database import DriverConnection
from enrollment_service.store.requests import Key, Recorded

Outcome = Answer | EnrollmentError


async def run_batch(
    connection: DriverConnection, commands: Sequence[Command], memory: CourseMemory, clock: ColumnElement[datetime]
) -> list[Outcome]:
    """The outcome of each command, written but not yet committed.

    Commands that share a request_id must have the same payload (see `footprint.rounds`); they are decided once.
    """
    first = _first_of_each(commands)
    recorded = await _claim([commands[index] for index in first.values()], connection)
    fresh = [index for index in first.values() if _key(commands[index]) not in recorded]
    decided = await _decide([commands[index] for index in fresh], connection, memory, clock)
    by_index: dict[int, Outcome] = dict(zip(fresh, decided, strict=True))
    replayed = await _replay([(index, commands[index]) for index in first.values()], recorded, connection)
    by_index.update(replayed)
    return [by_index[first[_identity(command, index)]] for index, command in enumerate(commands)]


def _key(command: Command) -> Key | None:
    return (command.actor, command.request_id) if command.recorded and command.request_id else None


def _identity(command: Command, index: int) -> Key | int:
    return _key(command) or index


def _first_of_each(commands: Sequence[Command]) -> dict[Key | int, int]:
    """The index of the first command of each request_id; commands without one stand for themselves."""
    first: dict[Key | int, int] = {}
    for index, command in enumerate(commands):
        first.setdefault(_identity(command, index), index)
    return first


async def _claim(commands: Sequence[Command], connection: DriverConnection) -> dict[Key, Recorded]:
    """What is on record for request ids that were used before; the others are claimed."""
    fingerprints = {key: command.fingerprint() for command in commands if (key := _key(command)) is not None}
    return dict(await requests.claim(connection, fingerprints)) if fingerprints else {}


async def _decide(
    commands: Sequence[Command], connection: DriverConnection, memory: CourseMemory, clock: ColumnElement[datetime]
) -> list[Outcome]:
    if not commands:
        # A replay may only be acknowledged when what it repeats is as durable as a fresh commit would be.
        await connection.execute("SELECT pg_logical_emit_message(true, 'enrollment', 'replay')")
        return []
    state = await lock_and_load(connection, commands, memory, clock)
    decided = decide(state, commands)
    await _apply(state, connection)
    await _record(commands, decided, connection)
    return decided


async def _apply(state: State, connection: DriverConnection) -> None:
    await seats.apply(connection, state)
    if state.changed_courses:
        changed = [state.seats[course_id].course for course_id in sorted(state.changed_courses)]
        await courses.update_courses(connection, changed)
    if state.deleted_courses:
        await courses.delete_courses(connection, sorted(state.deleted_courses))
    if state.changed_students:
        changed_students = [state.students[student_id] for student_id in sorted(state.changed_students)]
        await students.update_students(connection, changed_students)
    if state.deleted_students:
        await students.delete_students(connection, sorted(state.deleted_students))


async def _record(commands: Sequence[Command], decided: Sequence[Outcome], connection: DriverConnection) -> None:
    answers: dict[Key, str] = {}
    refused: list[Key] = []
    for command, outcome in zip(commands, decided, strict=True):
        key = _key(command)
        if key is None:
            continue
        if isinstance(outcome, EnrollmentError):
            refused.append(key)
        else:
            answers[key] = replies.encode(outcome)
    await requests.record(connection, answers)
    await requests.release(connection, refused)


async def _replay(
    commands: Sequence[tuple[int, Command]], recorded: dict[Key, Recorded], connection: DriverConnection
) -> dict[int, Outcome]:
    """The answers on record, with today's details of the courses."""
    replayed: dict[int, Outcome] = {}
    for index, command in commands:
        key = _key(command)
        record = recorded.get(key) if key else None
        if record is None:
            continue
        if record.fingerprint != command.fingerprint():
            replayed[index] = _reused()
        else:
            replayed[index] = await _with_courses(replies.decode(record.outcome), connection)
    return replayed


async def _with_courses(answer: Answer, connection: DriverConnection) -> Answer:
    if not isinstance(answer, EnrollmentsAnswer):
        return answer
    course_ids = [one.course_id for one in answer.enrollments]
    found = await courses.read_courses(connection, course_ids)
    return answer._replace(courses=tuple(found.get(course_id) for course_id in course_ids))


def _reused() -> EnrollmentError:
    return EnrollmentError.one(
        Reason.REQUEST_ID_REUSED,
        "request_id",
        "was used before for another method or payload; use a new one",
        field="request_id",
    )
