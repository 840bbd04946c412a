"""Enrollments by the numbers of another system: imported and reconciled without knowing a single id of ours."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest

from enrollment_service.engine import loading
from enrollment_service.store import locks
from enrollment_service.v1 import enrollment_pb2 as pb
from tests.api.test_import_rows import course, student
from tests.api.test_import_rows import imported as rows_imported
from tests.conftest import StartService
from tests.support.client import PATIENCE, Client
from tests.support.databases import connected
from tests.support.locks import until_waiting
from tests.support.refusals import refused
from tests.support.verification import wrong_in


class School:
    """Students S-0, S-1, ... and courses C-0, C-1, ..., with their ids."""

    def __init__(self, client: Client, students: list[int], courses: list[int]) -> None:
        self.client = client
        self.students = students
        self.courses = courses


async def founded(client: Client, students: int = 4, courses: int = 2, **fields: Any) -> School:
    new_students = pb.ImportStudentsRequest(students=[student(f"S-{number}") for number in range(students)])
    new_courses = pb.ImportCoursesRequest(courses=[course(f"C-{number}", **fields) for number in range(courses)])
    (made,), (opened,) = await rows_imported(client, new_students), await rows_imported(client, new_courses)
    return School(client, list(made.student_ids), list(opened.course_ids))


def chunk(*pairs: tuple[str, str], **fields: Any) -> pb.ImportEnrollmentsRequest:
    return pb.ImportEnrollmentsRequest(
        student_external_ids=[one for one, _ in pairs], course_external_ids=[one for _, one in pairs], **fields
    )


async def imported(client: Client, *chunks: pb.ImportEnrollmentsRequest) -> list[pb.ImportEnrollmentsResponse]:
    return [answer async for answer in client.stub.ImportEnrollments(iter(chunks), timeout=PATIENCE)]


async def reconcile(client: Client, **fields: Any) -> Any:
    return await client.call("ReconcileRoster", **fields)


async def test_pairs_by_external_ids(client: Client, database_url: str) -> None:
    school = await founded(client, capacity=1)
    (answer,) = await imported(
        client, chunk(("S-1", "C-0"), ("S-9", "C-0"), ("S-1", "C-9"), ("S-2", "C-0"), ("S-1", "C-0"), ("S-9", "C-9"))
    )
    assert [answer.enrolled, answer.already_enrolled, answer.rejected] == [1, 1, 4]
    assert [(row.index, row.reason) for row in answer.rejected_rows] == [
        (1, pb.ERROR_REASON_STUDENT_NOT_FOUND),
        (2, pb.ERROR_REASON_COURSE_NOT_FOUND),
        (3, pb.ERROR_REASON_COURSE_FULL),
        (5, pb.ERROR_REASON_STUDENT_NOT_FOUND),
    ]
    assert await client.roster(school.courses[0]) == [school.students[1]]
    assert await wrong_in(database_url) == []


async def test_a_chunk_is_known_by_what_was_sent_not_by_whom_it_meant(client: Client) -> None:
    school = await founded(client)
    sent = chunk(("S-0", "C-0"), request_id=str(uuid.uuid4()))
    first = await imported(client, sent)
    for number, name in ((0, "S-8"), (1, "S-0")):
        changed = pb.Student(student_id=school.students[number], external_id=name)
        await client.call("UpdateStudent", student=changed, update_mask={"paths": ["external_id"]})
    assert await imported(client, sent) == first
    assert await client.roster(school.courses[0]) == [school.students[0]]
    with refused("INVALID_ARGUMENT", "REQUEST_ID_REUSED"):
        await imported(client, chunk(("S-8", "C-0"), request_id=sent.request_id))
    (answer,) = await imported(client, chunk(("S-0", "C-0")))
    assert answer.enrolled == 1
    assert await client.roster(school.courses[0]) == school.students[:2]


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"student_external_ids": ["S"], "course_external_ids": ["C"], "student_ids": [1]}, ["student_ids"]),
        ({"student_external_ids": ["S"], "course_ids": [1]}, ["course_external_ids", "course_ids"]),
        ({"student_external_ids": ["S", "T"], "course_external_ids": ["C"]}, ["course_external_ids"]),
        (
            {"student_external_ids": [""], "course_external_ids": ["a\nb"]},
            ["student_external_ids", "course_external_ids"],
        ),
        ({"student_external_ids": ["S"] * 10_001, "course_external_ids": ["C"] * 10_001}, ["student_external_ids"]),
    ],
)
async def test_one_kind_of_ids_in_a_chunk(client: Client, fields: Any, wrong: list[str]) -> None:
    with refused("INVALID_ARGUMENT", "INVALID_FIELD", fields=wrong):
        await imported(client, pb.ImportEnrollmentsRequest(**fields))


async def test_a_roster_by_external_ids(client: Client, database_url: str) -> None:
    school = await founded(client)
    await imported(client, chunk(("S-0", "C-0"), ("S-1", "C-0")))
    wanted = {"course_external_id": "C-0", "student_external_ids": ["S-3", "S-1"], "max_removals": 1}
    added, removed = [school.students[3]], [school.students[0]]
    for validate_only in (True, False):
        answer = await reconcile(client, **wanted, validate_only=validate_only)
        assert (list(answer.added), list(answer.removed), answer.unchanged_count) == (added, removed, 1)
    assert await client.roster(school.courses[0]) == [school.students[1], school.students[3]]
    await reconcile(client, course_external_id="C-0", max_removals=2)
    assert await client.roster(school.courses[0]) == []
    assert await wrong_in(database_url) == []


async def test_who_is_unknown_is_named_by_the_place_in_the_request(client: Client) -> None:
    await founded(client)
    with refused("NOT_FOUND", "STUDENT_NOT_FOUND", resources=["students", "students", "courses"]) as refusal:
        await reconcile(client, course_external_id="C-4711", student_external_ids=["S-0", "S-4711", "S-1", "S-4712"])
    assert refusal.metadata == {"field": "student_external_ids[1]", "violation_count": "3"}
    told = str(refusal.status)
    assert "student_external_ids[3]" in told
    assert "course_external_id" in told
    assert "471" not in told


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"course_external_id": "C", "course_id": 1}, ["course_id"]),
        ({"course_external_id": "C", "student_ids": [1]}, ["student_ids"]),
        ({"course_id": 1, "student_external_ids": ["S"]}, ["course_external_id", "course_id"]),
        ({"course_external_id": "C", "student_external_ids": ["S", "S"]}, ["student_external_ids"]),
        ({"course_external_id": "C", "student_external_ids": ["S", ""]}, ["student_external_ids[1]"]),
        ({"course_external_id": "x" * 256}, ["course_external_id"]),
    ],
)
async def test_one_kind_of_ids_in_a_roster(client: Client, fields: Any, wrong: list[str]) -> None:
    with refused("INVALID_ARGUMENT", "INVALID_FIELD", fields=wrong):
        await reconcile(client, **fields)


@pytest.fixture
async def patient_client(start_service: StartService, monkeypatch: pytest.MonkeyPatch) -> Client:
    """Of a service whose bulk commands wait for a row for as long as it takes."""
    monkeypatch.setattr(locks, "MAX_WAIT_BRIEFLY_MS", 20_000)
    return (await start_service()).client


async def who_was_meant(client: Client, url: str) -> list[int]:
    """Whom an import enrolls as S-0, by number, if the external id is given to S-1 while it waits for the course."""
    school = await founded(client, students=2)
    async with connected(url) as other, connected(url) as observer:
        async with other.transaction():
            await other.execute("SELECT 1 FROM course_seats WHERE course_id = $1 FOR UPDATE", school.courses[0])
            importing = asyncio.create_task(imported(client, chunk(("S-0", "C-0"))))
            await until_waiting(observer)
            for number, name in ((0, "S-8"), (1, "S-0")):
                update = "UPDATE students SET external_id = $2 WHERE id = $1"
                await other.execute(update, school.students[number], name)
        assert (await importing)[0].enrolled == 1
    return [school.students.index(one) for one in await client.roster(school.courses[0])]


async def test_whom_a_number_means_is_checked_under_the_lock(patient_client: Client, database_url: str) -> None:
    assert await who_was_meant(patient_client, database_url) == [1]


async def test_without_the_check_the_wrong_one_is_enrolled(
    patient_client: Client, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control."""

    async def unchecked(*_: Any) -> None:
        pass

    monkeypatch.setattr(loading, "check", unchecked)
    assert await who_was_meant(patient_client, database_url) == [0]
