"""`EnrollmentClient`: one method per RPC, sent with a deadline and a request_id and retried where that is safe."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from datetime import datetime

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from enrollment_service.client.calls import Caller
from enrollment_service.client.chunks import Chunks
from enrollment_service.v1 import enrollment_pb2 as pb

Time = Timestamp | datetime | None
"""A datetime without a time zone counts as UTC."""


class EnrollmentClient(Caller):
    """A client of the enrollment service. Make it inside a running event loop, and one for many calls.

    Every method raises ServiceError, after the retries it allows: Refused where nothing was changed, OutcomeUnknown
    where that cannot be known. A write is sent with a request_id, yours or a new one, and with the same again when it
    is retried; reads and dry runs are retried as well. Cancelling a call raises CancelledError at once and never undoes
    a change.

    Args:
        target: an address (`host:port`; several as `ipv4:host:port,host:port` or `dns:///name:port`: calls go to
            whichever serve), or a channel, which then stays yours to close.
        credentials: for TLS (`grpc.ssl_channel_credentials`), with a certificate and its key for a server that asks for
            them. None: no TLS.
        timeout: how long one attempt may take, in seconds.
        budget: how long a call may take with all its retries, in seconds.
        metadata: sent with every call.
        token: an access token that is sent with every call, or a function that returns it, asked at each attempt.
        wait_for_ready: whether to wait, within the timeout, for a server that is not there yet, rather than fail.
        options: channel options that are added to ours, or win over them.
        pauses: how long to wait between attempts.
    """

    # Students.

    async def create_student(
        self, full_name: str, email: str, *, external_id: str = "", request_id: str = ""
    ) -> pb.Student:
        """Creates a student."""
        student = pb.Student(full_name=full_name, email=email, external_id=external_id)
        request = pb.CreateStudentRequest(student=student, request_id=request_id)
        response: pb.CreateStudentResponse = await self.call("CreateStudent", request)
        return response.student

    async def get_student(self, student_id: int = 0, *, external_id: str = "", email: str = "") -> pb.Student:
        """The student with this id, this external id or this e-mail address: exactly one of them."""
        request = pb.GetStudentRequest(student_id=student_id, external_id=external_id, email=email)
        response: pb.GetStudentResponse = await self.call("GetStudent", request)
        return response.student

    async def update_student(self, student: pb.Student, fields: Iterable[str], *, request_id: str = "") -> pb.Student:
        """Changes the named fields to those of the message; only if its etag, where it has one, is the present one."""
        mask = FieldMask(paths=fields)
        request = pb.UpdateStudentRequest(student=student, update_mask=mask, request_id=request_id)
        response: pb.UpdateStudentResponse = await self.call("UpdateStudent", request)
        return response.student

    async def delete_student(
        self, student_id: int, *, etag: str = "", force: bool = False, request_id: str = ""
    ) -> None:
        """Deletes a student; with force, enrollments too."""
        request = pb.DeleteStudentRequest(student_id=student_id, etag=etag, force=force, request_id=request_id)
        await self.call("DeleteStudent", request)

    async def list_students(self, *, query: str = "", page_size: int = 0) -> AsyncIterator[pb.Student]:
        """All students whose name, address or external id begins with the query, by id; over all pages."""
        async for page in self.pages("ListStudents", pb.ListStudentsRequest(query=query, page_size=page_size)):
            for student in page.students:
                yield student

    # Courses.

    async def create_course(
        self,
        code: str,
        title: str,
        *,
        description: str = "",
        capacity: int | None = None,
        waitlist_capacity: int = 0,
        enroll_open_time: Time = None,
        enroll_close_time: Time = None,
        external_id: str = "",
        permit_required: bool = False,
        request_id: str = "",
        reason: str = "",
    ) -> pb.Course:
        """Creates a course; None means no limit."""
        course = pb.Course(
            code=code,
            title=title,
            description=description,
            capacity=capacity,
            waitlist_capacity=waitlist_capacity,
            enroll_open_time=enroll_open_time,
            enroll_close_time=enroll_close_time,
            external_id=external_id,
            permit_required=permit_required,
        )
        request = pb.CreateCourseRequest(course=course, request_id=request_id, reason=reason)
        response: pb.CreateCourseResponse = await self.call("CreateCourse", request)
        return response.course

    async def get_course(self, course_id: int = 0, *, external_id: str = "", code: str = "") -> pb.Course:
        """The course with this id, this external id or this code, exactly one of them; and its present counts."""
        request = pb.GetCourseRequest(course_id=course_id, external_id=external_id, code=code)
        response: pb.GetCourseResponse = await self.call("GetCourse", request)
        return response.course

    async def update_course(
        self, course: pb.Course, fields: Iterable[str], *, request_id: str = "", reason: str = ""
    ) -> pb.Course:
        """Changes the named fields to those of the message, or clears them; like `update_student`."""
        mask = FieldMask(paths=fields)
        request = pb.UpdateCourseRequest(course=course, update_mask=mask, request_id=request_id, reason=reason)
        response: pb.UpdateCourseResponse = await self.call("UpdateCourse", request)
        return response.course

    async def delete_course(
        self, course_id: int, *, etag: str = "", force: bool = False, request_id: str = "", reason: str = ""
    ) -> None:
        """Deletes a course; with force, enrollments too."""
        request = pb.DeleteCourseRequest(
            course_id=course_id, etag=etag, force=force, request_id=request_id, reason=reason
        )
        await self.call("DeleteCourse", request)

    async def list_courses(
        self, *, query: str = "", only_open: bool = False, page_size: int = 0
    ) -> AsyncIterator[pb.Course]:
        """All courses whose code, title or external id begins with the query, by id; over all pages."""
        request = pb.ListCoursesRequest(query=query, only_open=only_open, page_size=page_size)
        async for page in self.pages("ListCourses", request):
            for course in page.courses:
                yield course

    # Enrollments.

    async def enroll_student(
        self,
        student_id: int,
        course_ids: Iterable[int],
        *,
        drop_course_ids: Iterable[int] = (),
        on_full: pb.OnFull = pb.ON_FULL_REJECT,
        validate_only: bool = False,
        request_id: str = "",
        reason: str = "",
    ) -> list[pb.Enrollment]:
        """Enrolls a student in all of the courses and drops the others, or neither; answers in the order of the ids."""
        request = pb.EnrollStudentRequest(
            student_id=student_id,
            course_ids=course_ids,
            drop_course_ids=drop_course_ids,
            on_full=on_full,
            validate_only=validate_only,
            request_id=request_id,
            reason=reason,
        )
        response: pb.EnrollStudentResponse = await self.call("EnrollStudent", request)
        return list(response.enrollments)

    async def unenroll_student(
        self,
        student_id: int,
        course_id: int,
        *,
        allow_missing: bool = False,
        etag: str = "",
        request_id: str = "",
        reason: str = "",
    ) -> pb.Enrollment:
        """Takes a student out of a course or off its waitlist."""
        request = pb.UnenrollStudentRequest(
            student_id=student_id,
            course_id=course_id,
            allow_missing=allow_missing,
            etag=etag,
            request_id=request_id,
            reason=reason,
        )
        response: pb.UnenrollStudentResponse = await self.call("UnenrollStudent", request)
        return response.enrollment

    async def swap_enrollment(
        self,
        student_id: int,
        from_course_id: int,
        to_course_id: int,
        *,
        on_full: pb.OnFull = pb.ON_FULL_REJECT,
        validate_only: bool = False,
        request_id: str = "",
        reason: str = "",
    ) -> pb.SwapEnrollmentResponse:
        """Moves a student from one course into another, or neither; `dropped` is unset where the student waits."""
        request = pb.SwapEnrollmentRequest(
            student_id=student_id,
            from_course_id=from_course_id,
            to_course_id=to_course_id,
            on_full=on_full,
            validate_only=validate_only,
            request_id=request_id,
            reason=reason,
        )
        response: pb.SwapEnrollmentResponse = await self.call("SwapEnrollment", request)
        return response

    async def explain_enrollment(
        self, student_id: int, course_ids: Iterable[int], *, on_full: pb.OnFull = pb.ON_FULL_REJECT
    ) -> list[pb.Explanation]:
        """What would become of a student in each of the courses, with everything that stands in the way."""
        request = pb.ExplainEnrollmentRequest(student_id=student_id, course_ids=course_ids, on_full=on_full)
        response: pb.ExplainEnrollmentResponse = await self.call("ExplainEnrollment", request)
        return list(response.explanations)

    async def get_enrollment(self, student_id: int, course_id: int) -> pb.Enrollment:
        """One enrollment, with its student and its course."""
        request = pb.GetEnrollmentRequest(student_id=student_id, course_id=course_id)
        response: pb.GetEnrollmentResponse = await self.call("GetEnrollment", request)
        return response.enrollment

    async def list_student_courses(
        self,
        student_id: int,
        *,
        states: Iterable[pb.EnrollmentState] = (),
        as_of: Time = None,
        page_size: int = 0,
    ) -> AsyncIterator[pb.Enrollment]:
        """The enrollments of a student, each with its course, by course id; over all pages."""
        request = pb.ListStudentCoursesRequest(student_id=student_id, states=states, page_size=page_size, as_of=as_of)
        async for page in self.pages("ListStudentCourses", request):
            for enrollment in page.enrollments:
                yield enrollment

    async def list_course_students(
        self,
        course_id: int,
        *,
        states: Iterable[pb.EnrollmentState] = (),
        as_of: Time = None,
        page_size: int = 0,
    ) -> AsyncIterator[pb.Enrollment]:
        """The enrollments in a course, each with its student: the enrolled by id, then the waiters in their order."""
        request = pb.ListCourseStudentsRequest(course_id=course_id, states=states, page_size=page_size, as_of=as_of)
        async for page in self.pages("ListCourseStudents", request):
            for enrollment in page.enrollments:
                yield enrollment

    # Many at once.

    async def reconcile_roster(
        self,
        course_id: int = 0,
        student_ids: Iterable[int] = (),
        *,
        course_external_id: str = "",
        student_external_ids: Iterable[str] = (),
        max_removals: int = 0,
        validate_only: bool = False,
        request_id: str = "",
    ) -> pb.ReconcileRosterResponse:
        """Makes the enrolled students of a course exactly these, all or none; by our ids or by external ids."""
        request = pb.ReconcileRosterRequest(
            course_id=course_id,
            student_ids=student_ids,
            course_external_id=course_external_id,
            student_external_ids=student_external_ids,
            max_removals=max_removals,
            validate_only=validate_only,
            request_id=request_id,
        )
        response: pb.ReconcileRosterResponse = await self.call("ReconcileRoster", request)
        return response

    async def grant_waivers(
        self,
        course_id: int,
        student_ids: Iterable[int],
        reasons: Iterable[pb.ErrorReason],
        *,
        expire_time: Time = None,
        validate_only: bool = False,
        request_id: str = "",
        reason: str = "",
    ) -> list[pb.Waiver]:
        """Lifts refusals for students in a course, until a time or for ever."""
        request = pb.GrantWaiversRequest(
            course_id=course_id,
            student_ids=student_ids,
            reasons=reasons,
            expire_time=expire_time,
            validate_only=validate_only,
            request_id=request_id,
            reason=reason,
        )
        response: pb.GrantWaiversResponse = await self.call("GrantWaivers", request)
        return list(response.waivers)

    async def revoke_waivers(
        self,
        course_id: int,
        student_ids: Iterable[int],
        reasons: Iterable[pb.ErrorReason] = (),
        *,
        validate_only: bool = False,
        request_id: str = "",
        reason: str = "",
    ) -> list[pb.Waiver]:
        """Lifts refusals no more: those that are named, or all; what was lifted until now."""
        request = pb.RevokeWaiversRequest(
            course_id=course_id,
            student_ids=student_ids,
            reasons=reasons,
            validate_only=validate_only,
            request_id=request_id,
            reason=reason,
        )
        response: pb.RevokeWaiversResponse = await self.call("RevokeWaivers", request)
        return list(response.waivers)

    async def list_waivers(self, course_id: int, *, page_size: int = 0) -> AsyncIterator[pb.Waiver]:
        """All waivers in a course, by student id; over all pages."""
        request = pb.ListWaiversRequest(course_id=course_id, page_size=page_size)
        async for page in self.pages("ListWaivers", request):
            for waiver in page.waivers:
                yield waiver

    def import_enrollments(
        self, chunks: Chunks, *, answer_timeout: float = 60.0
    ) -> AsyncGenerator[pb.ImportEnrollmentsResponse, None]:
        """Sends chunks (messages ImportEnrollmentsRequest, from any iterable); yields their answers in order.

        A few are in flight at a time. If the stream breaks it is opened again, and what was not answered is sent again
        with the same request_id. A chunk without chunk_id gets its place in the order, from 1 on. What the iterable
        raises is raised here, once all chunks before it are answered.

        Args:
            chunks: the chunks.
            answer_timeout: after how many seconds without the answer that is due the stream counts as broken.
        """
        return self.chunks("ImportEnrollments", chunks, answer_timeout=answer_timeout)

    def import_students(
        self, chunks: Chunks, *, answer_timeout: float = 60.0
    ) -> AsyncGenerator[pb.ImportStudentsResponse, None]:
        """Sends chunks of students (messages ImportStudentsRequest); otherwise like `import_enrollments`."""
        return self.chunks("ImportStudents", chunks, answer_timeout=answer_timeout)

    def import_courses(
        self, chunks: Chunks, *, answer_timeout: float = 60.0
    ) -> AsyncGenerator[pb.ImportCoursesResponse, None]:
        """Sends chunks of courses (messages ImportCoursesRequest); otherwise like `import_enrollments`."""
        return self.chunks("ImportCourses", chunks, answer_timeout=answer_timeout)

    def watch_enrollment_events(
        self,
        *,
        course_id: int = 0,
        student_id: int = 0,
        resume_token: str = "",
        follow: bool = True,
        silence_timeout: float = 60.0,
    ) -> AsyncGenerator[pb.WatchEnrollmentEventsResponse, None]:
        """Every committed change from the token on, in order per course, at least once.

        Of one course, of one student, or of all. A stream that breaks is resumed, and so is one whose token has expired
        if the client knows where to ask for another, or one that brings nothing for `silence_timeout` seconds. Keep the
        resume_token of the last message that you have dealt with; messages without events are heartbeats.
        """
        request = pb.WatchEnrollmentEventsRequest(
            course_id=course_id, student_id=student_id, resume_token=resume_token, follow=follow
        )
        return self.watch("WatchEnrollmentEvents", request, silence_timeout=silence_timeout)
