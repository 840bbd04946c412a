"""A batch locks and reads in one statement; what was committed while it waited for the lock must not escape it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from enrollment_service.store import locks, seats
from enrollment_service.v1 import enrollment_pb2 as pb
from tests.conftest import StartService
from tests.support.client import PATIENCE, Client
from tests.support.databases import connected
from tests.support.locks import until_waiting
from tests.support.refusals import refused

SEAT_TAKEN = "UPDATE course_seats SET enrolled_count = 1, last_sequence = 2 WHERE course_id = $1"
ROW = "INSERT INTO student_courses (student_id, course_id, sequence, enroll_time) VALUES ($1, $2, 2, now())"


async def rows_that_were_there(client: Client, database_url: str) -> int:
    """How many rows of an import are found there already, if another transaction enrolls the one while it waits.

    Bulk commands are the ones that wait for a lock in the statement that also reads.
    """
    (student,) = await client.students(1)
    course = (await client.create_course(capacity=5)).course_id
    chunk = pb.ImportEnrollmentsRequest(chunk_id=1, student_ids=[student], course_ids=[course])
    async with connected(database_url) as other, connected(database_url) as observer:
        async with other.transaction():
            await other.execute(SEAT_TAKEN, course)
            await other.execute(ROW, student, course)
            stream: Any = client.stub.ImportEnrollments([chunk], timeout=PATIENCE)
            waiting = asyncio.create_task(stream.read())
            await until_waiting(observer)
        return int((await waiting).already_enrolled)


@pytest.fixture
async def patient_client(start_service: StartService, monkeypatch: pytest.MonkeyPatch) -> Client:
    """Of a service whose bulk commands wait in that statement for as long as it takes."""
    monkeypatch.setattr(locks, "MAX_WAIT_BRIEFLY_MS", 20_000)
    return (await start_service()).client


async def test_what_another_transaction_did_meanwhile_is_read(patient_client: Client, database_url: str) -> None:
    assert await rows_that_were_there(patient_client, database_url) == 1


async def test_the_first_reading_alone_would_not_do(
    patient_client: Client, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: read again as it was before the wait."""

    class Stale:
        async def fetch_one(self, *_: Any, **__: Any) -> tuple[None, ...]:
            return (None,) * 7

    monkeypatch.setattr(seats, "_load_pairs", Stale())
    with refused("INTERNAL", "INTERNAL"):
        await rows_that_were_there(patient_client, database_url)
