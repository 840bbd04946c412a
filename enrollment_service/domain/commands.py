"""What callers can ask the one write path to do, and what it answers. Plain data; the rules stand in `rules.py`.

Commands are told apart by identity: two that ask for the same are still two. What makes them one is a request_id.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, Generic, NamedTuple, TypeAlias, TypeVar
from uuid import UUID

from enrollment_service.domain.caller import ANONYMOUS, Caller
from enrollment_service.domain.errors import Reason
from enrollment_service.domain.records import CountedCourse, EnrollmentView, NewCourse, NewStudent, Student, Waiver


class EnrollmentsAnswer(NamedTuple):
    """Enrollments after the command; the counts of their courses are those right after it."""

    enrollments: tuple[EnrollmentView, ...]


class ImportAnswer(NamedTuple):
    """What became of the rows of a chunk."""

    enrolled: int
    waitlisted: int
    already_enrolled: int
    rejected: tuple[tuple[int, Reason], ...]


class UpsertAnswer(NamedTuple):
    """What became of the rows of a chunk of students or courses; their ids in row order, 0 where rejected."""

    ids: tuple[int, ...]
    created: int
    updated: int
    unchanged: int
    rejected: tuple[tuple[int, Reason], ...]


class ReconcileAnswer(NamedTuple):
    """The difference a reconciliation made."""

    added: tuple[int, ...]
    removed: tuple[int, ...]
    unchanged_count: int


class WaiversAnswer(NamedTuple):
    """The waivers that a command was about: those that stand after it, or those that it took away."""

    waivers: tuple[Waiver, ...]


class Done(NamedTuple):
    """The command took effect and has nothing to tell."""


class StudentId(NamedTuple):
    """A student that a call which is replayed made or changed; it has been deleted since."""

    student_id: int


class CourseId(NamedTuple):
    """A course that a call which is replayed made or changed; it has been deleted since."""

    course_id: int


Answer: TypeAlias = (
    EnrollmentsAnswer
    | ImportAnswer
    | UpsertAnswer
    | ReconcileAnswer
    | WaiversAnswer
    | CountedCourse
    | CourseId
    | Student
    | StudentId
    | Done
)
A = TypeVar("A", bound=Answer)

# What forced deletes touch is known only once it is locked, so they are taken for large ones. A course: more than any
# batch of ordinary commands weighs, so that it goes alone. A student: as many courses as a call may enroll one in.
FORCED_COURSE_WEIGHT = 10_001
FORCED_STUDENT_WEIGHT = 50

# So many courses that are tied together are locked like those of single calls; more may take long.
MAX_QUICK_TIES = 16
# Waivers of so many students are granted like single calls; of more, they may take long.
MAX_QUICK_WAIVERS = 50

# Whose request_id, and which.
RequestKey: TypeAlias = tuple[str, UUID]


@dataclass(slots=True, kw_only=True, eq=False)
class Command(Generic[A]):
    """One change, answered with an `A`. `request_id`, caller and `reason` go into its events.

    A request_id makes it safe to repeat. With `validate_only` it is decided, and neither done nor recorded.
    """

    request_id: UUID | None = None
    caller: Caller = ANONYMOUS
    reason: str = ""
    validate_only: bool = False
    # Courses tied to its own by waiters who swap, where they were found to be many or to be busy; they are locked with
    # them.
    tied: frozenset[int] = frozenset()

    # Whether its answer shows the courses; a replay then adds today's.
    shows_courses: ClassVar[bool] = False
    # Whether it makes something new, under a unique key that others may be about to take.
    creates: ClassVar[bool] = False

    @property
    def locks(self) -> tuple[int, ...]:
        """The ids of the courses whose seats it may change, as far as they are known beforehand."""
        return ()

    @property
    def key(self) -> RequestKey | None:
        """What its answer is kept under for retries, if it is kept."""
        if self.request_id is None or self.validate_only:
            return None
        return self.caller.subject, self.request_id

    @property
    def weight(self) -> int:
        """Its share of a batch, in rows."""
        return 1

    @property
    def bulk(self) -> bool:
        """Whether it may take long, and so must not hold up single calls."""
        return len(self.tied) > MAX_QUICK_TIES

    @property
    def waits(self) -> bool:
        """Whether it waits for locked seats in line: it may need so many that they are seldom free all at once."""
        return bool(self.tied)

    @property
    def alone(self) -> bool:
        """Whether it may break a unique key and so takes a transaction of its own."""
        return False


@dataclass(slots=True, kw_only=True, eq=False)
class Enroll(Command[EnrollmentsAnswer]):
    """Enroll a student in all of the courses and drop all of the others, or do nothing."""

    student_id: int
    course_ids: tuple[int, ...]
    waitlist: bool = False
    drop_course_ids: tuple[int, ...] = ()

    shows_courses: ClassVar[bool] = True

    @property
    def locks(self) -> tuple[int, ...]:
        return self.course_ids + self.drop_course_ids

    @property
    def weight(self) -> int:
        return len(self.course_ids) + len(self.drop_course_ids)


@dataclass(slots=True, kw_only=True, eq=False)
class Unenroll(Command[EnrollmentsAnswer]):
    """Remove a student from a course or its waitlist."""

    student_id: int
    course_id: int
    allow_missing: bool = False
    etag: str = ""

    @property
    def locks(self) -> tuple[int, ...]:
        return (self.course_id,)


@dataclass(slots=True, kw_only=True, eq=False)
class Swap(Command[EnrollmentsAnswer]):
    """Move a student from one course into another, both or neither; or keep the one until the other can be had."""

    student_id: int
    from_course_id: int
    to_course_id: int
    waitlist: bool = False

    shows_courses: ClassVar[bool] = True

    @property
    def locks(self) -> tuple[int, ...]:
        return (self.from_course_id, self.to_course_id)


@dataclass(slots=True, kw_only=True, eq=False)
class Import(Command[ImportAnswer]):
    """Enroll many pairs, row by row; rows that cannot be enrolled are reported.

    The pairs are named by our ids or by external ids. What these stand for, 0 where nobody has one, whoever locks puts
    into `found_students` and `found_courses`.
    """

    student_ids: tuple[int, ...] = ()
    course_ids: tuple[int, ...] = ()
    student_external_ids: tuple[str, ...] = ()
    course_external_ids: tuple[str, ...] = ()
    waitlist: bool = False
    found_students: tuple[int, ...] = ()
    found_courses: tuple[int, ...] = ()

    @property
    def pairs(self) -> Iterator[tuple[int, int]]:
        """The pairs of student and course, by our ids."""
        return zip(self.found_students or self.student_ids, self.found_courses or self.course_ids, strict=True)

    @property
    def bulk(self) -> bool:
        return True

    @property
    def waits(self) -> bool:
        return True

    @property
    def locks(self) -> tuple[int, ...]:
        return tuple(filter(None, self.found_courses)) or self.course_ids

    @property
    def weight(self) -> int:
        return len(self.student_ids or self.student_external_ids)


@dataclass(slots=True, kw_only=True, eq=False)
class Reconcile(Command[ReconcileAnswer]):
    """Make the enrolled students of a course exactly these, or change nothing.

    Named by our ids or by external ids, like the pairs of an `Import`.
    """

    course_id: int = 0
    student_ids: tuple[int, ...] = ()
    course_external_id: str = ""
    student_external_ids: tuple[str, ...] = ()
    max_removals: int = 0
    found_students: tuple[int, ...] = ()
    found_course: int = 0

    @property
    def course(self) -> int:
        """Which course, by our id."""
        return self.found_course or self.course_id

    @property
    def roster(self) -> tuple[int, ...]:
        """Who is to be in it, by our ids."""
        return self.found_students or self.student_ids

    @property
    def bulk(self) -> bool:
        return True

    @property
    def locks(self) -> tuple[int, ...]:
        return (self.course,)

    @property
    def weight(self) -> int:
        return len(self.student_ids or self.student_external_ids) + 1


@dataclass(slots=True, kw_only=True, eq=False)
class Upsert(Command[UpsertAnswer]):
    """Create what has a new external id, update what differs, row by row; None stands for a row that cannot be valid.

    Attributes:
        fields: what to update where a row is there already, by names of `records`; empty: all of it.
        found: the ids that the external ids of the rows stand for, 0 where nobody has one. Whoever locks looks them up.
    """

    fields: tuple[str, ...] = ()
    found: tuple[int, ...] = ()

    @property
    def rows(self) -> Sequence[NewStudent | NewCourse | None]:
        """What is to be there."""
        raise NotImplementedError

    @property
    def external_ids(self) -> list[str]:
        """Those of the rows; empty where a row cannot be valid."""
        return ["" if row is None else row.external_id for row in self.rows]

    @property
    def bulk(self) -> bool:
        return True

    @property
    def waits(self) -> bool:
        return True

    @property
    def weight(self) -> int:
        return len(self.rows)

    @property
    def alone(self) -> bool:
        return True


@dataclass(slots=True, kw_only=True, eq=False)
class ImportStudents(Upsert):
    """Create and update students by their external ids."""

    students: tuple[NewStudent | None, ...]

    @property
    def rows(self) -> Sequence[NewStudent | None]:
        return self.students


@dataclass(slots=True, kw_only=True, eq=False)
class ImportCourses(Upsert):
    """Create and update courses by their external ids; promotes whom the changes let in."""

    courses: tuple[NewCourse | None, ...]

    @property
    def rows(self) -> Sequence[NewCourse | None]:
        return self.courses

    @property
    def locks(self) -> tuple[int, ...]:
        return tuple(course_id for course_id in self.found if course_id)


@dataclass(slots=True, kw_only=True, eq=False)
class _Waive(Command[WaiversAnswer]):
    course_id: int
    student_ids: tuple[int, ...]
    reasons: tuple[Reason, ...]

    @property
    def bulk(self) -> bool:
        return len(self.student_ids) > MAX_QUICK_WAIVERS or len(self.tied) > MAX_QUICK_TIES

    @property
    def locks(self) -> tuple[int, ...]:
        return (self.course_id,)

    @property
    def weight(self) -> int:
        return len(self.student_ids)


@dataclass(slots=True, kw_only=True, eq=False)
class GrantWaivers(_Waive):
    """Lift refusals for students in a course, until then or for ever."""

    expire_time: datetime | None = None


@dataclass(slots=True, kw_only=True, eq=False)
class RevokeWaivers(_Waive):
    """Lift refusals for students in a course no more; without any named, none."""


@dataclass(slots=True, kw_only=True, eq=False)
class CreateCourse(Command[CountedCourse | CourseId]):
    """Create a course."""

    course: NewCourse

    creates: ClassVar[bool] = True


@dataclass(slots=True, kw_only=True, eq=False)
class UpdateCourse(Command[CountedCourse | CourseId]):
    """Change fields of a course, by their names in `records.Course`; promotes whom the change lets in."""

    course_id: int
    changes: Mapping[str, Any]
    etag: str = ""

    @property
    def locks(self) -> tuple[int, ...]:
        return (self.course_id,)

    @property
    def alone(self) -> bool:
        return "code" in self.changes or "external_id" in self.changes


@dataclass(slots=True, kw_only=True, eq=False)
class DeleteCourse(Command[Done]):
    """Delete a course; with `force` everybody in it is dropped, waiters first, and nobody promoted."""

    course_id: int
    etag: str = ""
    force: bool = False

    @property
    def bulk(self) -> bool:
        return True

    @property
    def locks(self) -> tuple[int, ...]:
        return (self.course_id,)

    @property
    def weight(self) -> int:
        return FORCED_COURSE_WEIGHT if self.force else 1


@dataclass(slots=True, kw_only=True, eq=False)
class CreateStudent(Command[Student | StudentId]):
    """Create a student."""

    student: NewStudent

    creates: ClassVar[bool] = True


@dataclass(slots=True, kw_only=True, eq=False)
class UpdateStudent(Command[Student | StudentId]):
    """Change fields of a student, by their names in `records.Student`."""

    student_id: int
    changes: Mapping[str, Any]
    etag: str = ""

    @property
    def alone(self) -> bool:
        return "email" in self.changes or "external_id" in self.changes


@dataclass(slots=True, kw_only=True, eq=False)
class DeleteStudent(Command[Done]):
    """Delete a student; with `force` all enrollments are dropped and their seats go to the waiters."""

    student_id: int
    etag: str = ""
    force: bool = False

    @property
    def bulk(self) -> bool:
        return True

    @property
    def weight(self) -> int:
        return FORCED_STUDENT_WEIGHT if self.force else 1
