"""SwapEnrollment with ON_FULL_WAITLIST over the wire: what is kept, what is left and when, and who trades with whom."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from enrollment_service.domain import rules
from enrollment_service.v1 import enrollment_pb2 as pb
from tests.support.client import Client
from tests.support.databases import Connection
from tests.support.refusals import refused
from tests.support.services import START, Clock
from tests.support.wire import course_fields, stamp

pytestmark = pytest.mark.usefixtures("verified")

WAIT = pb.ON_FULL_WAITLIST
ENROLLED, WAITLISTED, DROPPED = (
    pb.ENROLLMENT_STATE_ENROLLED,
    pb.ENROLLMENT_STATE_WAITLISTED,
    pb.ENROLLMENT_STATE_DROPPED,
)


async def swap(client: Client, student_id: int, leave: int, enter: int, **fields: Any) -> pb.SwapEnrollmentResponse:
    answer: pb.SwapEnrollmentResponse = await client.call(
        "SwapEnrollment", **({"student_id": student_id, "from_course_id": leave, "to_course_id": enter,
                              "on_full": WAIT} | fields),
    )  # fmt: skip
    return answer


async def seated(client: Client, count: int, **course: Any) -> tuple[list[int], list[int]]:
    """Full courses with one seat each, and who sits in which."""
    students = await client.students(count)
    courses = await client.courses(count, capacity=1, waitlist_capacity=5, **course)
    for student_id, course_id in zip(students, courses, strict=True):
        await client.enroll(student_id, course_id)
    return students, courses


async def places(client: Client, student_id: int) -> list[tuple[int, int, int]]:
    """The courses of a student: id, state, and what is left for it."""
    answer = await client.call("ListStudentCourses", student_id=student_id)
    return [(one.course_id, one.state, one.swap_from_course_id) for one in answer.enrollments]


async def test_the_seat_in_hand_is_kept_until_the_wanted_one_is_had(client: Client, connection: Connection) -> None:
    (ann, bo), (art, zoo) = await seated(client, 2)
    (cy,) = await client.students(1)
    await client.enroll(cy, art, on_full=WAIT)
    answer = await swap(client, ann, art, zoo, reason="wish")
    assert not answer.HasField("dropped")
    assert (answer.enrolled.state, answer.enrolled.waitlist_position) == (WAITLISTED, 1)
    assert (answer.enrolled.swap_from_course_id, answer.enrolled.course.waitlisted_count) == (art, 1)
    assert await places(client, ann) == [(art, ENROLLED, 0), (zoo, WAITLISTED, art)]
    found = (await client.call("GetEnrollment", student_id=ann, course_id=zoo)).enrollment
    assert (found.swap_from_course_id, found.etag) == (art, answer.enrolled.etag)
    roster = await client.call("ListCourseStudents", course_id=zoo)
    assert [one.swap_from_course_id for one in roster.enrollments] == [0, art]

    # Bo leaves: Ann has the seat and leaves the other one, which goes to Cy, all in one transaction.
    await client.unenroll(bo, zoo, reason="gone")
    assert await places(client, ann) == [(zoo, ENROLLED, 0)]
    assert await places(client, cy) == [(art, ENROLLED, 0)]
    events = await connection.fetch(
        "SELECT student_id, course_id, previous_state, state, swap_from_course_id, reason, xid::text "
        "FROM enrollment_events WHERE kind = 1 ORDER BY event_time, course_id, sequence"
    )
    *_, wish, last_four = [tuple(one[:6]) for one in events[:-4]], [tuple(one[:6]) for one in events[-4:]]
    assert (ann, zoo, 0, WAITLISTED, art, "wish") in wish
    assert sorted(last_four) == sorted([
        (bo, zoo, ENROLLED, DROPPED, None, "gone"),
        (ann, zoo, WAITLISTED, ENROLLED, None, "waitlist_promotion"),
        (ann, art, ENROLLED, DROPPED, None, "swap"),
        (cy, art, WAITLISTED, ENROLLED, None, "waitlist_promotion"),
    ])  # fmt: skip
    assert len({one["xid"] for one in events[-4:]}) == 1


async def test_three_first_in_line_trade_around_a_circle(client: Client, connection: Connection) -> None:
    (ann, bo, cy), (art, zoo, law) = await seated(client, 3)
    assert (await swap(client, ann, art, zoo)).enrolled.state == WAITLISTED
    assert (await swap(client, bo, zoo, law)).enrolled.state == WAITLISTED
    predicted = await swap(client, cy, law, art, validate_only=True)
    request_id = str(uuid.uuid4())
    closing = await swap(client, cy, law, art, request_id=request_id)
    assert (closing.dropped.course_id, closing.dropped.state) == (law, DROPPED)
    assert (closing.enrolled.course_id, closing.enrolled.state) == (art, ENROLLED)
    assert (predicted.dropped.state, predicted.enrolled.state) == (DROPPED, ENROLLED)
    assert [await places(client, one) for one in (ann, bo, cy)] == [
        [(zoo, ENROLLED, 0)], [(law, ENROLLED, 0)], [(art, ENROLLED, 0)]
    ]  # fmt: skip
    again = await swap(client, cy, law, art, request_id=request_id)
    assert (again.dropped.etag, again.enrolled.etag) == (closing.dropped.etag, closing.enrolled.etag)
    traded = await connection.fetch("SELECT state FROM enrollment_events WHERE reason = 'trade' ORDER BY state")
    assert [one["state"] for one in traded] == [1, 1, 1, 3, 3, 3]


async def test_a_place_in_line_is_given_up_as_well(client: Client) -> None:
    (ann, bo), (art, zoo) = await seated(client, 2)
    (cy,) = await client.students(1)
    await client.enroll(cy, art, on_full=WAIT)
    await swap(client, cy, art, zoo)
    await client.unenroll(bo, zoo)
    assert await places(client, cy) == [(zoo, ENROLLED, 0)]
    assert await client.roster(art) == [ann]


async def test_who_waits_already_names_the_course_and_keeps_the_place(client: Client) -> None:
    (ann, bo, cy), (art, zoo, law) = await seated(client, 3)
    await client.enroll(ann, zoo, on_full=WAIT)
    await client.enroll(cy, zoo, on_full=WAIT)
    with refused("ALREADY_EXISTS", "ALREADY_WAITLISTED"):
        await swap(client, ann, art, zoo, on_full=pb.ON_FULL_REJECT)
    first = (await swap(client, ann, art, zoo)).enrolled
    assert (first.state, first.waitlist_position, first.swap_from_course_id) == (WAITLISTED, 1, art)
    same = (await swap(client, ann, art, zoo)).enrolled
    assert (same.etag, same.waitlist_position) == (first.etag, 1)
    found = (await client.call("GetEnrollment", student_id=ann, course_id=zoo)).enrollment
    assert (found.waitlist_position, found.etag) == (1, first.etag)
    with refused("ABORTED", "ETAG_MISMATCH"):
        await client.unenroll(ann, zoo, etag=str(int(first.etag) - 2))
    # Cy names hers as well, and is still behind.
    await swap(client, cy, law, zoo)
    await client.unenroll(bo, zoo)
    assert await places(client, ann) == [(zoo, ENROLLED, 0)]
    assert await places(client, cy) == [(zoo, WAITLISTED, law), (law, ENROLLED, 0)]


async def test_what_is_not_held_any_more_is_not_left(client: Client) -> None:
    (ann, bo), (art, zoo) = await seated(client, 2)
    await swap(client, ann, art, zoo)
    await client.unenroll(ann, art)
    await client.unenroll(bo, zoo)
    assert await places(client, ann) == [(zoo, ENROLLED, 0)]
    # The course to leave may be gone altogether.
    (cy, di), (law, tea) = await seated(client, 2)
    await swap(client, cy, law, tea)
    await client.call("DeleteCourse", course_id=law, force=True)
    await client.unenroll(di, tea)
    assert await places(client, cy) == [(tea, ENROLLED, 0)]


async def test_nobody_trades_after_the_close_time(timed_client: Client, clock: Clock) -> None:
    client = timed_client
    (ann, bo), (art, zoo) = await seated(client, 2, **course_fields({"enroll_close_time": START + timedelta(hours=1)}))
    await swap(client, ann, art, zoo)
    for course_id in (art, zoo):
        lifted = [pb.ERROR_REASON_ENROLLMENT_CLOSED]
        await client.call("GrantWaivers", course_id=course_id, student_ids=[bo], reasons=lifted)
    await clock.advance(hours=1)
    assert (await swap(client, bo, zoo, art)).enrolled.state == WAITLISTED
    assert await places(client, bo) == [(art, WAITLISTED, zoo), (zoo, ENROLLED, 0)]
    # Opened again, the last of the two closes the circle.
    until = stamp(START + timedelta(hours=9))
    for course_id in (art, zoo):
        course = pb.Course(course_id=course_id, enroll_close_time=until)
        await client.call("UpdateCourse", course=course, update_mask=FieldMask(paths=["enroll_close_time"]))
    assert await places(client, ann) == [(zoo, ENROLLED, 0)]
    assert await places(client, bo) == [(art, ENROLLED, 0)]


async def test_a_chain_that_would_be_too_long_is_refused_and_leaving_never_is(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    students, courses = await seated(client, 4)
    monkeypatch.setattr(rules, "MAX_TIES", 3)
    for number in (1, 2):
        await swap(client, students[number], courses[number], courses[number - 1])
    observed = {"course_id": str(courses[2]), "courses": "4", "max_courses": "3"}
    with refused(
        "FAILED_PRECONDITION", "SWAP_CHAIN_TOO_LONG", metadata=observed,
        preconditions=[("SWAP_CHAIN_TOO_LONG", f"courses/{courses[2]}")],
    ):  # fmt: skip
        await swap(client, students[3], courses[3], courses[2])
    monkeypatch.setattr(rules, "MAX_TIES", 1)
    await client.unenroll(students[0], courses[0])
    assert [await places(client, one) for one in students[1:3]] == [
        [(courses[0], ENROLLED, 0)], [(courses[1], ENROLLED, 0)]
    ]  # fmt: skip


async def test_a_full_waitlist_refuses_a_swap_too(client: Client) -> None:
    (ann, bo), (art, zoo) = await seated(client, 2)
    await client.call(
        "UpdateCourse", course=pb.Course(course_id=zoo), update_mask=FieldMask(paths=["waitlist_capacity"])
    )
    with refused("FAILED_PRECONDITION", "WAITLIST_FULL"):
        await swap(client, ann, art, zoo)
    with refused("FAILED_PRECONDITION", "COURSE_FULL"):
        await swap(client, ann, art, zoo, on_full=pb.ON_FULL_REJECT)
    with refused("INVALID_ARGUMENT", "INVALID_FIELD", fields=["on_full"]):
        await swap(client, bo, zoo, art, on_full=9)
