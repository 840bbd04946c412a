"""A batch locks and reads in one statement; what was committed while it waited for the lock must not escape it."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from enrollment_service.store import seats
from tests.support.client import Client
from tests.support.databases import connected
from tests.support.locks import until_waiting
from tests.support.refusals import refusal_of

SEAT_TAKEN = "UPDATE course_seats SET enrolled_count = 1, last_sequence = 1 WHERE course_id = $1"
ROW = "INSERT INTO student_courses (student_id, course_id, sequence, enroll_time) VALUES ($1, $2, 1, now())"


async def enrolled_while_waiting(client: Client, database_url: str) -> str:
    """Why a student is refused whom another transaction enrolls while the service waits for its lock."""
    (student,) = await client.students(1)
    course = (await client.create_course(capacity=5)).course_id
    async with connected(database_url) as other, connected(database_url) as observer:
        async with other.transaction():
            await other.execute(SEAT_TAKEN, course)
            await other.execute(ROW, student, course)
            waiting = asyncio.create_task(client.enroll(student, course))
            await until_waiting(observer)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await waiting
    return refusal_of(caught.value).reason


async def test_what_another_transaction_did_meanwhile_is_read(client: Client, database_url: str) -> None:
    assert await enrolled_while_waiting(client, database_url) == "ALREADY_ENROLLED"


async def test_the_first_reading_alone_would_not_do(
    client: Client, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: read again as it was before the wait."""

    class Stale:
        async def fetch_one(self, *_: Any, **__: Any) -> tuple[None, ...]:
            return (None,) * 7

    monkeypatch.setattr(seats, "_load_pairs", Stale())
    assert await enrolled_while_waiting(client, database_url) != "ALREADY_ENROLLED"
