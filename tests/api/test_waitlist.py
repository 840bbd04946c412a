"""Seats and waitlists as callers see them: positions, the queue, promotion in the same transaction, windows, swaps."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from enrollment_service.engine import housekeeping
from enrollment_service.v1 import enrollment_pb2 as pb
from tests.support.client import Client
from tests.support.databases import Connection
from tests.support.refusals import refused
from tests.support.services import START, Clock, service_on
from tests.support.wire import course_fields

pytestmark = pytest.mark.usefixtures("verified")

WAIT = {"on_full": pb.ON_FULL_WAITLIST}
ENROLLED, WAITLISTED = pb.ENROLLMENT_STATE_ENROLLED, pb.ENROLLMENT_STATE_WAITLISTED


async def a_queue(client: Client, waiters: int, **course: Any) -> tuple[int, list[int]]:
    """A course with one seat, and students: the first sits in it, the others wait in this order."""
    created = await client.create_course(capacity=1, waitlist_capacity=waiters, **course)
    students = await client.students(1 + waiters)
    for student_id in students:
        await client.enroll(student_id, created.course_id, **WAIT)
    return created.course_id, students


async def seats(client: Client, course_id: int) -> tuple[list[int], list[int]]:
    """Who sits in a course and who waits; positions, counts and list must agree."""
    answer = await client.call("ListCourseStudents", course_id=course_id, page_size=1000)
    seated = [one for one in answer.enrollments if one.state == ENROLLED]
    waiting = [one for one in answer.enrollments if one.state == WAITLISTED]
    assert list(answer.enrollments) == seated + waiting
    assert [one.waitlist_position for one in seated] == [0] * len(seated)
    assert [one.waitlist_position for one in waiting] == list(range(1, len(waiting) + 1))
    assert (answer.course.enrolled_count, answer.course.waitlisted_count) == (len(seated), len(waiting))
    return [one.student_id for one in seated], [one.student_id for one in waiting]


async def update_course(client: Client, course_id: int, **changes: Any) -> pb.Course:
    """Changes fields of a course; None clears one."""
    course = pb.Course(course_id=course_id, **course_fields(changes))
    answer = await client.call("UpdateCourse", course=course, update_mask=FieldMask(paths=changes))
    updated: pb.Course = answer.course
    return updated


# --- the queue ----------------------------------------------------------------------------------------------------


async def test_waiters_get_positions_in_the_order_they_came(client: Client) -> None:
    course = await client.create_course(capacity=1, waitlist_capacity=3)
    students = await client.students(5)
    answers = [(await client.enroll(one, course.course_id, **WAIT))[0] for one in students[:4]]
    assert [one.state for one in answers] == [ENROLLED, WAITLISTED, WAITLISTED, WAITLISTED]
    assert [one.waitlist_position for one in answers] == [0, 1, 2, 3]
    assert [one.course.waitlisted_count for one in answers] == [0, 1, 2, 3]
    full = {"course_id": str(course.course_id), "enrolled": "1", "capacity": "1"}
    waiting = {"waitlisted": "3", "waitlist_capacity": "3"}
    with refused("FAILED_PRECONDITION", "WAITLIST_FULL", metadata=full | waiting):
        await client.enroll(students[4], course.course_id, **WAIT)
    with refused("FAILED_PRECONDITION", "COURSE_FULL", metadata=full | {"waitlisted": "3"}):
        await client.enroll(students[4], course.course_id)
    assert await seats(client, course.course_id) == (students[:1], students[1:4])


async def test_positions_close_up_when_somebody_leaves_the_queue(client: Client) -> None:
    course_id, students = await a_queue(client, 3)
    last = await client.call("GetEnrollment", student_id=students[3], course_id=course_id)
    await client.unenroll(students[1], course_id)
    assert await seats(client, course_id) == (students[:1], students[2:])
    moved = await client.call("GetEnrollment", student_id=students[3], course_id=course_id)
    assert (last.enrollment.waitlist_position, moved.enrollment.waitlist_position) == (3, 2)
    assert moved.enrollment.etag == last.enrollment.etag


async def test_who_rejoins_is_last(client: Client) -> None:
    course_id, students = await a_queue(client, 3)
    await client.unenroll(students[1], course_id)
    (again,) = await client.enroll(students[1], course_id, **WAIT)
    assert again.waitlist_position == 3
    assert await seats(client, course_id) == (students[:1], [students[2], students[3], students[1]])


async def test_who_gave_up_a_seat_comes_back_behind_all_waiters(client: Client) -> None:
    course_id, students = await a_queue(client, 2)
    await client.unenroll(students[0], course_id)
    (again,) = await client.enroll(students[0], course_id, **WAIT)
    assert (again.state, again.waitlist_position) == (WAITLISTED, 2)
    assert await seats(client, course_id) == ([students[1]], [students[2], students[0]])


async def test_whoever_waits_is_not_enrolled_twice(client: Client) -> None:
    course_id, students = await a_queue(client, 1)
    with refused("ALREADY_EXISTS", "ALREADY_WAITLISTED") as refusal:
        await client.enroll(students[1], course_id, **WAIT)
    assert refusal.metadata["state"] == "WAITLISTED"


async def test_some_courses_may_be_waited_for_while_others_seat(client: Client) -> None:
    course_id, _ = await a_queue(client, 2)
    await update_course(client, course_id, waitlist_capacity=3)
    (free,) = await client.courses(1)
    (student_id,) = await client.students(1)
    answers = await client.enroll(student_id, course_id, free, **WAIT)
    assert [(one.state, one.waitlist_position) for one in answers] == [(WAITLISTED, 3), (ENROLLED, 0)]


async def test_a_waitlist_without_room_keeps_the_student_out_of_all_courses(client: Client) -> None:
    course_id, _ = await a_queue(client, 1)
    (free,) = await client.courses(1)
    (student_id,) = await client.students(1)
    with refused("FAILED_PRECONDITION", "WAITLIST_FULL", preconditions=[("WAITLIST_FULL", f"courses/{course_id}")]):
        await client.enroll(student_id, free, course_id, **WAIT)
    assert await client.courses_of(student_id) == []


# --- promotion ----------------------------------------------------------------------------------------------------


async def unenroll(client: Client, course_id: int, students: Sequence[int]) -> None:
    await client.unenroll(students[0], course_id)


async def swap_away(client: Client, course_id: int, students: Sequence[int]) -> None:
    (other,) = await client.courses(1)
    await client.call("SwapEnrollment", student_id=students[0], from_course_id=course_id, to_course_id=other)


async def delete_student(client: Client, course_id: int, students: Sequence[int]) -> None:  # noqa: ARG001
    await client.call("DeleteStudent", student_id=students[0], force=True)


async def reconcile(client: Client, course_id: int, students: Sequence[int]) -> None:
    await client.call("ReconcileRoster", course_id=course_id, student_ids=[students[1]], max_removals=9)


async def raise_capacity(client: Client, course_id: int, students: Sequence[int]) -> None:  # noqa: ARG001
    course = await update_course(client, course_id, capacity=2)
    assert (course.enrolled_count, course.waitlisted_count) == (2, 2)


@pytest.mark.parametrize("free_a_seat", [unenroll, swap_away, delete_student, reconcile, raise_capacity])
async def test_the_first_waiter_is_promoted_in_the_same_transaction(
    client: Client, connection: Connection, free_a_seat: Callable[[Client, int, Sequence[int]], Awaitable[None]]
) -> None:
    course_id, students = await a_queue(client, 3)
    before = await connection.fetchval("SELECT max(sequence) FROM enrollment_events WHERE course_id = $1", course_id)
    await free_a_seat(client, course_id, students)
    seated, _ = await seats(client, course_id)
    assert students[1] in seated
    events = await connection.fetch(
        "SELECT student_id, previous_state, state, reason, xid::text FROM enrollment_events"
        " WHERE course_id = $1 AND sequence > $2 ORDER BY sequence",
        course_id,
        before,
    )
    assert len({event["xid"] for event in events}) == 1
    assert tuple(events[-1])[:4] == (students[1], WAITLISTED, ENROLLED, "waitlist_promotion")


async def test_several_seats_go_to_the_first_waiters_in_order(client: Client, connection: Connection) -> None:
    course_id, students = await a_queue(client, 4)
    await update_course(client, course_id, capacity=4)
    assert await seats(client, course_id) == (students[:4], students[4:])
    promoted = await connection.fetch(
        "SELECT student_id FROM enrollment_events WHERE course_id = $1 AND previous_state = 2 ORDER BY sequence",
        course_id,
    )
    assert [row["student_id"] for row in promoted] == students[1:4]


async def test_no_limit_promotes_everybody(client: Client) -> None:
    course_id, students = await a_queue(client, 3)
    course = await update_course(client, course_id, capacity=None)
    assert not course.HasField("capacity")
    assert await seats(client, course_id) == (students, [])


async def test_a_deleted_student_leaves_seats_and_queues(client: Client) -> None:
    first, students = await a_queue(client, 1)
    second, others = await a_queue(client, 1)
    await update_course(client, second, waitlist_capacity=2)
    await client.enroll(students[0], second, **WAIT)
    counts = {"student_id": str(students[0]), "enrolled": "1", "waitlisted": "1"}
    with refused("FAILED_PRECONDITION", "HAS_ENROLLMENTS", metadata=counts):
        await client.call("DeleteStudent", student_id=students[0])
    await client.call("DeleteStudent", student_id=students[0], force=True)
    assert await seats(client, first) == ([students[1]], [])
    assert await seats(client, second) == (others[:1], others[1:])
    with refused("NOT_FOUND", "STUDENT_NOT_FOUND"):
        await client.call("GetStudent", student_id=students[0])


async def test_a_deleted_course_promotes_nobody_and_keeps_its_history(client: Client, connection: Connection) -> None:
    course_id, students = await a_queue(client, 2)
    counts = {"course_id": str(course_id), "enrolled": "1", "waitlisted": "2"}
    with refused("FAILED_PRECONDITION", "HAS_ENROLLMENTS", metadata=counts):
        await client.call("DeleteCourse", course_id=course_id)
    await client.call("DeleteCourse", course_id=course_id, force=True)
    with refused("NOT_FOUND", "COURSE_NOT_FOUND"):
        await client.call("GetCourse", course_id=course_id)
    events = await connection.fetch(
        "SELECT student_id, previous_state, state, reason FROM enrollment_events"
        " WHERE course_id = $1 AND sequence > 4 ORDER BY sequence",
        course_id,
    )
    assert [tuple(event) for event in events] == [
        (students[1], 2, 3, "course_deleted"),
        (students[2], 2, 3, "course_deleted"),
        (students[0], 1, 3, "course_deleted"),
        (None, 0, 0, "course_deleted"),
    ]


# --- limits -------------------------------------------------------------------------------------------------------


async def test_capacity_may_not_go_below_enrolled(client: Client) -> None:
    course = await client.create_course()
    for student_id in await client.students(3):
        await client.enroll(student_id, course.course_id)
    observed = {"course_id": str(course.course_id), "enrolled": "3", "capacity": "2"}
    subject = f"courses/{course.course_id}"
    with refused(
        "FAILED_PRECONDITION",
        "CAPACITY_BELOW_ENROLLED",
        metadata=observed,
        preconditions=[("CAPACITY_BELOW_ENROLLED", subject)],
    ):
        await update_course(client, course.course_id, capacity=2, title="Changed")
    unchanged = (await client.call("GetCourse", course_id=course.course_id)).course
    assert (unchanged.title, unchanged.etag, unchanged.HasField("capacity")) == ("Drawing", course.etag, False)
    assert (await update_course(client, course.course_id, capacity=3)).capacity == 3


async def test_fewer_may_wait_than_do(client: Client) -> None:
    course_id, students = await a_queue(client, 2)
    await update_course(client, course_id, waitlist_capacity=1)
    assert await seats(client, course_id) == (students[:1], students[1:])


async def test_two_raises_at_once_fill_up_exactly(client: Client) -> None:
    course_id, students = await a_queue(client, 5)
    await asyncio.gather(*(update_course(client, course_id, capacity=number) for number in (3, 3, 3)))
    assert await seats(client, course_id) == (students[:3], students[3:])


# --- swap ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("waitlist_capacity", [0, 5])
async def test_a_swap_into_a_full_course_keeps_the_seat(
    client: Client, connection: Connection, waitlist_capacity: int
) -> None:
    source, students = await a_queue(client, 1)
    target = await client.create_course(capacity=0, waitlist_capacity=waitlist_capacity)
    events = await connection.fetchval("SELECT count(*) FROM enrollment_events WHERE kind = 1")
    with refused("FAILED_PRECONDITION", "COURSE_FULL"):
        await client.call(
            "SwapEnrollment", student_id=students[0], from_course_id=source, to_course_id=target.course_id
        )
    assert await seats(client, source) == (students[:1], students[1:])
    assert await seats(client, target.course_id) == ([], [])
    assert await connection.fetchval("SELECT count(*) FROM enrollment_events WHERE kind = 1") == events


async def test_a_swap_moves_the_student_and_promotes_behind(client: Client) -> None:
    source, students = await a_queue(client, 1)
    (target,) = await client.courses(1, capacity=1)
    answer = await client.call("SwapEnrollment", student_id=students[0], from_course_id=source, to_course_id=target)
    assert (answer.dropped.course_id, answer.dropped.state) == (source, pb.ENROLLMENT_STATE_DROPPED)
    assert (answer.dropped.course.enrolled_count, answer.dropped.course.waitlisted_count) == (1, 0)
    assert (answer.enrolled.course_id, answer.enrolled.state) == (target, ENROLLED)
    assert await seats(client, source) == ([students[1]], [])
    assert await seats(client, target) == ([students[0]], [])


async def test_two_swaps_at_once_cannot_trade_two_full_courses(client: Client) -> None:
    """Each needs a seat that is free now; nobody is moved out to make one."""
    (one, other) = await client.courses(2, capacity=1)
    (ann, bo) = await client.students(2)
    await client.enroll(ann, one)
    await client.enroll(bo, other)
    swaps = [(ann, one, other), (bo, other, one)]
    answers = await asyncio.gather(
        *(client.call("SwapEnrollment", student_id=s, from_course_id=a, to_course_id=b) for s, a, b in swaps),
        return_exceptions=True,
    )
    assert all(isinstance(answer, Exception) for answer in answers)
    assert (await client.courses_of(ann), await client.courses_of(bo)) == ([one], [other])


# --- windows ------------------------------------------------------------------------------------------------------


def hour(number: float) -> datetime:
    return START + timedelta(hours=number)


async def test_the_window_opens_and_closes_to_the_microsecond(timed_client: Client, clock: Clock) -> None:
    window = course_fields({"enroll_open_time": hour(1), "enroll_close_time": hour(2)})
    course_id = (await timed_client.create_course(**window)).course_id
    students = iter(await timed_client.students(4))
    tick = timedelta(microseconds=1)
    await clock.set(hour(1) - tick)
    opens = {"course_id": str(course_id), "enroll_open_time": "2026-09-01T09:00:00Z"}
    with refused("FAILED_PRECONDITION", "ENROLLMENT_NOT_OPEN", metadata=opens):
        await timed_client.enroll(next(students), course_id)
    await clock.set(hour(1))
    await timed_client.enroll(next(students), course_id)
    await clock.set(hour(2) - tick)
    await timed_client.enroll(next(students), course_id)
    await clock.set(hour(2))
    closes = {"course_id": str(course_id), "enroll_close_time": "2026-09-01T10:00:00Z"}
    with refused("FAILED_PRECONDITION", "ENROLLMENT_CLOSED", metadata=closes):
        await timed_client.enroll(next(students), course_id)


async def test_every_way_in_obeys_the_window_and_no_way_out(timed_client: Client) -> None:
    (free,) = await timed_client.courses(1)
    (ann, bo) = await timed_client.students(2)
    closed = (await timed_client.create_course()).course_id
    for student_id, course_id in ((ann, closed), (bo, free)):
        await timed_client.enroll(student_id, course_id)
    await update_course(timed_client, closed, enroll_close_time=hour(0))
    with refused("FAILED_PRECONDITION", "ENROLLMENT_CLOSED"):
        await timed_client.enroll(bo, closed, **WAIT)
    with refused("FAILED_PRECONDITION", "ENROLLMENT_CLOSED"):
        await timed_client.call("SwapEnrollment", student_id=bo, from_course_id=free, to_course_id=closed)
    with refused("FAILED_PRECONDITION", "ENROLLMENT_CLOSED"):
        await timed_client.call("ReconcileRoster", course_id=closed, student_ids=[ann, bo])
    await timed_client.call("SwapEnrollment", student_id=ann, from_course_id=closed, to_course_id=free)
    assert await seats(timed_client, free) == ([ann, bo], [])


async def test_nobody_is_promoted_after_the_close_time_until_it_is_moved(timed_client: Client, clock: Clock) -> None:
    course_id, students = await a_queue(timed_client, 2, **course_fields({"enroll_close_time": hour(1)}))
    await clock.set(hour(2))
    await timed_client.unenroll(students[0], course_id)
    await update_course(timed_client, course_id, title="Still closed")
    assert await seats(timed_client, course_id) == ([], students[1:])
    with refused("FAILED_PRECONDITION", "ENROLLMENT_CLOSED"):
        await timed_client.enroll(students[0], course_id)
    course = await update_course(timed_client, course_id, enroll_close_time=hour(3))
    assert (course.enrolled_count, course.waitlisted_count) == (1, 1)
    assert await seats(timed_client, course_id) == ([students[1]], [students[2]])


async def test_a_cleared_close_time_promotes(timed_client: Client, clock: Clock) -> None:
    course_id, students = await a_queue(timed_client, 1, **course_fields({"enroll_close_time": hour(1)}))
    await clock.set(hour(2))
    await timed_client.unenroll(students[0], course_id)
    await update_course(timed_client, course_id, enroll_close_time=None)
    assert await seats(timed_client, course_id) == ([students[1]], [])


async def test_the_open_time_does_not_hold_up_promotion(timed_client: Client) -> None:
    course_id, students = await a_queue(timed_client, 1)
    await update_course(timed_client, course_id, enroll_open_time=hour(5))
    await timed_client.unenroll(students[0], course_id)
    assert await seats(timed_client, course_id) == ([students[1]], [])


async def test_event_times_stand_still_while_the_clock_is_set_back(
    timed_client: Client, clock: Clock, connection: Connection
) -> None:
    (course_id,) = await timed_client.courses(1)
    for student_id, moment in zip(await timed_client.students(3), (hour(1), hour(0), hour(2)), strict=True):
        await clock.set(moment)
        await timed_client.enroll(student_id, course_id)
    times = await connection.fetch("SELECT event_time FROM enrollment_events WHERE kind = 1 ORDER BY sequence")
    assert [row["event_time"] for row in times] == [hour(1), hour(1), hour(2)]


async def beside_a_free_seat(client: Client, clock: Clock) -> tuple[int, list[int]]:
    """A course whose close time has passed, where a seat became free, and then the clock was set back before it."""
    course_id, students = await a_queue(client, 3, **course_fields({"enroll_close_time": START + timedelta(hours=2)}))
    await clock.set(START + timedelta(hours=3))
    await client.unenroll(students[0], course_id)
    await clock.set(START + timedelta(hours=1))
    assert await seats(client, course_id) == ([], students[1:])
    return course_id, students


async def test_the_next_call_gives_away_the_seat_that_a_clock_set_back_has_left(
    timed_client: Client, clock: Clock, connection: Connection
) -> None:
    """Also where the call itself is refused. A dry run says so, and leaves it as it is."""
    course_id, (_, ann, bo, cy) = await beside_a_free_seat(timed_client, clock)
    (newcomer,) = await timed_client.students(1)
    full = {"course_id": str(course_id), "enrolled": "1", "capacity": "1", "waitlisted": "2"}
    with refused("FAILED_PRECONDITION", "COURSE_FULL", metadata=full):
        await timed_client.enroll(newcomer, course_id, validate_only=True)
    assert await seats(timed_client, course_id) == ([], [ann, bo, cy])
    with refused("FAILED_PRECONDITION", "COURSE_FULL", metadata=full):
        await timed_client.enroll(newcomer, course_id)
    assert await seats(timed_client, course_id) == ([ann], [bo, cy])
    event = await connection.fetchrow(
        "SELECT student_id, request_id, actor, reason FROM enrollment_events ORDER BY sequence DESC LIMIT 1"
    )
    assert event is not None
    assert tuple(event) == (ann, None, "", "waitlist_promotion")


async def test_within_a_minute_it_is_given_away_without_any_call(
    timed_client: Client, clock: Clock, app_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    course_id, (_, ann, bo, cy) = await beside_a_free_seat(timed_client, clock)
    assert housekeeping.SETTLE_SECONDS * 1.5 < 60
    monkeypatch.setattr(housekeeping, "SETTLE_SECONDS", 0.01)
    async with service_on(app_url, clock.column):
        while await seats(timed_client, course_id) != ([ann], [bo, cy]):  # noqa: ASYNC110 - each look is a call
            await asyncio.sleep(0.02)
