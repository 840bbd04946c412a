"""What a batch of commands touches: which rows to lock and how much to load before anything can be decided. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from enrollment_service.domain.commands import (
    Command,
    DeleteCourse,
    DeleteStudent,
    Enroll,
    GrantWaivers,
    Import,
    ImportCourses,
    ImportStudents,
    Reconcile,
    RequestKey,
    RevokeWaivers,
    Swap,
    Unenroll,
    UpdateCourse,
    UpdateStudent,
)
from enrollment_service.domain.fingerprints import encoded
from enrollment_service.domain.state import Pair, Seats


class Row(NamedTuple):
    """A row that transactions lock: the seat row of a course, the course itself, or a student."""

    table: str
    id: int


SEATS, COURSES, STUDENTS = "course_seats", "courses", "students"
# Something that was locked and is none of these: a table that is being altered, a request_id, a unique key.
SOMETHING = Row("", 0)


@dataclass(slots=True)
class Footprint:
    """The rows that the commands of a batch look at or change."""

    courses: set[int] = field(default_factory=set)
    pairs: set[Pair] = field(default_factory=set)
    # Courses that somebody may enter.
    entered: set[int] = field(default_factory=set)
    # Pairs whose waivers are granted or revoked.
    waived: set[Pair] = field(default_factory=set)
    # Courses of which everybody must be known.
    rosters: set[int] = field(default_factory=set)
    # Courses that somebody may queue for while keeping another one, and both together.
    swapped_into: set[int] = field(default_factory=set)
    swapped: set[int] = field(default_factory=set)
    # How many may leave each course: so many seats can become free, or so many waiters go.
    leaving: Counter[int] = field(default_factory=Counter)
    # Courses whose seat rules change, and the largest capacity they are given (None: no limit).
    capacities: dict[int, int | None] = field(default_factory=dict)
    updated_students: set[int] = field(default_factory=set)
    deleted_students: set[int] = field(default_factory=set)
    # Their enrollments, as far as they are known before anything is locked.
    held: set[Pair] = field(default_factory=set)

    @classmethod
    def of(cls, commands: Iterable[Command[Any]]) -> Footprint:
        """The footprint of commands that are decided together."""
        footprint = cls()
        for command in commands:
            footprint._add(command)
        return footprint

    def _add(self, command: Command[Any]) -> None:
        self.courses.update(command.locks, command.tied)
        match command:
            case Enroll():
                self.pairs.update((command.student_id, course_id) for course_id in command.locks)
                self.leaving.update(command.drop_course_ids)
                self.entered.update(command.course_ids)
            case Import():
                self.pairs.update(command.pairs)
                self.entered.update(course_id for _, course_id in command.pairs)
            case Unenroll():
                self.pairs.add((command.student_id, command.course_id))
                self.leaving[command.course_id] += 1
            case Swap():
                self.pairs.update((command.student_id, course_id) for course_id in command.locks)
                self.leaving[command.from_course_id] += 1
                self.entered.add(command.to_course_id)
                if command.waitlist:
                    self.swapped_into.add(command.to_course_id)
                    self.swapped.update(command.locks)
            case Reconcile():
                self.pairs.update((student_id, command.course) for student_id in command.roster)
                self.rosters.add(command.course)
                self.entered.add(command.course)
            case GrantWaivers() | RevokeWaivers():
                pairs = {(student_id, command.course_id) for student_id in command.student_ids}
                self.pairs |= pairs
                self.waived |= pairs
            case _:
                self._add_of_course_or_student(command)

    def _add_of_course_or_student(self, command: Command[Any]) -> None:
        match command:
            case DeleteCourse() if command.force:
                self.rosters.add(command.course_id)
            case UpdateCourse() | UpdateStudent() | ImportStudents() | ImportCourses():
                self._add_update(command)
            case DeleteStudent():
                self.deleted_students.add(command.student_id)

    def _add_update(self, command: UpdateCourse | UpdateStudent | ImportStudents | ImportCourses) -> None:
        match command:
            case UpdateCourse():
                self._add_capacity(command.course_id, command.changes.get("capacity", 0))
            case UpdateStudent():
                self.updated_students.add(command.student_id)
            case ImportStudents():
                self.updated_students.update(student_id for student_id in command.found if student_id)
            case ImportCourses():
                # Whoever only asks what must be free may ask before anything was looked up: then nothing is found yet.
                for course_id, course in zip(command.found, command.courses, strict=bool(command.found)):
                    if course_id and course is not None:
                        self._add_capacity(course_id, course.capacity)

    def _add_capacity(self, course_id: int, capacity: int | None) -> None:
        self.capacities[course_id] = _larger(capacity, self.capacities.get(course_id, 0))

    def add_held(self, pairs: Iterable[Pair]) -> None:
        """Adds the enrollments of students who may be deleted."""
        for student_id, course_id in pairs:
            self.held.add((student_id, course_id))
            self.courses.add(course_id)
            self.leaving[course_id] += 1

    @property
    def rows(self) -> list[Row]:
        """The rows that must be free, in the order in which they are locked."""
        students = {student_id for student_id, _ in self.pairs} | self.updated_students | self.deleted_students
        wanted = ((SEATS, self.courses), (COURSES, self.courses), (STUDENTS, students))
        return [Row(table, row_id) for table, ids in wanted for row_id in sorted(ids)]

    def waivers_needed(self, seats: Mapping[int, Seats], now: datetime) -> list[Pair]:
        """The pairs whose waivers matter: where everybody may enter, nobody has to be asked for one."""
        gated = {
            course_id
            for course_id in self.entered & seats.keys()
            if course_id in self.capacities or seats[course_id].is_gated(now)
        }
        if not gated:
            return sorted(self.waived)
        return sorted(self.waived.union(pair for pair in self.pairs if pair[1] in gated))

    @property
    def moving(self) -> set[int]:
        """Courses in which somebody may be promoted because of the commands."""
        return {*self.leaving, *self.capacities, *self.rosters, *self.swapped_into}

    def waiters_needed(self, seats: Mapping[int, Seats], now: datetime, tied: Collection[int] = ()) -> dict[int, int]:
        """How many waiters of which locked courses may be promoted or leave; of `tied` ones that may be all."""
        needed = {}
        for course_id, row in seats.items():
            if not row.waitlisted_count or course_id in self.rosters:
                continue
            if course_id in tied:
                needed[course_id] = row.waitlisted_count
                continue
            if not (course_id in self.leaving or course_id in self.capacities or row.is_unsettled(now)):
                continue
            largest = _larger(row.capacity, self.capacities.get(course_id, 0))
            free = row.waitlisted_count if largest is None else max(0, largest - row.enrolled_count)
            needed[course_id] = min(row.waitlisted_count, free + self.leaving[course_id])
        return needed


def _larger(left: int | None, right: int | None) -> int | None:
    """The larger of two capacities; None is no limit."""
    return None if left is None or right is None else max(left, right)


def rounds(commands: Iterable[Command[Any]]) -> list[list[Command[Any]]]:
    """Commands in groups that may share a transaction, first come first.

    Commands that may break a unique key go alone. Two payloads under one request_id go one after the other, because
    what becomes of the second depends on whether the first was refused.
    """
    together: list[Command[Any]] = []
    apart: list[list[Command[Any]]] = []
    first: dict[RequestKey, Command[Any]] = {}
    for command in commands:
        if command.alone or _at_odds(command, first):
            apart.append([command])
        else:
            together.append(command)
    return [together, *apart] if together else apart


def _at_odds(command: Command[Any], first: dict[RequestKey, Command[Any]]) -> bool:
    """Whether an earlier command has the same request_id and another payload."""
    if command.key is None:
        return False
    earlier = first.setdefault(command.key, command)
    return earlier is not command and encoded(earlier) != encoded(command)
