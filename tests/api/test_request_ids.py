"""A request_id makes a call safe to repeat: one effect, the same answer, through whichever server it comes."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from enrollment_service.engine import housekeeping
from enrollment_service.engine.housekeeping import purge_expired
from enrollment_service.store import requests
from enrollment_service.store.database import Database
from enrollment_service.store.requests import purge
from enrollment_service.v1 import enrollment_pb2 as pb
from tests.conftest import StartService
from tests.support.client import Client
from tests.support.databases import Connection
from tests.support.refusals import refusal_of, refused
from tests.support.services import settings_for
from tests.support.wire import row_of

pytestmark = pytest.mark.usefixtures("verified")

WAIT = {"on_full": pb.ON_FULL_WAITLIST}


def new_id() -> str:
    return str(uuid.uuid4())


async def events(connection: Connection) -> int:
    """How many transitions there have been."""
    return int(await connection.fetchval("SELECT count(*) FROM enrollment_events WHERE kind = 1"))


async def recorded(connection: Connection) -> set[str]:
    """The request ids on record."""
    return {str(row["request_id"]) for row in await connection.fetch("SELECT request_id FROM requests")}


# --- the same answer ----------------------------------------------------------------------------------------------

Call = Callable[[Client, Sequence[int], Sequence[int], str], Awaitable[Any]]


async def enroll(client: Client, students: Sequence[int], courses: Sequence[int], request_id: str) -> Any:
    answers = await client.enroll(students[2], *courses, **WAIT, request_id=request_id)
    return [row_of(one) for one in answers]


async def unenroll(client: Client, students: Sequence[int], courses: Sequence[int], request_id: str) -> Any:
    return row_of(await client.unenroll(students[0], courses[0], request_id=request_id))


async def unenroll_nobody(client: Client, students: Sequence[int], courses: Sequence[int], request_id: str) -> Any:
    return row_of(await client.unenroll(students[2], courses[0], allow_missing=True, request_id=request_id))


async def swap(client: Client, students: Sequence[int], courses: Sequence[int], request_id: str) -> Any:
    answer = await client.call(
        "SwapEnrollment",
        student_id=students[0],
        from_course_id=courses[0],
        to_course_id=courses[1],
        request_id=request_id,
    )
    return row_of(answer.dropped), row_of(answer.enrolled)


async def reconcile(client: Client, students: Sequence[int], courses: Sequence[int], request_id: str) -> Any:
    return await client.call(
        "ReconcileRoster", course_id=courses[0], student_ids=[students[2]], max_removals=2, request_id=request_id
    )


async def import_chunk(client: Client, students: Sequence[int], courses: Sequence[int], request_id: str) -> Any:
    chunk = pb.ImportEnrollmentsRequest(
        chunk_id=7, student_ids=[*students, 987_654], course_ids=[courses[1]] * 4, request_id=request_id
    )
    return [answer async for answer in client.stub.ImportEnrollments(iter([chunk, chunk]), timeout=20)]


CALLS: list[Call] = [enroll, unenroll, unenroll_nobody, swap, reconcile, import_chunk]


async def a_full_and_a_free_course(client: Client) -> tuple[list[int], list[int]]:
    """Three students and two courses: the first sits in the first course, which is full, and the second waits."""
    students = await client.students(3)
    full = await client.create_course(capacity=1, waitlist_capacity=5)
    free = await client.create_course()
    for student_id in students[:2]:
        await client.enroll(student_id, full.course_id, **WAIT)
    return students, [full.course_id, free.course_id]


@pytest.mark.parametrize("call", CALLS)
async def test_a_repeated_call_has_one_effect_and_the_same_answer(
    start_service: StartService, connection: Connection, call: Call
) -> None:
    one, other = (await start_service()).client, (await start_service()).client
    students, courses = await a_full_and_a_free_course(one)
    request_id = new_id()
    first = await call(one, students, courses, request_id)
    happened = await events(connection)
    assert await call(one, students, courses, request_id) == first
    assert await call(other, students, courses, request_id.upper()) == first
    assert await events(connection) == happened
    assert await recorded(connection) == {request_id}


async def test_the_answer_stays_even_when_the_state_has_moved_on(client: Client) -> None:
    students, courses = await a_full_and_a_free_course(client)
    request_id = new_id()
    first = await enroll(client, students, courses, request_id)
    assert first[0][3] == 2  # the position then
    for student_id in students:
        await client.unenroll(student_id, courses[0])
    assert await enroll(client, students, courses, request_id) == first
    assert await client.roster(courses[0]) == []


async def test_a_replay_shows_the_courses_as_they_are_today(client: Client) -> None:
    students, courses = await a_full_and_a_free_course(client)
    request_id = new_id()
    then = await client.enroll(students[2], *courses, **WAIT, request_id=request_id)
    renamed = pb.Course(course_id=courses[0], title="Painting")
    await client.call("UpdateCourse", course=renamed, update_mask=FieldMask(paths=["title"]))
    await client.unenroll(students[0], courses[0])
    await client.call("DeleteCourse", course_id=courses[1], force=True)
    today = await client.enroll(students[2], *courses, **WAIT, request_id=request_id)
    assert [row_of(one) for one in today] == [row_of(one) for one in then]
    assert (then[0].course.title, then[0].course.waitlisted_count) == ("Drawing", 2)
    assert (today[0].course.title, today[0].course.waitlisted_count) == ("Painting", 1)
    assert then[1].HasField("course")
    assert not today[1].HasField("course")


async def test_events_name_the_request(client: Client, connection: Connection) -> None:
    """The promotion names the call that freed the seat."""
    students, courses = await a_full_and_a_free_course(client)
    request_id = new_id()
    await client.unenroll(students[0], courses[0], request_id=request_id, reason="moved_away")
    logged = await connection.fetch(
        "SELECT student_id, request_id::text, actor, reason FROM enrollment_events WHERE sequence > 3 ORDER BY sequence"
    )
    assert [tuple(row) for row in logged] == [
        (students[0], request_id, "", "moved_away"),
        (students[1], request_id, "", "waitlist_promotion"),
    ]


# --- another payload ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "change"),
    [
        ("EnrollStudent", {"student_id": 1}),
        ("EnrollStudent", {"course_ids": [2]}),
        ("EnrollStudent", {"course_ids": [2, 1]}),
        ("EnrollStudent", {"on_full": pb.ON_FULL_WAITLIST}),
        ("EnrollStudent", {"reason": "late"}),
        ("UnenrollStudent", {}),
        ("SwapEnrollment", {}),
        ("ReconcileRoster", {}),
    ],
)
async def test_a_request_id_belongs_to_one_payload(
    client: Client, connection: Connection, method: str, change: dict[str, Any]
) -> None:
    one, other = await client.students(2)
    courses = await client.courses(3)
    request_id = new_id()
    await client.enroll(other, *courses[:2], request_id=request_id)
    happened = await events(connection)
    if "course_ids" in change:
        change = {"course_ids": [courses[index - 1] for index in change["course_ids"]]}
    if "student_id" in change:
        change = {"student_id": one}
    fields: dict[str, dict[str, Any]] = {
        "EnrollStudent": {"student_id": other, "course_ids": courses[:2]} | change,
        "UnenrollStudent": {"student_id": other, "course_id": courses[0]},
        "SwapEnrollment": {"student_id": other, "from_course_id": courses[0], "to_course_id": courses[2]},
        "ReconcileRoster": {"course_id": courses[0], "student_ids": [one], "max_removals": 9},
    }
    with refused("INVALID_ARGUMENT", "REQUEST_ID_REUSED", metadata={"field": "request_id"}, fields=["request_id"]):
        await client.call(method, **fields[method], request_id=request_id)
    assert await events(connection) == happened
    assert await client.courses_of(other) == courses[:2]


async def test_two_payloads_at_once_under_one_request_id(start_service: StartService, connection: Connection) -> None:
    """One of them takes effect, through whichever server it comes; all others are refused."""
    clients = [(await start_service()).client for _ in range(2)]
    students = await clients[0].students(20)
    (course_id,) = await clients[0].courses(1)
    request_id = new_id()
    calls = [
        clients[index % 2].enroll(student_id, course_id, request_id=request_id)
        for index, student_id in enumerate(students)
    ]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    errors = [answer for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
    assert {refusal_of(error).reason for error in errors} == {"REQUEST_ID_REUSED"}
    assert len(errors) == 19
    assert await events(connection) == 1


# --- refusals -----------------------------------------------------------------------------------------------------


async def test_a_refused_call_is_decided_anew(client: Client, connection: Connection) -> None:
    students, courses = await a_full_and_a_free_course(client)
    request_id = new_id()
    for _ in range(2):
        with refused("FAILED_PRECONDITION", "COURSE_FULL"):
            await client.enroll(students[2], courses[0], request_id=request_id)
    assert await recorded(connection) == set()
    await client.unenroll(students[0], courses[0])
    await client.unenroll(students[1], courses[0])
    (enrolled,) = await client.enroll(students[2], courses[0], request_id=request_id)
    assert enrolled.state == pb.ENROLLMENT_STATE_ENROLLED
    assert await recorded(connection) == {request_id}


async def test_the_id_of_a_refused_call_is_free_for_another_payload(client: Client) -> None:
    students, courses = await a_full_and_a_free_course(client)
    request_id = new_id()
    with refused("FAILED_PRECONDITION", "COURSE_FULL"):
        await client.enroll(students[2], courses[0], request_id=request_id)
    await client.enroll(students[2], courses[1], request_id=request_id)


# --- at once ------------------------------------------------------------------------------------------------------


async def test_the_same_call_many_times_at_once_has_one_effect(
    start_service: StartService, connection: Connection
) -> None:
    clients = [(await start_service()).client for _ in range(2)]
    students, courses = await a_full_and_a_free_course(clients[0])
    happened, request_id = await events(connection), new_id()
    answers = await asyncio.gather(
        *(swap(clients[index % 2], students, courses, request_id) for index in range(40)),
    )
    assert all(answer == answers[0] for answer in answers)
    assert await events(connection) == happened + 3  # out, in, and a promotion


# --- forgetting ---------------------------------------------------------------------------------------------------


async def test_old_request_ids_are_forgotten_in_small_steps(
    client: Client, connection: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    students, (course_id,) = await client.students(6), await client.courses(1)
    ids = [new_id() for _ in students]
    for student_id, request_id in zip(students, ids, strict=True):
        await client.enroll(student_id, course_id, request_id=request_id)
    await connection.execute(
        "UPDATE requests SET create_time = now() - interval '73 h' WHERE request_id = ANY($1::uuid[])", ids[:5]
    )
    steps = []

    async def watched(*arguments: Any, **options: Any) -> int:
        steps.append(await purge(*arguments, **options))
        return steps[-1]

    monkeypatch.setattr(requests, "purge", watched)
    monkeypatch.setattr(housekeeping, "STEP", 2)
    database = Database(settings_for(database_url))
    try:
        assert await purge_expired(database, timedelta(hours=72)) == 5
    finally:
        await database.close()
    assert steps == [2, 2, 1]
    assert await recorded(connection) == {ids[5]}
    with refused("ALREADY_EXISTS", "ALREADY_ENROLLED"):
        await client.enroll(students[0], course_id, request_id=ids[0])
    (again,) = await client.enroll(students[5], course_id, request_id=ids[5])
    assert again.etag == "7"


async def test_an_id_that_is_purged_while_it_is_looked_up_is_claimed_anew(
    client: Client, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the call would take effect without a record, and its retry would take effect again."""
    (student,) = await client.students(1)
    course = (await client.create_course()).course_id
    request_id = str(uuid.uuid4())
    await client.enroll(student, course, request_id=request_id)
    await client.unenroll(student, course)
    read = requests._read_recorded

    class PurgedJustBefore:
        async def fetch(self, connection_in_use: Any, **arguments: Any) -> Any:
            await connection.execute("DELETE FROM requests")
            monkeypatch.setattr(requests, "_read_recorded", read)
            return await read.fetch(connection_in_use, **arguments)

    monkeypatch.setattr(requests, "_read_recorded", PurgedJustBefore())
    anew = await client.enroll(student, course, request_id=request_id)

    assert await connection.fetchval("SELECT count(*) FROM requests WHERE outcome IS NOT NULL") == 1
    assert [one.etag for one in await client.enroll(student, course, request_id=request_id)] == [anew[0].etag]
    assert await connection.fetchval("SELECT count(*) FROM enrollment_events WHERE kind = 1") == 3
