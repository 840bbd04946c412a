"""OK means saved: what was acknowledged is there after PostgreSQL was killed in the middle of it, each thing once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from dev.postgres import EmbeddedPostgres
from enrollment_service.client import EnrollmentClient, ServiceError
from tests.support.client import client_of
from tests.support.crashes import durable, killed
from tests.support.databases import connected, migrate
from tests.support.processes import ServerProcess
from tests.support.verification import wrong_in

CALLERS = 8
ROUNDS = 2


@pytest.fixture
def durable_postgres() -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL of the test's own that flushes what it commits, to be killed."""
    with durable() as postgres:
        yield postgres


class Callers:
    """Callers that enroll one student after the other, and remember who was acknowledged."""

    def __init__(self, client: EnrollmentClient, course_id: int, students: list[int]) -> None:
        self._client = client
        self._course_id = course_id
        self._students = students
        self.acknowledged: list[int] = []
        self.unknown: list[int] = []

    @asynccontextmanager
    async def calling(self) -> AsyncIterator[None]:
        """They call inside the block, and have their last answer after it."""
        tasks = [asyncio.create_task(self._call_for_ever()) for _ in range(CALLERS)]
        try:
            yield
        finally:
            self._students.clear()
            await asyncio.gather(*tasks)

    async def _call_for_ever(self) -> None:
        while self._students:
            student_id = self._students.pop()
            try:
                await self._client.enroll_student(student_id, [self._course_id])
            except ServiceError:
                self.unknown.append(student_id)
            else:
                self.acknowledged.append(student_id)

    async def until_more(self, count: int) -> None:
        wanted = len(self.acknowledged) + count
        async with asyncio.timeout(30):
            while len(self.acknowledged) < wanted:  # noqa: ASYNC110 - a list that grows
                await asyncio.sleep(0.005)


@asynccontextmanager
async def serving(url: str, folder: Path) -> AsyncIterator[ServerProcess]:
    server = ServerProcess(url, folder)
    try:
        async with client_of(server.address) as client:
            await server.wait_serving(client)
            yield server
    finally:
        await server.stop()


@pytest.mark.long
@pytest.mark.timeout(120)  # crash recovery, on a busy machine
async def test_what_was_acknowledged_survives_a_killed_database(
    durable_postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    url = durable_postgres.url
    await asyncio.to_thread(migrate, url)
    async with serving(url, tmp_path) as server, EnrollmentClient(server.address, budget=60) as client:
        course = await client.create_course("ART-1", "Drawing")
        async with connected(url) as connection:
            await connection.execute(
                "INSERT INTO students (full_name, email)"
                " SELECT 'Ann Lee', n || '@example.org' FROM generate_series(1, 20000) n"
            )
            ids = [row["id"] for row in await connection.fetch("SELECT id FROM students")]
        callers = Callers(client, course.course_id, ids)
        async with callers.calling():
            for _ in range(ROUNDS):
                await callers.until_more(100)
                await killed(durable_postgres)
                await asyncio.to_thread(durable_postgres.ensure_running)
            await callers.until_more(100)
    async with connected(url) as connection:
        rows = await connection.fetch("SELECT student_id, count(*) FROM enrollment_events GROUP BY student_id")
    assert {row["student_id"] for row in rows} >= set(callers.acknowledged)
    assert {row["count"] for row in rows} == {1}
    # Every call was retried with its request_id until it was answered.
    assert callers.unknown == []
    assert await wrong_in(url) == []
