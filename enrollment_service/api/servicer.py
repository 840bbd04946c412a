"""One short method per RPC: parse, ask the writer or the reader, answer. No SQL and no rules.

What each method promises stands in the proto; what happens around it (errors, deadline, log) in `calls.py`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

from enrollment_service.api import messages, requests, wire
from enrollment_service.api.calls import Call
from enrollment_service.api.import_stream import COURSES, ENROLLMENTS, STUDENTS, import_chunks
from enrollment_service.api.watch import watch_messages
from enrollment_service.domain.queries import PastCourseStudentsQuery, PastStudentCoursesQuery
from enrollment_service.engine.feed import Feed
from enrollment_service.engine.reader import Reader
from enrollment_service.engine.writer import Writer
from enrollment_service.v1 import enrollment_pb2 as pb
from enrollment_service.v1.enrollment_pb2_grpc import EnrollmentServiceServicer


class Servicer(EnrollmentServiceServicer):
    """The enrollment service."""

    def __init__(self, writer: Writer, reader: Reader, feed: Feed, max_idle_seconds: float) -> None:
        self._writer = writer
        self._reader = reader
        self._feed = feed
        self._max_idle_seconds = max_idle_seconds

    # --- students -----------------------------------------------------------------------------------------------

    async def CreateStudent(self, request: pb.CreateStudentRequest, call: Call) -> pb.CreateStudentResponse:
        student = await self._writer.submit(requests.create_student(request, call.caller), call.deadline)
        return pb.CreateStudentResponse(student=messages.student_message(student))

    async def GetStudent(self, request: pb.GetStudentRequest, call: Call) -> pb.GetStudentResponse:
        student = await self._reader.student(requests.get_student(request, call.caller), call.deadline)
        return pb.GetStudentResponse(student=messages.student_message(student))

    async def UpdateStudent(self, request: pb.UpdateStudentRequest, call: Call) -> pb.UpdateStudentResponse:
        student = await self._writer.submit(requests.update_student(request, call.caller), call.deadline)
        return pb.UpdateStudentResponse(student=messages.student_message(student))

    async def DeleteStudent(self, request: pb.DeleteStudentRequest, call: Call) -> pb.DeleteStudentResponse:
        await self._writer.submit(requests.delete_student(request, call.caller), call.deadline)
        return pb.DeleteStudentResponse()

    async def ListStudents(self, request: pb.ListStudentsRequest, call: Call) -> pb.ListStudentsResponse:
        query, page = requests.list_students(request, call.caller)
        return messages.students_page(page, await self._reader.students(query))

    # --- courses ------------------------------------------------------------------------------------------------

    async def CreateCourse(self, request: pb.CreateCourseRequest, call: Call) -> pb.CreateCourseResponse:
        course = await self._writer.submit(requests.create_course(request, call.caller), call.deadline)
        return pb.CreateCourseResponse(course=messages.course_message(course))

    async def GetCourse(self, request: pb.GetCourseRequest, call: Call) -> pb.GetCourseResponse:
        course = await self._reader.course(requests.get_course(request, call.caller), call.deadline)
        return pb.GetCourseResponse(course=messages.course_message(course))

    async def UpdateCourse(self, request: pb.UpdateCourseRequest, call: Call) -> pb.UpdateCourseResponse:
        course = await self._writer.submit(requests.update_course(request, call.caller), call.deadline)
        return pb.UpdateCourseResponse(course=messages.course_message(course))

    async def DeleteCourse(self, request: pb.DeleteCourseRequest, call: Call) -> pb.DeleteCourseResponse:
        await self._writer.submit(requests.delete_course(request, call.caller), call.deadline)
        return pb.DeleteCourseResponse()

    async def ListCourses(self, request: pb.ListCoursesRequest, call: Call) -> pb.ListCoursesResponse:
        query, page = requests.list_courses(request, call.caller)
        return messages.courses_page(page, await self._reader.courses(query))

    # --- enrollments --------------------------------------------------------------------------------------------

    async def EnrollStudent(self, request: pb.EnrollStudentRequest, call: Call) -> bytes:
        answer = await self._writer.submit(requests.enroll_student(request, call.caller), call.deadline)
        return wire.enroll_student_answer(answer)

    async def UnenrollStudent(self, request: pb.UnenrollStudentRequest, call: Call) -> pb.UnenrollStudentResponse:
        answer = await self._writer.submit(requests.unenroll_student(request, call.caller), call.deadline)
        (dropped,) = answer.enrollments
        return pb.UnenrollStudentResponse(enrollment=messages.enrollment_message(dropped._replace(course=None)))

    async def SwapEnrollment(self, request: pb.SwapEnrollmentRequest, call: Call) -> pb.SwapEnrollmentResponse:
        answer = await self._writer.submit(requests.swap_enrollment(request, call.caller), call.deadline)
        return messages.swap_message(answer)

    async def ExplainEnrollment(self, request: pb.ExplainEnrollmentRequest, call: Call) -> pb.ExplainEnrollmentResponse:
        found = await self._reader.explanations(requests.explain_enrollment(request, call.caller), call.deadline)
        return pb.ExplainEnrollmentResponse(explanations=map(messages.explanation_message, found))

    async def GetEnrollment(self, request: pb.GetEnrollmentRequest, call: Call) -> pb.GetEnrollmentResponse:
        view = await self._reader.enrollment(requests.get_enrollment(request, call.caller), call.deadline)
        return pb.GetEnrollmentResponse(enrollment=messages.enrollment_message(view))

    async def ListStudentCourses(self, request: pb.ListStudentCoursesRequest, call: Call) -> bytes:
        query, page = requests.list_student_courses(request, call.caller)
        if isinstance(query, PastStudentCoursesQuery):
            past = await self._reader.past_student_courses(query)
            return messages.past_student_courses_page(page, past).SerializeToString()
        return wire.student_courses_page(page, await self._reader.student_courses(query, call.deadline))

    async def ListCourseStudents(
        self, request: pb.ListCourseStudentsRequest, call: Call
    ) -> pb.ListCourseStudentsResponse:
        query, page = requests.list_course_students(request, call.caller)
        if isinstance(query, PastCourseStudentsQuery):
            return messages.past_course_students_page(page, await self._reader.past_course_students(query))
        return messages.course_students_page(page, await self._reader.course_students(query))

    async def ImportEnrollments(
        self, chunks: AsyncIterator[pb.ImportEnrollmentsRequest], call: Call
    ) -> AsyncIterator[pb.ImportEnrollmentsResponse]:
        async for response in import_chunks(ENROLLMENTS, self._writer, chunks, call.caller, self._max_idle_seconds):
            yield response

    async def ImportStudents(
        self, chunks: AsyncIterator[pb.ImportStudentsRequest], call: Call
    ) -> AsyncIterator[pb.ImportStudentsResponse]:
        async for response in import_chunks(STUDENTS, self._writer, chunks, call.caller, self._max_idle_seconds):
            yield response

    async def ImportCourses(
        self, chunks: AsyncIterator[pb.ImportCoursesRequest], call: Call
    ) -> AsyncIterator[pb.ImportCoursesResponse]:
        async for response in import_chunks(COURSES, self._writer, chunks, call.caller, self._max_idle_seconds):
            yield response

    async def ReconcileRoster(self, request: pb.ReconcileRosterRequest, call: Call) -> pb.ReconcileRosterResponse:
        answer = await self._writer.submit(requests.reconcile_roster(request, call.caller), call.deadline)
        return messages.reconcile_message(answer)

    async def GrantWaivers(self, request: pb.GrantWaiversRequest, call: Call) -> pb.GrantWaiversResponse:
        answer = await self._writer.submit(requests.grant_waivers(request, call.caller), call.deadline)
        return pb.GrantWaiversResponse(waivers=map(messages.waiver_message, answer.waivers))

    async def RevokeWaivers(self, request: pb.RevokeWaiversRequest, call: Call) -> pb.RevokeWaiversResponse:
        answer = await self._writer.submit(requests.revoke_waivers(request, call.caller), call.deadline)
        return pb.RevokeWaiversResponse(waivers=map(messages.waiver_message, answer.waivers))

    async def ListWaivers(self, request: pb.ListWaiversRequest, call: Call) -> pb.ListWaiversResponse:
        query, page = requests.list_waivers(request, call.caller)
        return messages.waivers_page(page, await self._reader.waivers(query))

    def WatchEnrollmentEvents(
        self, request: pb.WatchEnrollmentEventsRequest, call: Call
    ) -> AsyncGenerator[bytes, None]:
        scope, mark = requests.watch_enrollment_events(request, call.caller)
        # Handed on as it is: each generator more around it costs every watcher and every message.
        return watch_messages(self._feed.watch(scope, mark, follow=request.follow), scope)
