"""The import stream: chunks are transactions, answers are durable, rejected rows are named."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator

import pytest

from enrollment_service.v1 import enrollment_pb2 as pb
from tests.support.client import Client
from tests.support.databases import Connection
from tests.support.refusals import refused

UNKNOWN = 2**40


def chunk(
    number: int, *pairs: tuple[int, int], request_id: str = "", waitlist: bool = False
) -> pb.ImportEnrollmentsRequest:
    """A chunk of pairs of student and course ids."""
    return pb.ImportEnrollmentsRequest(
        chunk_id=number,
        student_ids=[student for student, _ in pairs],
        course_ids=[course for _, course in pairs],
        on_full=pb.ON_FULL_WAITLIST if waitlist else pb.ON_FULL_REJECT,
        request_id=request_id,
    )


async def imported(client: Client, *chunks: pb.ImportEnrollmentsRequest) -> list[pb.ImportEnrollmentsResponse]:
    """All answers of one stream."""
    return [answer async for answer in client.stub.ImportEnrollments(iter(chunks), timeout=20)]


async def test_rows_are_enrolled_and_the_others_named_with_their_reason(client: Client) -> None:
    first, second, third = await client.students(3)
    small = (await client.create_course(capacity=1, waitlist_capacity=0)).course_id
    large = (await client.create_course()).course_id
    await client.enroll(first, large)

    (answer,) = await imported(
        client,
        chunk(
            7,
            (first, large),
            (second, small),
            (third, small),
            (UNKNOWN, large),
            (third, UNKNOWN),
            (third, large),
            (third, large),
        ),
    )

    assert answer.chunk_id == 7
    assert (answer.enrolled, answer.waitlisted, answer.already_enrolled, answer.rejected) == (2, 0, 2, 3)
    assert [(row.index, row.reason) for row in answer.rejected_rows] == [
        (2, pb.ERROR_REASON_COURSE_FULL),
        (3, pb.ERROR_REASON_STUDENT_NOT_FOUND),
        (4, pb.ERROR_REASON_COURSE_NOT_FOUND),
    ]
    assert await client.courses_of(third) == [large]


async def test_a_full_course_takes_waiters_in_row_order(client: Client) -> None:
    students = await client.students(4)
    course = (await client.create_course(capacity=1, waitlist_capacity=2)).course_id

    (answer,) = await imported(client, chunk(1, *[(student, course) for student in students], waitlist=True))

    assert (answer.enrolled, answer.waitlisted, answer.rejected) == (1, 2, 1)
    assert answer.rejected_rows[0].reason == pb.ERROR_REASON_WAITLIST_FULL
    assert await client.roster(course) == students[:3]


async def test_answers_come_in_order_and_every_chunk_is_in_the_log(client: Client, connection: Connection) -> None:
    students = await client.students(30)
    course = (await client.create_course()).course_id
    chunks = [chunk(number, *[(one, course) for one in students[number * 3 : number * 3 + 3]]) for number in range(10)]

    answers = await imported(client, *chunks)

    assert [answer.chunk_id for answer in answers] == list(range(10))
    rows = await connection.fetch("SELECT sequence, student_id, reason FROM enrollment_events ORDER BY sequence")
    assert [(row["sequence"], row["student_id"]) for row in rows] == list(enumerate(students, 1))
    assert {row["reason"] for row in rows} == {"import"}


async def test_a_chunk_as_large_as_allowed_is_one_transaction(client: Client, connection: Connection) -> None:
    await connection.execute(
        "INSERT INTO students (full_name, email) SELECT 'S', 's' || i FROM generate_series(1, 10000) i"
    )
    course = (await client.create_course(capacity=9_000)).course_id
    ids = [row["id"] for row in await connection.fetch("SELECT id FROM students ORDER BY id")]

    (answer,) = await imported(client, chunk(1, *[(one, course) for one in ids]))

    assert (answer.enrolled, answer.rejected) == (9_000, 1_000)
    transactions = "SELECT count(DISTINCT xid), count(*), max(sequence) FROM enrollment_events"
    assert tuple(await connection.fetchrow(transactions) or ()) == (1, 9_000, 9_000)


async def test_a_chunk_sent_again_is_answered_from_record(client: Client, connection: Connection) -> None:
    (student,) = await client.students(1)
    course = (await client.create_course()).course_id
    sent = chunk(1, (student, course), (UNKNOWN, course), request_id=str(uuid.uuid4()))

    first = await imported(client, sent)
    await client.unenroll(student, course)
    again = await imported(client, sent)

    assert first == again
    assert await client.roster(course) == []
    assert await connection.fetchval("SELECT count(*) FROM enrollment_events") == 2


async def test_the_first_malformed_chunk_ends_the_stream_after_those_before_it_are_answered(client: Client) -> None:
    (student,) = await client.students(1)
    course = (await client.create_course()).course_id
    lame = pb.ImportEnrollmentsRequest(chunk_id=2, student_ids=[student, student], course_ids=[course])
    call = client.stub.ImportEnrollments(iter([chunk(1, (student, course)), lame]), timeout=20)

    assert (await call.read()).chunk_id == 1
    with refused("INVALID_ARGUMENT", "INVALID_FIELD", fields=["course_ids"]):
        await call.read()

    assert await client.roster(course) == [student]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({}, ["student_ids"]),
        ({"student_ids": [1] * 10_001, "course_ids": [1] * 10_001}, ["student_ids"]),
        ({"student_ids": [0], "course_ids": [1]}, ["student_ids"]),
        ({"student_ids": [1], "course_ids": [-1]}, ["course_ids"]),
        ({"student_ids": [1], "course_ids": [1], "request_id": "7"}, ["request_id"]),
        ({"student_ids": [1], "course_ids": [1], "on_full": 999}, ["on_full"]),
    ],
)
async def test_a_malformed_chunk_is_refused(client: Client, fields: dict[str, object], named: list[str]) -> None:
    with refused("INVALID_ARGUMENT", "INVALID_FIELD", fields=named):
        await imported(client, pb.ImportEnrollmentsRequest(**fields))  # type: ignore[arg-type]


async def test_a_client_that_sends_faster_than_the_database_takes_is_held_back(client: Client) -> None:
    """Flow control lets a few megabytes wait in the transport; without it, thousands of chunks would be sent here."""
    (student,) = await client.students(1)
    course = (await client.create_course()).course_id
    sent = 0

    async def endless() -> AsyncIterator[pb.ImportEnrollmentsRequest]:
        nonlocal sent
        while True:
            sent += 1
            yield chunk(sent, *[(student, course)] * 10_000)

    call = client.stub.ImportEnrollments(endless(), timeout=30)
    ahead = []
    for answered in range(1, 61):
        assert (await call.read()).chunk_id == answered
        ahead.append(sent - answered)
    call.cancel()

    assert max(ahead) < 400
