"""From records of the domain to messages, and from checked messages to what the domain works with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, TypeVar

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from enrollment_service.domain.commands import EnrollmentsAnswer, ImportAnswer, ReconcileAnswer
from enrollment_service.domain.records import CountedCourse, Course, Enrollment, NewCourse, NewStudent, Student
from enrollment_service.engine.reader import EnrollmentView
from enrollment_service.v1 import enrollment_pb2 as pb

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# The driver takes the very first and last moment that Python knows for PostgreSQL's infinities.
_FIRST = datetime.min.replace(tzinfo=UTC) + timedelta.resolution
_LAST = datetime.max.replace(tzinfo=UTC) - timedelta.resolution
# A page ends early before it becomes larger than clients accept (4 MB by default).
MOST_PAGE_BYTES = 2_000_000

Row = TypeVar("Row")


def timestamp(moment: datetime) -> Timestamp:
    """A moment as a protobuf timestamp; microseconds are exact."""
    since = moment - _EPOCH
    return Timestamp(seconds=since.days * 86_400 + since.seconds, nanos=since.microseconds * 1_000)


def moment(value: Timestamp) -> datetime:
    """A checked timestamp, cut to the microseconds that the database keeps; the ends of time lie one further in."""
    exact = _EPOCH + timedelta(seconds=value.seconds, microseconds=value.nanos // 1_000)
    return min(max(exact, _FIRST), _LAST)


# --- to messages ------------------------------------------------------------------------------------------------


def student_message(student: Student) -> pb.Student:
    """A student."""
    return pb.Student(
        student_id=student.student_id,
        full_name=student.full_name,
        email=student.email,
        create_time=timestamp(student.create_time),
        update_time=timestamp(student.update_time),
        etag=student.etag,
    )


@lru_cache(maxsize=20_000)
def details_message(course: Course) -> pb.Course:
    """A course without counts. Shared: whoever takes one must copy it."""
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
    )
    if course.enroll_open_time is not None:
        message.enroll_open_time.CopyFrom(timestamp(course.enroll_open_time))
    if course.enroll_close_time is not None:
        message.enroll_close_time.CopyFrom(timestamp(course.enroll_close_time))
    return message


def course_message(counted: CountedCourse) -> pb.Course:
    """A course with its counts."""
    message = pb.Course()
    message.CopyFrom(details_message(counted.course))
    message.enrolled_count = counted.enrolled_count
    message.waitlisted_count = counted.waitlisted_count
    return message


def enrollment_message(
    enrollment: Enrollment, *, student: Student | None = None, course: CountedCourse | None = None
) -> pb.Enrollment:
    """An enrollment, with its student or course where given."""
    message = pb.Enrollment(
        student_id=enrollment.student_id,
        course_id=enrollment.course_id,
        state=enrollment.state,  # type: ignore[arg-type]
        waitlist_position=enrollment.waitlist_position,
        enroll_time=None if enrollment.enroll_time is None else timestamp(enrollment.enroll_time),
        create_time=None if enrollment.create_time is None else timestamp(enrollment.create_time),
        etag=enrollment.etag,
        student=None if student is None else student_message(student),
        course=None if course is None else details_message(course.course),
    )
    if course is not None:
        message.course.enrolled_count = course.enrolled_count
        message.course.waitlisted_count = course.waitlisted_count
    return message


def enrollment_messages(answer: EnrollmentsAnswer) -> list[pb.Enrollment]:
    """The enrollments of an answer, each with its course; one that was deleted since has only its id."""
    courses = answer.courses or (None,) * len(answer.enrollments)
    return [
        enrollment_message(enrollment, course=course)
        for enrollment, course in zip(answer.enrollments, courses, strict=True)
    ]


def view_message(view: EnrollmentView) -> pb.Enrollment:
    """An enrollment with its student and its course."""
    return enrollment_message(view.enrollment, student=view.student, course=view.course)


def import_message(chunk_id: int, answer: ImportAnswer) -> pb.ImportEnrollmentsResponse:
    """What became of a chunk."""
    response = pb.ImportEnrollmentsResponse(
        chunk_id=chunk_id,
        enrolled=answer.enrolled,
        waitlisted=answer.waitlisted,
        already_enrolled=answer.already_enrolled,
        rejected=len(answer.rejected),
    )
    for index, reason in answer.rejected:
        response.rejected_rows.add(index=index, reason=pb.ErrorReason.Value(f"ERROR_REASON_{reason}"))
    return response


def reconcile_message(answer: ReconcileAnswer) -> pb.ReconcileRosterResponse:
    """The difference that a reconciliation made."""
    return pb.ReconcileRosterResponse(
        added=answer.added, removed=answer.removed, unchanged_count=answer.unchanged_count
    )


def fitting(rows: Iterable[Row], limit: int, size: Callable[[Row], int]) -> tuple[list[Row], bool]:
    """As many rows as fit in a page, and whether any are left over."""
    page: list[Row] = []
    total = 0
    for row in rows:
        total += size(row)
        if len(page) == limit or (page and total > MOST_PAGE_BYTES):
            return page, True
        page.append(row)
    return page, False


def message_size(message: Message) -> int:
    """The size of a message in bytes. Not `Message.ByteSize`: that is the base class's, which refuses."""
    return message.ByteSize()


# --- from messages ----------------------------------------------------------------------------------------------


def new_student(student: pb.Student) -> NewStudent:
    """A student to create."""
    return NewStudent(student.full_name, student.email)


def new_course(course: pb.Course) -> NewCourse:
    """A course to create."""
    return NewCourse(**{name: _course_field(course, name) for name in NewCourse._fields})


def student_changes(request: pb.UpdateStudentRequest) -> dict[str, Any]:
    """The new values of the fields that the mask names."""
    return {name: getattr(request.student, name) for name in request.update_mask.paths}


def course_changes(request: pb.UpdateCourseRequest) -> dict[str, Any]:
    """The new values of the fields that the mask names; a field that is unset is cleared."""
    return {name: _course_field(request.course, name) for name in request.update_mask.paths}


def _course_field(course: pb.Course, name: str) -> Any:
    if name == "capacity":
        return course.capacity if course.HasField("capacity") else None
    if name in ("enroll_open_time", "enroll_close_time"):
        return moment(getattr(course, name)) if course.HasField(name) else None
    return getattr(course, name)


def state_mask(states: Sequence[int]) -> int:
    """The states that a list asks for, one bit each (they are 1 and 2); both where it names none."""
    mask = 0
    for state in states or (pb.ENROLLMENT_STATE_ENROLLED, pb.ENROLLMENT_STATE_WAITLISTED):
        mask |= state
    return mask
