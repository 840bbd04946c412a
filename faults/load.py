"""Clients that want this and that, at random but reproducibly, and ask again until they know what became of it."""

from __future__ import annotations

import asyncio
import random
import re
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc

from enrollment_service.client.errors import Refused, error_of
from enrollment_service.v1 import enrollment_pb2 as pb
from enrollment_service.v1.enrollment_pb2_grpc import EnrollmentServiceStub
from faults.record import OK, REFUSED, UNKNOWN, Operation, Recorder

# A connection that was refused is tried again soon, and nobody shares one.
_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
)
_PAUSE = (0.01, 0.15)  # between two calls of an operation, in seconds
# One operation in so many is sent twice at once, to two servers where there are two.
_TWICE = 8


@dataclass(frozen=True)
class School:
    """Whom and what the operations are about."""

    students: Sequence[int]
    courses: Sequence[int]
    capacity: int = 4


@dataclass
class Load:
    """Some clients that work at the same time.

    Attributes:
        recorder: what they did.
        addresses: the servers, any of which will do.
        school: whom and what they ask for.
        seed: makes the same wishes again; not the same order in which they are served.
        clients: how many work at the same time.
        deadline: of each call, in seconds; drawn anew for each.
        patience: how long an operation is asked for again, in seconds.
    """

    recorder: Recorder
    addresses: Sequence[str]
    school: School
    seed: int
    clients: int = 12
    deadline: Callable[[random.Random], float] = lambda _: 2.0
    patience: float = 40.0
    # By how much the slowest call was over its deadline, in seconds.
    latest: float = 0.0
    # How many operations nobody knows the outcome of, because the patience was over.
    gave_up: int = 0
    _stopped: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Until it is stopped; operations under way are brought to an end."""
        await asyncio.gather(*(self._client(number) for number in range(self.clients)))

    def stop(self) -> None:
        """No more operations begin."""
        self._stopped.set()

    def acknowledged(self, invoked_since: float = 0.0) -> int:
        """How many changes were acknowledged that were asked for since a time of the process's clock."""
        return sum(
            one.outcome == OK and one.invoked >= invoked_since and one.kind != "roster"
            for one in self.recorder.operations
        )

    async def _client(self, number: int) -> None:
        chance = random.Random(self.seed * 1_000 + number)  # noqa: S311 - to be reproducible
        channels = [grpc.aio.insecure_channel(address, options=_OPTIONS) for address in self.addresses]
        stubs = [EnrollmentServiceStub(channel) for channel in channels]
        try:
            while not self._stopped.is_set():
                await self._do(self._wish(chance), stubs, chance)
        finally:
            for channel in channels:
                await channel.close()

    def _wish(self, chance: random.Random) -> Operation:
        (kind,) = chance.choices(("enroll", "unenroll", "swap", "capacity", "roster"), weights=(10, 7, 2, 1, 2))
        number, count = len(self.recorder.operations), 2 if kind == "swap" else 1
        if kind == "enroll" and chance.random() < 0.25:
            count = 2
        operation = Operation(number, kind, 0, chance.sample(list(self.school.courses), count))
        if kind not in ("capacity", "roster"):
            operation.student_id = chance.choice(self.school.students)
        if kind == "capacity":
            operation.capacity = max(1, self.school.capacity + chance.randint(-1, 1))
        if kind != "roster":
            operation.request_id = str(uuid.UUID(int=chance.getrandbits(128), version=4))
        operation.wait = chance.random() < 0.6
        return operation

    async def _do(self, operation: Operation, stubs: Sequence[Any], chance: random.Random) -> None:
        self.recorder.begin(operation)
        copies = 2 if operation.request_id and chance.randrange(_TWICE) == 0 else 1
        answers = await asyncio.gather(*(self._ask(operation, stubs, chance) for _ in range(copies)))
        outcomes = [outcome for outcome, _ in answers]
        if OK in outcomes:
            operation.outcome, operation.answer = answers[outcomes.index(OK)]
            operation.answer["copies"] = [answer["refused"] for outcome, answer in answers if outcome == REFUSED]
        elif set(outcomes) == {REFUSED}:
            operation.outcome, operation.answer = answers[0]
        self.recorder.end(operation)

    async def _ask(
        self, operation: Operation, stubs: Sequence[Any], chance: random.Random
    ) -> tuple[str, dict[str, Any]]:
        """How an operation ended, and what was answered; asked for again while nobody knows."""
        give_up = time.monotonic() + self.patience
        uncertain = False
        while True:
            try:
                answer = await self._call(operation, chance.choice(stubs), self.deadline(chance))
            except grpc.aio.AioRpcError as caught:
                error = error_of(caught)
                if isinstance(error, Refused) and error.code is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                    operation.codes.append(f"REFUSED {error.reason}")
                    # What was sent before, and never answered, may still take effect.
                    return UNKNOWN if uncertain else REFUSED, {"refused": _refused(error)}
                operation.codes.append(error.code.name)
                uncertain = uncertain or not isinstance(error, Refused)
            else:
                operation.codes.append("OK")
                return OK, answer
            if time.monotonic() > give_up:
                self.gave_up += 1
                return UNKNOWN, {}
            await asyncio.sleep(chance.uniform(*_PAUSE))

    async def _call(self, operation: Operation, stub: Any, deadline: float) -> dict[str, Any]:
        method, request = _request(operation)
        began = time.monotonic()
        try:
            return _answer(operation, await getattr(stub, method)(request, timeout=deadline))
        finally:
            self.latest = max(self.latest, time.monotonic() - began - deadline)


def _request(operation: Operation) -> tuple[str, Any]:
    on_full = pb.ON_FULL_WAITLIST if operation.wait else pb.ON_FULL_REJECT
    who: Any = {"student_id": operation.student_id, "request_id": operation.request_id}
    match operation.kind:
        case "enroll":
            return "EnrollStudent", pb.EnrollStudentRequest(course_ids=operation.course_ids, on_full=on_full, **who)
        case "unenroll":
            return "UnenrollStudent", pb.UnenrollStudentRequest(course_id=operation.course_ids[0], **who)
        case "swap":
            leave, enter = operation.course_ids
            return "SwapEnrollment", pb.SwapEnrollmentRequest(
                from_course_id=leave, to_course_id=enter, on_full=on_full, **who
            )
        case "capacity":
            course = pb.Course(course_id=operation.course_ids[0], capacity=operation.capacity)
            return "UpdateCourse", pb.UpdateCourseRequest(
                course=course, update_mask={"paths": ["capacity"]}, request_id=operation.request_id
            )
    return "ListCourseStudents", pb.ListCourseStudentsRequest(course_id=operation.course_ids[0], page_size=1000)


def _answer(operation: Operation, answer: Any) -> dict[str, Any]:
    match operation.kind:
        case "enroll":
            return {"enrollments": [_enrollment(one) for one in answer.enrollments]}
        case "unenroll":
            return {"enrollments": [_enrollment(answer.enrollment)]}
        case "swap":
            dropped = [_enrollment(answer.dropped)] if answer.HasField("dropped") else []
            return {"enrollments": [*dropped, _enrollment(answer.enrolled)]}
        case "capacity":
            return {"capacity": answer.course.capacity}
    rows = [(one.student_id, one.state, one.waitlist_position) for one in answer.enrollments]
    return {"rows": rows, "sequence": answer.sequence}


def _enrollment(one: pb.Enrollment) -> tuple[int, int, int]:
    """Course, state, and the sequence of the event that made it so."""
    return one.course_id, one.state, int(one.etag)


def _refused(error: Refused) -> list[tuple[str, int]]:
    """Each reason with the course that it is about; empty where the contract gives one reason for several courses."""
    named = [(one.reason, re.search(r"courses/(\d+)$", one.subject)) for one in error.violations]
    about = [(reason, int(course[1])) for reason, course in named if course]
    return [(reason or (error.reason if number == 0 else ""), course) for number, (reason, course) in enumerate(about)]
