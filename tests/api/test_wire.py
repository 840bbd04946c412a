"""The answers that are encoded by hand say exactly what the messages would."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from enrollment_service.api import messages, resume, wire
from enrollment_service.api.pages import Page
from enrollment_service.domain.commands import CourseId, EnrollmentsAnswer
from enrollment_service.domain.feed import Mark, Place, Scope, Snapshot
from enrollment_service.domain.queries import HeldCourse, StudentCourses
from enrollment_service.domain.records import (
    DROPPED,
    ENROLLED,
    WAITLISTED,
    CountedCourse,
    Course,
    Enrollment,
    EnrollmentView,
    Student,
)
from enrollment_service.v1 import enrollment_pb2 as pb

SEPTEMBER = datetime(2026, 9, 1, tzinfo=UTC)
COURSE = Course(7, "C-7", "Title", "", 30, 0, None, None, "", False, SEPTEMBER, SEPTEMBER, 2)
PLACE = Place(Snapshot(700, 712, (700, 705)), "0123456789abcdef", 1, 123_456)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

ids = st.integers(1, 2**63 - 1)
counts = st.integers(0, 2**31 - 1)
moments = st.integers(0, 250_000_000_000_000_000).map(lambda since: EPOCH + timedelta(microseconds=since))
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)

students = st.builds(Student, ids, texts, texts, texts, moments, moments, st.integers(1, 9))
courses = st.builds(
    Course, ids, texts, texts, texts, st.none() | counts, counts, st.none() | moments, st.none() | moments, texts,
    st.booleans(), moments, moments, ids,
)  # fmt: skip
held_courses = st.builds(
    HeldCourse, ids, st.sampled_from([ENROLLED, WAITLISTED]), ids, moments, st.none() | moments, counts, ids, counts,
    counts, st.none() | ids,
)  # fmt: skip


enrollments = st.builds(
    Enrollment, ids, ids, st.sampled_from([ENROLLED, WAITLISTED, DROPPED]), counts, st.none() | moments,
    st.none() | moments, st.just(0) | ids, st.just(0) | ids, st.just(0) | ids,
)  # fmt: skip
counted_courses = st.builds(CountedCourse, courses, counts, counts)
views = st.builds(
    EnrollmentView, enrollments, st.none() | students, st.none() | counted_courses | st.builds(CourseId, ids)
)


def as_message(student: Student, held: list[HeldCourse], details: list[Course], token: str) -> bytes:
    """The same answer made of messages."""
    response = pb.ListStudentCoursesResponse(student=messages.student_message(student), next_page_token=token)
    for one, course in zip(held, details, strict=True):
        enrollment = Enrollment(
            student.student_id,
            one.course_id,
            one.state,
            one.waitlist_position,
            one.enroll_time,
            one.create_time or one.enroll_time,
            one.sequence,
            one.swap_from_course_id or 0,
        )
        counted = CountedCourse(course, one.enrolled_count, one.waitlisted_count)
        response.enrollments.append(messages.enrollment_message(EnrollmentView(enrollment, course=counted)))
    return response.SerializeToString(deterministic=True)


@given(students, st.lists(st.tuples(held_courses, courses), max_size=4), st.integers(1, 5))
def test_hand_encoded_answer_equals_the_message(
    student: Student, pairs: list[tuple[HeldCourse, Course]], limit: int
) -> None:
    held, details = [pair[0] for pair in pairs[:limit]], [pair[1] for pair in pairs[:limit]]

    encoded = wire.student_courses_page(Page("a list", (0,), limit), StudentCourses(student, pairs, PLACE))

    decoded = pb.ListStudentCoursesResponse.FromString(encoded)
    token = decoded.next_page_token
    assert bool(token) == (len(pairs) > limit)
    expected = as_message(student, held, details, token)
    assert decoded.resume_token == resume.encode(Scope(student_id=student.student_id), Mark(PLACE))
    decoded.ClearField("resume_token")
    assert decoded.SerializeToString(deterministic=True) == expected


@given(st.lists(views, max_size=3))
def test_hand_encoded_enrollments_equal_the_messages(shown: list[EnrollmentView]) -> None:
    answer = EnrollmentsAnswer(tuple(shown))

    encoded = wire.enroll_student_answer(answer)

    expected = pb.EnrollStudentResponse(enrollments=messages.enrollment_messages(answer))
    decoded = pb.EnrollStudentResponse.FromString(encoded)
    assert decoded.SerializeToString(deterministic=True) == expected.SerializeToString(deterministic=True)


@given(enrollments, st.booleans())
def test_one_moment_for_both_times(enrollment: Enrollment, has_course: bool) -> None:
    """As every newcomer has them: the very same object."""
    course = CountedCourse(COURSE, 3, 0) if has_course else None
    answer = EnrollmentsAnswer((EnrollmentView(enrollment._replace(create_time=enrollment.enroll_time), None, course),))

    encoded = wire.enroll_student_answer(answer)

    expected = pb.EnrollStudentResponse(enrollments=messages.enrollment_messages(answer))
    assert pb.EnrollStudentResponse.FromString(encoded) == expected


def test_no_field_of_an_enrollment_is_forgotten() -> None:
    """A field that is added to the proto must be written by hand too, or left out here on purpose."""
    written = {"student_id", "course_id", "state", "waitlist_position", "enroll_time", "create_time", "etag", "course"}
    written.add("swap_from_course_id")
    assert {field.name for field in pb.Enrollment.DESCRIPTOR.fields} == written | {"student"}
    assert {field.name for field in pb.EnrollStudentResponse.DESCRIPTOR.fields} == {"enrollments"}
