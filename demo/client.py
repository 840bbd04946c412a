"""Calls over gRPC as any client would make them. A refusal or a lost answer is an exception, or part of an `Answer`."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import grpc
from google.rpc import error_details_pb2, status_pb2

from demo.people import Student
from enrollment_service.v1 import enrollment_pb2 as pb
from enrollment_service.v1.enrollment_pb2_grpc import EnrollmentServiceStub

ENROLLED = pb.ENROLLMENT_STATE_ENROLLED
WAITLISTED = pb.ENROLLMENT_STATE_WAITLISTED

_DEADLINE = 10.0
# After a kill the server is back within a second or two; gRPC's own pauses would be longer than that.
_OPTIONS = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 200)]
# Nobody knows whether such a call had an effect.
_UNKNOWN = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
}


class RefusedError(Exception):
    """The service said no, and why; nothing was changed."""

    def __init__(self, reason: str, metadata: dict[str, str], violations: Sequence[str]) -> None:
        super().__init__(reason)
        self.reason = reason
        self.metadata = metadata
        self.violations = violations


class LostError(Exception):
    """No answer came: the change may have happened or not."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one student heard: enrollments, a refusal, or nothing."""

    student: Student
    enrollments: tuple[pb.Enrollment, ...] = ()
    refusal: RefusedError | None = None

    @property
    def kind(self) -> Literal["seat", "wait", "no", "lost"]:
        """It in one word."""
        if self.enrollments:
            return "seat" if self.enrollments[0].state == ENROLLED else "wait"
        return "lost" if self.refusal is None else "no"

    @property
    def essence(self) -> list[tuple[int, int, int]]:
        """Course, state and position, without the course's details, which are those of today."""
        return essence(self.enrollments)


@dataclass(frozen=True, slots=True)
class Roster:
    """Who is in a course: the enrolled by student id, the waiters in their order."""

    course: pb.Course
    enrolled: tuple[pb.Enrollment, ...]
    waiting: tuple[pb.Enrollment, ...]

    @property
    def seated_ids(self) -> set[int]:
        """The students with a seat."""
        return {one.student_id for one in self.enrolled}

    @property
    def queue(self) -> list[int]:
        """The waiting students, first to last."""
        return [one.student_id for one in self.waiting]


def essence(enrollments: Iterable[pb.Enrollment]) -> list[tuple[int, int, int]]:
    """Course, state and position of each."""
    return [(one.course_id, int(one.state), one.waitlist_position) for one in enrollments]


class Client:
    """One channel to the server, and a count of what came back through it."""

    def __init__(self, address: str, counts: Counter[str]) -> None:
        self._channel = grpc.aio.insecure_channel(address, options=_OPTIONS)
        self._stub: Any = EnrollmentServiceStub(self._channel)
        self._counts = counts

    async def close(self) -> None:
        """Lets go of the connection."""
        await self._channel.close()

    async def create_student(self, name: str, email: str) -> Student:
        """Creates a student."""
        request = pb.CreateStudentRequest(student=pb.Student(full_name=name, email=email))
        response: pb.CreateStudentResponse = await self._call(self._stub.CreateStudent, request)
        return Student(response.student.student_id, response.student.full_name)

    async def create_course(self, course: pb.Course) -> pb.Course:
        """Creates a course."""
        response: pb.CreateCourseResponse = await self._call(
            self._stub.CreateCourse, pb.CreateCourseRequest(course=course)
        )
        return response.course

    async def update_course(self, course: pb.Course, *fields: str) -> pb.Course:
        """Changes the named fields of a course."""
        request = pb.UpdateCourseRequest(course=course)
        request.update_mask.paths.extend(fields)
        response: pb.UpdateCourseResponse = await self._call(self._stub.UpdateCourse, request)
        return response.course

    async def courses(self) -> list[pb.Course]:
        """All courses with their present counts."""
        response: pb.ListCoursesResponse = await self._call(self._stub.ListCourses, pb.ListCoursesRequest())
        return list(response.courses)

    async def enroll(
        self, student: Student, *course_ids: int, waitlist: bool = False, dry_run: bool = False, request_id: str = ""
    ) -> tuple[pb.Enrollment, ...]:
        """Enrolls a student in all of the courses or in none."""
        request = pb.EnrollStudentRequest(
            student_id=student.student_id,
            course_ids=course_ids,
            on_full=pb.ON_FULL_WAITLIST if waitlist else pb.ON_FULL_REJECT,
            validate_only=dry_run,
            request_id=request_id,
        )
        response: pb.EnrollStudentResponse = await self._call(self._stub.EnrollStudent, request)
        return tuple(response.enrollments)

    async def unenroll(self, student: Student, course_id: int) -> pb.Enrollment:
        """Takes a student out of a course or off its waitlist."""
        request = pb.UnenrollStudentRequest(student_id=student.student_id, course_id=course_id)
        response: pb.UnenrollStudentResponse = await self._call(self._stub.UnenrollStudent, request)
        return response.enrollment

    async def swap(self, student: Student, leave: int, enter: int) -> pb.SwapEnrollmentResponse:
        """Moves a student from one course into another, both or neither."""
        request = pb.SwapEnrollmentRequest(student_id=student.student_id, from_course_id=leave, to_course_id=enter)
        response: pb.SwapEnrollmentResponse = await self._call(self._stub.SwapEnrollment, request)
        return response

    async def state(self, student: Student, course_id: int) -> int:
        """The student's state in the course; unspecified (0) if there is none."""
        request = pb.GetEnrollmentRequest(student_id=student.student_id, course_id=course_id)
        try:
            response: pb.GetEnrollmentResponse = await self._call(self._stub.GetEnrollment, request)
        except RefusedError as refusal:
            if refusal.reason != "NOT_ENROLLED":
                raise
            return pb.ENROLLMENT_STATE_UNSPECIFIED
        return response.enrollment.state

    async def roster(self, course_id: int) -> Roster:
        """Everybody in the course; ours fit one page. Waits for a server that is about to come back."""
        request = pb.ListCourseStudentsRequest(course_id=course_id, page_size=1000)
        response: pb.ListCourseStudentsResponse = await self._call(self._stub.ListCourseStudents, request, wait=True)
        return Roster(
            response.course,
            tuple(one for one in response.enrollments if one.state == ENROLLED),
            tuple(one for one in response.enrollments if one.state == WAITLISTED),
        )

    async def ask(self, student: Student, course_id: int, *, waitlist: bool, request_id: str = "") -> Answer:
        """Enrolls like `enroll`, and returns the answer whatever it is."""
        try:
            return Answer(student, await self.enroll(student, course_id, waitlist=waitlist, request_id=request_id))
        except RefusedError as refusal:
            return Answer(student, refusal=refusal)
        except LostError:
            return Answer(student)

    async def _call(self, method: Any, request: Any, *, wait: bool = False) -> Any:
        try:
            response = await method(request, timeout=_DEADLINE, wait_for_ready=wait)
        except grpc.aio.AioRpcError as error:
            if error.code() in _UNKNOWN:
                self._counts["lost"] += 1
                raise LostError(f"{error.code().name}: {error.details()}") from error
            self._counts["answers"] += 1
            self._counts["refused"] += 1
            raise _refusal(error) from error
        self._counts["answers"] += 1
        return response


async def refused(call: Awaitable[object]) -> RefusedError | None:
    """The refusal that the call met; None if it was not refused."""
    try:
        await call
    except RefusedError as refusal:
        return refusal
    return None


async def all_at_once(
    questions: Iterable[Awaitable[Answer]], heard: Callable[[Answer], None] = lambda _: None
) -> list[Answer]:
    """Sends all of them at the same moment; the answers in the order in which they came."""
    answers: list[Answer] = []

    async def one(question: Awaitable[Answer]) -> None:
        answer = await question
        answers.append(answer)
        heard(answer)

    await asyncio.gather(*map(one, questions))
    return answers


def _refusal(error: grpc.aio.AioRpcError) -> RefusedError:
    info, failure = error_details_pb2.ErrorInfo(), error_details_pb2.PreconditionFailure()
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            for detail in status_pb2.Status.FromString(value).details:
                detail.Unpack(info)
                detail.Unpack(failure)
    violations = [f"{one.type} {one.subject}" for one in failure.violations]
    return RefusedError(info.reason or error.code().name, dict(info.metadata), violations)
