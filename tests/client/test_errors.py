"""What a caller learns from a failure, as the real service answers."""

from __future__ import annotations

import pickle
from collections.abc import AsyncIterator

import grpc
import pytest
from google.rpc import error_details_pb2

from enrollment_service.client import EnrollmentClient, OutcomeUnknown, Refused
from enrollment_service.client.errors import Violation, error_of
from tests.support.services import Service


@pytest.fixture
async def caller(service: Service) -> AsyncIterator[EnrollmentClient]:
    async with EnrollmentClient(service.address) as client:
        yield client


async def test_a_full_course(caller: EnrollmentClient) -> None:
    student = await caller.create_student("Ann Lee", "ann@example.org")
    course = await caller.create_course("ART-1", "Drawing", capacity=0)
    with pytest.raises(Refused) as refusal:
        await caller.enroll_student(student.student_id, [course.course_id])
    error = refusal.value
    assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "COURSE_FULL")
    assert error.metadata == {"course_id": f"{course.course_id}", "enrolled": "0", "capacity": "0"}
    (violation,) = error.violations
    assert (violation.subject, violation.reason) == (f"courses/{course.course_id}", "COURSE_FULL")
    assert error.retry_delay is None
    assert str(error) == f"FAILED_PRECONDITION COURSE_FULL: {error.message}"
    assert {type(detail) for detail in error.details} == {
        error_details_pb2.ErrorInfo,
        error_details_pb2.PreconditionFailure,
    }


async def test_fields_that_do_not_fit(caller: EnrollmentClient) -> None:
    with pytest.raises(Refused) as refusal:
        await caller.create_student("", "nowhere")
    assert [one.subject for one in refusal.value.violations] == ["student.full_name", "student.email"]
    assert {one.reason for one in refusal.value.violations} == {"INVALID_FIELD"}
    assert all(one.description for one in refusal.value.violations)


async def test_ids_that_nobody_has(caller: EnrollmentClient) -> None:
    with pytest.raises(Refused) as refusal:
        await caller.enroll_student(7, [8, 9])
    assert refusal.value.reason == "STUDENT_NOT_FOUND"
    assert refusal.value.violations[0] == Violation("students/7", "There is no student with this id.", "")
    assert [one.subject for one in refusal.value.violations] == ["students/7", "courses/8", "courses/9"]


def test_what_grpc_itself_answers_has_no_reason() -> None:
    raw = grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), "gone")
    error = error_of(raw)
    assert isinstance(error, OutcomeUnknown)
    assert (error.reason, error.metadata, error.violations, error.retry_delay) == ("", {}, [], None)
    assert str(error) == "UNAVAILABLE: gone"


def test_an_error_travels_between_processes() -> None:
    raw = grpc.aio.AioRpcError(grpc.StatusCode.NOT_FOUND, grpc.aio.Metadata(), grpc.aio.Metadata(), "none")
    copy = pickle.loads(pickle.dumps(error_of(raw)))  # noqa: S301 - its own
    assert isinstance(copy, Refused)
    assert copy.code is grpc.StatusCode.NOT_FOUND
