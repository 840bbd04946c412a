"""What is read is true of one moment, also while everything changes at full speed on two servers."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from enrollment_service.domain.queries import StudentCoursesQuery
from enrollment_service.store import enrollments
from enrollment_service.v1 import enrollment_pb2 as pb
from tests.conftest import StartService
from tests.support.client import Client
from tests.support.processes import SERVE, Processes
from tests.support.refusals import refusal_of

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("verified")]

SECONDS = 4.0
MAX_SECONDS_UNTIL_CAUGHT = 40.0
STUDENTS, COURSES = 24, 3
MOVERS, READERS = 6, 8
# What must have happened so often for the test to mean anything.
PARTS = ("_move", "_edit", "_replace", "_list", "_get", "waiters")
TIMES = 50

# What may be in the way of a call here, since everybody changes everything.
FORESEEN = {
    "NOT_ENROLLED", "ALREADY_ENROLLED", "ALREADY_WAITLISTED", "COURSE_NOT_FOUND", "CAPACITY_BELOW_ENROLLED",
    "WAITLIST_FULL",
}  # fmt: skip


class Turmoil:
    """Writers who change everything, and readers who look for what cannot be true of any moment."""

    def __init__(self, clients: Sequence[Client]) -> None:
        self._clients = clients
        self._random = random.Random(7)
        self._students: list[int] = []
        self._courses: list[int] = []
        self.done: Counter[str] = Counter()
        self.lies: list[str] = []

    async def rage(self, seconds: float) -> None:
        """Goes on for so long, and until everything has happened often enough; or until a lie was told."""
        self._students = await self._client.students(STUDENTS)
        self._courses = [await self._new_course() for _ in range(COURSES)]
        latest = asyncio.get_running_loop().time() + seconds
        steps = [*[self._move] * MOVERS, self._edit, self._edit, self._replace, *[self._list, self._get] * READERS]
        async with asyncio.TaskGroup() as group:
            for step in steps:
                group.create_task(self._repeat(step, latest))

    @property
    def _client(self) -> Client:
        return self._random.choice(self._clients)

    async def _repeat(self, step: Callable[[], Awaitable[None]], latest: float) -> None:
        while not self._over(latest):
            try:
                await step()
                self.done[step.__name__] += 1
            except grpc.aio.AioRpcError as error:
                if refusal_of(error).reason not in FORESEEN:
                    raise

    def _over(self, latest: float) -> bool:
        if self.lies:
            return True
        return asyncio.get_running_loop().time() > latest and all(self.done[part] >= TIMES for part in PARTS)

    async def _new_course(self) -> int:
        course = await self._client.create_course(capacity=self._capacity, waitlist_capacity=50)
        return course.course_id

    @property
    def _capacity(self) -> int:
        return self._random.randint(1, STUDENTS // 2)

    # --- writers ------------------------------------------------------------------------------------------------

    async def _move(self) -> None:
        student_id, course_id = self._random.choice(self._students), self._random.choice(self._courses)
        if self._random.random() < 0.6:
            await self._client.enroll(student_id, course_id, on_full=pb.ON_FULL_WAITLIST)
        else:
            await self._client.unenroll(student_id, course_id)

    async def _edit(self) -> None:
        course = pb.Course(course_id=self._random.choice(self._courses), capacity=self._capacity)
        await self._client.call("UpdateCourse", course=course, update_mask=FieldMask(paths=["capacity"]))

    async def _replace(self) -> None:
        index = self._random.randrange(COURSES)
        gone, self._courses[index] = self._courses[index], await self._new_course()
        await self._client.call("DeleteCourse", course_id=gone, force=True)

    # --- readers ------------------------------------------------------------------------------------------------

    async def _list(self) -> None:
        answer = await self._client.call("ListStudentCourses", student_id=self._random.choice(self._students))
        for enrollment in answer.enrollments:
            self._check(enrollment)

    async def _get(self) -> None:
        pair = {"student_id": self._random.choice(self._students), "course_id": self._random.choice(self._courses)}
        self._check((await self._client.call("GetEnrollment", **pair)).enrollment)

    def _check(self, enrollment: pb.Enrollment) -> None:
        course = enrollment.course
        waits = enrollment.state == pb.ENROLLMENT_STATE_WAITLISTED
        self.done["waiters"] += waits
        if course.enrolled_count > course.capacity:
            self.lies.append(f"more students than seats: {enrollment}")
        if enrollment.waitlist_position > course.waitlisted_count:
            self.lies.append(f"a position behind the end of the line: {enrollment}")
        if waits and course.enrolled_count < course.capacity:
            self.lies.append(f"waits beside a free seat: {enrollment}")


async def turmoil(processes: Processes, seconds: float, python: Sequence[str] = SERVE) -> Turmoil:
    started = await processes.start_several(2, python)
    raging = Turmoil([client for _, client in started])
    await raging.rage(seconds)
    return raging


@pytest.mark.long
async def test_every_answer_is_true_of_one_moment(processes: Processes) -> None:
    raging = await turmoil(processes, SECONDS)
    assert raging.lies == []


@pytest.mark.long
@pytest.mark.parametrize("fault", ["torn_lists", "torn_enrollments"])
async def test_reading_in_several_moments_is_caught(processes: Processes, fault: str) -> None:
    """The negative control."""
    python = ("-m", "tests.support.broken", fault)
    assert (await turmoil(processes, MAX_SECONDS_UNTIL_CAUGHT, python)).lies


async def test_a_course_that_is_deleted_while_a_page_is_read_does_not_end_the_list(
    start_service: StartService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes between the two statements of a server that remembers none of the courses."""
    writer, reader = (await start_service()).client, (await start_service()).client
    (student_id,), course_ids = await writer.students(1), await writer.courses(4)
    await writer.enroll(student_id, *course_ids)
    read, deletions = enrollments.read_student_courses, iter(course_ids[:1])

    async def read_and_let_others_delete(connection: Any, queries: Sequence[StudentCoursesQuery]) -> Any:
        found = await read(connection, queries)
        for course_id in deletions:
            await writer.call("DeleteCourse", course_id=course_id, force=True)
        return found

    monkeypatch.setattr(enrollments, "read_student_courses", read_and_let_others_delete)
    pages = await reader.pages("ListStudentCourses", "enrollments", student_id=student_id, page_size=2)
    assert [[enrollment.course_id for enrollment in page] for page in pages] == [course_ids[1:3], course_ids[3:]]
