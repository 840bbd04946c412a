"""ExplainEnrollment: everything that stands in the way, and never anything else than EnrollStudent would answer."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from hypothesis import given

from enrollment_service.v1 import enrollment_pb2 as pb
from tests.support.client import Client
from tests.support.databases import Connection, connected
from tests.support.histories import Batch, histories
from tests.support.refusals import Refusal, example_keys, refused
from tests.support.services import START, Clock
from tests.support.thoroughness import few
from tests.support.wire import Play, course_fields, send

pytestmark = pytest.mark.timeout(120)

MISSING = 2**62
TABLES = "students, courses, waivers, student_courses, course_seats, enrollment_events, requests"
REJECT, WAIT = pb.ON_FULL_REJECT, pb.ON_FULL_WAITLIST
ENROLLED, WAITLISTED, REFUSED = (
    pb.ENROLLMENT_STATE_ENROLLED,
    pb.ENROLLMENT_STATE_WAITLISTED,
    pb.ENROLLMENT_STATE_UNSPECIFIED,
)


async def explain(client: Client, student_id: int, *course_ids: int, on_full: Any = REJECT) -> list[pb.Explanation]:
    answer = await client.call("ExplainEnrollment", student_id=student_id, course_ids=course_ids, on_full=on_full)
    assert [one.course_id for one in answer.explanations] == list(course_ids)
    return list(answer.explanations)


def reasons(explanation: pb.Explanation) -> list[str]:
    return [pb.ErrorReason.Name(one.reason).removeprefix("ERROR_REASON_") for one in explanation.obstacles]


async def tried(client: Client, student_id: int, course_id: int, on_full: Any) -> tuple[int, int, list[str]]:
    """What a dry run of EnrollStudent says: state, position, and what the first failing check has found."""
    try:
        (enrollment,) = await client.enroll(student_id, course_id, on_full=on_full, validate_only=True)
    except grpc.aio.AioRpcError as error:
        refusal = Refusal()
        refusal.read(error)
        return REFUSED, 0, [reason for reason, _ in refusal.preconditions] or [refusal.reason]
    return enrollment.state, enrollment.waitlist_position, []


async def test_everything_that_stands_in_the_way_is_named(timed_client: Client) -> None:
    """Of every check, not only of the first that fails; and which of it a waiver lifts."""
    client = timed_client
    ann, bo = await client.students(2)
    window = course_fields({"enroll_open_time": START + timedelta(days=1)})
    busy = (await client.create_course(capacity=1, waitlist_capacity=2, permit_required=True, **window)).course_id
    free, full = await client.courses(2)
    mask = FieldMask(paths=["capacity"])
    await client.call("UpdateCourse", course=pb.Course(course_id=full, capacity=0), update_mask=mask)
    lifted = [pb.ERROR_REASON_PERMIT_REQUIRED, pb.ERROR_REASON_ENROLLMENT_NOT_OPEN]
    await client.call("GrantWaivers", course_id=busy, student_ids=[bo], reasons=lifted)
    await client.enroll(bo, busy)

    found = await explain(client, ann, busy, MISSING, free, full)
    assert [(one.outcome, reasons(one)) for one in found] == [
        (REFUSED, ["PERMIT_REQUIRED", "ENROLLMENT_NOT_OPEN", "COURSE_FULL"]),
        (REFUSED, ["COURSE_NOT_FOUND"]),
        (ENROLLED, []),
        (REFUSED, ["COURSE_FULL"]),
    ]
    assert [one.waivable for one in found[0].obstacles] == [True, True, False]
    for one in found:
        for reason, obstacle in zip(reasons(one), one.obstacles, strict=True):
            assert example_keys(reason) <= obstacle.metadata.keys()
    # With a place in line it is enough; who is in it already hears the rest, too.
    await client.call("GrantWaivers", course_id=busy, student_ids=[ann], reasons=lifted)
    (found_again,) = await explain(client, ann, busy, on_full=WAIT)
    assert (found_again.outcome, found_again.waitlist_position) == (WAITLISTED, 1)
    (of_bo,) = await explain(client, bo, busy)
    assert reasons(of_bo) == ["ALREADY_ENROLLED", "COURSE_FULL"]
    (of_nobody,) = await explain(client, MISSING, busy)
    assert reasons(of_nobody) == ["STUDENT_NOT_FOUND", "PERMIT_REQUIRED", "ENROLLMENT_NOT_OPEN", "COURSE_FULL"]


@pytest.mark.random
@few(6)
@given(history=histories(8))
async def test_it_never_differs_from_the_real_thing(
    timed_client: Client, clock: Clock, connection: Connection, history: Sequence[Batch]
) -> None:
    """After every command, for a few students in all courses: a dry run says the same of each of them."""
    await connection.execute(f"TRUNCATE {TABLES}")
    play = Play(timed_client, clock)
    for batch in history:
        for command in await play.begin(batch):
            await send(timed_client, command)
            play.model.answer(command)
        course_ids = [*play.cast.courses.values()]
        for student_id in [*play.cast.students.values()][:3]:
            for on_full in (REJECT, WAIT):
                for one in await explain(timed_client, student_id, *course_ids, on_full=on_full):
                    state, position, broken = await tried(timed_client, student_id, one.course_id, on_full)
                    assert (one.outcome, one.waitlist_position) == (state, position)
                    assert reasons(one)[: len(broken)] == broken
                    assert bool(reasons(one)) == bool(broken)


async def test_it_waits_for_no_lock_and_writes_nothing(client: Client, database_url: str) -> None:
    (student_id,), (course_id,) = await client.students(1), await client.courses(1)
    async with connected(database_url) as holder, holder.transaction():
        await holder.execute("SELECT FROM course_seats FOR UPDATE")
        await holder.execute("SELECT FROM students FOR UPDATE")
        (found,) = await explain(client, student_id, course_id)
        assert found.outcome == ENROLLED
        assert await holder.fetchval("SELECT count(*) FROM enrollment_events WHERE kind = 1") == 0


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"student_id": 0, "course_ids": [1]}, ["student_id"]),
        ({"student_id": 1, "course_ids": []}, ["course_ids"]),
        ({"student_id": 1, "course_ids": [1, 1]}, ["course_ids"]),
        ({"student_id": 1, "course_ids": range(1, 52)}, ["course_ids"]),
        ({"student_id": 1, "course_ids": [1], "on_full": 9}, ["on_full"]),
    ],
)
async def test_a_malformed_request_is_refused(client: Client, fields: dict[str, Any], named: list[str]) -> None:
    with refused("INVALID_ARGUMENT", "INVALID_FIELD", fields=named):
        await client.call("ExplainEnrollment", **fields)
