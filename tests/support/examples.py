"""The programs of `examples/` as processes, and callers who give them something to follow."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from enrollment_service.client import EnrollmentClient, Refused
from enrollment_service.v1 import enrollment_pb2 as pb
from tests.support.processes import PROJECT, environment

_CALLERS = 6
_STUDENTS = 60
_COURSES = 8


class Program:
    """A program that is started, killed and started again. Its errors are in a file, all of them."""

    def __init__(self, command: list[str], folder: Path) -> None:
        self._command = command
        self._errors = folder / "program.err"
        self.process = self.start()

    @property
    def errors(self) -> str:
        """What it wrote to standard error, over all its lives."""
        return self._errors.read_text()

    def start(self) -> subprocess.Popen[bytes]:
        """Starts it again."""
        with self._errors.open("ab") as errors:
            self.process = subprocess.Popen(self._command, cwd=PROJECT, env=environment(), stderr=errors)
        return self.process

    def kill(self) -> None:
        """Ends it as a power cut would."""
        assert self.process.poll() is None, f"it has ended: {self.errors}"
        self.process.kill()
        self.process.wait()

    async def ended(self) -> int:
        """Its exit status, once it has ended by itself."""
        return await asyncio.to_thread(self.process.wait, 30)


@contextmanager
def running(*command: str, folder: Path) -> Iterator[Program]:
    """A program that runs; it is killed after the block if it still does."""
    program = Program([*command], folder)
    try:
        yield program
    finally:
        program.process.kill()
        program.process.wait()


def example(name: str) -> tuple[str, str]:
    """How a program of `examples/` is started."""
    return sys.executable, f"examples/{name}"


class Storm:
    """Callers who enroll, leave, and change, create and delete courses, each calling again until there is an answer."""

    def __init__(self, client: EnrollmentClient) -> None:
        self._client = client
        self._dice = random.Random(4)
        self._students: list[int] = []
        self._courses: list[int] = []
        self._over = False
        self.changes = 0

    @asynccontextmanager
    async def raging(self) -> AsyncIterator[None]:
        """They call inside the block, and have their last answer after it."""
        people = [self._client.create_student("Ann Lee", f"{n}@example.org") for n in range(_STUDENTS)]
        self._students = [student.student_id for student in await asyncio.gather(*people)]
        for _ in range(_COURSES):
            await self._new_course()
        tasks = [asyncio.create_task(self._call()) for _ in range(_CALLERS)]
        try:
            yield
        finally:
            self._over = True
            await asyncio.gather(*tasks)

    async def go_on(self, changes: int) -> None:
        """Returns after so many more changes."""
        wanted = self.changes + changes
        async with asyncio.timeout(40):
            while self.changes < wanted:  # noqa: ASYNC110 - a number that grows
                await asyncio.sleep(0.005)

    async def _call(self) -> None:
        while not self._over:
            student, course = self._dice.choice(self._students), self._dice.choice(self._courses)
            try:
                match self._dice.randrange(20):
                    case 0:
                        # Removed first, so that nobody goes on to call for it.
                        self._courses.remove(course)
                        await self._client.delete_course(course, force=True)
                        await self._new_course()
                    case 1 | 2:
                        changed = pb.Course(course_id=course, capacity=self._dice.randrange(5, 40))
                        await self._client.update_course(changed, ["capacity"])
                    case number if number < 14:
                        await self._client.enroll_student(student, [course], on_full=pb.ON_FULL_WAITLIST)
                    case _:
                        await self._client.unenroll_student(student, course)
            except Refused:
                continue
            self.changes += 1

    async def _new_course(self) -> None:
        code = f"C-{len(self._courses)}-{self._dice.randrange(10**9)}"
        course = await self._client.create_course(code, "Course", capacity=10, waitlist_capacity=10)
        self._courses.append(course.course_id)
