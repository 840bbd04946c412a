"""The database goes silent: connections stay open and nothing comes back. Everybody is answered within limits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.client import Client
from tests.support.databases import Connection
from tests.support.proxy import Proxy, proxied
from tests.support.refusals import refused
from tests.support.services import Service, ServiceLog, service_on

REQUEST_ID = "123e4567-e89b-12d3-a456-426614174000"
STATEMENT_TIMEOUT_MS = 500
# The statement timeout, our margin, a look at the connections, and the work itself on a busy machine.
PATIENCE_SECONDS = 8.0


@pytest.fixture
async def silenced(app_url: str) -> AsyncIterator[tuple[Proxy, Service]]:
    """A service whose connections to the database can be made silent."""
    async with (
        proxied(app_url) as (proxy, url),
        service_on(url, statement_timeout_ms=STATEMENT_TIMEOUT_MS, connect_timeout=1.0) as service,
    ):
        yield proxy, service


async def use_every_path(client: Client) -> None:
    """Each of the connections that a service holds, and the pool."""
    student, course = await client.create_student(), await client.create_course()
    await client.enroll(student.student_id, course.course_id)
    assert await client.courses_of(student.student_id) == [course.course_id]
    assert await client.roster(course.course_id) == [student.student_id]


PATHS: dict[str, tuple[str, dict[str, Any]]] = {
    "writes": ("UnenrollStudent", {"student_id": 1, "course_id": 1}),
    "creates": ("CreateStudent", {"student": {"full_name": "Ann", "email": "ann@example.org"}}),
    "reads": ("GetStudent", {"student_id": 1}),
    "lists": ("ListStudents", {}),
}


@pytest.mark.parametrize("path", PATHS)
async def test_a_silent_connection_is_given_up_and_replaced(silenced: tuple[Proxy, Service], path: str) -> None:
    proxy, service = silenced
    await use_every_path(service.client)
    method, fields = PATHS[path]
    proxy.silence()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await service.client.call(method, **fields)


async def test_one_silent_connection_puts_all_idle_ones_in_question(
    silenced: tuple[Proxy, Service], service_log: ServiceLog
) -> None:
    proxy, service = silenced
    await use_every_path(service.client)
    proxy.silence()
    await service.client.call("GetStudent", student_id=1)
    (line,) = [line for line in service_log.lines if line["event"] == "silent database connections cut"]
    assert (line["level"], line["count"]) == ("warning", 1)
    # Nobody else pays for finding out.
    async with asyncio.timeout(STATEMENT_TIMEOUT_MS / 1000 + 1):
        await use_every_path(service.client)


@pytest.mark.parametrize("committed", [True, False])
async def test_a_commit_that_is_never_answered_is_unknown_and_a_retry_is_safe(
    silenced: tuple[Proxy, Service], connection: Connection, committed: bool
) -> None:
    proxy, service = silenced
    client = service.client
    (student_id,), (course_id,) = await client.students(1), await client.courses(1)
    if committed:
        proxy.silent_after = b"COMMIT"
    else:
        proxy.silent_before = b"COMMIT"
    async with asyncio.timeout(PATIENCE_SECONDS):
        with refused("UNAVAILABLE", "DATABASE_UNAVAILABLE", metadata={}):
            await client.enroll(student_id, course_id, request_id=REQUEST_ID)
    assert proxy.silences == 1
    assert await connection.fetchval("SELECT count(*) FROM enrollment_events WHERE kind = 1") == committed
    await client.enroll(student_id, course_id, request_id=REQUEST_ID)
    assert await connection.fetchval("SELECT count(*) FROM enrollment_events WHERE kind = 1") == 1


async def test_before_the_commit_a_silent_connection_did_nothing_and_the_batch_is_retried(
    silenced: tuple[Proxy, Service], connection: Connection
) -> None:
    proxy, service = silenced
    (student_id,), (course_id,) = await service.client.students(1), await service.client.courses(1)
    proxy.silent_before = b"BEGIN"
    async with asyncio.timeout(PATIENCE_SECONDS):
        await service.client.enroll(student_id, course_id)
    assert proxy.silences == 1
    assert await connection.fetchval("SELECT count(*) FROM enrollment_events WHERE kind = 1") == 1
