"""Students over the wire: create, get, update by mask, delete, and the one address per person."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from enrollment_service.v1 import enrollment_pb2 as pb
from tests.support.client import Client
from tests.support.databases import Connection
from tests.support.refusals import refusal_of, refused


async def update(client: Client, student_id: int, *paths: str, etag: str = "", **values: str) -> pb.Student:
    student = pb.Student(student_id=student_id, etag=etag, **values)  # type: ignore[arg-type]
    answer = await client.call("UpdateStudent", student=student, update_mask={"paths": paths})
    updated: pb.Student = answer.student
    return updated


async def test_a_created_student_is_stored_and_read_back(client: Client) -> None:
    created = await client.create_student("Zoë Ō'Brien-Łuk 李", "Zoe@Example.org")
    assert created.student_id > 0
    assert (created.full_name, created.email) == ("Zoë Ō'Brien-Łuk 李", "Zoe@Example.org")
    assert created.etag
    assert created.create_time == created.update_time
    assert (await client.call("GetStudent", student_id=created.student_id)).student == created


async def test_output_only_fields_of_a_new_student_are_ignored(client: Client) -> None:
    wanted = pb.Student(student_id=4711, full_name="Ann", email="ann@example.org", etag="77")
    wanted.create_time.FromSeconds(1)
    created = (await client.call("CreateStudent", student=wanted)).student
    assert created.student_id != 4711
    assert created.etag != "77"
    assert created.create_time.seconds > 1


@pytest.mark.parametrize("again", ["ann@example.org", "ANN@Example.ORG"])
async def test_an_email_address_is_taken_whatever_its_case(client: Client, again: str) -> None:
    first = await client.create_student(email="Ann@example.org")
    metadata = {"student_id": str(first.student_id)}
    with refused("ALREADY_EXISTS", "EMAIL_TAKEN", metadata=metadata, resources=[f"students/{first.student_id}"]):
        await client.create_student(email=again)


async def test_of_concurrent_creates_with_one_address_one_wins_and_is_named_to_the_others(client: Client) -> None:
    addresses = ["bo@example.org", "BO@example.org", "Bo@Example.Org"] * 5
    answers = await asyncio.gather(
        *(client.create_student(email=address) for address in addresses), return_exceptions=True
    )
    (winner,) = [answer for answer in answers if isinstance(answer, pb.Student)]
    refusals = [refusal_of(answer) for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
    assert len(refusals) == len(addresses) - 1
    assert {(one.code, one.reason) for one in refusals} == {("ALREADY_EXISTS", "EMAIL_TAKEN")}
    assert {one.metadata["student_id"] for one in refusals} == {str(winner.student_id)}


@pytest.mark.parametrize(
    ("paths", "name", "email"),
    [
        (["full_name"], "New Name", "old@example.org"),
        (["email"], "Old Name", "new@example.org"),
        (["email", "full_name"], "New Name", "new@example.org"),
        (["full_name", "full_name"], "New Name", "old@example.org"),
    ],
)
async def test_an_update_changes_what_the_mask_names(client: Client, paths: list[str], name: str, email: str) -> None:
    old = await client.create_student("Old Name", "old@example.org")
    new = await update(client, old.student_id, *paths, full_name="New Name", email="new@example.org")
    assert (new.full_name, new.email) == (name, email)
    assert new.etag != old.etag
    assert new.create_time == old.create_time
    assert new.update_time.ToNanoseconds() > old.update_time.ToNanoseconds()
    assert (await client.call("GetStudent", student_id=old.student_id)).student == new


async def test_an_update_that_changes_nothing_keeps_the_etag(client: Client) -> None:
    student = await client.create_student("Ann", "ann@example.org")
    assert await update(client, student.student_id, "full_name", full_name="Ann") == student


async def test_the_same_address_in_another_case_is_ones_own(client: Client) -> None:
    student = await client.create_student(email="ann@example.org")
    assert (await update(client, student.student_id, "email", email="ANN@example.org")).email == "ANN@example.org"


async def test_an_update_to_an_address_that_is_taken_names_its_owner(client: Client) -> None:
    owner = await client.create_student(email="ann@example.org")
    other = await client.create_student()
    with refused("ALREADY_EXISTS", "EMAIL_TAKEN", metadata={"student_id": str(owner.student_id)}):
        await update(client, other.student_id, "email", email="Ann@Example.org")
    assert (await client.call("GetStudent", student_id=other.student_id)).student == other


@pytest.mark.parametrize("paths", [[], ["create_time"], ["student_id"], ["etag"], ["full_name", "nickname"], ["*"]])
async def test_a_mask_must_name_fields_that_clients_write(client: Client, paths: list[str]) -> None:
    student = await client.create_student()
    with refused("INVALID_ARGUMENT", "INVALID_FIELD", fields=["update_mask"]):
        await update(client, student.student_id, *paths, full_name="New Name")


async def test_fields_outside_the_mask_are_not_even_checked(client: Client) -> None:
    student = await client.create_student()
    assert (await update(client, student.student_id, "full_name", full_name="Bo", email="not an address")).email


async def test_an_etag_guards_updates_and_deletes(client: Client) -> None:
    old = await client.create_student()
    new = await update(client, old.student_id, "full_name", etag=old.etag, full_name="New Name")
    metadata = {"student_id": str(old.student_id), "etag": new.etag}
    with refused("ABORTED", "ETAG_MISMATCH", metadata=metadata):
        await update(client, old.student_id, "full_name", etag=old.etag, full_name="Lost")
    with refused("ABORTED", "ETAG_MISMATCH", metadata=metadata):
        await client.call("DeleteStudent", student_id=old.student_id, etag=old.etag)
    await client.call("DeleteStudent", student_id=old.student_id, etag=new.etag)


async def test_a_deleted_student_is_gone_and_the_address_is_free(client: Client) -> None:
    student = await client.create_student(email="ann@example.org")
    await client.call("DeleteStudent", student_id=student.student_id)
    calls: list[tuple[str, dict[str, Any]]] = [
        ("GetStudent", {"student_id": student.student_id}),
        ("DeleteStudent", {"student_id": student.student_id}),
        ("UpdateStudent", {"student": student, "update_mask": {"paths": ["full_name"]}}),
        ("ListStudentCourses", {"student_id": student.student_id}),
    ]
    for method, fields in calls:
        name = f"students/{student.student_id}"
        with refused("NOT_FOUND", "STUDENT_NOT_FOUND", resources=[name]):
            await client.call(method, **fields)
    assert (await client.create_student(email="ann@example.org")).student_id != student.student_id


async def test_a_student_with_enrollments_is_deleted_by_force_only(client: Client, connection: Connection) -> None:
    student_id, other_id = await client.students(2)
    course_ids = await client.courses(2, capacity=1, waitlist_capacity=1)
    await client.enroll(student_id, *course_ids)
    await client.enroll(other_id, course_ids[0], on_full=pb.ON_FULL_WAITLIST)
    metadata = {"student_id": str(student_id), "enrolled": "2", "waitlisted": "0"}
    preconditions = [("HAS_ENROLLMENTS", f"students/{student_id}")]
    with refused("FAILED_PRECONDITION", "HAS_ENROLLMENTS", metadata=metadata, preconditions=preconditions):
        await client.call("DeleteStudent", student_id=student_id)

    await client.call("DeleteStudent", student_id=student_id, force=True)
    assert await client.roster(course_ids[0]) == [other_id]
    assert await client.roster(course_ids[1]) == []
    # History outlives the student.
    assert await connection.fetchval("SELECT count(*) FROM enrollment_events WHERE student_id = $1", student_id) == 4


async def test_an_address_that_somebody_is_about_to_take_delays_nobody_else(
    client: Client, connection: Connection
) -> None:
    async with connection.transaction():
        await connection.execute("INSERT INTO students (full_name, email) VALUES ('Ann Lee', 'ann@example.org')")
        began = asyncio.get_running_loop().time()
        unlucky = asyncio.create_task(client.create_student(email="ann@example.org"))
        await asyncio.gather(*(client.create_student() for _ in range(10)))
        assert asyncio.get_running_loop().time() - began < 2
        with refused("UNAVAILABLE", "DATABASE_UNAVAILABLE"):
            await unlucky
