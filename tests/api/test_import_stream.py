"""The import stream: chunks are transactions, answers are durable, rejected rows are named."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from enrollment_service.v1 import enrollment_pb2 as pb
from tests.conftest import StartService
from tests.support.client import PATIENCE, SERVICE, Client
from tests.support.databases import Connection
from tests.support.locks import held, until, until_waiting
from tests.support.proxy import proxied
from tests.support.refusals import refused
from tests.support.services import Service, ServiceLog, service_on

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
    rows = await connection.fetch("SELECT sequence, student_id, reason FROM enrollment_events WHERE kind = 1")
    assert sorted((row["sequence"], row["student_id"]) for row in rows) == list(enumerate(students, 2))
    assert {row["reason"] for row in rows} == {"import"}


async def test_a_chunk_as_large_as_allowed_is_one_transaction(client: Client, connection: Connection) -> None:
    await connection.execute(
        "INSERT INTO students (full_name, email) SELECT 'S', 's' || i FROM generate_series(1, 10000) i"
    )
    course = (await client.create_course(capacity=9_000)).course_id
    ids = [row["id"] for row in await connection.fetch("SELECT id FROM students ORDER BY id")]

    (answer,) = await imported(client, chunk(1, *[(one, course) for one in ids]))

    assert (answer.enrolled, answer.rejected) == (9_000, 1_000)
    transactions = "SELECT count(DISTINCT xid), count(*), max(sequence) FROM enrollment_events WHERE kind = 1"
    assert tuple(await connection.fetchrow(transactions) or ()) == (1, 9_000, 9_001)


async def test_a_chunk_sent_again_is_answered_from_record(client: Client, connection: Connection) -> None:
    (student,) = await client.students(1)
    course = (await client.create_course()).course_id
    sent = chunk(1, (student, course), (UNKNOWN, course), request_id=str(uuid.uuid4()))

    first = await imported(client, sent)
    await client.unenroll(student, course)
    again = await imported(client, sent)

    assert first == again
    assert await client.roster(course) == []
    assert await connection.fetchval("SELECT count(*) FROM enrollment_events WHERE kind = 1") == 2


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


# --- who talks when ---------------------------------------------------------------------------------------------


async def test_a_client_may_wait_for_each_answer_before_it_sends_the_next_chunk(client: Client) -> None:
    students = await client.students(4)
    course = (await client.create_course()).course_id
    call: Any = client.stub.ImportEnrollments(timeout=PATIENCE)
    for number, student in enumerate(students):
        await call.write(chunk(number, (student, course)))
        assert (await call.read()).chunk_id == number
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert await client.roster(course) == students


async def test_a_ready_answer_does_not_wait_for_a_slower_chunk_behind_it(client: Client, database_url: str) -> None:
    students = await client.students(2)
    quick, slow = await client.courses(2)
    call: Any = client.stub.ImportEnrollments(timeout=PATIENCE)
    async with held(database_url, slow):
        await call.write(chunk(1, (students[0], quick)))
        await call.write(chunk(2, (students[1], slow)))
        assert (await call.read()).chunk_id == 1
    assert (await call.read()).chunk_id == 2
    call.cancel()


async def test_undecodable_bytes_end_the_stream_after_those_before_them_are_answered(client: Client) -> None:
    students = await client.students(3)
    course = (await client.create_course()).course_id
    sent = [chunk(number, (student, course)).SerializeToString() for number, student in enumerate(students)]
    call: Any = client.channel.stream_stream(f"/{SERVICE}/ImportEnrollments", None, None)
    stream = call(iter([*sent, b"\xff\xff", sent[0]]), timeout=PATIENCE)
    for number in range(3):
        assert pb.ImportEnrollmentsResponse.FromString(await stream.read()).chunk_id == number
    with refused("INVALID_ARGUMENT", "MALFORMED_REQUEST"):
        await stream.read()
    assert await client.roster(course) == students


async def test_a_stream_on_which_nothing_arrives_ends(start_service: StartService) -> None:
    client = (await start_service(stream_idle_timeout=0.3)).client
    (student,), (course,) = await client.students(1), await client.courses(1)
    call: Any = client.stub.ImportEnrollments(timeout=PATIENCE)
    await call.write(chunk(1, (student, course)))
    assert (await call.read()).chunk_id == 1
    with refused("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED", metadata={}) as refusal:
        await call.read()
    assert refusal.message == "Nothing arrived on the stream for 0.3 seconds."


async def test_a_stream_is_not_idle_while_a_chunk_is_under_way(start_service: StartService, database_url: str) -> None:
    client = (await start_service(stream_idle_timeout=1)).client
    (student,), (course,) = await client.students(1), await client.courses(1)
    call: Any = client.stub.ImportEnrollments(timeout=PATIENCE)
    async with held(database_url, course) as observer:
        await call.write(chunk(1, (student, course)))
        await until_waiting(observer)
        # Longer than it may be idle; that it does not end cannot be waited for.
        await asyncio.sleep(1.5)
    assert (await call.read()).chunk_id == 1
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF


async def test_a_client_that_only_sends_is_held_back(service: Service, service_log: ServiceLog) -> None:
    """Its chunks are small and their answers large, so it is the answers that nobody takes."""
    (course,) = await service.client.courses(1)
    sent = 0

    async def endless() -> AsyncIterator[pb.ImportEnrollmentsRequest]:
        nonlocal sent
        while True:
            sent += 1
            yield chunk(sent, *[(UNKNOWN + sent, course)] * 2_000)

    call = service.client.stub.ImportEnrollments(endless(), timeout=60)
    seen = -1

    async def stalled() -> None:
        nonlocal seen
        while seen != sent:
            seen = sent
            await asyncio.sleep(1)

    async with asyncio.timeout(40):
        await stalled()
    answered = sum(line["event"] == "chunk imported" for line in service_log.lines)
    call.cancel()
    assert 0 < answered < 1_000
    await until(lambda: bool(service_log.calls("ImportEnrollments")))


@pytest.mark.parametrize("method", ["ImportEnrollments", "EnrollStudent"])
async def test_a_client_that_goes_away_does_not_cancel_the_commit(
    app_url: str, service_log: ServiceLog, method: str
) -> None:
    async with proxied(app_url) as (proxy, url), service_on(url) as service:
        client = service.client
        (student,), (course,) = await client.students(1), await client.courses(1)
        proxy.held_before = b"COMMIT"
        if method == "ImportEnrollments":
            call: Any = client.stub.ImportEnrollments(timeout=PATIENCE)
            await call.write(chunk(1, (student, course)))
        else:
            request = pb.EnrollStudentRequest(student_id=student, course_ids=[course])
            call = client.stub.EnrollStudent(request, timeout=PATIENCE)
        await proxy.holding.wait()
        call.cancel()
        await until(lambda: [line["code"] for line in service_log.calls(method)] == ["CANCELLED"])
        proxy.released.set()
        while await client.roster(course) != [student]:  # noqa: ASYNC110 - nobody announces it
            await asyncio.sleep(0.01)
