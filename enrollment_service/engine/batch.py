"""One batch in one transaction: lock, load, claim request ids, decide, apply. Who calls it commits."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

from enrollment_service.domain.commands import Answer, Command, EnrollmentsAnswer, RequestKey
from enrollment_service.domain.errors import Reason, Refusal
from enrollment_service.domain.fingerprints import fingerprint
from enrollment_service.domain.footprint import Row
from enrollment_service.domain.rules import decide
from enrollment_service.domain.state import NetChanges, State
from enrollment_service.engine import replies
from enrollment_service.engine.loading import lock_and_load
from enrollment_service.store import courses, requests, seats, students
from enrollment_service.store.database import Database
from enrollment_service.store.requests import Recorded
from enrollment_service.store.transactions import DriverConnection

# Rows and enrollments that are decided on at once between two turns of the event loop, a few milliseconds' work.
MAX_ON_THE_LOOP = 1_000


class Busy(NamedTuple):
    """Stands for the answer to a command that was not decided, because others have locked a row that it needs."""

    row: Row


Outcome: TypeAlias = Answer | Refusal | Busy
Outcomes: TypeAlias = dict[Command[Any], Outcome]


async def run_batch(
    connection: DriverConnection, commands: Sequence[Command[Any]], database: Database, *, skip_locked: bool = False
) -> Outcomes:
    """The outcome of each command, written but not yet committed.

    Commands that share a request_id must have the same payload (see `footprint.rounds`); they are decided once.

    Request ids are claimed after the rows are locked: a retry needs the same rows as its original, so it meets it
    there, where it may be set aside, and never has to wait in the claim. What is busy has claimed nothing.
    """
    originals = _originals(commands)
    distinct = list(dict.fromkeys(originals.values()))
    state, busy = await lock_and_load(connection, distinct, database, skip_locked=skip_locked)
    outcomes: Outcomes = {command: Busy(row) for command, row in busy.items()}
    ready = [command for command in distinct if command not in outcomes] if outcomes else distinct
    recorded = await _claim(ready, connection)
    fresh = [command for command in ready if command not in recorded] if recorded else ready
    outcomes |= await _decide(state, fresh, connection)
    if recorded:
        outcomes |= await _replay(recorded, connection)
        if not fresh:
            await requests.confirm_replay(connection)
    return {command: outcomes[original] for command, original in originals.items()}


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
        elif not isinstance(outcome, Busy):
            answers[command.key] = replies.encode(outcome)
    await requests.record(connection, answers)
    await requests.release(connection, refused)


async def _replay(recorded: dict[Command[Any], Recorded], connection: DriverConnection) -> Outcomes:
    """The answers on record, with today's details of the courses."""
    return {command: await _reply(command, record, connection) for command, record in recorded.items()}


async def _reply(command: Command[Any], record: Recorded, connection: DriverConnection) -> Outcome:
    if record.fingerprint != fingerprint(command):
        return _reused()
    answer = replies.decode(record.outcome)
    if command.shows_courses and isinstance(answer, EnrollmentsAnswer):
        return await _with_courses(answer, connection)
    return answer


async def _with_courses(answer: EnrollmentsAnswer, connection: DriverConnection) -> EnrollmentsAnswer:
    found = await courses.read_courses(connection, [view.enrollment.course_id for view in answer.enrollments])
    return EnrollmentsAnswer(
        tuple(view._replace(course=found.get(view.enrollment.course_id)) for view in answer.enrollments)
    )


def _reused() -> Refusal:
    return Refusal.of(
        Reason.REQUEST_ID_REUSED,
        "request_id",
        "was used before for another method or payload; use a new one",
        field="request_id",
    )
