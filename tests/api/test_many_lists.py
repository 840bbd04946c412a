"""Many large lists at once: they wait for each other and for nobody else, and nobody else waits for them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from itertools import cycle, islice
from typing import Any

import grpc
import pytest

from enrollment_service.store.database import MAX_HELD
from enrollment_service.v1 import enrollment_pb2 as pb
from tests.conftest import StartService
from tests.support.client import Client
from tests.support.databases import Connection
from tests.support.locks import until
from tests.support.processes import Processes
from tests.support.refusals import refusal_of, refused

CALLS = 400
LISTS, WAITING = 3, 20
POOL_SIZE = MAX_HELD + LISTS
SETTINGS = {"POOL_SIZE": str(POOL_SIZE), "MAX_WAITING_LISTS": str(WAITING)}

OTHERS = ("CreateStudent", "CreateCourse", "EnrollStudent", "ListStudentCourses")
# In the server. On two busy cores they took up to 52; where they had to wait for a connection, 5,000 and more.
MAX_MS = 1_000

# Three lists whose first page has a thousand rows each.
FILL = """
    INSERT INTO students (full_name, email)
        SELECT repeat('S', 200), 's' || n || '@example.org' FROM generate_series(1, 1500) n;
    INSERT INTO courses (code, title, description)
        SELECT 'L-' || n, repeat('T', 200), repeat('D', 1500) FROM generate_series(1, 1500) n;
    INSERT INTO course_seats (course_id) SELECT id FROM courses;
    INSERT INTO student_courses (student_id, course_id, sequence, enroll_time)
        SELECT id, (SELECT max(id) FROM courses), row_number() OVER (), now() FROM students;
    UPDATE course_seats SET enrolled_count = 1500, last_sequence = 1500
        WHERE course_id = (SELECT max(id) FROM courses);
"""


def tally(answers: Iterable[Any]) -> Counter[str]:
    """How many calls were answered, and how many failed for which reason."""
    return Counter(
        refusal_of(answer).reason if isinstance(answer, grpc.aio.AioRpcError) else "OK" for answer in answers
    )


async def connections_of(connection: Connection) -> int:
    """How many connections others have to the test's database."""
    others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    return int(await connection.fetchval(f"{others} AND backend_type = 'client backend'"))


async def use_every_batcher(client: Client) -> None:
    """A change, a short read, a new student and a new course."""
    student, course = await client.create_student(), await client.create_course()
    await client.enroll(student.student_id, course.course_id)
    assert await client.courses_of(student.student_id) == [course.course_id]


async def test_lists_that_are_stuck_keep_nobody_else_from_a_connection(
    processes: Processes, connection: Connection
) -> None:
    """Not even on a server that has not opened any other connection yet."""
    _, client = await processes.start(**SETTINGS)
    async with connection.transaction():
        await connection.execute("LOCK TABLE courses")
        lists = [asyncio.create_task(client.call("ListCourses")) for _ in range(CALLS)]
        await until(lambda: sum(call.done() for call in lists) >= CALLS - LISTS - WAITING)
        student = await client.create_student()
        student.full_name = "Bo Lee"
        await client.call("UpdateStudent", student=student, update_mask={"paths": ["full_name"]})
        assert (await client.call("GetStudent", student_id=student.student_id)).student.full_name == "Bo Lee"
        assert sum(call.done() for call in lists) == CALLS - LISTS - WAITING
    answers = await asyncio.gather(*lists, return_exceptions=True)
    assert tally(answers) == {"OK": LISTS + WAITING, "OVERLOADED": CALLS - LISTS - WAITING}
    await use_every_batcher(client)
    assert await connections_of(connection) <= POOL_SIZE


@pytest.mark.long
async def test_large_lists_on_a_healthy_database(processes: Processes, connection: Connection) -> None:
    """Whoever asks for too many is told so; whoever changes something meanwhile does not notice."""
    await connection.execute(FILL)
    process, client = await processes.start(**SETTINGS)
    other = await processes.client(process)
    course_id = await connection.fetchval("SELECT max(id) FROM courses")
    requests = {
        "ListStudents": pb.ListStudentsRequest(page_size=1000),
        "ListCourses": pb.ListCoursesRequest(page_size=1000),
        "ListCourseStudents": pb.ListCourseStudentsRequest(course_id=course_id, page_size=1000),
    }
    await use_every_batcher(other)
    # As bytes: decoding all that would keep this process, not the server, from going on.
    calls = cycle((method, request.SerializeToString()) for method, request in requests.items())
    lists = [asyncio.create_task(client.raw(*call)) for call in islice(calls, CALLS)]
    while not all(call.done() for call in lists):
        await use_every_batcher(other)
    found = tally(await asyncio.gather(*lists, return_exceptions=True))
    assert found.keys() == {"OK", "OVERLOADED"}
    assert found["OK"] >= LISTS + WAITING
    await process.stop()
    others = [line for line in process.log if line.get("method") in OTHERS]
    assert {line["code"] for line in others} == {"OK"}
    assert max(line["duration_ms"] for line in others) < MAX_MS


async def test_a_refused_list_says_when_to_come_again(start_service: StartService, connection: Connection) -> None:
    service = await start_service(pool_size=MAX_HELD + 1, max_waiting_lists=0)
    async with connection.transaction():
        await connection.execute("LOCK TABLE students")
        first = asyncio.create_task(service.client.call("ListStudents"))
        await until(service.app._reader.lists._free.locked)
        with refused("RESOURCE_EXHAUSTED", "OVERLOADED", metadata={}) as refusal:
            await service.client.call("ListStudents")
        assert refusal.retry_delay == 1
        # Its caller goes, and its turn with it.
        first.cancel()
        await until(lambda: not service.app._reader.lists._free.locked())
    await service.client.call("ListStudents")
