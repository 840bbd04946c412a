"""The database goes away, in the middle and in between: what callers are told, and that it all comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.client import Client
from tests.support.databases import Connection
from tests.support.proxy import Proxy, proxied
from tests.support.refusals import refused
from tests.support.services import service_on

REQUEST_ID = "123e4567-e89b-12d3-a456-426614174000"
OTHERS = "datname = current_database() AND pid <> pg_backend_pid()"


@pytest.fixture
async def broken(database_url: str) -> AsyncIterator[tuple[Proxy, Client]]:
    """A service whose connections to the database can be broken."""
    async with proxied(database_url) as (proxy, url), service_on(url) as service:
        yield proxy, service.client


async def use_every_path(client: Client) -> None:
    """Each of the connections that a service holds, and the pool."""
    student, course = await client.create_student(), await client.create_course()
    await client.enroll(student.student_id, course.course_id)
    assert await client.courses_of(student.student_id) == [course.course_id]
    assert await client.roster(course.course_id) == [student.student_id]
    assert (await client.call("ListStudents")).students


async def test_killed_backends_are_replaced_before_a_caller_notices(client: Client, connection: Connection) -> None:
    for _ in range(3):
        await use_every_path(client)
        await connection.fetch(f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE {OTHERS}")
    await use_every_path(client)


async def test_while_the_database_is_away_callers_are_told_so_and_afterwards_it_works(
    broken: tuple[Proxy, Client],
) -> None:
    proxy, client = broken
    await use_every_path(client)
    proxy.refuse()
    calls: list[tuple[str, dict[str, Any]]] = [
        ("CreateStudent", {"student": {"full_name": "Ann", "email": "ann@example.org"}}),
        ("CreateCourse", {"course": {"code": "ART-1", "title": "Drawing"}}),
        ("EnrollStudent", {"student_id": 1, "course_ids": [1]}),
        ("GetStudent", {"student_id": 1}),
        ("ListStudentCourses", {"student_id": 1}),
        ("ListStudents", {}),
        ("ListCourseStudents", {"course_id": 1}),
    ]
    for method, fields in calls:
        with refused("UNAVAILABLE", "DATABASE_UNAVAILABLE", metadata={}) as refusal:
            await client.call(method, **fields)
        assert refusal.retry_delay == 1
    proxy.refusing = False
    await use_every_path(client)


async def test_a_connection_lost_before_the_commit_was_sent_is_retried(
    broken: tuple[Proxy, Client], connection: Connection
) -> None:
    proxy, client = broken
    (student_id,), (course_id,) = await client.students(1), await client.courses(1)
    await client.enroll(student_id, course_id)
    await client.unenroll(student_id, course_id)
    proxy.cut_before = b"BEGIN"
    await client.enroll(student_id, course_id)
    assert proxy.cuts == 1
    assert await connection.fetchval("SELECT count(*) FROM enrollment_events") == 3


@pytest.mark.parametrize("committed", [True, False])
async def test_if_the_answer_to_a_commit_is_lost_the_outcome_is_unknown_and_a_retry_is_safe(
    broken: tuple[Proxy, Client], connection: Connection, committed: bool
) -> None:
    proxy, client = broken
    (student_id,), (course_id,) = await client.students(1), await client.courses(1)
    if committed:
        proxy.cut_after = b"COMMIT"
    else:
        proxy.cut_before = b"COMMIT"
    with refused("UNAVAILABLE", "DATABASE_UNAVAILABLE", metadata={}):
        await client.enroll(student_id, course_id, request_id=REQUEST_ID)
    assert proxy.cuts == 1
    if committed:
        async with asyncio.timeout(20):
            while await connection.fetchval("SELECT count(*) FROM student_courses") == 0:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    (enrolled,) = await client.enroll(student_id, course_id, request_id=REQUEST_ID)
    assert (enrolled.student_id, enrolled.course_id) == (student_id, course_id)
    assert await connection.fetchval("SELECT count(*) FROM enrollment_events") == 1


@pytest.mark.parametrize("method", ["CreateStudent", "CreateCourse"])
async def test_a_create_whose_commit_is_unknown_says_so(broken: tuple[Proxy, Client], method: str) -> None:
    proxy, client = broken
    proxy.cut_before = b"COMMIT"
    create = client.create_student if method == "CreateStudent" else client.create_course
    with refused("UNAVAILABLE", "DATABASE_UNAVAILABLE"):
        await create()
    await create()


async def test_a_database_that_became_read_only_is_unavailable_for_writes_and_left_behind(
    client: Client, connection: Connection
) -> None:
    """As after a failover: the old connections lead to a server that may only be read."""
    await use_every_path(client)
    name = await connection.fetchval("SELECT current_database()")
    await connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    await connection.fetch(f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE {OTHERS}")
    with refused("UNAVAILABLE", "DATABASE_UNAVAILABLE"):
        await client.create_student()
    with refused("UNAVAILABLE", "DATABASE_UNAVAILABLE"):
        await client.enroll(1, 1)
    assert (await client.call("GetStudent", student_id=1)).student.student_id == 1
    await connection.execute("SET default_transaction_read_only = off")
    await connection.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    await use_every_path(client)


async def test_columns_that_are_added_meanwhile_do_no_harm(client: Client, connection: Connection) -> None:
    await use_every_path(client)
    await connection.execute("ALTER TABLE students ADD COLUMN nickname text")
    await connection.execute("ALTER TABLE course_seats ADD COLUMN room text")
    await connection.execute("ALTER TABLE student_courses ALTER COLUMN create_time SET DEFAULT clock_timestamp()")
    await use_every_path(client)


async def test_a_deadlock_with_a_stranger_is_retried(client: Client, connection: Connection) -> None:
    """Somebody else locks the rows in another order; PostgreSQL ends one of the two."""
    (student_id,), (first, second) = await client.students(1), await client.courses(2)
    await connection.execute("SET deadlock_timeout = '30s'")
    lock = "SELECT FROM course_seats WHERE course_id = $1 FOR UPDATE"
    async with connection.transaction():
        await connection.fetch(lock, second)
        call = asyncio.create_task(client.enroll(student_id, first, second))
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        async with asyncio.timeout(20):
            while not await connection.fetchval(waiting):  # noqa: ASYNC110 - the database announces no locks
                await asyncio.sleep(0.005)
        # The service's own deadlock check ends its transaction, which lets this one go on.
        await connection.fetch(lock, first)
    assert len(await call) == 2
    assert await client.courses_of(student_id) == [first, second]
