"""The import stream and the `import` command: chunks are transactions, answers are durable, rejected rows are named."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from enrollment_service.v1 import enrollment_pb2 as pb
from tests.support.client import Client
from tests.support.databases import Connection
from tests.support.processes import PROJECT, Processes, environment
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


def run_import(address: str, file: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """The command as a user runs it."""
    return subprocess.run(
        [sys.executable, "-m", "enrollment_service", "import", str(file), *options],
        cwd=PROJECT,
        env=environment(LISTEN=address),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


async def test_the_command_imports_a_file_and_names_rejected_lines(processes: Processes, tmp_path: Path) -> None:
    process, client = await processes.start()
    students = await client.students(3)
    course = (await client.create_course(capacity=2)).course_id
    file, rejected = tmp_path / "rows.csv", tmp_path / "rejected.csv"
    lines = [
        "note,student_id,course_id",
        *(f"x,{one},{course}" for one in students),
        f"x,nobody,{course}",
        f"x,{UNKNOWN},{course}",
    ]
    file.write_text("\n".join(lines))

    done = await asyncio.to_thread(run_import, process.address, file, "--chunk-size", "2", "--rejected", str(rejected))

    assert done.returncode == 1, done.stderr
    assert "enrolled: 2\n" in done.stdout
    assert "rejected: 3\n" in done.stdout
    assert rejected.read_text().splitlines() == [
        "line,student_id,course_id,reason",
        f"4,{students[2]},{course},COURSE_FULL",
        f"5,nobody,{course},INVALID_FIELD",
        f"6,{UNKNOWN},{course},STUDENT_NOT_FOUND",
    ]
    assert await client.roster(course) == students[:2]
    again = await asyncio.to_thread(run_import, process.address, file, "--waitlist")
    assert "already enrolled: 2\n" in again.stdout


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"a,b\n1,2\n", "student_id and course_id"), (b"", "student_id and course_id"), (b"\xff\xfe\n1,2\n", "UTF-8")],
)
def test_the_command_says_what_is_wrong_with_a_file(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "rows.csv"
    file.write_bytes(content)
    done = run_import("127.0.0.1:1", file)
    assert done.returncode == 2
    assert said in done.stderr


async def test_rows_before_an_unreadable_place_are_imported(processes: Processes, tmp_path: Path) -> None:
    process, client = await processes.start()
    students = await client.students(1_000)
    course = (await client.create_course()).course_id
    file = tmp_path / "rows.csv"
    lines = "".join(f"{student},{course}\n" for student in students) * 10  # far more than is read ahead
    file.write_bytes(f"student_id,course_id\n{lines}".encode() + b"\xff\xff\n")

    done = await asyncio.to_thread(run_import, process.address, file, "--chunk-size", "100")

    assert done.returncode == 2
    assert "UTF-8" in done.stderr
    assert await client.roster(course) == students


async def test_the_command_goes_on_when_the_server_comes_back(processes: Processes, tmp_path: Path) -> None:
    """The server is killed in the middle; its successor gets the open chunks again, with their request ids."""
    process, client = await processes.start()
    students = await client.students(40)
    courses = await client.courses(20)
    file = tmp_path / "rows.csv"
    pairs = [(student, course) for student in students for course in courses]
    file.write_text("student_id,course_id\n" + "".join(f"{student},{course}\n" for student, course in pairs))

    running = asyncio.create_task(asyncio.to_thread(run_import, process.address, file, "--chunk-size", "5"))
    async with asyncio.timeout(20):
        while not await client.roster(courses[0]):
            pass
    process.process.kill()
    await process.ended()
    await processes.spawn(LISTEN=process.address).wait_serving(client)
    done = await running

    assert done.returncode == 0, done.stderr + done.stdout
    assert f"enrolled: {len(pairs)}\n" in done.stdout
    assert "already enrolled: 0\n" in done.stdout
    assert [await client.roster(course) for course in courses] == [students] * len(courses)
