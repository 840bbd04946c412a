"""The batched reads: everybody who asks at the same moment shares a statement; plus the lists, page by page.

A read joins only a batch that has not been sent yet, so everyone reads their own writes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any, ClassVar, NamedTuple, TypeVar

from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.sql.expression import ColumnElement

from enrollment_service.domain.errors import (
    DatabaseUnavailable,
    EnrollmentError,
    Violation,
    course_not_found,
    not_enrolled,
    student_not_found,
)
from enrollment_service.domain.records import CountedCourse, Course, Enrollment, Student
from enrollment_service.engine.batcher import Batcher
from enrollment_service.settings import Settings
from enrollment_service.store import courses, enrollments, students
from enrollment_service.store.courses import CourseMemory
from enrollment_service.store.database import DriverConnection, Fault, Lane, fault_of
from enrollment_service.store.enrollments import HeldCourse, RosterQuery, StudentCoursesQuery

Result = TypeVar("Result")


class StudentQuery(NamedTuple):
    """One student."""

    student_id: int


class CourseQuery(NamedTuple):
    """One course."""

    course_id: int


class EnrollmentQuery(NamedTuple):
    """One pair."""

    student_id: int
    course_id: int


class EnrollmentView(NamedTuple):
    """An enrollment with its student and its course."""

    enrollment: Enrollment
    student: Student
    course: CountedCourse


class StudentCourses(NamedTuple):
    """A page of the courses of a student: each enrollment with the details of its course."""

    student: Student
    held: Sequence[tuple[HeldCourse, Course]]


class CourseStudents(NamedTuple):
    """A page of the students of a course, all of one moment."""

    course: CountedCourse
    roster: Sequence[tuple[Enrollment, Student]]


Query = StudentQuery | CourseQuery | EnrollmentQuery | StudentCoursesQuery


class Reader:
    """Answers queries; the batched ones share one connection, the lists take one from the pool."""

    def __init__(
        self,
        engine: AsyncEngine,
        settings: Settings,
        memory: CourseMemory,
        clock: ColumnElement[datetime] | None = None,
    ) -> None:
        self._engine = engine
        self._lane = Lane(engine)
        self._memory = memory
        self._clock: ColumnElement[datetime] = func.clock_timestamp() if clock is None else clock
        self._batcher: Batcher[Query, Any] = Batcher(
            self._run, most=settings.max_batch, max_waiting=settings.max_waiting
        )

    async def student(self, student_id: int) -> Student:
        """A student.

        Raises:
            EnrollmentError: STUDENT_NOT_FOUND.
        """
        found: Student = await self._batcher.submit(StudentQuery(student_id))
        return found

    async def course(self, course_id: int) -> CountedCourse:
        """A course with its present counts.

        Raises:
            EnrollmentError: COURSE_NOT_FOUND.
        """
        found: CountedCourse = await self._batcher.submit(CourseQuery(course_id))
        return found

    async def enrollment(self, student_id: int, course_id: int) -> EnrollmentView:
        """One enrollment with its student and its course.

        Raises:
            EnrollmentError: STUDENT_NOT_FOUND, COURSE_NOT_FOUND, NOT_ENROLLED.
        """
        found: EnrollmentView = await self._batcher.submit(EnrollmentQuery(student_id, course_id))
        return found

    async def student_courses(self, query: StudentCoursesQuery) -> StudentCourses:
        """A page of the courses of a student.

        Raises:
            EnrollmentError: STUDENT_NOT_FOUND.
        """
        found: StudentCourses = await self._batcher.submit(query)
        return found

    async def course_students(self, query: RosterQuery) -> CourseStudents:
        """A page of the students of a course; course, counts and rows are of one snapshot.

        Raises:
            EnrollmentError: COURSE_NOT_FOUND.
        """

        async def read() -> CourseStudents:
            async with self._engine.connect() as connection:
                await connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
                course = await courses.read_course(connection, query.course_id)
                if course is None:
                    raise EnrollmentError([course_not_found(query.course_id)])
                return CourseStudents(course, await enrollments.read_roster(connection, query))

        return await _twice(read)

    async def students(self, *, after: int, limit: int, query: str) -> list[Student]:
        """Students by ascending id."""
        return await _twice(lambda: students.list_students(self._engine, after=after, limit=limit, query=query))

    async def courses(self, *, after: int, limit: int, query: str, only_open: bool) -> list[CountedCourse]:
        """Courses by ascending id."""
        return await _twice(
            lambda: courses.list_courses(
                self._engine, after=after, limit=limit, query=query, only_open=only_open, clock=self._clock
            )
        )

    async def close(self) -> None:
        """Answers everybody who waits, then gives the connection back."""
        await self._batcher.close()
        await self._lane.close()

    async def _run(self, queries: Sequence[Query]) -> Sequence[Any]:
        async def read() -> dict[int, Any]:
            connection = await self._lane.connection()
            answers: dict[int, Any] = {}
            for kind, answer in self._answers.items():
                indices = [index for index, query in enumerate(queries) if type(query) is kind]
                if indices:
                    batch = [queries[index] for index in indices]
                    answers.update(zip(indices, await answer(self, connection, batch), strict=True))
            return answers

        try:
            found = await _twice(read)
        except Exception:
            # Whatever happened, the connection may still be busy with it.
            await self._lane.discard()
            raise
        return [found[index] for index in range(len(queries))]

    async def _students(self, connection: DriverConnection, queries: Sequence[StudentQuery]) -> list[Any]:
        found = await students.read_students(connection, {query.student_id for query in queries})
        return [found.get(one.student_id) or EnrollmentError([student_not_found(one.student_id)]) for one in queries]

    async def _courses(self, connection: DriverConnection, queries: Sequence[CourseQuery]) -> list[Any]:
        found = await courses.read_courses(connection, {query.course_id for query in queries})
        return [found.get(one.course_id) or EnrollmentError([course_not_found(one.course_id)]) for one in queries]

    async def _enrollments(self, connection: DriverConnection, queries: Sequence[EnrollmentQuery]) -> list[Any]:
        live = await enrollments.read_enrollments(connection, queries)
        found_students = await students.read_students(connection, {query.student_id for query in queries})
        found_courses = await courses.read_courses(connection, {query.course_id for query in queries})
        return [
            _view(query, live.get(query), found_students.get(query.student_id), found_courses.get(query.course_id))
            for query in queries
        ]

    async def _held(self, connection: DriverConnection, queries: Sequence[StudentCoursesQuery]) -> list[Any]:
        found = await enrollments.read_student_courses(connection, queries)
        seen = {(one.course_id, one.version) for _, held in found.values() for one in held}
        details = await courses.read_details(connection, seen, self._memory)
        answers: list[Any] = []
        for query in queries:
            if query not in found:
                answers.append(EnrollmentError([student_not_found(query.student_id)]))
                continue
            student, held = found[query]
            # A course without details was deleted since the first statement, and its enrollments with it.
            kept = [(one, details[one.course_id]) for one in held if one.course_id in details]
            answers.append(StudentCourses(student, kept))
        return answers

    _answers: ClassVar[dict[type[Any], Callable[..., Any]]] = {
        StudentQuery: _students,
        CourseQuery: _courses,
        EnrollmentQuery: _enrollments,
        StudentCoursesQuery: _held,
    }


def _view(
    query: EnrollmentQuery, enrollment: Enrollment | None, student: Student | None, course: CountedCourse | None
) -> EnrollmentView | EnrollmentError:
    missing: list[Violation] = []
    if student is None:
        missing.append(student_not_found(query.student_id))
    if course is None:
        missing.append(course_not_found(query.course_id))
    if not missing and enrollment is None:
        missing.append(not_enrolled(query.student_id, query.course_id))
    if enrollment is None or student is None or course is None:
        return EnrollmentError(missing)
    return EnrollmentView(enrollment, student, course)


async def _twice(read: Callable[[], Awaitable[Result]]) -> Result:
    """A read, once more where its connection was lost or its plan was stale."""
    for last in (False, True):
        try:
            return await read()
        except Exception as error:
            fault = fault_of(error)
            if fault is Fault.OTHER:
                raise
            if last or fault is Fault.TIMEOUT:
                raise DatabaseUnavailable from error
    raise AssertionError("unreachable")
