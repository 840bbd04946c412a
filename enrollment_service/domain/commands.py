"""What callers can ask the one write path to do, and what it answers. Plain data; the rules stand in `rules.py`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple
from uuid import UUID

from enrollment_service.domain.errors import Reason
from enrollment_service.domain.records import CountedCourse, Enrollment, Student


@dataclass(slots=True, kw_only=True)
class Command:
    """One change. `request_id`, `actor` and `reason` go into its events; a request_id makes it safe to repeat."""

    request_id: UUID | None = None
    actor: str = ""
    reason: str = ""

    @property
    def course_ids(self) -> tuple[int, ...]:
        """The courses whose seats it may change, as far as they are known beforehand."""
        return ()

    @property
    def recorded(self) -> bool:
        """Whether its answer is kept for retries."""
        return self.request_id is not None

    @property
    def weight(self) -> int:
        """Its share of a batch, in rows."""
        return 1

    @property
    def alone(self) -> bool:
        """Whether it may break a unique key and so takes a transaction of its own."""
        return False

    def fingerprint(self) -> bytes:
        """Tells apart two payloads under one request_id. Stable: it outlives the process in the database."""
        payload = [(field.name, getattr(self, field.name)) for field in fields(self) if field.name not in _UNSIGNED]
        return hashlib.sha256(repr((type(self).__name__, payload)).encode()).digest()


_UNSIGNED = {"request_id", "actor"}


@dataclass(slots=True, kw_only=True)
class Enroll(Command):
    """Enroll a student in all of the courses or in none."""

    student_id: int
    courses: tuple[int, ...]
    waitlist: bool = False
    validate_only: bool = False

    @property
    def course_ids(self) -> tuple[int, ...]:
        return self.courses

    @property
    def recorded(self) -> bool:
        return self.request_id is not None and not self.validate_only

    @property
    def weight(self) -> int:
        return len(self.courses)


@dataclass(slots=True, kw_only=True)
class Unenroll(Command):
    """Remove a student from a course or its waitlist."""

    student_id: int
    course_id: int
    allow_missing: bool = False
    etag: str = ""

    @property
    def course_ids(self) -> tuple[int, ...]:
        return (self.course_id,)


@dataclass(slots=True, kw_only=True)
class Swap(Command):
    """Move a student from one course into another, both or neither."""

    student_id: int
    from_course_id: int
    to_course_id: int
    validate_only: bool = False

    @property
    def course_ids(self) -> tuple[int, ...]:
        return (self.from_course_id, self.to_course_id)

    @property
    def recorded(self) -> bool:
        return self.request_id is not None and not self.validate_only


@dataclass(slots=True, kw_only=True)
class Import(Command):
    """Enroll many pairs, row by row; rows that cannot be enrolled are reported."""

    student_ids: tuple[int, ...]
    courses: tuple[int, ...]
    waitlist: bool = False

    @property
    def course_ids(self) -> tuple[int, ...]:
        return self.courses

    @property
    def weight(self) -> int:
        return len(self.student_ids)


@dataclass(slots=True, kw_only=True)
class Reconcile(Command):
    """Make the enrolled students of a course exactly these, or change nothing."""

    course_id: int
    student_ids: tuple[int, ...]
    max_removals: int = 0
    validate_only: bool = False

    @property
    def course_ids(self) -> tuple[int, ...]:
        return (self.course_id,)

    @property
    def recorded(self) -> bool:
        return self.request_id is not None and not self.validate_only

    @property
    def weight(self) -> int:
        return len(self.student_ids) + 1


@dataclass(slots=True, kw_only=True)
class UpdateCourse(Command):
    """Change fields of a course, by their names in `domain.Course`; promotes whom the change lets in."""

    course_id: int
    changes: Mapping[str, Any]
    etag: str = ""

    @property
    def course_ids(self) -> tuple[int, ...]:
        return (self.course_id,)

    @property
    def alone(self) -> bool:
        return "code" in self.changes


@dataclass(slots=True, kw_only=True)
class DeleteCourse(Command):
    """Delete a course; with `force` everybody in it is dropped, waiters first, and nobody promoted."""

    course_id: int
    etag: str = ""
    force: bool = False

    @property
    def course_ids(self) -> tuple[int, ...]:
        return (self.course_id,)


@dataclass(slots=True, kw_only=True)
class UpdateStudent(Command):
    """Change fields of a student, by their names in `domain.Student`."""

    student_id: int
    changes: Mapping[str, Any]
    etag: str = ""

    @property
    def alone(self) -> bool:
        return "email" in self.changes


@dataclass(slots=True, kw_only=True)
class DeleteStudent(Command):
    """Delete a student; with `force` all enrollments are dropped and their seats go to the waiters."""

    student_id: int
    etag: str = ""
    force: bool = False


class EnrollmentsAnswer(NamedTuple):
    """Enrollments after the command, and their courses with the counts right after it."""

    enrollments: tuple[Enrollment, ...]
    courses: tuple[CountedCourse | None, ...] = ()


class ImportAnswer(NamedTuple):
    """What became of the rows of a chunk."""

    enrolled: int
    waitlisted: int
    already_enrolled: int
    rejected: tuple[tuple[int, Reason], ...]


class ReconcileAnswer(NamedTuple):
    """The difference a reconciliation made."""

    added: tuple[int, ...]
    removed: tuple[int, ...]
    unchanged_count: int


class Done(NamedTuple):
    """The command took effect and has nothing to tell."""


Answer = EnrollmentsAnswer | ImportAnswer | ReconcileAnswer | CountedCourse | Student | Done
