"""Holding a course still: with its seat row locked, what a service does meanwhile can be arranged step by step."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

from tests.support.databases import Connection, connected
from tests.support.services import Service

PATIENCE = 20.0  # seconds


async def until(fact: Callable[[], bool]) -> None:
    """Returns once something in this process is so."""
    async with asyncio.timeout(PATIENCE):
        while not fact():  # noqa: ASYNC110 - nobody announces it
            await asyncio.sleep(0.002)


async def until_waiting(connection: Connection, count: int = 1) -> None:
    """Returns once so many transactions of the test's database wait for a lock."""
    waiting = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' "
        "AND state = 'active'"
    )
    async with asyncio.timeout(PATIENCE):
        while await connection.fetchval(waiting) < count:  # noqa: ASYNC110 - the database announces no locks
            await asyncio.sleep(0.005)


@asynccontextmanager
async def held(database_url: str, *course_ids: int) -> AsyncIterator[Connection]:
    """The seat rows of courses are locked for as long as the block lasts; yields a connection to look around with."""
    async with connected(database_url) as holder, connected(database_url) as observer, holder.transaction():
        await holder.fetch("SELECT FROM course_seats WHERE course_id = ANY($1) FOR UPDATE", course_ids)
        yield observer


def waiting_in(service: Service) -> int:
    """How many commands wait for a batch of a service's writer, in any of its lanes."""
    writer = service.app._writer
    return len(writer._usual._queue) + len(writer._bulk._queue) + writer._patient.waiting


async def in_one_batch(service: Service, calls: Sequence[Coroutine[Any, Any, Any]]) -> list[Any]:
    """The answers, or exceptions, of calls that the service finds in its queue together, in this order."""
    student_id, (course_id,) = (await service.client.students(1))[0], await service.client.courses(1)
    async with standing_still(service) as arrived:
        first = asyncio.create_task(service.client.enroll(student_id, course_id))
        await arrived.wait()
        tasks = []
        for index, call in enumerate(calls, start=1):
            tasks.append(asyncio.create_task(call))
            await until(lambda index=index: waiting_in(service) == index)  # type: ignore[misc]
    await first
    return await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def standing_still(service: Service) -> AsyncIterator[asyncio.Event]:
    """The usual lane of a service begins no batch inside the block; yields what says that one is about to begin."""
    lane: Any = service.app._writer._usual
    run, arrived, go_on = lane._run, asyncio.Event(), asyncio.Event()

    async def wait_and_run(commands: Sequence[Any]) -> Any:
        arrived.set()
        await go_on.wait()
        return await run(commands)

    lane._run = wait_and_run
    yield arrived
    lane._run = run
    go_on.set()
