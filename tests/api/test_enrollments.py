"""Enrolling and leaving over the wire: one course or several, all or none, and what the lists say of it."""

from __future__ import annotations

from typing import Any

import pytest

from enrollment_service.v1 import enrollment_pb2 as pb
from tests.support.client import Client
from tests.support.databases import Connection
from tests.support.refusals import refused

MISSING = 2**62


async def get(client: Client, student_id: int, course_id: int) -> pb.Enrollment:
    answer = await client.call("GetEnrollment", student_id=student_id, course_id=course_id)
    enrollment: pb.Enrollment = answer.enrollment
    return enrollment


async def test_enroll_student_succeeds_when_valid_ids_provided(client: Client) -> None:
    (student_id,) = await client.students(1)
    course_ids = await client.courses(3)
    wanted = [course_ids[2], course_ids[0], course_ids[1]]
    enrollments = await client.enroll(student_id, *wanted)
    assert [one.course_id for one in enrollments] == wanted
    assert {one.student_id for one in enrollments} == {student_id}
    assert {one.state for one in enrollments} == {pb.ENROLLMENT_STATE_ENROLLED}
    assert {one.waitlist_position for one in enrollments} == {0}
    assert all(one.enroll_time == one.create_time and one.enroll_time.seconds for one in enrollments)
    assert all(one.etag and one.course.title == "Drawing" for one in enrollments)
    assert [one.course.enrolled_count for one in enrollments] == [1, 1, 1]


async def test_enroll_student_in_course_succeeds(client: Client) -> None:
    student, course = await client.create_student(), await client.create_course("ART-1", "Drawing", capacity=1)
    (enrolled,) = await client.enroll(student.student_id, course.course_id)
    course.enrolled_count = 1
    assert enrolled.course == course
    assert await client.courses_of(student.student_id) == [course.course_id]
    assert await client.roster(course.course_id) == [student.student_id]


@pytest.mark.parametrize(
    ("student", "courses", "reason", "missing"),
    [
        (False, [True], "STUDENT_NOT_FOUND", ["students"]),
        (True, [False], "COURSE_NOT_FOUND", ["courses"]),
        (True, [True, False, True, False], "COURSE_NOT_FOUND", ["courses", "courses"]),
        (False, [False, True, False], "STUDENT_NOT_FOUND", ["students", "courses", "courses"]),
    ],
)
async def test_enroll_student_fails_when_student_or_course_invalid(
    client: Client, connection: Connection, student: bool, courses: list[bool], reason: str, missing: list[str]
) -> None:
    (student_id,) = await client.students(1) if student else (MISSING,)
    known = await client.courses(len(courses))
    course_ids = [known[index] if exists else MISSING + index for index, exists in enumerate(courses)]
    names = [] if student else [f"students/{student_id}"]
    names += [f"courses/{course_id}" for course_id in course_ids if course_id >= MISSING]
    assert [name.split("/")[0] for name in names] == missing

    with refused("NOT_FOUND", reason, resources=names) as refusal:
        await client.enroll(student_id, *course_ids)
    assert refusal.metadata.get("violation_count", "1") == str(len(missing))
    assert await connection.fetchval("SELECT count(*) FROM student_courses") == 0
    assert await connection.fetchval("SELECT count(*) FROM enrollment_events WHERE kind = 1") == 0


async def test_enroll_student_in_course_invalid_id(client: Client) -> None:
    (student_id,), (course_id,) = await client.students(1), await client.courses(1)
    with refused("NOT_FOUND", "COURSE_NOT_FOUND", metadata={"course_id": "77"}, resources=["courses/77"]):
        await client.enroll(student_id, 77)
    with refused("NOT_FOUND", "STUDENT_NOT_FOUND", metadata={"student_id": "77"}, resources=["students/77"]):
        await client.enroll(77, course_id)
    for bad in (0, -1):
        with refused("INVALID_ARGUMENT", "INVALID_FIELD", fields=["course_ids[0]"]):
            await client.enroll(student_id, bad)
        with refused("INVALID_ARGUMENT", "INVALID_FIELD", fields=["student_id"]):
            await client.enroll(bad, course_id)


async def test_the_complete_flow(client: Client) -> None:
    (student_id,) = await client.students(1)
    course_ids = await client.courses(3)
    await client.enroll(student_id, *course_ids)
    assert await client.courses_of(student_id) == course_ids
    assert [await client.roster(one) for one in course_ids] == [[student_id]] * 3

    dropped = await client.unenroll(student_id, course_ids[1])
    assert (dropped.state, dropped.course_id) == (pb.ENROLLMENT_STATE_DROPPED, course_ids[1])
    assert await client.courses_of(student_id) == [course_ids[0], course_ids[2]]
    assert await client.roster(course_ids[1]) == []
    with refused("NOT_FOUND", "NOT_ENROLLED"):
        await get(client, student_id, course_ids[1])

    (again,) = await client.enroll(student_id, course_ids[1])
    assert again.create_time.ToNanoseconds() >= dropped.enroll_time.ToNanoseconds()
    assert await client.courses_of(student_id) == course_ids


async def test_a_plan_leaves_and_enters_in_one_go(client: Client, connection: Connection) -> None:
    """A seat, and a place in line elsewhere, are given up for two others; who waits for the seat has it at once."""
    ann, bo, cy = await client.students(3)
    seat, line, new, other = await client.courses(4, capacity=1, waitlist_capacity=5)
    await client.enroll(ann, seat)
    await client.enroll(bo, seat, line, on_full=pb.ON_FULL_WAITLIST)
    await client.enroll(cy, other)
    await client.enroll(ann, line, on_full=pb.ON_FULL_WAITLIST)

    wish = {"drop_course_ids": [line, seat], "on_full": pb.ON_FULL_WAITLIST, "reason": "new_plan"}
    found = await client.enroll(ann, other, new, **wish)
    assert [(one.course_id, one.state, one.waitlist_position) for one in found] == [
        (other, pb.ENROLLMENT_STATE_WAITLISTED, 1),
        (new, pb.ENROLLMENT_STATE_ENROLLED, 0),
    ]
    assert await client.courses_of(ann) == sorted([other, new])
    assert (await get(client, bo, seat)).state == pb.ENROLLMENT_STATE_ENROLLED
    events = await connection.fetch(
        "SELECT course_id, state, reason FROM enrollment_events WHERE student_id = $1 AND state = 3", ann
    )
    assert sorted(map(tuple, events)) == [(seat, 3, "new_plan"), (line, 3, "new_plan")]


async def test_a_plan_that_cannot_be_had_whole_changes_nothing(client: Client) -> None:
    ann, bo = await client.students(2)
    left, free = await client.courses(2)
    (full,) = await client.courses(1, capacity=0)
    await client.enroll(ann, left)
    with refused("FAILED_PRECONDITION", "COURSE_FULL", preconditions=[("COURSE_FULL", f"courses/{full}")]):
        await client.enroll(ann, free, full, drop_course_ids=[left])
    with refused(
        "NOT_FOUND",
        "NOT_ENROLLED",
        metadata={"student_id": str(ann), "course_id": str(free), "violation_count": "3"},
        resources=[f"students/{ann}/courses/{free}", f"courses/{MISSING}", f"courses/{MISSING + 1}"],
    ):
        await client.enroll(ann, full, MISSING + 1, drop_course_ids=[left, free, MISSING])
    with refused("NOT_FOUND", "STUDENT_NOT_FOUND", resources=[f"students/{MISSING}"]):
        await client.enroll(MISSING, free, drop_course_ids=[left])
    assert await client.courses_of(ann) == [left]
    assert await client.courses_of(bo) == []


@pytest.mark.parametrize(
    ("drops", "field"),
    [
        ([1], "drop_course_ids"),
        ([2, 2], "drop_course_ids"),
        ([0], "drop_course_ids[0]"),
        (range(2, 53), "drop_course_ids"),
    ],
)
async def test_a_plan_that_makes_no_sense_is_refused(client: Client, drops: list[int], field: str) -> None:
    with refused("INVALID_ARGUMENT", "INVALID_FIELD", fields=[field]):
        await client.enroll(1, 1, drop_course_ids=drops)


async def test_an_enrollment_is_read_with_its_student_and_its_course(client: Client) -> None:
    student, course = await client.create_student("Ann Lee"), await client.create_course(capacity=3)
    (enrolled,) = await client.enroll(student.student_id, course.course_id)
    found = await get(client, student.student_id, course.course_id)
    assert found.student == student
    course.enrolled_count = 1
    assert found.course == course
    assert (found.state, found.enroll_time, found.create_time, found.etag) == (
        pb.ENROLLMENT_STATE_ENROLLED,
        enrolled.enroll_time,
        enrolled.create_time,
        enrolled.etag,
    )


async def test_whoever_is_enrolled_already_is_told_every_such_course(client: Client) -> None:
    (student_id,), course_ids = await client.students(1), await client.courses(3)
    first, _ = await client.enroll(student_id, *course_ids[:2])
    names = [f"courses/{one}" for one in course_ids[:2]]
    with refused("ALREADY_EXISTS", "ALREADY_ENROLLED", resources=names) as refusal:
        await client.enroll(student_id, *course_ids)
    assert refusal.metadata == {
        "student_id": str(student_id),
        "course_id": str(course_ids[0]),
        "state": "ENROLLED",
        "etag": first.etag,
        "violation_count": "2",
    }
    assert await client.courses_of(student_id) == course_ids[:2]


async def test_a_full_course_refuses_and_the_others_of_the_call_stay_as_they_were(client: Client) -> None:
    first, second = await client.students(2)
    open_id, full_id, nobody_id = [*await client.courses(1), *await client.courses(1, capacity=1), 0]
    (nobody_id,) = await client.courses(1, capacity=0)
    await client.enroll(first, full_id)
    preconditions = [("COURSE_FULL", f"courses/{full_id}"), ("COURSE_FULL", f"courses/{nobody_id}")]
    with refused("FAILED_PRECONDITION", "COURSE_FULL", preconditions=preconditions) as refusal:
        await client.enroll(second, full_id, open_id, nobody_id)
    assert refusal.metadata == {
        "course_id": str(full_id),
        "enrolled": "1",
        "capacity": "1",
        "violation_count": "2",
    }
    assert await client.courses_of(second) == []
    assert await client.roster(open_id) == []


async def test_a_seat_that_was_given_up_is_free(client: Client) -> None:
    first, second = await client.students(2)
    (course_id,) = await client.courses(1, capacity=1)
    await client.enroll(first, course_id)
    await client.unenroll(first, course_id)
    (enrolled,) = await client.enroll(second, course_id)
    assert enrolled.course.enrolled_count == 1


@pytest.mark.parametrize("fields", [{"on_full": pb.ON_FULL_UNSPECIFIED}, {"on_full": pb.ON_FULL_REJECT}, {}])
async def test_full_means_refused_unless_asked_otherwise(client: Client, fields: dict[str, Any]) -> None:
    (student_id,), (course_id,) = await client.students(1), await client.courses(1, capacity=0, waitlist_capacity=9)
    with refused("FAILED_PRECONDITION", "COURSE_FULL"):
        await client.enroll(student_id, course_id, **fields)


async def test_fifty_courses_at_once(client: Client) -> None:
    (student_id,), course_ids = await client.students(1), await client.courses(50)
    assert len(await client.enroll(student_id, *course_ids)) == 50
    assert await client.courses_of(student_id) == course_ids


@pytest.mark.parametrize(
    ("student", "course", "reasons"),
    [
        (True, True, ["NOT_ENROLLED"]),
        (False, True, ["STUDENT_NOT_FOUND"]),
        (True, False, ["COURSE_NOT_FOUND"]),
        (False, False, ["STUDENT_NOT_FOUND", "COURSE_NOT_FOUND"]),
    ],
)
@pytest.mark.parametrize("method", ["UnenrollStudent", "GetEnrollment"])
async def test_an_enrollment_that_is_not_there(
    client: Client, method: str, student: bool, course: bool, reasons: list[str]
) -> None:
    (student_id,) = await client.students(1) if student else (MISSING,)
    (course_id,) = await client.courses(1) if course else (MISSING,)
    with refused("NOT_FOUND", reasons[0]) as refusal:
        await client.call(method, student_id=student_id, course_id=course_id)
    assert len(refusal.resources) == len(reasons)


async def test_leaving_may_be_asked_for_without_being_in(client: Client, connection: Connection) -> None:
    (student_id,), (course_id,) = await client.students(1), await client.courses(1)
    left = await client.unenroll(student_id, course_id, allow_missing=True)
    assert (left.student_id, left.course_id, left.state) == (student_id, course_id, pb.ENROLLMENT_STATE_DROPPED)
    assert await connection.fetchval("SELECT count(*) FROM enrollment_events WHERE kind = 1") == 0
    with refused("NOT_FOUND", "COURSE_NOT_FOUND"):
        await client.unenroll(student_id, MISSING, allow_missing=True)
    with refused("NOT_FOUND", "STUDENT_NOT_FOUND"):
        await client.unenroll(MISSING, course_id, allow_missing=True)


async def test_the_etag_of_an_enrollment_guards_its_removal(client: Client) -> None:
    (student_id,), (course_id,) = await client.students(1), await client.courses(1)
    (old,) = await client.enroll(student_id, course_id)
    await client.unenroll(student_id, course_id)
    (new,) = await client.enroll(student_id, course_id)
    with refused("ABORTED", "ETAG_MISMATCH", metadata={"course_id": str(course_id), "etag": new.etag}):
        await client.unenroll(student_id, course_id, etag=old.etag)
    await client.unenroll(student_id, course_id, etag=new.etag)
    assert await client.courses_of(student_id) == []


async def test_each_step_of_checks_comes_before_the_next(client: Client) -> None:
    """Validation, then not found, then exists, then preconditions."""
    (student_id,), (full_id,) = await client.students(1), await client.courses(1, capacity=1)
    (empty_id,) = await client.courses(1, capacity=0)
    await client.enroll(student_id, full_id)
    with refused("INVALID_ARGUMENT", "INVALID_FIELD", fields=["course_ids[1]"]):
        await client.enroll(student_id, MISSING, 0, full_id, empty_id)
    with refused("NOT_FOUND", "COURSE_NOT_FOUND"):
        await client.enroll(student_id, empty_id, full_id, MISSING)
    with refused("ALREADY_EXISTS", "ALREADY_ENROLLED"):
        await client.enroll(student_id, empty_id, full_id)
    with refused("FAILED_PRECONDITION", "COURSE_FULL"):
        await client.enroll(student_id, empty_id)
