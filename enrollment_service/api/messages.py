"""From answers to messages: one function per thing that is shown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from google.protobuf.message import Message

from enrollment_service.api.pages import Page
from enrollment_service.api.resume import Given
from enrollment_service.api.timestamps import timestamp
from enrollment_service.domain.commands import (
    CourseId,
    EnrollmentsAnswer,
    ImportAnswer,
    ReconcileAnswer,
    StudentId,
    UpsertAnswer,
)
from enrollment_service.domain.errors import Reason
from enrollment_service.domain.feed import Scope
from enrollment_service.domain.history import Stood
from enrollment_service.domain.queries import CourseStudents, Explanation, PastCourseStudents, PastStudentCourses
from enrollment_service.domain.records import (
    ENROLLED,
    WAIVABLE,
    CountedCourse,
    Course,
    EnrollmentView,
    Event,
    Student,
    Waiver,
)
from enrollment_service.v1 import enrollment_pb2 as pb


def student_message(student: Student | StudentId) -> pb.Student:
    """A student."""
    if isinstance(student, StudentId):
        return pb.Student(student_id=student.student_id)
    return pb.Student(
        student_id=student.student_id,
        full_name=student.full_name,
        email=student.email,
        create_time=timestamp(student.create_time),
        update_time=timestamp(student.update_time),
        etag=student.etag,
        external_id=student.external_id,
    )


def course_message(counted: CountedCourse | CourseId) -> pb.Course:
    """A course with its counts."""
    if isinstance(counted, CourseId):
        return pb.Course(course_id=counted.course_id)
    message = pb.Course.FromString(encoded_details(counted.course))
    message.enrolled_count = counted.enrolled_count
    message.waitlisted_count = counted.waitlisted_count
    return message


def encoded_details(course: Course) -> bytes:
    """A course without counts, as bytes; encoded once for as long as the course is remembered."""
    if course.encoded is None:
        course.encoded = _details_message(course).SerializeToString()
    return course.encoded


def _details_message(course: Course) -> pb.Course:
    message = pb.Course(
        course_id=course.course_id,
        code=course.code,
        title=course.title,
        description=course.description,
        capacity=course.capacity,
        waitlist_capacity=course.waitlist_capacity,
        create_time=timestamp(course.create_time),
        update_time=timestamp(course.update_time),
        etag=course.etag,
        external_id=course.external_id,
        permit_required=course.permit_required,
    )
    if course.enroll_open_time is not None:
        message.enroll_open_time.CopyFrom(timestamp(course.enroll_open_time))
    if course.enroll_close_time is not None:
        message.enroll_close_time.CopyFrom(timestamp(course.enroll_close_time))
    return message


def enrollment_message(view: EnrollmentView) -> pb.Enrollment:
    """An enrollment, with its student and its course where the view has them."""
    enrollment, student, course = view
    return pb.Enrollment(
        student_id=enrollment.student_id,
        course_id=enrollment.course_id,
        state=enrollment.state,  # type: ignore[arg-type]
        waitlist_position=enrollment.waitlist_position,
        enroll_time=None if enrollment.enroll_time is None else timestamp(enrollment.enroll_time),
        create_time=None if enrollment.create_time is None else timestamp(enrollment.create_time),
        etag=enrollment.etag,
        student=None if student is None else student_message(student),
        course=None if course is None else course_message(course),
        swap_from_course_id=enrollment.swap_from_course_id,
    )


def enrollment_messages(answer: EnrollmentsAnswer) -> list[pb.Enrollment]:
    """The enrollments of an answer."""
    return [enrollment_message(view) for view in answer.enrollments]


def swap_message(answer: EnrollmentsAnswer) -> pb.SwapEnrollmentResponse:
    """What a student has left, unless it is kept, and what it is for."""
    *dropped, enrolled = enrollment_messages(answer)
    return pb.SwapEnrollmentResponse(dropped=dropped[0] if dropped else None, enrolled=enrolled)


def explanation_message(explanation: Explanation) -> pb.Explanation:
    """What would become of a student in a course."""
    message = pb.Explanation(
        course_id=explanation.course_id,
        outcome=explanation.outcome,  # type: ignore[arg-type]
        waitlist_position=explanation.waitlist_position,
    )
    for obstacle in explanation.obstacles:
        message.obstacles.add(
            reason=_reason(obstacle.reason), metadata=obstacle.observed, waivable=obstacle.reason in WAIVABLE
        )
    return message


def students_page(page: Page, found: list[Student]) -> pb.ListStudentsResponse:
    """A page of students."""
    students, token = page.cut(found, student_message, message_size, lambda student: (student.student_id,))
    return pb.ListStudentsResponse(students=students, next_page_token=token)


def courses_page(page: Page, found: list[CountedCourse]) -> pb.ListCoursesResponse:
    """A page of courses."""
    courses, token = page.cut(found, course_message, message_size, lambda counted: (counted.course.course_id,))
    return pb.ListCoursesResponse(courses=courses, next_page_token=token)


def course_students_page(page: Page, found: CourseStudents) -> pb.ListCourseStudentsResponse:
    """A page of the students of a course."""
    scope = Scope(course_id=found.course.course.course_id)
    given = Given.of(page.carried) if page.carried else Given.at(scope, found.place, found.last_sequence)
    enrollments, token = page.cut(found.roster, enrollment_message, message_size, _place_in_roster, given.carried)
    return pb.ListCourseStudentsResponse(
        course=course_message(found.course),
        enrollments=enrollments,
        next_page_token=token,
        resume_token=given.token,
        sequence=given.sequence,
    )


def _place_in_roster(view: EnrollmentView) -> tuple[int, int]:
    """First the enrolled by student id, then the waiters by ticket."""
    enrollment = view.enrollment
    return enrollment.state, enrollment.student_id if enrollment.state == ENROLLED else enrollment.sequence


def past_student_courses_page(page: Page, found: PastStudentCourses) -> pb.ListStudentCoursesResponse:
    """A page of the courses that a student had."""

    def encode(one: Stood) -> pb.Enrollment:
        message = enrollment_message(EnrollmentView(one.enrollment))
        course_id = one.enrollment.course_id
        message.course.CopyFrom(course_message(found.courses.get(course_id) or CourseId(course_id)))
        return message

    enrollments, token = page.cut(found.held, encode, message_size, lambda one: (one.enrollment.course_id,))
    student = student_message(found.student or StudentId(found.student_id))
    return pb.ListStudentCoursesResponse(student=student, enrollments=enrollments, next_page_token=token)


def past_course_students_page(page: Page, found: PastCourseStudents) -> pb.ListCourseStudentsResponse:
    """A page of the students that a course had."""

    def encode(one: Stood) -> pb.Enrollment:
        message = enrollment_message(EnrollmentView(one.enrollment))
        student_id = one.enrollment.student_id
        message.student.CopyFrom(student_message(found.students.get(student_id) or StudentId(student_id)))
        return message

    enrollments, token = page.cut(found.roster, encode, message_size, lambda one: one.key)
    course = course_message(found.course or CourseId(found.course_id))
    return pb.ListCourseStudentsResponse(course=course, enrollments=enrollments, next_page_token=token)


def event_message(event: Event) -> pb.EnrollmentEvent:
    """An event of the log."""
    return pb.EnrollmentEvent(
        course_id=event.course_id,
        sequence=event.sequence,
        kind=event.kind,  # type: ignore[arg-type]
        student_id=event.student_id or 0,
        previous_state=event.previous_state,  # type: ignore[arg-type]
        state=event.state,  # type: ignore[arg-type]
        waitlist_position=event.waitlist_position,
        enrolled_count=event.enrolled_count,
        waitlisted_count=event.waitlisted_count,
        capacity=event.capacity,
        changed_fields=event.changed_fields or (),
        event_time=timestamp(event.event_time),
        request_id="" if event.request_id is None else str(event.request_id),
        actor=event.actor,
        reason=event.reason,
        waived_reasons=[_reason(name) for name in event.waived_reasons or ()],
        waiver_expire_time=None if event.waiver_expire_time is None else timestamp(event.waiver_expire_time),
        waiver_revoked=event.waiver_revoked,
        swap_from_course_id=event.swap_from_course_id or 0,
    )


def _reason(name: str) -> pb.ErrorReason:
    number: pb.ErrorReason = pb.ErrorReason.Value(f"ERROR_REASON_{name}")  # type: ignore[assignment]
    return number


def waiver_message(waiver: Waiver) -> pb.Waiver:
    """What lifts refusals for a student."""
    return pb.Waiver(
        course_id=waiver.course_id,
        student_id=waiver.student_id,
        reasons=map(_reason, waiver.reasons),
        expire_time=None if waiver.expire_time is None else timestamp(waiver.expire_time),
        create_time=timestamp(waiver.create_time),
        actor=waiver.actor,
    )


def waivers_page(page: Page, found: list[Waiver]) -> pb.ListWaiversResponse:
    """A page of the waivers in a course."""
    waivers, token = page.cut(found, waiver_message, message_size, lambda waiver: (waiver.student_id, waiver.sequence))
    return pb.ListWaiversResponse(waivers=waivers, next_page_token=token)


def import_message(chunk_id: int, answer: ImportAnswer) -> pb.ImportEnrollmentsResponse:
    """What became of a chunk."""
    response = pb.ImportEnrollmentsResponse(
        chunk_id=chunk_id,
        enrolled=answer.enrolled,
        waitlisted=answer.waitlisted,
        already_enrolled=answer.already_enrolled,
        rejected=len(answer.rejected),
    )
    response.rejected_rows.extend(_rejected_rows(answer.rejected))
    return response


def imported_students_message(chunk_id: int, answer: UpsertAnswer) -> pb.ImportStudentsResponse:
    """What became of a chunk of students."""
    return pb.ImportStudentsResponse(
        chunk_id=chunk_id,
        student_ids=answer.ids,
        created=answer.created,
        updated=answer.updated,
        unchanged=answer.unchanged,
        rejected=len(answer.rejected),
        rejected_rows=_rejected_rows(answer.rejected),
    )


def imported_courses_message(chunk_id: int, answer: UpsertAnswer) -> pb.ImportCoursesResponse:
    """What became of a chunk of courses."""
    return pb.ImportCoursesResponse(
        chunk_id=chunk_id,
        course_ids=answer.ids,
        created=answer.created,
        updated=answer.updated,
        unchanged=answer.unchanged,
        rejected=len(answer.rejected),
        rejected_rows=_rejected_rows(answer.rejected),
    )


def _rejected_rows(rejected: Iterable[tuple[int, Reason]]) -> Iterator[pb.ImportEnrollmentsResponse.RejectedRow]:
    for index, reason in rejected:
        yield pb.ImportEnrollmentsResponse.RejectedRow(index=index, reason=f"ERROR_REASON_{reason}")


def reconcile_message(answer: ReconcileAnswer) -> pb.ReconcileRosterResponse:
    """The difference that a reconciliation made."""
    return pb.ReconcileRosterResponse(
        added=answer.added, removed=answer.removed, unchanged_count=answer.unchanged_count
    )


def message_size(message: Message) -> int:
    """The size of a message in bytes. Not `Message.ByteSize`: that is the base class's, which refuses."""
    return message.ByteSize()
