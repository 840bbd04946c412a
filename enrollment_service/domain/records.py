"""The records that travel between the layers: students, courses, enrollments, events. Plain data, no behaviour.

Named tuples, because thousands are made per second and none is ever changed.
"""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple
from uuid import UUID

# The states of an enrollment as they stand in the database and, by the same numbers, in the proto.
NO_STATE = 0
ENROLLED = 1
WAITLISTED = 2
DROPPED = 3

STATE_NAMES = {ENROLLED: "ENROLLED", WAITLISTED: "WAITLISTED", DROPPED: "DROPPED"}


class Student(NamedTuple):
    """A student as stored."""

    student_id: int
    full_name: str
    email: str
    create_time: datetime
    update_time: datetime
    version: int

    @property
    def etag(self) -> str:
        """Changes with whatever clients write."""
        return str(self.version)


class NewStudent(NamedTuple):
    """A student to create."""

    full_name: str
    email: str


class _CourseFields(NamedTuple):
    course_id: int
    code: str
    title: str
    description: str
    capacity: int | None
    waitlist_capacity: int
    enroll_open_time: datetime | None
    enroll_close_time: datetime | None
    create_time: datetime
    update_time: datetime
    version: int


class Course(_CourseFields):
    """What clients write of a course. For one course_id and version it never changes.

    So it may be remembered, and `encoded` is where the door keeps the bytes it shows of it, remembered with it.
    """

    encoded: bytes | None = None

    @property
    def etag(self) -> str:
        """Changes with whatever clients write."""
        return str(self.version)


class NewCourse(NamedTuple):
    """A course to create."""

    code: str
    title: str
    description: str
    capacity: int | None
    waitlist_capacity: int
    enroll_open_time: datetime | None
    enroll_close_time: datetime | None


class CountedCourse(NamedTuple):
    """A course with how many sit in it and wait for it at one moment."""

    course: Course
    enrolled_count: int
    waitlisted_count: int


class Enrollment(NamedTuple):
    """A student in a course. `sequence` is that of the event that began the present state."""

    student_id: int
    course_id: int
    state: int
    waitlist_position: int
    enroll_time: datetime | None
    create_time: datetime | None
    sequence: int

    @property
    def etag(self) -> str:
        """Changes with the state, not with the position."""
        return str(self.sequence) if self.sequence else ""


class EnrollmentView(NamedTuple):
    """An enrollment with its student and its course, each where it is asked for."""

    enrollment: Enrollment
    student: Student | None = None
    course: CountedCourse | None = None


class Event(NamedTuple):
    """One transition of one enrollment, as it goes into the log."""

    course_id: int
    sequence: int
    student_id: int
    previous_state: int
    state: int
    waitlist_position: int
    event_time: datetime
    request_id: UUID | None
    actor: str
    reason: str
