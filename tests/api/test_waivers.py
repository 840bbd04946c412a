"""Waivers over the wire: whom a permit lets in, what a waiver lifts and what never, and what is known of it later."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

import pytest

from enrollment_service.domain.commands import Import
from enrollment_service.v1 import enrollment_pb2 as pb
from tests.support.client import Client
from tests.support.databases import Connection
from tests.support.refusals import refused
from tests.support.services import START, Clock
from tests.support.watching import events_of
from tests.support.wire import import_chunk, stamp

pytestmark = pytest.mark.usefixtures("verified")

MISSING = 2**62
PERMIT, NOT_OPEN, CLOSED = (
    pb.ERROR_REASON_PERMIT_REQUIRED,
    pb.ERROR_REASON_ENROLLMENT_NOT_OPEN,
    pb.ERROR_REASON_ENROLLMENT_CLOSED,
)
WAIT = pb.ON_FULL_WAITLIST


async def grant(client: Client, course_id: int, *student_ids: int, reasons: Any = (PERMIT,), **fields: Any) -> Any:
    answer = await client.call("GrantWaivers", course_id=course_id, student_ids=student_ids, reasons=reasons, **fields)
    return list(answer.waivers)


async def waivers(client: Client, course_id: int) -> list[tuple[int, list[int]]]:
    answer = await client.call("ListWaivers", course_id=course_id)
    return [(one.student_id, list(one.reasons)) for one in answer.waivers]


async def test_only_who_has_a_permit_enters(client: Client) -> None:
    ann, bo, cy = await client.students(3)
    course = await client.create_course(capacity=1, waitlist_capacity=5, permit_required=True)
    course_id = course.course_id
    assert course.permit_required
    refusal = refused(
        "FAILED_PRECONDITION",
        "PERMIT_REQUIRED",
        metadata={"course_id": str(course_id), "student_id": str(ann)},
        preconditions=[("PERMIT_REQUIRED", f"courses/{course_id}")],
    )
    with refusal:
        await client.enroll(ann, course_id, on_full=WAIT)
    (waiver,) = await grant(client, course_id, ann, reason="consent")
    assert (waiver.course_id, waiver.student_id, list(waiver.reasons)) == (course_id, ann, [PERMIT])
    assert waiver.create_time.seconds
    assert not waiver.HasField("expire_time")
    (enrolled,) = await client.enroll(ann, course_id)
    assert enrolled.state == pb.ENROLLMENT_STATE_ENROLLED
    # The permit stands before the seats, and both are named.
    with refused(
        "FAILED_PRECONDITION",
        "PERMIT_REQUIRED",
        preconditions=[("PERMIT_REQUIRED", f"courses/{course_id}"), ("COURSE_FULL", f"courses/{course_id}")],
    ):
        await client.enroll(bo, course_id)
    (free,) = await client.courses(1)
    await client.enroll(cy, free)
    with refused("FAILED_PRECONDITION", "PERMIT_REQUIRED"):
        await client.call("SwapEnrollment", student_id=cy, from_course_id=free, to_course_id=course_id)
    answer = await import_chunk(client, Import(student_ids=(bo, ann), course_ids=(course_id, course_id), waitlist=True))
    assert [(row.index, row.reason) for row in answer.rejected_rows] == [(0, PERMIT)]
    assert answer.already_enrolled == 1


async def test_who_waits_is_promoted_without_a_permit(client: Client) -> None:
    ann, bo = await client.students(2)
    (course_id,) = await client.courses(1, capacity=1, waitlist_capacity=5, permit_required=True)
    await grant(client, course_id, ann, bo)
    await client.enroll(ann, course_id)
    await client.enroll(bo, course_id, on_full=WAIT)
    await client.call("RevokeWaivers", course_id=course_id, student_ids=[ann, bo])
    assert await waivers(client, course_id) == []
    await client.unenroll(ann, course_id)
    assert await client.roster(course_id) == [bo]
    with refused("FAILED_PRECONDITION", "PERMIT_REQUIRED"):
        await client.enroll(ann, course_id, on_full=WAIT)


async def test_reconciling_asks_who_is_new_for_a_permit(client: Client) -> None:
    ann, bo, cy, di = await client.students(4)
    (course_id,) = await client.courses(1, capacity=4, permit_required=True)
    await grant(client, course_id, ann)
    await client.enroll(ann, course_id)
    with refused(
        "FAILED_PRECONDITION",
        "PERMIT_REQUIRED",
        metadata={"course_id": str(course_id), "student_id": str(bo), "violation_count": "2"},
        preconditions=[
            ("PERMIT_REQUIRED", f"students/{bo}/courses/{course_id}"),
            ("PERMIT_REQUIRED", f"students/{di}/courses/{course_id}"),
        ],
    ):
        await grant(client, course_id, cy)
        await client.call("ReconcileRoster", course_id=course_id, student_ids=[ann, bo, cy, di])
    await grant(client, course_id, bo, di)
    answer = await client.call("ReconcileRoster", course_id=course_id, student_ids=[ann, bo, cy, di])
    assert (list(answer.added), answer.unchanged_count) == ([bo, cy, di], 1)


async def test_a_late_add_and_an_early_one(timed_client: Client, clock: Clock) -> None:
    """Lifted for one student, in one course, until a time; seats are never lifted."""
    ann, bo = await timed_client.students(2)
    early = await timed_client.create_course(enroll_open_time=stamp(START + timedelta(days=1)), capacity=1)
    late = await timed_client.create_course(enroll_close_time=stamp(START - timedelta(days=1)), capacity=1)
    until = START + timedelta(hours=2)
    await grant(timed_client, early.course_id, ann, reasons=[NOT_OPEN])
    await grant(timed_client, late.course_id, ann, reasons=[PERMIT, CLOSED], expire_time=stamp(until))
    with refused("FAILED_PRECONDITION", "ENROLLMENT_NOT_OPEN"):
        await timed_client.enroll(bo, early.course_id)
    with refused("FAILED_PRECONDITION", "ENROLLMENT_CLOSED"):
        await timed_client.enroll(bo, late.course_id)
    await timed_client.enroll(ann, early.course_id)
    await clock.set(until)
    with refused("FAILED_PRECONDITION", "ENROLLMENT_CLOSED"):
        await timed_client.enroll(ann, late.course_id)
    await clock.set(until - timedelta(microseconds=1))
    await timed_client.enroll(ann, late.course_id)
    await grant(timed_client, late.course_id, bo, reasons=[CLOSED])
    with refused("FAILED_PRECONDITION", "COURSE_FULL"):
        await timed_client.enroll(bo, late.course_id)


async def test_what_a_waiver_is_about_is_in_the_log(client: Client, connection: Connection) -> None:
    ann, bo = await client.students(2)
    (course_id,) = await client.courses(1)
    request_id = str(uuid.uuid4())
    until = stamp(START)
    wish = {"reasons": [CLOSED, PERMIT], "expire_time": until, "reason": "petition", "request_id": request_id}
    first = await grant(client, course_id, bo, ann, **wish)
    assert [(one.student_id, list(one.reasons)) for one in first] == [(bo, [PERMIT, CLOSED]), (ann, [PERMIT, CLOSED])]
    assert await grant(client, course_id, bo, ann, **wish) == first
    # The same again changes nothing; another time changes what is named.
    assert await grant(client, course_id, ann, reasons=[PERMIT], expire_time=until) == [
        pb.Waiver(course_id=course_id, student_id=ann, reasons=[PERMIT], expire_time=until,
                  create_time=first[1].create_time)
    ]  # fmt: skip
    await grant(client, course_id, ann)
    assert await waivers(client, course_id) == [(ann, [CLOSED]), (ann, [PERMIT]), (bo, [PERMIT, CLOSED])]
    revoked = await client.call("RevokeWaivers", course_id=course_id, student_ids=[bo, ann], reasons=[CLOSED, NOT_OPEN])
    assert [(one.student_id, list(one.reasons)) for one in revoked.waivers] == [(bo, [CLOSED]), (ann, [CLOSED])]
    assert await waivers(client, course_id) == [(ann, [PERMIT]), (bo, [PERMIT])]

    watched = [
        event
        async for answer in client.stub.WatchEnrollmentEvents(pb.WatchEnrollmentEventsRequest(course_id=course_id))
        for event in answer.events
    ]
    assert [one.sequence for one in watched] == [1, 2, 3, 4, 5, 6]
    told = [
        (one.student_id, list(one.waived_reasons), one.HasField("waiver_expire_time"), one.waiver_revoked, one.reason)
        for one in watched[1:]
    ]
    assert {one.kind for one in watched[1:]} == {pb.EVENT_KIND_WAIVER}
    assert told == [
        (bo, [PERMIT, CLOSED], True, False, "petition"),
        (ann, [PERMIT, CLOSED], True, False, "petition"),
        (ann, [PERMIT], False, False, ""),
        (bo, [CLOSED], False, True, ""),
        (ann, [CLOSED], False, True, ""),
    ]
    assert watched[1].request_id == request_id
    assert await events_of(client, student_id=bo) == [one for one in watched if one.student_id == bo]
    assert await connection.fetchval("SELECT last_sequence FROM course_seats WHERE course_id = $1", course_id) == 6


async def test_waivers_are_read_page_by_page(client: Client) -> None:
    students = await client.students(5)
    (course_id,) = await client.courses(1)
    await grant(client, course_id, *students)
    await grant(client, course_id, students[2], reasons=[CLOSED])
    seen, token = [], ""
    while True:
        page = await client.call("ListWaivers", course_id=course_id, page_size=2, page_token=token)
        seen += [(one.student_id, list(one.reasons)) for one in page.waivers]
        token = page.next_page_token
        if not token:
            break
    assert seen == await waivers(client, course_id)
    assert len(seen) == 6
    with refused("NOT_FOUND", "COURSE_NOT_FOUND", resources=[f"courses/{MISSING}"]):
        await client.call("ListWaivers", course_id=MISSING)
    with refused("INVALID_ARGUMENT", "PAGE_TOKEN_INVALID"):
        await client.call("ListWaivers", course_id=course_id, page_token="x")


async def test_waivers_end_with_their_student_and_their_course(client: Client, connection: Connection) -> None:
    ann, bo = await client.students(2)
    one, other = await client.courses(2)
    for course_id in (one, other):
        await grant(client, course_id, ann, bo)
    await client.call("DeleteStudent", student_id=ann)
    await client.call("DeleteCourse", course_id=other)
    left = await connection.fetch("SELECT course_id, student_id, reason FROM waivers")
    assert [tuple(row) for row in left] == [(one, bo, "PERMIT_REQUIRED")]


async def test_thousands_are_granted_and_revoked_at_once(client: Client) -> None:
    students = await client.students(600)
    (course_id,) = await client.courses(1, permit_required=True)
    assert len(await grant(client, course_id, *students, reasons=[PERMIT, NOT_OPEN, CLOSED])) == 600
    answer = await client.call("ReconcileRoster", course_id=course_id, student_ids=students)
    assert len(answer.added) == 600
    revoked = await client.call("RevokeWaivers", course_id=course_id, student_ids=students)
    assert len(revoked.waivers) == 600
    assert await waivers(client, course_id) == []


@pytest.mark.parametrize("method", ["GrantWaivers", "RevokeWaivers"])
async def test_every_unknown_id_is_named_and_nothing_happens(client: Client, method: str) -> None:
    (ann,), (course_id,) = await client.students(1), await client.courses(1)
    with refused("NOT_FOUND", "STUDENT_NOT_FOUND", resources=[f"students/{MISSING}", f"students/{MISSING + 1}"]):
        await client.call(method, course_id=course_id, student_ids=[MISSING, ann, MISSING + 1], reasons=[PERMIT])
    with refused("NOT_FOUND", "COURSE_NOT_FOUND", resources=[f"courses/{MISSING}"]):
        await client.call(method, course_id=MISSING, student_ids=[ann], reasons=[PERMIT])
    assert await waivers(client, course_id) == []


@pytest.mark.parametrize(
    ("reasons", "says"),
    [
        ([], "is required"),
        ([PERMIT, PERMIT], "duplicates"),
        ([pb.ERROR_REASON_COURSE_FULL], "raise the capacity"),
        ([PERMIT, pb.ERROR_REASON_WAITLIST_FULL], "raise the capacity"),
        ([pb.ERROR_REASON_STUDENT_NOT_FOUND], "may only name"),
        ([999], "may only name"),
    ],
)
async def test_only_some_refusals_can_be_lifted(client: Client, reasons: list[int], says: str) -> None:
    with refused("INVALID_ARGUMENT", "INVALID_FIELD", metadata={"field": "reasons"}, fields=["reasons"]) as refusal:
        await client.call("GrantWaivers", course_id=1, student_ids=[1], reasons=reasons)
    assert says in refusal.message


async def test_a_dry_run_grants_nothing(client: Client, connection: Connection) -> None:
    (ann,), (course_id,) = await client.students(1), await client.courses(1, permit_required=True)
    assert len(await grant(client, course_id, ann, validate_only=True)) == 1
    assert await waivers(client, course_id) == []
    await grant(client, course_id, ann)
    answer = await client.call("RevokeWaivers", course_id=course_id, student_ids=[ann], validate_only=True)
    assert len(answer.waivers) == 1
    assert await waivers(client, course_id) == [(ann, [PERMIT])]
    assert await connection.fetchval("SELECT count(*) FROM enrollment_events WHERE kind = 5") == 1
