"""What the demo adds to the client: counts, and answers that may be a refusal or nothing at all."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from demo.people import Student
from enrollment_service.client import EnrollmentClient, OutcomeUnknown, Pauses, Refused
from enrollment_service.v1 import enrollment_pb2 as pb

ENROLLED = pb.ENROLLMENT_STATE_ENROLLED
WAITLISTED = pb.ENROLLMENT_STATE_WAITLISTED

_DEADLINE = 10.0
# After a kill the server is back within a second or two; gRPC's own pauses would be longer than that.
OPTIONS = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 200)]
# Longer than any budget: no second attempt.
_NEVER_AGAIN = Pauses(draw=lambda *_: math.inf)


@dataclass(frozen=True, slots=True)
class Answer:
    """What one student heard: enrollments, a refusal, or nothing."""

    student: Student
    enrollments: tuple[pb.Enrollment, ...] = ()
    refusal: Refused | None = None

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


class Client(EnrollmentClient):
    """The client as any program has it, that counts what came back and never tries again: that is for the show."""

    def __init__(self, address: str, counts: Counter[str]) -> None:
        super().__init__(address, timeout=_DEADLINE, wait_for_ready=False, options=OPTIONS, pauses=_NEVER_AGAIN)
        self._counts = counts

    async def call(self, method: str, request: Any) -> Any:
        """Counts the answer, or that it was lost."""
        try:
            response = await super().call(method, request)
        except OutcomeUnknown:
            self._counts["lost"] += 1
            raise
        except Refused:
            self._counts["answers"] += 1
            self._counts["refused"] += 1
            raise
        self._counts["answers"] += 1
        return response

    async def enroll(
        self, student: Student, *course_ids: int, waitlist: bool = False, dry_run: bool = False, request_id: str = ""
    ) -> list[pb.Enrollment]:
        """Enrolls a student in all of the courses or in none."""
        on_full = pb.ON_FULL_WAITLIST if waitlist else pb.ON_FULL_REJECT
        return await self.enroll_student(
            student.student_id, course_ids, on_full=on_full, validate_only=dry_run, request_id=request_id
        )

    async def state(self, student: Student, course_id: int) -> int:
        """The student's state in the course; unspecified (0) if there is none."""
        try:
            return (await self.get_enrollment(student.student_id, course_id)).state
        except Refused as refusal:
            if refusal.reason != "NOT_ENROLLED":
                raise
            return pb.ENROLLMENT_STATE_UNSPECIFIED

    async def roster(self, course_id: int) -> Roster:
        """Everybody in the course; ours fit one page. Waits for a server that is about to come back."""
        request = pb.ListCourseStudentsRequest(course_id=course_id, page_size=1000)
        patient = self.within(wait_for_ready=True)
        response: pb.ListCourseStudentsResponse = await patient.call("ListCourseStudents", request)
        return Roster(
            response.course,
            tuple(one for one in response.enrollments if one.state == ENROLLED),
            tuple(one for one in response.enrollments if one.state == WAITLISTED),
        )

    async def ask(self, student: Student, course_id: int, *, waitlist: bool, request_id: str = "") -> Answer:
        """Enrolls like `enroll`, and returns the answer whatever it is."""
        try:
            enrollments = await self.enroll(student, course_id, waitlist=waitlist, request_id=request_id)
            return Answer(student, tuple(enrollments))
        except Refused as refusal:
            return Answer(student, refusal=refusal)
        except OutcomeUnknown:
            return Answer(student)


async def refused(call: Awaitable[object]) -> Refused | None:
    """The refusal that the call met; None if it was not refused."""
    try:
        await call
    except Refused as refusal:
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
