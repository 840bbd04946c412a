"""The records that travel between the layers: students, courses, enrollments, events. Plain data, no behaviour.

Named tuples, because thousands are made per second and none is ever changed.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

from enrollment_service.domain.reasons import Reason

# The states of an enrollment as they stand in the database and, by the same numbers, in the proto.
NO_STATE = 0
ENROLLED = 1
WAITLISTED = 2
DROPPED = 3

STATE_NAMES = {ENROLLED: "ENROLLED", WAITLISTED: "WAITLISTED", DROPPED: "DROPPED"}

# What an event tells of, likewise.
OF_ENROLLMENT = 1
COURSE_CREATED = 2
COURSE_UPDATED = 3
COURSE_DELETED = 4
OF_WAIVER = 5

# The refusals that a waiver can lift, in the order in which they are shown. Those about seats are never among them.
WAIVABLE = (Reason.PERMIT_REQUIRED, Reason.ENROLLMENT_NOT_OPEN, Reason.ENROLLMENT_CLOSED)


class ServiceReason(StrEnum):
    """The reasons in the event log that are the service's own; callers cannot give them."""

    MIGRATION = "migration"
    PROMOTION = "waitlist_promotion"
    SWAP = "swap"
    TRADE = "trade"
    IMPORT = "import"
    RECONCILE = "reconcile"
    STUDENT_DELETED = "student_deleted"
    COURSE_DELETED = "course_deleted"


class Student(NamedTuple):
    """A student as stored."""

    student_id: int
    full_name: str
    email: str
    external_id: str
    create_time: datetime
    update_time: datetime
    version: int

    @property
    def etag(self) -> str:
        """Changes with whatever clients write."""
        return str(self.version)


class NewStudent(NamedTuple):
    """A student to create. What has a default is no part of a fingerprint where it has it."""

    full_name: str
    email: str
    external_id: str = ""


class _CourseFields(NamedTuple):
    course_id: int
    code: str
    title: str
    description: str
    capacity: int | None
    waitlist_capacity: int
    enroll_open_time: datetime | None
    enroll_close_time: datetime | None
    external_id: str
    permit_required: bool
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
    """A course to create. What has a default need not be given, and is no part of a fingerprint where it has it."""

    code: str
    title: str
    description: str = ""
    capacity: int | None = None
    waitlist_capacity: int = 0
    enroll_open_time: datetime | None = None
    enroll_close_time: datetime | None = None
    external_id: str = ""
    permit_required: bool = False


class Owners(NamedTuple):
    """Who has the unique keys that a new student or course asks for, by their ids; None where nobody has it.

    `natural` is the e-mail address of a student and the code of a course.
    """

    natural: int | None = None
    external_id: int | None = None


class CountedCourse(NamedTuple):
    """A course with how many sit in it and wait for it at one moment."""

    course: Course
    enrolled_count: int
    waitlisted_count: int


class Enrollment(NamedTuple):
    """A student in a course. `sequence` is that of the event that began the present state: a waiter's ticket.

    Who waits may keep another course until promoted: `swap_from_course_id`, otherwise 0. Where an event has changed
    that since, `latest` is its sequence, otherwise 0.
    """

    student_id: int
    course_id: int
    state: int
    waitlist_position: int
    enroll_time: datetime | None
    create_time: datetime | None
    sequence: int
    swap_from_course_id: int = 0
    latest: int = 0

    @property
    def etag(self) -> str:
        """Changes with the state and with what is swapped, not with the position."""
        return str(self.latest or self.sequence) if self.sequence else ""


class EnrollmentView(NamedTuple):
    """An enrollment with its student and its course, each where it is asked for."""

    enrollment: Enrollment
    student: Student | None = None
    course: CountedCourse | None = None


class Waiver(NamedTuple):
    """What lifts refusals for a student in a course; `sequence` is that of the event that granted it."""

    course_id: int
    student_id: int
    reasons: tuple[Reason, ...]
    expire_time: datetime | None
    create_time: datetime
    actor: str
    sequence: int


class Event(NamedTuple):
    """One change of an enrollment, a waiver or a course, as it goes into the log; counts and capacity are those after.

    An event of a course has no student, and only one of an enrollment has states and a position. `changed_fields` are
    those of COURSE_UPDATED; what is said of waivers stands in OF_WAIVER.
    """

    course_id: int
    sequence: int
    kind: int
    student_id: int | None
    previous_state: int
    state: int
    waitlist_position: int
    enrolled_count: int
    waitlisted_count: int
    capacity: int | None
    changed_fields: tuple[str, ...] | None
    event_time: datetime
    request_id: UUID | None
    actor: str
    reason: str
    waived_reasons: tuple[str, ...] | None = None
    waiver_expire_time: datetime | None = None
    waiver_revoked: bool = False
    swap_from_course_id: int | None = None


class LoggedEvent(Event):
    """An event as it was read from the log. `encoded` is where the door keeps the bytes it shows of it."""

    encoded: bytes | None = None
