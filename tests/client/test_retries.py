"""Which calls are sent again, when, and with what; on a server that fails as told."""

from __future__ import annotations

import asyncio
import uuid

import grpc
import pytest
from google.protobuf.message import Message

from enrollment_service.client import Closed, EnrollmentClient, OutcomeUnknown, Pauses, Refused, ServiceError
from enrollment_service.client.methods import METHODS
from enrollment_service.v1 import enrollment_pb2 as pb
from tests.support.scripted import ScriptedServer, Time, fails, hangs

Code = grpc.StatusCode
# INTERNAL here without a reason, as gRPC itself answers.
PASSING = [Code.UNAVAILABLE, Code.CANCELLED, Code.DEADLINE_EXCEEDED, Code.UNKNOWN, Code.INTERNAL]


def test_every_method_is_a_read_or_takes_a_request_id() -> None:
    for name, method in METHODS.items():
        assert method.reads != ("request_id" in method.request_type.DESCRIPTOR.fields_by_name), name


@pytest.mark.parametrize("code", PASSING)
async def test_what_may_pass_is_sent_again_with_the_same_request_id(
    scripted: ScriptedServer, caller: EnrollmentClient, code: grpc.StatusCode
) -> None:
    scripted.script.extend([fails(code)] * 3)
    await caller.enroll_student(1, [2])
    first = scripted.request_ids
    assert len(first) == 4
    assert len(set(first)) == 1
    assert str(uuid.UUID(first[0])) == first[0]
    await caller.enroll_student(1, [2])
    assert scripted.request_ids[-1] != first[0]


async def test_a_request_id_of_the_callers_is_kept(scripted: ScriptedServer, caller: EnrollmentClient) -> None:
    mine = str(uuid.uuid4())
    scripted.script.append(fails(Code.UNAVAILABLE))
    await caller.unenroll_student(1, 2, request_id=mine)
    assert scripted.request_ids == [mine, mine]


async def test_the_callers_message_is_not_touched(scripted: ScriptedServer, caller: EnrollmentClient) -> None:
    request = pb.EnrollStudentRequest(student_id=1, course_ids=[2])
    await caller.call("EnrollStudent", request)
    assert request.request_id == ""
    assert scripted.received[0].request_id


@pytest.mark.parametrize(
    ("method", "request_message"),
    [
        ("GetStudent", pb.GetStudentRequest(student_id=1)),
        ("ListCourses", pb.ListCoursesRequest()),
        ("EnrollStudent", pb.EnrollStudentRequest(student_id=1, course_ids=[1], validate_only=True)),
        ("ReconcileRoster", pb.ReconcileRosterRequest(course_id=1, validate_only=True)),
    ],
)
async def test_reads_and_dry_runs_need_no_request_id(
    scripted: ScriptedServer, caller: EnrollmentClient, method: str, request_message: Message
) -> None:
    scripted.script.append(fails(Code.UNAVAILABLE, "DATABASE_UNAVAILABLE", retry_delay=1))
    await caller.call(method, request_message)
    assert scripted.received == [request_message] * 2


async def test_what_was_rejected_before_any_effect_is_sent_again_after_the_delay(
    scripted: ScriptedServer, caller: EnrollmentClient, time: Time
) -> None:
    scripted.script.append(fails(Code.RESOURCE_EXHAUSTED, "OVERLOADED", retry_delay=1))
    await caller.create_student("Ann Lee", "ann@example.org")
    assert len(scripted.received) == 2
    assert time.pauses[0] >= 1


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (Code.ABORTED, "ETAG_MISMATCH"),
        (Code.FAILED_PRECONDITION, "COURSE_FULL"),
        (Code.INVALID_ARGUMENT, "INVALID_FIELD"),
        (Code.NOT_FOUND, "STUDENT_NOT_FOUND"),
        (Code.ALREADY_EXISTS, "ALREADY_ENROLLED"),
        (Code.OUT_OF_RANGE, "RESUME_TOKEN_EXPIRED"),
        (Code.PERMISSION_DENIED, "PERMISSION_DENIED"),
        (Code.UNAUTHENTICATED, "UNAUTHENTICATED"),
        (Code.UNIMPLEMENTED, "UNIMPLEMENTED"),
    ],
)
async def test_a_refusal_is_an_answer(
    scripted: ScriptedServer, caller: EnrollmentClient, code: grpc.StatusCode, reason: str
) -> None:
    scripted.script.append(fails(code, reason))
    with pytest.raises(Refused) as refusal:
        await caller.enroll_student(1, [2])
    assert (refusal.value.code, refusal.value.reason) == (code, reason)
    assert refusal.value.request_id == scripted.request_ids[0]
    assert len(scripted.received) == 1


async def test_a_message_too_large_is_not_sent_again(scripted: ScriptedServer, caller: EnrollmentClient) -> None:
    scripted.script.append(fails(Code.RESOURCE_EXHAUSTED))
    with pytest.raises(OutcomeUnknown):
        await caller.enroll_student(1, [2])
    assert len(scripted.received) == 1


async def test_an_internal_error_is_tried_once_more(scripted: ScriptedServer, caller: EnrollmentClient) -> None:
    scripted.script.extend([fails(Code.INTERNAL, "INTERNAL")] * 2)
    with pytest.raises(OutcomeUnknown) as failure:
        await caller.enroll_student(1, [2])
    assert failure.value.attempts == 2
    assert len(set(scripted.request_ids)) == 1
    scripted.script.append(fails(Code.INTERNAL, "INTERNAL"))
    await caller.enroll_student(1, [2])


async def test_an_attempt_that_hangs_is_given_up_and_repeated(scripted: ScriptedServer) -> None:
    scripted.script.append(hangs)
    async with EnrollmentClient(scripted.address, timeout=0.2) as caller:
        await caller.enroll_student(1, [2])
    assert len(scripted.received) == 2
    assert len(set(scripted.request_ids)) == 1


async def test_pauses_grow_and_are_drawn(scripted: ScriptedServer, caller: EnrollmentClient, time: Time) -> None:
    scripted.script.extend([fails(Code.UNAVAILABLE)] * 8)
    await caller.get_student(1)
    assert [high for _, high in time.drawn] == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0]
    assert {low for low, _ in time.drawn} == {0.0}
    assert all(pause <= high for pause, (_, high) in zip(time.pauses, time.drawn, strict=True))


async def test_no_attempt_comes_sooner_than_the_service_asks(
    scripted: ScriptedServer, caller: EnrollmentClient, time: Time
) -> None:
    scripted.script.extend([fails(Code.UNAVAILABLE, "SHUTTING_DOWN", retry_delay=1.5)] * 3)
    await caller.enroll_student(1, [2])
    assert len(time.pauses) == 3
    assert all(pause > 1.5 for pause in time.pauses), "and not all at once: jitter comes on top"


async def test_after_the_budget_the_last_error_is_raised(
    scripted: ScriptedServer, caller: EnrollmentClient, time: Time
) -> None:
    scripted.script.extend([fails(Code.UNAVAILABLE, "DATABASE_UNAVAILABLE", retry_delay=1)] * 100)
    began = time.now
    with pytest.raises(OutcomeUnknown) as failure:
        await caller.within(budget=10).enroll_student(1, [2])
    assert failure.value.reason == "DATABASE_UNAVAILABLE"
    assert failure.value.retry_delay == 1
    assert failure.value.attempts == len(scripted.received) == len(time.pauses) + 1
    assert failure.value.request_id == scripted.request_ids[0]
    assert 7 < time.now - began < 10


async def test_a_pause_longer_than_the_budget_is_not_begun(
    scripted: ScriptedServer, caller: EnrollmentClient, time: Time
) -> None:
    scripted.script.append(fails(Code.RESOURCE_EXHAUSTED, "RATE_LIMITED", retry_delay=60))
    with pytest.raises(Refused) as refusal:
        await caller.enroll_student(1, [2])
    assert refusal.value.retry_delay == 60
    assert time.pauses == []


async def test_an_attempt_without_time_is_not_begun(scripted: ScriptedServer, time: Time) -> None:
    async def oversleep(seconds: float) -> None:
        await time.sleep(seconds + 60)

    scripted.script.append(fails(Code.UNAVAILABLE, "DATABASE_UNAVAILABLE", retry_delay=1))
    pauses = Pauses(sleep=oversleep, clock=lambda: time.now)
    async with EnrollmentClient(scripted.address, pauses=pauses) as caller:
        with pytest.raises(OutcomeUnknown) as failure:
            await caller.enroll_student(1, [2])
    assert failure.value.reason == "DATABASE_UNAVAILABLE"
    assert len(scripted.received) == 1


async def test_overloaded_says_nothing_about_the_attempts_before_it(
    scripted: ScriptedServer, caller: EnrollmentClient
) -> None:
    overloaded = fails(Code.RESOURCE_EXHAUSTED, "OVERLOADED", retry_delay=1)
    scripted.script.extend([fails(Code.UNAVAILABLE), *[overloaded] * 100])
    with pytest.raises(OutcomeUnknown) as failure:
        await caller.enroll_student(1, [2])
    assert (failure.value.reason, failure.value.request_id) == ("OVERLOADED", scripted.request_ids[0])
    scripted.script.clear()
    scripted.script.extend([overloaded] * 100)
    with pytest.raises(Refused):
        await caller.enroll_student(1, [2])


async def test_a_refusal_after_a_lost_answer_is_a_refusal(scripted: ScriptedServer, caller: EnrollmentClient) -> None:
    scripted.script.extend([fails(Code.UNAVAILABLE), fails(Code.FAILED_PRECONDITION, "COURSE_FULL")])
    with pytest.raises(Refused):
        await caller.enroll_student(1, [2])


async def test_a_task_that_is_cancelled_stays_so(scripted: ScriptedServer, caller: EnrollmentClient) -> None:
    scripted.script.append(hangs)
    calling = asyncio.create_task(caller.enroll_student(1, [2]))
    await scripted.arrived.wait()
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    assert len(scripted.received) == 1


async def test_a_callers_own_timeout_ends_the_call_and_its_pauses(scripted: ScriptedServer) -> None:
    scripted.script.append(fails(Code.UNAVAILABLE, "SHUTTING_DOWN", retry_delay=20))
    async with EnrollmentClient(scripted.address) as caller:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await caller.enroll_student(1, [2])


async def test_closing_the_client_ends_its_calls(scripted: ScriptedServer, time: Time) -> None:
    scripted.script.append(hangs)
    caller = EnrollmentClient(scripted.address, pauses=time.for_client)
    calling = asyncio.create_task(caller.enroll_student(1, [2]))
    await scripted.arrived.wait()
    await caller.close()
    with pytest.raises(Closed) as failure:
        await calling
    assert isinstance(failure.value, OutcomeUnknown)
    assert (failure.value.code, failure.value.request_id) == (Code.CANCELLED, scripted.request_ids[0])
    assert time.pauses == []


async def test_a_server_that_is_not_there_yet_is_waited_for_or_not(time: Time) -> None:
    async with EnrollmentClient("127.0.0.1:9", wait_for_ready=False, budget=1, pauses=time.for_client) as caller:
        with pytest.raises(ServiceError) as failure:
            await caller.get_student(1)
        assert failure.value.code is Code.UNAVAILABLE
        assert failure.value.attempts > 1
    async with EnrollmentClient("127.0.0.1:9", timeout=0.2, budget=0.2) as caller:
        with pytest.raises(ServiceError) as failure:
            await caller.get_student(1)
        assert failure.value.code is Code.DEADLINE_EXCEEDED
