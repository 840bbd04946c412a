"""A course of 30 seats and 200 callers at once over two server processes: exactly 30 get in, and why."""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import cycle

import grpc

from tests.support.client import Client
from tests.support.databases import Connection, connected
from tests.support.locks import until_waiting
from tests.support.processes import SERVE, Processes
from tests.support.refusals import refusal_of

SEATS, CALLERS = 30, 200
LOCKLESS = ("-m", "tests.support.lockless", "serve")


async def outcome(client: Client, student_id: int, course_id: int) -> str:
    try:
        await client.enroll(student_id, course_id)
    except grpc.aio.AioRpcError as error:
        return refusal_of(error).reason
    return "OK"


async def stampede(processes: Processes, database_url: str, python: tuple[str, ...]) -> tuple[Counter[str], int]:
    """What 200 callers were told, and the course.

    All writes are held up until a batch of each server has decided and wants to write, so the two surely meet.
    """
    (_, one), (_, two) = await processes.start_several(2, python)
    students, (course_id,) = await one.students(CALLERS), await one.courses(1, capacity=SEATS)
    await asyncio.gather(one.warm_up(), two.warm_up())
    async with connected(database_url) as holder, connected(database_url) as observer:
        async with holder.transaction():
            await holder.execute("LOCK TABLE student_courses IN SHARE MODE")
            calls = [
                asyncio.create_task(outcome(client, student_id, course_id))
                for client, student_id in zip(cycle([one, two]), students, strict=False)
            ]
            # With the lock on the seat row, one server waits for the table and the other for the row.
            await until_waiting(observer, 2)
        return Counter(await asyncio.gather(*calls)), course_id


async def seated(connection: Connection, course_id: int) -> int:
    count: int = await connection.fetchval("SELECT count(*) FROM student_courses WHERE course_id = $1", course_id)
    return count


async def test_two_hundred_callers_on_two_servers_get_exactly_thirty_seats(
    processes: Processes, database_url: str, connection: Connection
) -> None:
    outcomes, course_id = await stampede(processes, database_url, SERVE)
    assert outcomes == {"OK": SEATS, "COURSE_FULL": CALLERS - SEATS}
    assert await seated(connection, course_id) == SEATS
    counted = "SELECT enrolled_count FROM course_seats WHERE course_id = $1"
    assert await connection.fetchval(counted, course_id) == SEATS
    events = await connection.fetch(
        "SELECT sequence FROM enrollment_events WHERE course_id = $1 ORDER BY sequence", course_id
    )
    assert [row["sequence"] for row in events] == [*range(1, SEATS + 2)]


async def test_without_lock_and_constraints_too_many_get_in(
    processes: Processes, database_url: str, connection: Connection
) -> None:
    """The negative control. The key of the event log is a third guard: both servers would write the same numbers."""
    await connection.execute("ALTER TABLE course_seats DROP CONSTRAINT ck_course_seats_enrolled_within_capacity")
    await connection.execute("ALTER TABLE enrollment_events DROP CONSTRAINT pk_enrollment_events")
    outcomes, course_id = await stampede(processes, database_url, LOCKLESS)
    assert outcomes["OK"] > SEATS
    assert await seated(connection, course_id) == outcomes["OK"]


async def test_without_the_lock_the_constraints_alone_still_hold(
    processes: Processes, database_url: str, connection: Connection
) -> None:
    outcomes, course_id = await stampede(processes, database_url, LOCKLESS)
    assert outcomes["OK"] <= SEATS
    assert await seated(connection, course_id) <= SEATS
