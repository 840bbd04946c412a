"""`validate_only`: nothing is changed or recorded, and what is answered is what a live call is answered next."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given

from enrollment_service.domain.commands import Enroll, GrantWaivers, Reconcile, RevokeWaivers, Swap
from enrollment_service.v1 import enrollment_pb2 as pb
from tests.support.client import Client
from tests.support.databases import Connection
from tests.support.histories import Batch, histories
from tests.support.refusals import refused
from tests.support.services import Clock
from tests.support.thoroughness import few
from tests.support.wire import Play, send

pytestmark = [pytest.mark.usefixtures("verified"), pytest.mark.timeout(120)]

TABLES = ("students", "courses", "course_seats", "waivers", "student_courses", "enrollment_events", "requests")


async def contents(connection: Connection) -> list[list[tuple[Any, ...]]]:
    """Everything in the database; with xmin, so that even rows written as they were would show."""
    return [
        [tuple(row) for row in await connection.fetch(f"SELECT xmin::text, t.* FROM {table} t ORDER BY t")]
        for table in TABLES
    ]


def without_times(answer: Any) -> Any:
    """An answer of `send` without times and etags, which a dry run cannot foresee."""
    if isinstance(answer, list) and answer and isinstance(answer[0][0], int):
        return [waiver[:4] for waiver in answer]
    if isinstance(answer, tuple) and isinstance(answer[0], list) and answer[0] and isinstance(answer[0][0], tuple):
        rows, *others = answer
        return [row[:4] for row in rows], *others
    return answer


@pytest.mark.random
@few(8)
@given(history=histories(8))
async def test_a_dry_run_predicts_the_live_answer(
    timed_client: Client, clock: Clock, connection: Connection, history: Sequence[Batch]
) -> None:
    await connection.execute(f"TRUNCATE {', '.join(TABLES)}")
    play = Play(timed_client, clock)
    for batch in history:
        for command in await play.begin(batch):
            if isinstance(command, Enroll | Swap | Reconcile | GrantWaivers | RevokeWaivers):
                live = replace(command, validate_only=False)
                before = await contents(connection)
                predicted = await send(timed_client, replace(command, validate_only=True, request_id=uuid.uuid4()))
                assert await contents(connection) == before
                assert without_times(await send(timed_client, live)) == without_times(predicted), command
                play.model.answer(live)
            else:
                await send(timed_client, command)
                play.model.answer(command)


async def test_a_dry_run_shows_what_would_be(client: Client, connection: Connection) -> None:
    (seat, queue) = await client.create_course(capacity=1), await client.create_course(capacity=0, waitlist_capacity=1)
    (student_id,) = await client.students(1)
    before = await contents(connection)
    answers = await client.enroll(
        student_id, seat.course_id, queue.course_id, on_full=pb.ON_FULL_WAITLIST, validate_only=True
    )
    assert [(one.state, one.waitlist_position) for one in answers] == [
        (pb.ENROLLMENT_STATE_ENROLLED, 0),
        (pb.ENROLLMENT_STATE_WAITLISTED, 1),
    ]
    assert [(one.course.enrolled_count, one.course.waitlisted_count) for one in answers] == [(1, 0), (0, 1)]
    assert await contents(connection) == before


async def test_a_dry_run_under_a_used_request_id_is_decided_anew(client: Client) -> None:
    """It neither reads nor leaves a record, so that it tells what a call now would be told."""
    (student_id,), (course_id,) = await client.students(1), await client.courses(1)
    request_id = str(uuid.uuid4())
    await client.enroll(student_id, course_id, request_id=request_id)
    with refused("ALREADY_EXISTS", "ALREADY_ENROLLED"):
        await client.enroll(student_id, course_id, request_id=request_id, validate_only=True)


async def test_dry_runs_among_live_calls_take_no_seat(client: Client) -> None:
    """All in one batch or in several: who only asks never keeps anybody out."""
    (course_id,) = await client.courses(1, capacity=10)
    students = await client.students(40)
    calls = [client.enroll(one, course_id, validate_only=index % 4 != 0) for index, one in enumerate(students)]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert not any(isinstance(answer, Exception) for answer in answers[::4])
    assert await client.roster(course_id) == students[::4]
