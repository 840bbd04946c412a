"""ReconcileRoster: the exact difference, all or none, behind a brake."""

from __future__ import annotations

import uuid
from datetime import timedelta

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from enrollment_service.v1 import enrollment_pb2 as pb
from tests.support.client import Client
from tests.support.databases import Connection
from tests.support.refusals import refused
from tests.support.services import START, Clock
from tests.support.wire import stamp

UNKNOWN = 2**40


async def test_the_roster_becomes_what_is_wanted(client: Client, connection: Connection) -> None:
    students = await client.students(5)
    course = (await client.create_course(capacity=3)).course_id
    for student in students[:3]:
        await client.enroll(student, course)

    answer = await client.call("ReconcileRoster", course_id=course, student_ids=students[2:], max_removals=2)

    assert list(answer.added) == students[3:]
    assert list(answer.removed) == students[:2]
    assert answer.unchanged_count == 1
    assert await client.roster(course) == students[2:]
    reasons = await connection.fetch("SELECT DISTINCT reason FROM enrollment_events WHERE sequence > 4")
    assert [row["reason"] for row in reasons] == ["reconcile"]


async def test_waiters_leave_or_get_a_seat(client: Client) -> None:
    students = await client.students(4)
    course = (await client.create_course(capacity=2, waitlist_capacity=2)).course_id
    for student in students:
        await client.enroll(student, course, on_full=pb.ON_FULL_WAITLIST)

    answer = await client.call(
        "ReconcileRoster", course_id=course, student_ids=[students[0], students[3]], max_removals=2
    )

    assert list(answer.added) == [students[3]]
    assert list(answer.removed) == [students[1], students[2]]
    listed = await client.call("ListCourseStudents", course_id=course)
    assert [(one.student_id, one.waitlist_position) for one in listed.enrollments] == [
        (students[0], 0),
        (students[3], 0),
    ]


async def test_who_queued_gets_a_seat_before_the_open_time_and_not_after_the_close(
    timed_client: Client, clock: Clock
) -> None:
    """They met the permit and the open time when they queued; who is new meets them now."""
    client = timed_client
    ann, bo, cy, di = await client.students(4)
    course = await client.create_course(capacity=1, waitlist_capacity=5)
    course_id = course.course_id
    for student_id in (ann, bo, cy):
        await client.enroll(student_id, course_id, on_full=pb.ON_FULL_WAITLIST)
    course = pb.Course(course_id=course_id, permit_required=True)
    course.enroll_open_time.CopyFrom(stamp(START + timedelta(hours=1)))
    course.enroll_close_time.CopyFrom(stamp(START + timedelta(hours=2)))
    mask = FieldMask(paths=["enroll_open_time", "enroll_close_time", "permit_required"])
    await client.call("UpdateCourse", course=course, update_mask=mask)

    wish = {"course_id": course_id, "max_removals": 9}
    with refused(
        "FAILED_PRECONDITION",
        "PERMIT_REQUIRED",
        preconditions=[
            ("PERMIT_REQUIRED", f"students/{di}/courses/{course_id}"),
            ("ENROLLMENT_NOT_OPEN", f"courses/{course_id}"),
        ],
    ):
        await client.call("ReconcileRoster", student_ids=[di], **wish)
    answer = await client.call("ReconcileRoster", student_ids=[cy], **wish)
    assert (list(answer.added), list(answer.removed)) == ([cy], [ann, bo])

    closed = [pb.ERROR_REASON_PERMIT_REQUIRED, pb.ERROR_REASON_ENROLLMENT_NOT_OPEN]
    await client.call("GrantWaivers", course_id=course_id, student_ids=[di], reasons=closed)
    await client.enroll(di, course_id, on_full=pb.ON_FULL_WAITLIST)
    await clock.set(START + timedelta(hours=2))
    # A waiver lets somebody in; it does not have them promoted.
    closed = [pb.ERROR_REASON_ENROLLMENT_CLOSED]
    await client.call("GrantWaivers", course_id=course_id, student_ids=[di], reasons=closed)
    with refused(
        "FAILED_PRECONDITION", "ENROLLMENT_CLOSED", preconditions=[("ENROLLMENT_CLOSED", f"courses/{course_id}")]
    ):
        await client.call("ReconcileRoster", student_ids=[di], **wish)
    assert await client.roster(course_id) == [cy, di]


async def test_the_brake_refuses_too_many_removals(client: Client) -> None:
    students = await client.students(3)
    course = (await client.create_course()).course_id
    for student in students:
        await client.enroll(student, course)

    with refused(
        "FAILED_PRECONDITION",
        "TOO_MANY_REMOVALS",
        metadata={"course_id": str(course), "removals": "3", "max_removals": "2"},
    ):
        await client.call("ReconcileRoster", course_id=course, student_ids=[], max_removals=2)

    assert await client.roster(course) == students


async def test_nobody_is_removed_where_somebody_wanted_finds_no_seat(client: Client) -> None:
    students = await client.students(4)
    course = (await client.create_course(capacity=2)).course_id
    await client.enroll(students[0], course)

    with refused("FAILED_PRECONDITION", "COURSE_FULL"):
        await client.call("ReconcileRoster", course_id=course, student_ids=students[1:], max_removals=5)

    assert await client.roster(course) == students[:1]


async def test_every_unknown_id_is_named_and_nothing_changes(client: Client) -> None:
    (student,) = await client.students(1)
    course = (await client.create_course()).course_id

    with refused("NOT_FOUND", "STUDENT_NOT_FOUND", resources=[f"students/{UNKNOWN}", f"students/{UNKNOWN + 1}"]):
        await client.call("ReconcileRoster", course_id=course, student_ids=[student, UNKNOWN, UNKNOWN + 1])

    assert await client.roster(course) == []


async def test_a_dry_run_answers_as_if_live_and_changes_nothing(client: Client, connection: Connection) -> None:
    students = await client.students(3)
    course = (await client.create_course()).course_id
    await client.enroll(students[0], course)
    request = pb.ReconcileRosterRequest(course_id=course, student_ids=students[1:], max_removals=1)

    request.validate_only = True
    tried = await client.call("ReconcileRoster", request)
    assert await client.roster(course) == students[:1]
    assert await connection.fetchval("SELECT count(*) FROM enrollment_events WHERE kind = 1") == 1

    request.validate_only = False
    assert await client.call("ReconcileRoster", request) == tried
    assert await client.roster(course) == students[1:]


async def test_a_retry_has_one_effect(client: Client) -> None:
    students = await client.students(2)
    course = (await client.create_course()).course_id
    request = pb.ReconcileRosterRequest(course_id=course, student_ids=students, request_id=str(uuid.uuid4()))

    first = await client.call("ReconcileRoster", request)
    await client.unenroll(students[0], course)

    assert await client.call("ReconcileRoster", request) == first
    assert await client.roster(course) == students[1:]


async def test_a_large_roster_is_reconciled_in_one_call(client: Client, connection: Connection) -> None:
    await connection.execute(
        "INSERT INTO students (full_name, email) SELECT 'S', 's' || i FROM generate_series(1, 6000) i"
    )
    ids = [row["id"] for row in await connection.fetch("SELECT id FROM students ORDER BY id")]
    course = (await client.create_course(capacity=5_000)).course_id

    await client.call("ReconcileRoster", course_id=course, student_ids=ids[:5_000])
    answer = await client.call("ReconcileRoster", course_id=course, student_ids=ids[1_000:], max_removals=1_000)

    assert (len(answer.added), len(answer.removed), answer.unchanged_count) == (1_000, 1_000, 4_000)
    assert await connection.fetchval("SELECT count(*) FROM student_courses") == 5_000


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"course_id": 0}, ["course_id"]),
        ({"course_id": 1, "student_ids": [1, 1]}, ["student_ids"]),
        ({"course_id": 1, "student_ids": [0]}, ["student_ids[0]"]),
        ({"course_id": 1, "student_ids": range(1, 5_002)}, ["student_ids"]),
        ({"course_id": 1, "max_removals": -1}, ["max_removals"]),
        ({"course_id": 1, "request_id": "x"}, ["request_id"]),
    ],
)
async def test_a_malformed_request_is_refused(client: Client, fields: dict[str, object], named: list[str]) -> None:
    with refused("INVALID_ARGUMENT", "INVALID_FIELD", fields=named):
        await client.call("ReconcileRoster", **fields)
