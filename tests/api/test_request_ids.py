"""A request_id makes a call safe to repeat: one effect, the same answer, through whichever server it comes."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from enrollment_service.domain.commands import CreateStudent
from enrollment_service.domain.fingerprints import fingerprint
from enrollment_service.domain.records import NewStudent
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


async def create_student(client: Client, students: Sequence[int], courses: Sequence[int], request_id: str) -> Any:
    student = pb.Student(full_name="Zoë Lee", email=f"zoe{students[0]}-{courses[0]}@example.org")
    return await client.call("CreateStudent", student=student, request_id=request_id)


async def update_student(client: Client, students: Sequence[int], courses: Sequence[int], request_id: str) -> Any:
    student = pb.Student(student_id=students[0], full_name="Zoë Li", email=f"li{courses[0]}@example.org", etag="1")
    mask = FieldMask(paths=["full_name", "email"])
    return await client.call("UpdateStudent", student=student, update_mask=mask, request_id=request_id)


async def delete_student(client: Client, students: Sequence[int], courses: Sequence[int], request_id: str) -> Any:  # noqa: ARG001
    return await client.call("DeleteStudent", student_id=students[0], force=True, request_id=request_id)


async def create_course(client: Client, students: Sequence[int], courses: Sequence[int], request_id: str) -> Any:
    course = pb.Course(code=f"NEW-{students[0]}-{courses[0]}", title="Drawing", capacity=3)
    return await client.call("CreateCourse", course=course, request_id=request_id, reason="autumn")


async def update_course(client: Client, students: Sequence[int], courses: Sequence[int], request_id: str) -> Any:
    course = pb.Course(course_id=courses[0], code=f"OLD-{students[0]}-{courses[0]}", capacity=2, etag="1")
    mask = FieldMask(paths=["capacity", "code"])
    return await client.call("UpdateCourse", course=course, update_mask=mask, request_id=request_id)


async def delete_course(client: Client, students: Sequence[int], courses: Sequence[int], request_id: str) -> Any:  # noqa: ARG001
    request = pb.DeleteCourseRequest(course_id=courses[0], force=True, request_id=request_id, reason="cancelled")
    return await client.call("DeleteCourse", request)


OF_STUDENTS_AND_COURSES: list[Call] = [
    create_student, update_student, delete_student, create_course, update_course, delete_course,
]  # fmt: skip
CALLS: list[Call] = [
    enroll, unenroll, unenroll_nobody, swap, reconcile, import_chunk, *OF_STUDENTS_AND_COURSES,
]  # fmt: skip


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


async def test_a_repeated_create_or_update_shows_the_resource_as_it_is_today(client: Client) -> None:
    """A later change is seen, and a stale etag or a key that is taken by now is not looked at."""
    students, courses = await a_full_and_a_free_course(client)
    ids = {call: new_id() for call in (create_student, update_student, create_course, update_course)}
    made = {call: await call(client, students, courses, request_id) for call, request_id in ids.items()}
    for call in (create_student, update_student):
        later = pb.Student(student_id=made[call].student.student_id, full_name="Zoë Later")
        await client.call("UpdateStudent", student=later, update_mask=FieldMask(paths=["full_name"]))
        again = (await call(client, students, courses, ids[call])).student
        assert (again.full_name, again.etag) == ("Zoë Later", str(int(made[call].student.etag) + 1))
        assert again.email == made[call].student.email
    for call in (create_course, update_course):
        later_course = pb.Course(course_id=made[call].course.course_id, title="Painting")
        await client.call("UpdateCourse", course=later_course, update_mask=FieldMask(paths=["title"]))
        course = (await call(client, students, courses, ids[call])).course
        assert (course.title, course.etag) == ("Painting", str(int(made[call].course.etag) + 1))
        assert course.enrolled_count == made[call].course.enrolled_count


async def test_of_what_is_gone_a_repeated_call_shows_the_id(client: Client) -> None:
    """Before NOT_FOUND is looked at, and before the key that is free again."""
    students, courses = await a_full_and_a_free_course(client)
    ids = {call: new_id() for call in (create_student, update_student, create_course, update_course)}
    made = {call: await call(client, students, courses, request_id) for call, request_id in ids.items()}
    for call in (create_student, update_student):
        student_id = made[call].student.student_id
        await client.call("DeleteStudent", student_id=student_id, force=True)
        assert (await call(client, students, courses, ids[call])).student == pb.Student(student_id=student_id)
    for call in (create_course, update_course):
        course_id = made[call].course.course_id
        await client.call("DeleteCourse", course_id=course_id, force=True)
        assert (await call(client, students, courses, ids[call])).course == pb.Course(course_id=course_id)


async def test_events_of_courses_name_the_request_and_the_reason(client: Client, connection: Connection) -> None:
    students, courses = await a_full_and_a_free_course(client)
    ids = [new_id() for _ in range(3)]
    created = (await create_course(client, students, courses, ids[0])).course
    changed = pb.Course(course_id=created.course_id, capacity=5)
    mask = FieldMask(paths=["capacity"])
    await client.call("UpdateCourse", course=changed, update_mask=mask, request_id=ids[1], reason="larger_room")
    await delete_course(client, students, [created.course_id], ids[2])
    logged = await connection.fetch(
        "SELECT kind, request_id::text, reason, capacity, changed_fields FROM enrollment_events "
        "WHERE course_id = $1 ORDER BY sequence",
        created.course_id,
    )
    assert [tuple(row) for row in logged] == [
        (2, ids[0], "autumn", 3, None),
        (3, ids[1], "larger_room", 5, ["capacity"]),
        (4, ids[2], "cancelled", 5, None),
    ]


async def test_what_is_kept_cannot_be_guessed(client: Client, connection: Connection) -> None:
    """Neither the request nor its bare hash is stored, so nobody can try out names on it."""
    students, courses = await a_full_and_a_free_course(client)
    await create_student(client, students, courses, new_id())
    (row,) = await connection.fetch("SELECT fingerprint, outcome::text FROM requests")
    student = NewStudent("Zoë Lee", f"zoe{students[0]}-{courses[0]}@example.org")
    guess = fingerprint(CreateStudent(student=student))
    assert guess not in row["fingerprint"]
    assert guess[1:] not in row["fingerprint"]
    assert "example.org" not in row["outcome"]
    key = await connection.fetchval("SELECT key FROM fingerprint_key")
    assert row["fingerprint"] == hashlib.sha256(key + guess).digest()
    assert len(set(key)) > 16


async def test_without_the_key_nothing_is_done(client: Client, connection: Connection) -> None:
    """Rather an error than a call that cannot be told from another."""
    await connection.execute("DELETE FROM fingerprint_key")
    student = pb.Student(full_name="Ann", email="ann@example.org")
    with refused("INTERNAL", "INTERNAL"):
        await client.call("CreateStudent", student=student, request_id=new_id())
    assert await connection.fetchval("SELECT count(*) FROM students") == 0


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


@pytest.mark.parametrize("other", OF_STUDENTS_AND_COURSES)
@pytest.mark.parametrize("first", OF_STUDENTS_AND_COURSES)
async def test_a_request_id_belongs_to_one_method_and_payload(
    client: Client, connection: Connection, first: Call, other: Call
) -> None:
    students, courses = await a_full_and_a_free_course(client)
    request_id = new_id()
    await first(client, students, courses, request_id)
    happened = await everything(connection)
    with refused("INVALID_ARGUMENT", "REQUEST_ID_REUSED", metadata={"field": "request_id"}, fields=["request_id"]):
        await other(client, students[::-1], courses[::-1], request_id)
    assert await everything(connection) == happened


async def everything(connection: Connection) -> list[Any]:
    """All students, courses and events."""
    tables = ("students", "courses", "course_seats", "enrollment_events")
    return [await connection.fetch(f"SELECT * FROM {table} ORDER BY 1, 2") for table in tables]


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


async def test_the_id_of_a_create_that_was_refused_is_free(client: Client) -> None:
    student = pb.Student(full_name="Ann", email="ann@example.org")
    owner = (await client.call("CreateStudent", student=student)).student
    request_id = new_id()
    for _ in range(2):
        with refused("ALREADY_EXISTS", "EMAIL_TAKEN", metadata={"student_id": str(owner.student_id)}):
            await client.call("CreateStudent", student=student, request_id=request_id)
    await client.call("DeleteStudent", student_id=owner.student_id)
    again = (await client.call("CreateStudent", student=student, request_id=request_id)).student
    assert again.student_id != owner.student_id


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


@pytest.mark.parametrize("call", OF_STUDENTS_AND_COURSES)
async def test_the_same_change_many_times_at_once_through_two_servers_has_one_effect(
    start_service: StartService, connection: Connection, call: Call
) -> None:
    clients = [(await start_service()).client for _ in range(2)]
    students, courses = await a_full_and_a_free_course(clients[0])
    request_id = new_id()
    once = await everything(connection)
    answers = await asyncio.gather(*(call(clients[index % 2], students, courses, request_id) for index in range(40)))
    assert all(answer == answers[0] for answer in answers)
    assert await recorded(connection) == {request_id}
    counts = [len(rows) for rows in await everything(connection)]
    grown: dict[Call, list[int]] = {
        create_student: [1, 0, 0, 0],
        update_student: [0, 0, 0, 0],
        delete_student: [-1, 0, 0, 2],
        create_course: [0, 1, 1, 1],
        update_course: [0, 0, 0, 2],
        delete_course: [0, -1, -1, 3],
    }
    assert counts == [len(rows) + more for rows, more in zip(once, grown[call], strict=True)]


# --- forgetting ---------------------------------------------------------------------------------------------------


async def test_old_request_ids_are_forgotten_in_small_steps(
    client: Client, connection: Connection, app_url: str, monkeypatch: pytest.MonkeyPatch
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
    database = Database(settings_for(app_url))
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
