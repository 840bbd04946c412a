"""What callers can ask the read path, and what it answers where that is more than one record. Plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from enrollment_service.domain.errors import Violation
from enrollment_service.domain.feed import Place
from enrollment_service.domain.history import Stood
from enrollment_service.domain.records import CountedCourse, Course, EnrollmentView, Student


class StudentQuery(NamedTuple):
    """One student, by one of the keys; the others are 0 or empty."""

    student_id: int = 0
    external_id: str = ""
    email: str = ""


class StudentsQuery(NamedTuple):
    """Students by ascending id, those after an id; `prefix` begins a name, an e-mail address or an external id."""

    after: int
    limit: int
    prefix: str = ""


class CourseQuery(NamedTuple):
    """One course, by one of the keys; the others are 0 or empty."""

    course_id: int = 0
    external_id: str = ""
    code: str = ""


class CoursesQuery(NamedTuple):
    """Courses by ascending id, those after an id; `prefix` begins a code, a title or an external id."""

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


class PastStudentCoursesQuery(NamedTuple):
    """The courses of a student as they were at a moment; otherwise as StudentCoursesQuery."""

    student_id: int
    after: int
    limit: int
    states: int
    moment: datetime


class PastCourseStudentsQuery(NamedTuple):
    """The students of a course as they were at a moment; otherwise as CourseStudentsQuery."""

    course_id: int
    after: tuple[int, int]
    limit: int
    states: int
    moment: datetime


class PastStudentCourses(NamedTuple):
    """A page of the courses that a student had, with today's details: None, or missing, of what is gone."""

    student_id: int
    student: Student | None
    held: Sequence[Stood]
    courses: Mapping[int, CountedCourse]


class PastCourseStudents(NamedTuple):
    """A page of the students that a course had, with today's details: None, or missing, of what is gone."""

    course_id: int
    course: CountedCourse | None
    roster: Sequence[Stood]
    students: Mapping[int, Student]
