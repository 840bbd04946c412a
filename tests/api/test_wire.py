"""The answer that is encoded by hand says exactly what the messages would."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from enrollment_service.api import messages, resume, wire
from enrollment_service.api.pages import Page
from enrollment_service.domain.feed import Mark, Place, Scope, Snapshot
from enrollment_service.domain.queries import HeldCourse, StudentCourses
from enrollment_service.domain.records import (
    ENROLLED,
    WAITLISTED,
    CountedCourse,
    Course,
    Enrollment,
    EnrollmentView,
    Student,
)
from enrollment_service.v1 import enrollment_pb2 as pb

PLACE = Place(Snapshot(700, 712, (700, 705)), "0123456789abcdef", 1, 123_456)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

ids = st.integers(1, 2**63 - 1)
counts = st.integers(0, 2**31 - 1)
moments = st.integers(0, 250_000_000_000_000_000).map(lambda since: EPOCH + timedelta(microseconds=since))
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)

students = st.builds(Student, ids, texts, texts, moments, moments, st.integers(1, 9))
courses = st.builds(
    Course, ids, texts, texts, texts, st.none() | counts, counts, st.none() | moments, st.none() | moments,
    st.booleans(), moments, moments, ids,
)  # fmt: skip
held_courses = st.builds(
    HeldCourse, ids, st.sampled_from([ENROLLED, WAITLISTED]), ids, moments, st.none() | moments, counts, ids, counts,
    counts, st.none() | ids,
)  # fmt: skip


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
