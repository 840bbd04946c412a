"""The batched reads: everybody who asks at the same moment shares a statement; plus the lists, page by page.

A read joins only a batch that has not been sent yet, so everyone reads their own writes. A deadline is by the event
loop's clock; after it nobody wants the answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, ClassVar, TypeAlias, TypeVar

from enrollment_service.domain.errors import (
    Refusal,
    Violation,
    course_not_found,
    not_enrolled,
    not_found_by,
    student_not_found,
)
from enrollment_service.domain.queries import (
    CourseQuery,
    CoursesQuery,
    CourseStudents,
    CourseStudentsQuery,
    EnrollmentQuery,
    ExplainQuery,
    Explanation,
    PastCourseStudents,
    PastCourseStudentsQuery,
    PastStudentCourses,
    PastStudentCoursesQuery,
    StudentCourses,
    StudentCoursesQuery,
    StudentQuery,
    StudentsQuery,
    WaiversQuery,
)
from enrollment_service.domain.records import CountedCourse, Enrollment, EnrollmentView, Student, Waiver
from enrollment_service.domain.rules import explain
from enrollment_service.engine.batcher import Batcher
from enrollment_service.engine.past import Past
from enrollment_service.engine.turns import Turns
from enrollment_service.settings import Settings
from enrollment_service.store import courses, enrollments, explanations, students, waivers
from enrollment_service.store.database import Database
from enrollment_service.store.faults import Fault, StaleError, fault_of
from enrollment_service.store.transactions import DriverConnection, PooledConnection, snapshot, told
from enrollment_service.telemetry import metrics, tracing

Listed = TypeVar("Listed")
Batched: TypeAlias = StudentQuery | CourseQuery | EnrollmentQuery | StudentCoursesQuery | ExplainQuery


class Reader:
    """Answers queries; the batched ones share one connection, the lists take turns on those of the pool.

    Every list may raise Overloaded: too many lists wait already.

    Attributes:
        lists: the turns, to be taken by whoever else borrows a connection of the pool.
    """

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._held = database.hold()
        self._batcher: Batcher[Batched, Any] = Batcher(
            self._serve,
            max_weight=settings.max_batch,
            max_waiting=settings.max_waiting,
            served=metrics.batches("reads"),
        )
        self.lists = Turns(max_running=database.max_lists, max_waiting=settings.max_waiting_lists)
        self._past = Past(database, self.lists)

    async def student(self, query: StudentQuery, deadline: float | None = None) -> Student:
        """A student.

        Raises:
            Refusal: STUDENT_NOT_FOUND.
        """
        found: Student = await self._submit(query, deadline)
        return found

    async def course(self, query: CourseQuery, deadline: float | None = None) -> CountedCourse:
        """A course with its present counts.

        Raises:
            Refusal: COURSE_NOT_FOUND.
        """
        found: CountedCourse = await self._submit(query, deadline)
        return found

    async def enrollment(self, query: EnrollmentQuery, deadline: float | None = None) -> EnrollmentView:
        """One enrollment with its student and its course.

        Raises:
            Refusal: STUDENT_NOT_FOUND, COURSE_NOT_FOUND, NOT_ENROLLED.
        """
        found: EnrollmentView = await self._submit(query, deadline)
        return found

    async def explanations(self, query: ExplainQuery, deadline: float | None = None) -> list[Explanation]:
        """What would become of a student in some courses, all of one moment."""
        found: list[Explanation] = await self._submit(query, deadline)
        return found

    async def student_courses(self, query: StudentCoursesQuery, deadline: float | None = None) -> StudentCourses:
        """A page of the courses of a student.

        Raises:
            Refusal: STUDENT_NOT_FOUND.
        """
        found: StudentCourses = await self._submit(query, deadline)
        return found

    async def course_students(self, query: CourseStudentsQuery) -> CourseStudents:
        """A page of the students of a course; course, counts and rows are of one snapshot.

        Raises:
            Refusal: COURSE_NOT_FOUND.
        """
        return await self._list(lambda connection: enrollments.read_course_students(connection, query))

    async def past_student_courses(self, query: PastStudentCoursesQuery) -> PastStudentCourses:
        """A page of the courses of a student at a moment; see `past.py`."""
        return await self._past.student_courses(query)

    async def past_course_students(self, query: PastCourseStudentsQuery) -> PastCourseStudents:
        """A page of the students of a course at a moment; see `past.py`."""
        return await self._past.course_students(query)

    async def waivers(self, query: WaiversQuery) -> list[Waiver]:
        """A page of the waivers in a course.

        Raises:
            Refusal: COURSE_NOT_FOUND.
        """
        return await self._list(lambda connection: waivers.list_waivers(connection, query))

    async def students(self, query: StudentsQuery) -> list[Student]:
        """A page of students by ascending id."""
        return await self._list(lambda connection: students.list_students(connection, query))

    async def courses(self, query: CoursesQuery) -> list[CountedCourse]:
        """A page of courses by ascending id."""
        return await self._list(lambda connection: courses.list_courses(connection, query, self._database.clock))

    def samples(self) -> list[metrics.Sample]:
        """What can be seen from outside."""
        return [
            (metrics.queue_depth("reads"), lambda: self._batcher.waiting),
            (metrics.queue_depth("lists"), lambda: self.lists.waiting),
        ]

    async def close(self) -> None:
        """Answers everybody who waits, then gives the connection back."""
        await self._batcher.close()
        await self._past.close()
        await self._held.close()

    async def _submit(self, query: Batched, deadline: float | None) -> Any:
        with tracing.waiting(query):
            return await self._batcher.submit(query, deadline)

    async def _list(self, read: Callable[[PooledConnection], Awaitable[Listed]]) -> Listed:
        async with self.lists.take():
            return await self._database.read(read)

    async def _serve(self, queries: Sequence[Batched]) -> Sequence[Any]:
        with tracing.batch("reads") as serves:
            serves(queries)
            return await self._run(queries)

    async def _run(self, queries: Sequence[Batched]) -> Sequence[Any]:
        try:
            return await self._held.read(lambda connection: self._answer(connection, queries))
        except Exception as error:  # noqa: BLE001 - the callers are told
            if fault_of(error) is not Fault.OTHER or len(queries) == 1:
                return [told(error)] * len(queries)
        # Nobody knows which query is to blame; by itself only the guilty one fails.
        return [answer for query in queries for answer in await self._run([query])]

    async def _answer(self, connection: DriverConnection, queries: Sequence[Batched]) -> list[Any]:
        # By type first: as tuples, queries of two types may well be equal.
        answers: dict[type[Any], dict[Batched, Any]] = {}
        for kind, answer in self._answers.items():
            if alike := [query for query in queries if type(query) is kind]:
                answers[kind] = dict(zip(alike, await answer(self, connection, alike), strict=True))
        return [answers[type(query)][query] for query in queries]

    async def _students(self, connection: DriverConnection, queries: Sequence[StudentQuery]) -> list[Any]:
        by_id = await students.read_students(connection, {query.student_id for query in queries if query.student_id})
        keyed = {query for query in queries if not query.student_id}
        by_key = await students.read_students_by_keys(connection, keyed) if keyed else {}
        return [by_id.get(query.student_id) or by_key.get(query) or Refusal([_no_student(query)]) for query in queries]

    async def _courses(self, connection: DriverConnection, queries: Sequence[CourseQuery]) -> list[Any]:
        by_id = await courses.read_courses(connection, {query.course_id for query in queries if query.course_id})
        keyed = {query for query in queries if not query.course_id}
        by_key = await courses.read_courses_by_keys(connection, keyed) if keyed else {}
        return [by_id.get(query.course_id) or by_key.get(query) or Refusal([_no_course(query)]) for query in queries]

    async def _enrollments(self, connection: DriverConnection, queries: Sequence[EnrollmentQuery]) -> list[Any]:
        found = await enrollments.read_pairs(connection, queries)
        return [_view(query, *found[query]) for query in queries]

    async def _explanations(self, connection: DriverConnection, queries: Sequence[ExplainQuery]) -> list[Any]:
        pairs = {(query.student_id, course_id) for query in queries for course_id in query.course_ids}
        state = await explanations.read_state(connection, pairs, self._database.clock)
        return [explain(state, query) for query in queries]

    async def _student_courses(self, connection: DriverConnection, queries: Sequence[StudentCoursesQuery]) -> list[Any]:
        try:
            return await self._student_courses_once(connection, queries)
        except StaleError:
            # Between the two statements a course was changed or deleted. Rare, so only then is a snapshot paid for.
            async with snapshot(connection):
                return await self._student_courses_once(connection, queries)

    async def _student_courses_once(
        self, connection: DriverConnection, queries: Sequence[StudentCoursesQuery]
    ) -> list[Any]:
        """One statement where all details are remembered, otherwise two.

        Raises:
            StaleError: the second statement has seen another moment than the first.
        """
        found = await enrollments.read_student_courses(connection, queries)
        seen = {(one.course_id, one.version) for _, held, _ in found.values() for one in held}
        details = await courses.read_details(connection, seen, self._database.courses)
        answers: list[Any] = []
        for query in queries:
            if query not in found:
                answers.append(Refusal([student_not_found(query.student_id)]))
                continue
            student, held, place = found[query]
            answers.append(StudentCourses(student, [(one, details[one.course_id]) for one in held], place))
        return answers

    _answers: ClassVar[dict[type[Any], Callable[..., Any]]] = {
        StudentQuery: _students,
        CourseQuery: _courses,
        EnrollmentQuery: _enrollments,
        ExplainQuery: _explanations,
        StudentCoursesQuery: _student_courses,
    }


def _no_student(query: StudentQuery) -> Violation:
    if query.student_id:
        return student_not_found(query.student_id)
    return not_found_by("student", "external_id" if query.external_id else "email")


def _no_course(query: CourseQuery) -> Violation:
    if query.course_id:
        return course_not_found(query.course_id)
    return not_found_by("course", "external_id" if query.external_id else "code")


def _view(
    query: EnrollmentQuery, enrollment: Enrollment | None, student: Student | None, course: CountedCourse | None
) -> EnrollmentView | Refusal:
    missing: list[Violation] = []
    if student is None:
        missing.append(student_not_found(query.student_id))
    if course is None:
        missing.append(course_not_found(query.course_id))
    if not missing and enrollment is None:
        missing.append(not_enrolled(query.student_id, query.course_id))
    if enrollment is None or student is None or course is None:
        return Refusal(missing)
    return EnrollmentView(enrollment, student, course)
