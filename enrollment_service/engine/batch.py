"""One batch in one transaction: lock, load, claim request ids, insert what is new, decide, apply. Who calls commits."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from enrollment_service.domain.commands import (
    Answer,
    Command,
    CourseId,
    EnrollmentsAnswer,
    ImportStudents,
    RequestKey,
    StudentId,
)
from enrollment_service.domain.errors import Reason, Refusal
from enrollment_service.domain.fingerprints import fingerprint
from enrollment_service.domain.footprint import Row
from enrollment_service.domain.records import CountedCourse, Event, Student
from enrollment_service.domain.rules import decide
from enrollment_service.domain.state import NetChanges, State
from enrollment_service.engine import replies
from enrollment_service.engine.loading import insert_new, lock_and_load
from enrollment_service.store import courses, requests, seats, students, waivers
from enrollment_service.store.database import Database
from enrollment_service.store.requests import Recorded
from enrollment_service.store.transactions import DriverConnection

# Rows and enrollments that are decided on at once between two turns of the event loop, a few milliseconds' work.
MAX_ON_THE_LOOP = 1_000


class Busy(NamedTuple):
    """Stands for the answer to a command that was not decided, because others have locked a row that it needs."""

    row: Row


class Heavy(NamedTuple):
    """Stands for the answer to a command that was not decided, because it needs more courses than a single call may."""

    course_ids: frozenset[int]


Outcome: TypeAlias = Answer | Refusal | Busy | Heavy
Outcomes: TypeAlias = dict[Command[Any], Outcome]


class Decided(NamedTuple):
    """What came of a batch, true once it is committed.

    Attributes:
        outcomes: of all commands.
        events: the transitions that the batch made.
        fresh: the outcomes that were decided just now: neither those on record nor those that were set aside.
    """

    outcomes: Outcomes
    events: Sequence[Event]
    fresh: Outcomes


NOTHING = Decided({}, (), {})


async def run_batch(
    connection: DriverConnection,
    commands: Sequence[Command[Any]],
    database: Database,
    *,
    skip_locked: bool = False,
    quick: bool = False,
) -> Decided:
    """The outcome of each command, written but not yet committed; where it must be `quick`, heavy ones are left out.

    Commands that share a request_id must have the same payload (see `footprint.rounds`); they are decided once.

    Request ids are claimed after the rows are locked: a retry needs the same rows as its original, so it meets it
    there, where it may be set aside, and never has to wait in the claim. What is busy has claimed nothing.
    """
    originals = _originals(commands)
    distinct = list(dict.fromkeys(originals.values()))
    state, busy, tied, heavy = await lock_and_load(connection, distinct, database, skip_locked=skip_locked, quick=quick)
    outcomes: Outcomes = {command: Busy(row) for command, row in busy.items()}
    for command, course_ids in tied.items():
        command.tied = course_ids
    outcomes |= {command: Heavy(course_ids) for command, course_ids in heavy.items()}
    ready = [command for command in distinct if command not in outcomes] if outcomes else distinct
    recorded = await _claim(ready, connection)
    fresh = [command for command in ready if command not in recorded] if recorded else ready
    decided = await _decide(state, fresh, connection)
    outcomes |= decided
    if recorded:
        outcomes |= await _replay(recorded, connection)
        if not fresh:
            await requests.confirm_replay(connection)
    return Decided({command: outcomes[original] for command, original in originals.items()}, state.events, decided)


def _originals(commands: Iterable[Command[Any]]) -> dict[Command[Any], Command[Any]]:
    """For each command the first one with its request_id; one without stands for itself."""
    first: dict[RequestKey, Command[Any]] = {}
    return {command: command if command.key is None else first.setdefault(command.key, command) for command in commands}


async def _claim(commands: Iterable[Command[Any]], connection: DriverConnection) -> dict[Command[Any], Recorded]:
    """What is on record for commands whose request_id was used before; the ids of the others are claimed."""
    claimants = {command.key: command for command in commands if command.key is not None}
    if not claimants:
        return {}
    recorded = await requests.claim(connection, {key: fingerprint(command) for key, command in claimants.items()})
    return {claimants[key]: record for key, record in recorded.items()}


async def _decide(state: State, commands: Sequence[Command[Any]], connection: DriverConnection) -> Outcomes:
    if not commands:
        return {}
    await insert_new(connection, state, commands)
    answers, changes = await _worked_out(state, commands)
    outcomes: Outcomes = dict(zip(commands, answers, strict=True))
    await _apply(state, changes, connection)
    await _record(outcomes, connection)
    return outcomes


async def _worked_out(state: State, commands: Sequence[Command[Any]]) -> tuple[list[Answer | Refusal], NetChanges]:
    """The answers, and what they change. Large decisions are made in a thread: others go on meanwhile."""

    def work_out() -> tuple[list[Answer | Refusal], NetChanges]:
        return decide(state, commands), state.net_changes()

    size = len(state.enrollments) + sum(command.weight for command in commands)
    return work_out() if size <= MAX_ON_THE_LOOP else await asyncio.to_thread(work_out)


async def _apply(state: State, changes: NetChanges, connection: DriverConnection) -> None:
    await seats.apply(connection, state, changes)
    for command, work in state.upserts.items():
        if work.handed_on:
            park = students.park_emails if isinstance(command, ImportStudents) else courses.park_codes
            await park(connection, work.handed_on)
    if state.changed_waivers:
        await waivers.write_waivers(connection, state)
    if state.changed_courses:
        changed = sorted(state.changed_courses.items())
        await courses.update_courses(connection, [(state.seats[course_id].course, new) for course_id, new in changed])
    if state.deleted_courses:
        await courses.delete_courses(connection, sorted(state.deleted_courses))
    if state.changed_students:
        changed_students = [state.students[student_id] for student_id in sorted(state.changed_students)]
        await students.update_students(connection, changed_students)
    if state.deleted_students:
        await students.delete_students(connection, sorted(state.deleted_students))


async def _record(outcomes: Outcomes, connection: DriverConnection) -> None:
    """Keeps the answers of commands that took effect; the ids of those that were refused are free again."""
    answers: dict[RequestKey, str] = {}
    refused: list[RequestKey] = []
    for command, outcome in outcomes.items():
        if command.key is None:
            continue
        if isinstance(outcome, Refusal):
            refused.append(command.key)
        elif not isinstance(outcome, Busy | Heavy):
            answers[command.key] = replies.encode(outcome)
    await requests.record(connection, answers)
    await requests.release(connection, refused)


async def _replay(recorded: dict[Command[Any], Recorded], connection: DriverConnection) -> Outcomes:
    """The answers on record, with today's details of students and courses."""
    outcomes: Outcomes = {
        command: replies.decode(record.outcome) if record.is_same else _reused() for command, record in recorded.items()
    }
    student_ids, course_ids = set(), set()
    for command, outcome in outcomes.items():
        if isinstance(outcome, StudentId):
            student_ids.add(outcome.student_id)
        elif isinstance(outcome, CourseId):
            course_ids.add(outcome.course_id)
        elif isinstance(outcome, EnrollmentsAnswer) and command.shows_courses:
            course_ids.update(view.enrollment.course_id for view in outcome.enrollments)
    students_today = await students.read_students(connection, student_ids) if student_ids else {}
    courses_today = await courses.read_courses(connection, course_ids) if course_ids else {}
    return {
        command: _as_of_today(command, outcome, students_today, courses_today) for command, outcome in outcomes.items()
    }


def _as_of_today(
    command: Command[Any],
    outcome: Outcome,
    students_today: Mapping[int, Student],
    courses_today: Mapping[int, CountedCourse],
) -> Outcome:
    """What was answered, with what is known today; of what is gone the id stays."""
    if isinstance(outcome, StudentId):
        return students_today.get(outcome.student_id, outcome)
    if isinstance(outcome, CourseId):
        return courses_today.get(outcome.course_id, outcome)
    if isinstance(outcome, EnrollmentsAnswer) and command.shows_courses:
        return EnrollmentsAnswer(
            tuple(view._replace(course=courses_today.get(view.enrollment.course_id)) for view in outcome.enrollments)
        )
    return outcome


def _reused() -> Refusal:
    return Refusal.of(
        Reason.REQUEST_ID_REUSED,
        "request_id",
        "was used before for another method or payload; use a new one",
        field="request_id",
    )
