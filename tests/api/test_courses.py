"""Courses over the wire: create, get with counts, update by mask, delete."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from enrollment_service.v1 import enrollment_pb2 as pb
from tests.support.client import Client
from tests.support.databases import Connection
from tests.support.refusals import refusal_of, refused

OPENS = {"seconds": 1_790_000_000}
CLOSES = {"seconds": 1_800_000_000, "nanos": 123_456_000}
FULL: dict[str, Any] = {
    "code": "ART-1.a_b 2",
    "title": "Drawing & Painting",
    "description": "With charcoal.\nBring paper.\tTwo sheets.",
    "capacity": 30,
    "waitlist_capacity": 5,
    "enroll_open_time": OPENS,
    "enroll_close_time": CLOSES,
}
OTHER: dict[str, Any] = {
    "code": "BIO-2",
    "title": "Botany",
    "description": "Leaves.",
    "capacity": 31,
    "waitlist_capacity": 6,
    "enroll_open_time": {"seconds": 1_790_000_001},
    "enroll_close_time": {"seconds": 1_800_000_001},
}


async def create(client: Client, **fields: Any) -> pb.Course:
    created: pb.Course = (await client.call("CreateCourse", course=pb.Course(**fields))).course
    return created


async def get(client: Client, course_id: int) -> pb.Course:
    course: pb.Course = (await client.call("GetCourse", course_id=course_id)).course
    return course


async def update(client: Client, course_id: int, *paths: str, etag: str = "", **values: Any) -> pb.Course:
    course = pb.Course(course_id=course_id, etag=etag, **values)
    updated: pb.Course = (await client.call("UpdateCourse", course=course, update_mask={"paths": paths})).course
    return updated


def written(course: pb.Course) -> pb.Course:
    """What clients write of a course."""
    kept = pb.Course()
    kept.CopyFrom(course)
    for name in ("course_id", "create_time", "update_time", "etag", "enrolled_count", "waitlisted_count"):
        kept.ClearField(name)
    return kept


async def test_a_created_course_is_stored_and_read_back(client: Client) -> None:
    created = await create(client, **FULL)
    assert created.course_id > 0
    assert created.etag
    assert created.create_time == created.update_time
    assert written(created) == pb.Course(**FULL)
    assert await get(client, created.course_id) == created


async def test_a_course_needs_no_more_than_code_and_title(client: Client) -> None:
    created = await create(client, code="A", title="T")
    assert not created.HasField("capacity")
    assert not created.HasField("enroll_open_time")
    assert not created.HasField("enroll_close_time")
    assert (created.waitlist_capacity, created.description) == (0, "")
    assert await get(client, created.course_id) == created


async def test_no_seat_is_not_the_same_as_no_limit(client: Client) -> None:
    created = await create(client, code="A", title="T", capacity=0)
    assert created.HasField("capacity")
    assert (await get(client, created.course_id)).HasField("capacity")


async def test_output_only_fields_of_a_new_course_are_ignored(client: Client) -> None:
    created = await create(client, code="A", title="T", course_id=4711, etag="77", enrolled_count=7, waitlisted_count=8)
    assert created.course_id != 4711
    assert created.etag != "77"
    assert (created.enrolled_count, created.waitlisted_count) == (0, 0)


@pytest.mark.parametrize("again", ["ART 1", "art 1", " Art  1 "])
async def test_a_code_is_unique_whatever_its_case_and_spaces(client: Client, again: str) -> None:
    first = await create(client, code="ART 1", title="T")
    metadata = {"course_id": str(first.course_id)}
    with refused("ALREADY_EXISTS", "CODE_TAKEN", metadata=metadata, resources=[f"courses/{first.course_id}"]):
        await create(client, code=again, title="Another")
    other = await create(client, code="ART1", title="T")
    with refused("ALREADY_EXISTS", "CODE_TAKEN", metadata=metadata, resources=[f"courses/{first.course_id}"]):
        await update(client, other.course_id, "code", code=again)
    assert (await update(client, first.course_id, "code", code=again)).code == again


async def test_of_concurrent_creates_with_one_code_one_wins_and_is_named_to_the_others(client: Client) -> None:
    answers = await asyncio.gather(
        *(create(client, code="ART-1", title=f"T{index}") for index in range(10)), return_exceptions=True
    )
    (winner,) = [answer for answer in answers if isinstance(answer, pb.Course)]
    refusals = [refusal_of(answer) for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
    assert {(one.reason, one.metadata["course_id"]) for one in refusals} == {("CODE_TAKEN", str(winner.course_id))}
    assert await get(client, winner.course_id) == winner


@pytest.mark.parametrize("name", sorted(FULL))
async def test_an_update_changes_what_the_mask_names_and_nothing_else(client: Client, name: str) -> None:
    old = await create(client, **FULL)
    new = await update(client, old.course_id, name, **OTHER)
    assert written(new) == pb.Course(**FULL | {name: OTHER[name]})
    assert new.etag != old.etag
    assert new.create_time == old.create_time
    assert new.update_time.ToNanoseconds() > old.update_time.ToNanoseconds()
    assert await get(client, old.course_id) == new


async def test_an_update_may_change_everything_at_once(client: Client) -> None:
    old = await create(client, **FULL)
    assert written(await update(client, old.course_id, *FULL, **OTHER)) == pb.Course(**OTHER)


@pytest.mark.parametrize("name", ["capacity", "description", "enroll_open_time", "enroll_close_time"])
async def test_a_field_that_the_mask_names_but_is_unset_is_cleared(client: Client, name: str) -> None:
    old = await create(client, **FULL)
    new = await update(client, old.course_id, name)
    assert written(new) == pb.Course(**{key: value for key, value in FULL.items() if key != name})


async def test_an_update_that_changes_nothing_keeps_the_etag(client: Client) -> None:
    course = await create(client, **FULL)
    assert await update(client, course.course_id, *FULL, **FULL) == course


async def test_the_etag_covers_what_clients_write_and_not_the_counts(client: Client) -> None:
    course = await create(client, **FULL | {"enroll_open_time": None, "enroll_close_time": None})
    (student_id,) = await client.students(1)
    await client.enroll(student_id, course.course_id)
    counted = await get(client, course.course_id)
    assert (counted.enrolled_count, counted.etag) == (1, course.etag)
    assert counted.update_time == course.update_time


async def test_an_etag_guards_updates_and_deletes(client: Client) -> None:
    old = await create(client, **FULL)
    new = await update(client, old.course_id, "title", etag=old.etag, title="New")
    metadata = {"course_id": str(old.course_id), "etag": new.etag}
    with refused("ABORTED", "ETAG_MISMATCH", metadata=metadata):
        await update(client, old.course_id, "title", etag=old.etag, title="Lost")
    with refused("ABORTED", "ETAG_MISMATCH", metadata=metadata):
        await client.call("DeleteCourse", course_id=old.course_id, etag=old.etag)
    await client.call("DeleteCourse", course_id=old.course_id, etag=new.etag)


async def test_an_update_to_a_code_that_is_taken_names_its_owner(client: Client) -> None:
    owner, other = await client.create_course("ART-1"), await client.create_course("ART-2")
    with refused("ALREADY_EXISTS", "CODE_TAKEN", metadata={"course_id": str(owner.course_id)}):
        await update(client, other.course_id, "code", code="ART-1")
    assert await get(client, other.course_id) == other


@pytest.mark.parametrize(
    "paths", [[], ["enrolled_count"], ["course_id"], ["etag"], ["title", "teacher"], ["course.title"], ["*"]]
)
async def test_a_mask_must_name_fields_that_clients_write(client: Client, paths: list[str]) -> None:
    course = await client.create_course()
    with refused("INVALID_ARGUMENT", "INVALID_FIELD", fields=["update_mask"]):
        await update(client, course.course_id, *paths, title="New")


async def test_a_window_may_not_end_before_it_begins_whichever_end_is_moved(client: Client) -> None:
    course = await create(client, **FULL)
    field = "course.enroll_close_time"
    for name, seconds in (("enroll_close_time", OPENS["seconds"]), ("enroll_open_time", CLOSES["seconds"] + 1)):
        moved: dict[str, Any] = {name: {"seconds": seconds}}
        with refused("INVALID_ARGUMENT", "INVALID_FIELD", fields=[field]):
            await update(client, course.course_id, name, **moved)


NEARLY_OPENS = {"seconds": OPENS["seconds"], "nanos": 999}  # in the same microsecond


async def test_a_window_within_a_microsecond_is_none(client: Client) -> None:
    """It would be stored as two equal times."""
    field = "course.enroll_close_time"
    with refused("INVALID_ARGUMENT", "INVALID_FIELD", fields=[field]):
        await create(client, **FULL | {"enroll_close_time": NEARLY_OPENS})
    course = await create(client, **FULL)
    for names in (["enroll_close_time"], ["enroll_open_time", "enroll_close_time"]):
        with refused("INVALID_ARGUMENT", "INVALID_FIELD", fields=[field]):
            await update(client, course.course_id, *names, enroll_open_time=OPENS, enroll_close_time=NEARLY_OPENS)
    assert await get(client, course.course_id) == course


@pytest.mark.parametrize("names", [["title"], [*FULL]])
async def test_a_course_with_an_impossible_window_from_earlier_can_be_edited(
    client: Client, connection: Connection, names: list[str]
) -> None:
    course = await create(client, **FULL)
    await connection.execute("UPDATE course_seats SET enroll_close_time = enroll_open_time")
    kept = FULL | {"enroll_close_time": OPENS}
    assert written(await update(client, course.course_id, *names, **kept | {"title": "New"})) == pb.Course(
        **kept | {"title": "New"}
    )
    with refused("INVALID_ARGUMENT", "INVALID_FIELD", fields=["course.enroll_close_time"]):
        await update(client, course.course_id, "enroll_open_time", enroll_open_time=CLOSES)
    mended = await update(client, course.course_id, "enroll_close_time", enroll_close_time=CLOSES)
    assert mended.enroll_close_time.seconds == CLOSES["seconds"]


async def test_the_capacity_cannot_go_below_those_enrolled(client: Client) -> None:
    course = await client.create_course()  # no limit
    for student_id in await client.students(3):
        await client.enroll(student_id, course.course_id)
    metadata = {"course_id": str(course.course_id), "enrolled": "3", "capacity": "2"}
    preconditions = [("CAPACITY_BELOW_ENROLLED", f"courses/{course.course_id}")]
    with refused("FAILED_PRECONDITION", "CAPACITY_BELOW_ENROLLED", metadata=metadata, preconditions=preconditions):
        await update(client, course.course_id, "capacity", capacity=2)
    assert (await update(client, course.course_id, "capacity", capacity=3)).enrolled_count == 3


async def test_a_course_with_students_is_deleted_by_force_only(client: Client, connection: Connection) -> None:
    course = await client.create_course(capacity=1, waitlist_capacity=1)
    enrolled, waiting = await client.students(2)
    await client.enroll(enrolled, course.course_id)
    await client.enroll(waiting, course.course_id, on_full=pb.ON_FULL_WAITLIST)
    metadata = {"course_id": str(course.course_id), "enrolled": "1", "waitlisted": "1"}
    preconditions = [("HAS_ENROLLMENTS", f"courses/{course.course_id}")]
    with refused("FAILED_PRECONDITION", "HAS_ENROLLMENTS", metadata=metadata, preconditions=preconditions):
        await client.call("DeleteCourse", course_id=course.course_id)

    await client.call("DeleteCourse", course_id=course.course_id, force=True)
    assert await client.courses_of(enrolled) == await client.courses_of(waiting) == []
    states = await connection.fetch("SELECT previous_state, state FROM enrollment_events ORDER BY sequence")
    # In, waits; then the waiter leaves first, so that nobody is promoted into a course that is going.
    assert [tuple(row) for row in states] == [(0, 0), (0, 1), (0, 2), (2, 3), (1, 3), (0, 0)]


async def test_a_deleted_course_is_gone_and_its_code_is_free(client: Client) -> None:
    course = await client.create_course("ART-1")
    await client.call("DeleteCourse", course_id=course.course_id)
    calls: list[tuple[str, dict[str, Any]]] = [
        ("GetCourse", {"course_id": course.course_id}),
        ("DeleteCourse", {"course_id": course.course_id}),
        ("UpdateCourse", {"course": course, "update_mask": {"paths": ["title"]}}),
        ("ListCourseStudents", {"course_id": course.course_id}),
    ]
    for method, fields in calls:
        with refused("NOT_FOUND", "COURSE_NOT_FOUND", resources=[f"courses/{course.course_id}"]):
            await client.call(method, **fields)
    assert (await client.create_course("ART-1")).course_id != course.course_id
