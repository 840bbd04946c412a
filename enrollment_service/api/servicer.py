"""One short method per RPC: validate, ask the writer or the reader, convert. No SQL and no rules.

What each method promises stands in the proto; what happens around it (errors, deadline, log) in `calls.py`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from grpc.aio import ServicerContext

from enrollment_service.api import messages, pages, requests, wire
from enrollment_service.api.import_stream import import_chunks
from enrollment_service.domain.commands import (
    DeleteCourse,
    DeleteStudent,
    Enroll,
    EnrollmentsAnswer,
    Reconcile,
    ReconcileAnswer,
    Swap,
    Unenroll,
    UpdateCourse,
    UpdateStudent,
)
from enrollment_service.domain.records import ENROLLED, CountedCourse, Course, NewCourse, NewStudent, Student
from enrollment_service.engine.creator import Creator
from enrollment_service.engine.reader import Reader
from enrollment_service.engine.writer import Writer
from enrollment_service.store.enrollments import RosterQuery, StudentCoursesQuery
from enrollment_service.v1 import enrollment_pb2 as pb
from enrollment_service.v1.enrollment_pb2_grpc import EnrollmentServiceServicer

Context = ServicerContext[Any, Any]


class Servicer(EnrollmentServiceServicer):
    """The enrollment service."""

    def __init__(
        self,
        writer: Writer,
        reader: Reader,
        students: Creator[NewStudent, Student],
        courses: Creator[NewCourse, Course],
    ) -> None:
        self._writer = writer
        self._reader = reader
        self._students = students
        self._courses = courses

    # --- students -----------------------------------------------------------------------------------------------

    async def CreateStudent(self, request: pb.CreateStudentRequest, context: Context) -> pb.CreateStudentResponse:
        requests.check_create_student(request)
        student = await self._students.submit(messages.new_student(request.student))
        return pb.CreateStudentResponse(student=messages.student_message(student))

    async def GetStudent(self, request: pb.GetStudentRequest, context: Context) -> pb.GetStudentResponse:
        requests.check_student_id(request)
        student = await self._reader.student(request.student_id)
        return pb.GetStudentResponse(student=messages.student_message(student))

    async def UpdateStudent(self, request: pb.UpdateStudentRequest, context: Context) -> pb.UpdateStudentResponse:
        requests.check_update_student(request)
        student = await self._writer.submit(
            UpdateStudent(
                student_id=request.student.student_id,
                changes=messages.student_changes(request),
                etag=request.student.etag,
            )
        )
        assert isinstance(student, Student)
        return pb.UpdateStudentResponse(student=messages.student_message(student))

    async def DeleteStudent(self, request: pb.DeleteStudentRequest, context: Context) -> pb.DeleteStudentResponse:
        requests.check_student_id(request)
        await self._writer.submit(DeleteStudent(student_id=request.student_id, etag=request.etag, force=request.force))
        return pb.DeleteStudentResponse()

    async def ListStudents(self, request: pb.ListStudentsRequest, context: Context) -> pb.ListStudentsResponse:
        requests.check_list(request)
        scope = f"ListStudents {request.query}"
        (after,) = pages.decode(scope, request.page_token, (0,))
        limit = requests.page_limit(request.page_size)
        found = await self._reader.students(after=after, limit=limit + 1, query=request.query)
        page, more = messages.fitting(map(messages.student_message, found), limit, messages.message_size)
        token = pages.encode(scope, page[-1].student_id) if more else ""
        return pb.ListStudentsResponse(students=page, next_page_token=token)

    # --- courses ------------------------------------------------------------------------------------------------

    async def CreateCourse(self, request: pb.CreateCourseRequest, context: Context) -> pb.CreateCourseResponse:
        requests.check_create_course(request)
        course = await self._courses.submit(messages.new_course(request.course))
        return pb.CreateCourseResponse(course=messages.course_message(CountedCourse(course, 0, 0)))

    async def GetCourse(self, request: pb.GetCourseRequest, context: Context) -> pb.GetCourseResponse:
        requests.check_course_id(request)
        course = await self._reader.course(request.course_id)
        return pb.GetCourseResponse(course=messages.course_message(course))

    async def UpdateCourse(self, request: pb.UpdateCourseRequest, context: Context) -> pb.UpdateCourseResponse:
        requests.check_update_course(request)
        course = await self._writer.submit(
            UpdateCourse(
                course_id=request.course.course_id,
                changes=messages.course_changes(request),
                etag=request.course.etag,
            )
        )
        assert isinstance(course, CountedCourse)
        return pb.UpdateCourseResponse(course=messages.course_message(course))

    async def DeleteCourse(self, request: pb.DeleteCourseRequest, context: Context) -> pb.DeleteCourseResponse:
        requests.check_course_id(request)
        await self._writer.submit(DeleteCourse(course_id=request.course_id, etag=request.etag, force=request.force))
        return pb.DeleteCourseResponse()

    async def ListCourses(self, request: pb.ListCoursesRequest, context: Context) -> pb.ListCoursesResponse:
        requests.check_list(request)
        scope = f"ListCourses {request.only_open} {request.query}"
        (after,) = pages.decode(scope, request.page_token, (0,))
        limit = requests.page_limit(request.page_size)
        found = await self._reader.courses(
            after=after, limit=limit + 1, query=request.query, only_open=request.only_open
        )
        page, more = messages.fitting(map(messages.course_message, found), limit, messages.message_size)
        token = pages.encode(scope, page[-1].course_id) if more else ""
        return pb.ListCoursesResponse(courses=page, next_page_token=token)

    # --- enrollments --------------------------------------------------------------------------------------------

    async def EnrollStudent(self, request: pb.EnrollStudentRequest, context: Context) -> pb.EnrollStudentResponse:
        requests.check_enroll(request)
        answer = await self._writer.submit(
            Enroll(
                student_id=request.student_id,
                courses=tuple(request.course_ids),
                waitlist=request.on_full == pb.ON_FULL_WAITLIST,
                validate_only=request.validate_only,
                request_id=requests.parse_request_id(request.request_id),
                reason=request.reason,
            )
        )
        assert isinstance(answer, EnrollmentsAnswer)
        return pb.EnrollStudentResponse(enrollments=messages.enrollment_messages(answer))

    async def UnenrollStudent(self, request: pb.UnenrollStudentRequest, context: Context) -> pb.UnenrollStudentResponse:
        requests.check_unenroll(request)
        answer = await self._writer.submit(
            Unenroll(
                student_id=request.student_id,
                course_id=request.course_id,
                allow_missing=request.allow_missing,
                etag=request.etag,
                request_id=requests.parse_request_id(request.request_id),
                reason=request.reason,
            )
        )
        assert isinstance(answer, EnrollmentsAnswer)
        return pb.UnenrollStudentResponse(enrollment=messages.enrollment_message(answer.enrollments[0]))

    async def SwapEnrollment(self, request: pb.SwapEnrollmentRequest, context: Context) -> pb.SwapEnrollmentResponse:
        requests.check_swap(request)
        answer = await self._writer.submit(
            Swap(
                student_id=request.student_id,
                from_course_id=request.from_course_id,
                to_course_id=request.to_course_id,
                validate_only=request.validate_only,
                request_id=requests.parse_request_id(request.request_id),
                reason=request.reason,
            )
        )
        assert isinstance(answer, EnrollmentsAnswer)
        dropped, enrolled = messages.enrollment_messages(answer)
        return pb.SwapEnrollmentResponse(dropped=dropped, enrolled=enrolled)

    async def GetEnrollment(self, request: pb.GetEnrollmentRequest, context: Context) -> pb.GetEnrollmentResponse:
        requests.check_get_enrollment(request)
        view = await self._reader.enrollment(request.student_id, request.course_id)
        return pb.GetEnrollmentResponse(enrollment=messages.view_message(view))

    async def ListStudentCourses(self, request: pb.ListStudentCoursesRequest, context: Context) -> bytes:
        requests.check_list_student_courses(request)
        states = messages.state_mask(request.states)
        scope = f"ListStudentCourses {request.student_id} {states}"
        (after,) = pages.decode(scope, request.page_token, (0,))
        limit = requests.page_limit(request.page_size)
        found = await self._reader.student_courses(StudentCoursesQuery(request.student_id, after, limit + 1, states))
        page, more = messages.fitting(wire.rows(request.student_id, found), limit, len)
        token = pages.encode(scope, found.held[len(page) - 1][0].course_id) if more else ""
        return wire.student_courses(found.student, page, token)

    async def ListCourseStudents(
        self, request: pb.ListCourseStudentsRequest, context: Context
    ) -> pb.ListCourseStudentsResponse:
        requests.check_list_course_students(request)
        states = messages.state_mask(request.states)
        scope = f"ListCourseStudents {request.course_id} {states}"
        after = pages.decode(scope, request.page_token, (0, 0))
        limit = requests.page_limit(request.page_size)
        found = await self._reader.course_students(
            RosterQuery(request.course_id, (after[0], after[1]), limit + 1, states)
        )
        rows = (messages.enrollment_message(enrollment, student=student) for enrollment, student in found.roster)
        page, more = messages.fitting(rows, limit, messages.message_size)
        token = ""
        if more:
            last = found.roster[len(page) - 1][0]
            token = pages.encode(scope, last.state, last.student_id if last.state == ENROLLED else last.sequence)
        return pb.ListCourseStudentsResponse(
            course=messages.course_message(found.course), enrollments=page, next_page_token=token
        )

    async def ImportEnrollments(
        self, requests: AsyncIterator[pb.ImportEnrollmentsRequest], context: Context
    ) -> AsyncIterator[pb.ImportEnrollmentsResponse]:
        async for response in import_chunks(self._writer, requests):
            yield response

    async def ReconcileRoster(self, request: pb.ReconcileRosterRequest, context: Context) -> pb.ReconcileRosterResponse:
        requests.check_reconcile(request)
        answer = await self._writer.submit(
            Reconcile(
                course_id=request.course_id,
                student_ids=tuple(request.student_ids),
                max_removals=request.max_removals,
                validate_only=request.validate_only,
                request_id=requests.parse_request_id(request.request_id),
            )
        )
        assert isinstance(answer, ReconcileAnswer)
        return messages.reconcile_message(answer)

    async def WatchEnrollmentEvents(
        self, request: pb.WatchEnrollmentEventsRequest, context: Context
    ) -> AsyncIterator[pb.WatchEnrollmentEventsResponse]:
        raise requests.not_built("WatchEnrollmentEvents")
        yield  # makes this a stream
