"""What callers can ask the read path, and what it answers where that is more than one record. Plain data."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from enrollment_service.domain.errors import Violation
from enrollment_service.domain.feed import Place
from enrollment_service.domain.records import CountedCourse, Course, EnrollmentView, Student


class StudentQuery(NamedTuple):
    """One student."""

    student_id: int


class StudentsQuery(NamedTuple):
    """Students by ascending id, those after an id; `prefix` is how a name or an e-mail address begins."""

    after: int
    limit: int
    prefix: str = ""


class CourseQuery(NamedTuple):
    """One course."""

    course_id: int


class CoursesQuery(NamedTuple):
    """Courses by ascending id, those after an id; `prefix` is how a code or a title begins."""

    after: int
    limit: int
    prefix: str = ""
    only_open: bool = False


class EnrollmentQuery(NamedTuple):
    """One student in one course."""

    student_id: int
    course_id: int


class StudentCoursesQuery(NamedTuple):
    """The courses of a student by ascending id, those after an id, in states given as a bit mask."""

    student_id: int
    after: int
    limit: int
    states: int


class HeldCourse(NamedTuple):
    """A course of a student: the enrollment, which version of the details to show, and the counts.

    `create_time` is None where it is the `enroll_time`, `swap_from_course_id` where no other course is kept; `sequence`
    is that of the latest event.
    """

    course_id: int
    state: int
    sequence: int
    enroll_time: datetime
    create_time: datetime | None
    waitlist_position: int
    version: int
    enrolled_count: int
    waitlisted_count: int
    swap_from_course_id: int | None


class StudentCourses(NamedTuple):
    """A student and a page of their courses: each enrollment with the details of its course.

    `place` is where in the log this was so; None if a standby has answered.
    """

    student: Student
    held: Sequence[tuple[HeldCourse, Course]]
    place: Place | None


class CourseStudentsQuery(NamedTuple):
    """The students of a course, those after (state, key), in states given as a bit mask.

    The key is the student's id among the enrolled and the ticket among the waiters.
    """

    course_id: int
    after: tuple[int, int]
    limit: int
    states: int


class ExplainQuery(NamedTuple):
    """What would become of a student who enrolls in each of these courses, alone."""

    student_id: int
    course_ids: tuple[int, ...]
    waitlist: bool


class Explanation(NamedTuple):
    """What would become of a student in a course: the state and the place in line, or all that stands in the way."""

    course_id: int
    outcome: int
    waitlist_position: int
    obstacles: Sequence[Violation]


class WaiversQuery(NamedTuple):
    """The waivers in a course, those after (student, sequence of the grant)."""

    course_id: int
    after: tuple[int, int]
    limit: int


class CourseStudents(NamedTuple):
    """A course and a page of its students, all of one moment, and the sequence of the course's last event then.

    `place` is where in the log that was; None if a standby has answered.
    """

    course: CountedCourse
    roster: Sequence[EnrollmentView]
    last_sequence: int
    place: Place | None
