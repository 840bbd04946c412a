"""A client for tests: the generated stub on a real channel, with short ways to what most tests need."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from enrollment_service.v1 import enrollment_pb2 as pb
from enrollment_service.v1 import enrollment_pb2_grpc
from tests.support.refusals import refused

SERVICE = "enrollment.v1.EnrollmentService"
PATIENCE = 20.0  # seconds that a call may take in a test, on a busy machine
NOBODY = 2**62

_numbers = itertools.count(1)


class Client:
    """One channel to one server, and what is sent along with every call."""

    def __init__(self, channel: grpc.aio.Channel, metadata: Sequence[tuple[str, str]] = ()) -> None:
        self.channel = channel
        self.metadata = tuple(metadata)
        self.stub = enrollment_pb2_grpc.EnrollmentServiceStub(channel)

    def bearing(self, token: str) -> Client:
        """The same channel with a token."""
        return Client(self.channel, (("authorization", f"Bearer {token}"),))

    async def call(self, method: str, request: Any = None, **fields: Any) -> Any:
        """The answer to a method by its name; the request is given, or made of its fields."""
        if request is None:
            request = getattr(pb, f"{method}Request")(**fields)
        return await getattr(self.stub, method)(request, timeout=PATIENCE, metadata=self.metadata)

    async def raw(self, method: str, data: bytes, service: str = SERVICE) -> bytes:
        """The answer to bytes that need not be a message."""
        call: Any = self.channel.unary_unary(f"/{service}/{method}", None, None)
        answer: bytes = await call(data, timeout=PATIENCE, metadata=self.metadata)
        return answer

    async def health(self, service: str = "", patience: float = PATIENCE) -> int:
        """The serving status of a service on this server."""
        stub: Any = health_pb2_grpc.HealthStub(self.channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=patience)
        return int(answer.status)

    async def warm_up(self) -> None:
        """Lets the server open the connections that it writes on: preparing statements takes locks on tables, too."""
        with refused("NOT_FOUND", "STUDENT_NOT_FOUND"):
            await self.unenroll(NOBODY, NOBODY)
        with refused("NOT_FOUND", "COURSE_NOT_FOUND"):
            await self.call("DeleteCourse", course_id=NOBODY)

    async def create_student(self, full_name: str = "Ann Lee", email: str = "") -> pb.Student:
        """A new student; without an address, with one that nobody else has."""
        student = pb.Student(full_name=full_name, email=email or f"student{next(_numbers)}@example.org")
        created: pb.Student = (await self.call("CreateStudent", student=student)).student
        return created

    async def create_course(self, code: str = "", title: str = "Drawing", **fields: Any) -> pb.Course:
        """A new course; without a code, with one that no other has."""
        course = pb.Course(code=code or f"C-{next(_numbers)}", title=title, **fields)
        created: pb.Course = (await self.call("CreateCourse", course=course)).course
        return created

    async def students(self, count: int) -> list[int]:
        """The ids of new students, ascending."""
        return sorted([one.student_id for one in await asyncio.gather(*(self.create_student() for _ in range(count)))])

    async def courses(self, count: int, **fields: Any) -> list[int]:
        """The ids of new courses, ascending."""
        made = await asyncio.gather(*(self.create_course(**fields) for _ in range(count)))
        return sorted([one.course_id for one in made])

    async def enroll(self, student_id: int, *course_ids: int, **fields: Any) -> list[pb.Enrollment]:
        """The enrollments of a student in courses, all or none."""
        answer = await self.call("EnrollStudent", student_id=student_id, course_ids=course_ids, **fields)
        return list(answer.enrollments)

    async def unenroll(self, student_id: int, course_id: int, **fields: Any) -> pb.Enrollment:
        """What is left of an enrollment."""
        answer = await self.call("UnenrollStudent", student_id=student_id, course_id=course_id, **fields)
        enrollment: pb.Enrollment = answer.enrollment
        return enrollment

    async def courses_of(self, student_id: int) -> list[int]:
        """The ids of the courses that a student is enrolled in or waits for."""
        answer = await self.call("ListStudentCourses", student_id=student_id, page_size=1000)
        return [one.course_id for one in answer.enrollments]

    async def roster(self, course_id: int) -> list[int]:
        """The ids of the students of a course: the enrolled, then the waiters."""
        answer = await self.call("ListCourseStudents", course_id=course_id, page_size=1000)
        return [one.student_id for one in answer.enrollments]

    async def pages(self, method: str, rows: str, **fields: Any) -> list[list[Any]]:
        """All pages of a list, each with its rows."""
        pages, token = [], ""
        while True:
            answer = await self.call(method, page_token=token, **fields)
            pages.append(list(getattr(answer, rows)))
            token = answer.next_page_token
            if not token:
                return pages


@asynccontextmanager
async def client_of(
    address: str, options: Iterable[tuple[str, Any]] = (), credentials: grpc.ChannelCredentials | None = None
) -> AsyncIterator[Client]:
    """A client of the server at an address, on a connection that it shares with no other client."""
    chosen = [("grpc.use_local_subchannel_pool", 1), *options]
    opened = (
        grpc.aio.insecure_channel(address, options=chosen)
        if credentials is None
        else grpc.aio.secure_channel(address, credentials, options=chosen)
    )
    async with opened as channel:
        yield Client(channel)
