"""The answers of ListStudentCourses and EnrollStudent, encoded by hand: these two are asked for all the time.

What never changes of a course is encoded once per version; an enrollment then costs a few joins of bytes. A test holds
the results equal to what the messages in `messages.py` encode to.
"""

from __future__ import annotations

from datetime import datetime

from enrollment_service.api import messages
from enrollment_service.api.pages import Page
from enrollment_service.api.resume import Given
from enrollment_service.api.timestamps import EPOCH
from enrollment_service.domain.commands import EnrollmentsAnswer
from enrollment_service.domain.feed import Scope
from enrollment_service.domain.queries import HeldCourse, StudentCourses
from enrollment_service.domain.records import CountedCourse, Course, EnrollmentView
from enrollment_service.v1 import enrollment_pb2 as pb


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


# All numbers of up to 14 bits: as they end a varint, and as they begin one that goes on.
_LAST = [_varint(value) for value in range(1 << 14)]
_MORE = [bytes((value & 127 | 128, value >> 7 | 128)) for value in range(1 << 14)]


def varint(value: int) -> bytes:
    """A number of 0 or more as protobuf's varint, 14 bits at a time."""
    if value < 1 << 14:
        return _LAST[value]
    if value < 1 << 28:
        return _MORE[value & 0x3FFF] + _LAST[value >> 14]
    if value < 1 << 42:
        return _MORE[value & 0x3FFF] + _MORE[value >> 14 & 0x3FFF] + _LAST[value >> 28]
    return _MORE[value & 0x3FFF] + _MORE[value >> 14 & 0x3FFF] + varint(value >> 28)


def _tag(field: int, wire_type: int) -> bytes:
    return _varint(field << 3 | wire_type)


def _tags(message: type[object]) -> dict[str, bytes]:
    """The tag of every field, from the descriptor, so that the proto stays the only place with numbers."""
    fields = message.DESCRIPTOR.fields  # type: ignore[attr-defined]
    return {
        field.name: _tag(field.number, 2 if field.cpp_type in (field.CPPTYPE_STRING, field.CPPTYPE_MESSAGE) else 0)
        for field in fields
    }


def field(message: type[object], name: str, value: bytes) -> bytes:
    """A text or a message, encoded already, as a field of another message."""
    return _tag(message.DESCRIPTOR.fields_by_name[name].number, 2) + varint(len(value)) + value  # type: ignore[attr-defined]


_ENROLLMENT = _tags(pb.Enrollment)
_COURSE = _tags(pb.Course)
_SECONDS, _NANOS = _tag(1, 0), _tag(2, 0)  # google.protobuf.Timestamp

_STUDENT_ID, _COURSE_ID = _ENROLLMENT["student_id"], _ENROLLMENT["course_id"]
_STATE, _POSITION = _ENROLLMENT["state"], _ENROLLMENT["waitlist_position"]
_ENROLL_TIME, _CREATE_TIME = _ENROLLMENT["enroll_time"], _ENROLLMENT["create_time"]
_ETAG, _COURSE_FIELD = _ENROLLMENT["etag"], _ENROLLMENT["course"]
_SWAP_FROM = _ENROLLMENT["swap_from_course_id"]
_COUNTED, _WAITING = _COURSE["enrolled_count"], _COURSE["waitlisted_count"]
_LISTED = _tags(pb.ListStudentCoursesResponse)["enrollments"]
_ENROLLED = _tags(pb.EnrollStudentResponse)["enrollments"]


def student_courses_page(page: Page, found: StudentCourses) -> bytes:
    """The whole answer of ListStudentCourses: a student and a page of their courses."""
    student_id = found.student.student_id
    holder = _STUDENT_ID + varint(student_id)
    given = Given.of(page.carried) if page.carried else Given.at(Scope(student_id=student_id), found.place)

    def row(held: tuple[HeldCourse, Course]) -> bytes:
        body = _enrollment(holder, *held)
        return _LISTED + varint(len(body)) + body

    rows, token = page.cut(found.held, row, len, _place_of, given.carried)
    head = pb.ListStudentCoursesResponse(
        student=messages.student_message(found.student), next_page_token=token, resume_token=given.token
    )
    return b"".join([head.SerializeToString(), *rows])


def _place_of(held: tuple[HeldCourse, Course]) -> tuple[int]:
    """Where in the list a row stands."""
    return (held[0].course_id,)


def enroll_student_answer(answer: EnrollmentsAnswer) -> bytes:
    """The whole answer of EnrollStudent."""
    bodies = map(_viewed, answer.enrollments)
    return b"".join([_ENROLLED + varint(len(body)) + body for body in bodies])


def _viewed(view: EnrollmentView) -> bytes:
    """An enrollment as a command has left it. What is left out of some answers, as of retries, is rare."""
    enrollment, student, counted = view
    student_id, course_id, state, position, entered, created, sequence, swap_from, latest = enrollment
    if not (sequence and entered and created and isinstance(counted, CountedCourse)) or student is not None:
        return messages.enrollment_message(view).SerializeToString()
    course, enrolled, waitlisted = counted
    since = None if created is entered else created
    held = HeldCourse(
        course_id,
        state,
        latest or sequence,
        entered,
        since,
        position,
        course.version,
        enrolled,
        waitlisted,
        swap_from or None,
    )
    return _enrollment(_STUDENT_ID + varint(student_id), held, course)


def _enrollment(holder: bytes, held: HeldCourse, course: Course) -> bytes:
    """An enrollment with its course; who holds it is a field already."""
    course_id, state, sequence, enroll_time, create_time, position, _, enrolled, waitlisted, swap_from = held
    details = course.encoded or messages.encoded_details(course)
    counts = _COUNTED + varint(enrolled) if enrolled else b""
    if waitlisted:
        counts += _WAITING + varint(waitlisted)
    entered = _timestamp(enroll_time)
    etag = b"%d" % sequence
    return b"".join(
        (
            holder,
            _COURSE_ID,
            varint(course_id),
            _STATE,
            _LAST[state],
            _POSITION + varint(position) if position else b"",
            _ENROLL_TIME,
            entered,
            _CREATE_TIME,
            entered if create_time is None else _timestamp(create_time),
            _ETAG,
            _LAST[len(etag)],
            etag,
            _COURSE_FIELD,
            varint(len(details) + len(counts)),
            details,
            counts,
            _SWAP_FROM + varint(swap_from) if swap_from else b"",
        )
    )


def _timestamp(moment: datetime) -> bytes:
    """A timestamp with its length before it, as a field of a message wants it."""
    since = moment - EPOCH
    encoded = _SECONDS + varint(since.days * 86_400 + since.seconds)
    if since.microseconds:
        encoded += _NANOS + varint(since.microseconds * 1_000)
    return _LAST[len(encoded)] + encoded
