"""Deleting large courses by force: others go on meanwhile, because the event loop is never away for long."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from enrollment_service.domain import rules
from enrollment_service.domain.commands import Command
from enrollment_service.domain.state import State
from enrollment_service.engine import batch
from tests.support.client import Client
from tests.support.databases import Connection
from tests.support.locks import standing_still, until, waiting_in
from tests.support.processes import Processes
from tests.support.pulse import LONGEST
from tests.support.services import Service

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("verified")]

MAX_GAP_MS = 20.0
COURSES, MEMBERS, WAITERS = 20, 2_000, 20_000

FILL = f"""
    INSERT INTO students (full_name, email)
        SELECT 'S', 's' || n || '@example.org' FROM generate_series(1, {MEMBERS + WAITERS}) n;
    INSERT INTO courses (code, title) SELECT 'L-' || n, 'T' FROM generate_series(1, {COURSES}) n;
    INSERT INTO course_seats (course_id, capacity, waitlist_capacity, enrolled_count, waitlisted_count, last_sequence)
        SELECT id, {MEMBERS}, {WAITERS}, {MEMBERS}, waiting, 1 + {MEMBERS} + waiting
        FROM (SELECT id, CASE WHEN id = 1 THEN {WAITERS} ELSE 0 END AS waiting FROM courses) course;
    INSERT INTO student_courses (student_id, course_id, state, sequence, enroll_time)
        SELECT s.id, c.id, CASE WHEN s.id > {MEMBERS} THEN 2 ELSE 1 END,
            -- Who waits has come in another order than that of the ids.
            1 + CASE WHEN s.id > {MEMBERS} THEN 2 * {MEMBERS} + {WAITERS} + 1 - s.id ELSE s.id END, now()
        FROM courses c JOIN students s ON s.id <= {MEMBERS} OR c.id = 1;
    INSERT INTO enrollment_events (course_id, sequence, kind, student_id, previous_state, state, waitlist_position,
            enrolled_count, waitlisted_count, capacity, event_time)
        SELECT course_id, sequence, 1, student_id, 0, state, greatest(0, sequence - 1 - {MEMBERS}),
            least(sequence - 1, {MEMBERS}), greatest(0, sequence - 1 - {MEMBERS}), {MEMBERS}, enroll_time
        FROM student_courses
        UNION ALL SELECT id, 1, 2, NULL, 0, 0, 0, 0, 0, {MEMBERS}, now() FROM courses;
"""


async def repeat(call: Callable[[], Awaitable[object]], over: asyncio.Event) -> int:
    """How often a call was answered, one after the other, until it is over."""
    answered = 0
    while not over.is_set():
        await call()
        answered += 1
    return answered


async def longest_gap(processes: Processes, connection: Connection, *arguments: str) -> float:
    """For how many milliseconds the event loop was away at the most while large courses were deleted."""
    await connection.execute(FILL)
    await connection.execute("ANALYZE")
    process, client = await processes.start(("-m", "tests.support.pulse", *arguments))
    other = await processes.client(process)
    (student_id,), (course_id,) = await other.students(1), await other.courses(1)
    await other.enroll(student_id, course_id)
    calls: Sequence[Callable[[], Awaitable[object]]] = [
        lambda: other.courses_of(student_id),
        lambda: other.call("GetEnrollment", student_id=student_id, course_id=course_id),
        other.create_student,
    ]
    for call in calls:
        await call()
    process.signal(signal.SIGUSR1)
    over = asyncio.Event()
    others = [asyncio.create_task(repeat(call, over)) for call in calls]
    await asyncio.gather(*(delete(client, course) for course in range(1, COURSES + 1)))
    over.set()
    assert min(await asyncio.gather(*others)) > COURSES
    assert await connection.fetchval("SELECT count(*) FROM student_courses") == 1
    await process.stop()
    name, _, longest = process.errors.strip().splitlines()[-1].partition("=")
    assert name == LONGEST
    return float(longest)


async def delete(client: Client, course_id: int) -> None:
    await client.call("DeleteCourse", course_id=course_id, force=True)


@pytest.mark.long
async def test_the_loop_is_never_away_for_long(processes: Processes, connection: Connection) -> None:
    assert await longest_gap(processes, connection) <= MAX_GAP_MS


@pytest.mark.long
async def test_without_a_thread_it_is(processes: Processes, connection: Connection) -> None:
    """The negative control."""
    assert await longest_gap(processes, connection, "inline") > MAX_GAP_MS


async def test_a_forced_delete_travels_alone(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """However few sit in the course: how many is known only once it is locked."""
    first, large, *small = await service.client.courses(4)
    sizes: list[int] = []

    def decide_and_count(state: State, commands: Sequence[Command[Any]]) -> list[Any]:
        sizes.append(len(commands))
        return rules.decide(state, commands)

    monkeypatch.setattr(batch, "decide", decide_and_count)
    async with standing_still(service, "_bulk") as arrived:
        calls = [asyncio.create_task(service.client.call("DeleteCourse", course_id=first))]
        await arrived.wait()
        for course_id, force in [(large, True), *((course_id, False) for course_id in small)]:
            calls.append(asyncio.create_task(service.client.call("DeleteCourse", course_id=course_id, force=force)))
            await until(lambda: waiting_in(service) == len(calls) - 1)
    await asyncio.gather(*calls)
    assert sizes == [1, 1, 2]
