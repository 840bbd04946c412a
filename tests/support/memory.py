"""The tables in memory: loads for `decide` exactly as much as `loading.py` does, and writes back its net changes.

As strict as the database: what it refuses there (a second row for a pair, more students than seats, an event number
twice, a row of a deleted student) raises here too.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from enrollment_service.domain.commands import Answer, Command, CreateCourse
from enrollment_service.domain.errors import Refusal
from enrollment_service.domain.footprint import Footprint, rounds
from enrollment_service.domain.records import WAITLISTED, Course, Enrollment, Event, NewCourse, Student
from enrollment_service.domain.rules import decide
from enrollment_service.domain.state import Pair, Seats, State, Waivers


@dataclass
class SeatRow:
    """A row of `course_seats` without what stands in the course's details."""

    enrolled_count: int = 0
    waitlisted_count: int = 0
    swap_count: int = 0
    last_sequence: int = 0
    last_event_time: datetime | None = None


@dataclass
class Memory:
    """All tables."""

    students: dict[int, Student] = field(default_factory=dict)
    courses: dict[int, Course] = field(default_factory=dict)
    seats: dict[int, SeatRow] = field(default_factory=dict)
    enrollments: dict[Pair, Enrollment] = field(default_factory=dict)
    waivers: dict[Pair, Waivers] = field(default_factory=dict)
    events: dict[tuple[int, int], Event] = field(default_factory=dict)

    def create_student(self, student_id: int, now: datetime) -> None:
        self.students[student_id] = Student(student_id, "Ann Lee", f"{student_id}@example.org", "", now, now, 1)

    def create_course(self, course_id: int, now: datetime, **rules: Any) -> None:
        course = NewCourse(code=f"C-{course_id}", title="Drawing", description="", **rules)
        command, state = CreateCourse(course=course), State(now)
        state.new_courses[command] = Course._make((course_id, *course, now, now, 1))
        decide(state, [command])
        self.write(state)

    def run(self, commands: Sequence[Command[Any]], now: datetime) -> list[Answer | Refusal]:
        """Loads, decides and writes, in the same groups as the writer."""
        answers: dict[Command[Any], Answer | Refusal] = {}
        for group in rounds(commands):
            state = self.load(group, now)
            answers.update(zip(group, decide(state, group), strict=True))
            self.write(state)
        return [answers[command] for command in commands]

    # --- load ---------------------------------------------------------------------------------------------------

    def load(self, commands: Sequence[Command[Any]], now: datetime) -> State:
        """What `loading.lock_and_load` loads; not a row more."""
        footprint = Footprint.of(commands)
        held = [one for one in self.enrollments.values() if one.student_id in footprint.deleted_students]
        footprint.add_held((one.student_id, one.course_id) for one in held)
        state = State(
            now=now,
            missing_students={student_id for student_id, _ in footprint.pairs if student_id not in self.students},
            students=_only(self.students, footprint.updated_students | footprint.deleted_students),
        )
        known = {course_id: self._seats(course_id) for course_id in footprint.courses if course_id in self.seats}
        moving = footprint.moving | {course_id for course_id, one in known.items() if one.is_unsettled(now)}
        tied = self._reached(footprint.swapped | {course_id for course_id in moving if self._reached({course_id}, 1)})
        for course_id in self._reached(moving) & self.seats.keys():
            known[course_id] = self._seats(course_id)
        state.seats = known
        state.upstream = {course_id: self._upstream(course_id) for course_id in footprint.swapped_into}
        roster = [one for one in self.enrollments.values() if one.course_id in footprint.rosters]
        for rows in (_only(self.enrollments, footprint.pairs).values(), held, roster):
            _know(state, rows)
        state.waivers = _only(self.waivers, footprint.waivers_needed(state.seats, now))
        self._load_queues(state, footprint, tied)
        kept = [(one.student_id, one.swap_from_course_id) for one in state.enrollments.values()]
        _know(state, _only(self.enrollments, kept).values())
        return state

    def _reached(self, course_ids: set[int], least: int = 0) -> set[int]:
        """Where promotions in the courses can lead, with these; nothing, if that is not `least` more."""
        reached = set(course_ids)
        while (
            more := {
                one.swap_from_course_id
                for one in self.enrollments.values()
                if one.course_id in reached and one.swap_from_course_id
            }
            - reached
        ):
            reached |= more
        return reached if len(reached) >= len(course_ids) + least else set()

    def _upstream(self, course_id: int) -> frozenset[int]:
        return frozenset(one for one in self.seats if course_id in self._reached({one}))

    def _seats(self, course_id: int) -> Seats:
        course, row = self.courses[course_id], self.seats[course_id]
        return Seats(
            course_id,
            course,
            course.capacity,
            course.waitlist_capacity,
            course.enroll_open_time,
            course.enroll_close_time,
            course.permit_required,
            row.enrolled_count,
            row.waitlisted_count,
            row.swap_count,
            row.last_sequence,
            row.last_event_time,
        )

    def _load_queues(self, state: State, footprint: Footprint, tied: set[int]) -> None:
        needed = footprint.waiters_needed(state.seats, state.now, tied)
        for course_id, one in state.seats.items():
            most = one.waitlisted_count if course_id in footprint.rosters else needed.get(course_id, 0)
            queue = self.waiters(course_id)[:most]
            _know(state, queue)
            one.queue = OrderedDict.fromkeys(waiter.student_id for waiter in queue)
            one.queue_whole = len(queue) == one.waitlisted_count

    def waiters(self, course_id: int) -> list[Enrollment]:
        """Who waits for a course, in order."""
        waiting = [one for one in self.enrollments.values() if one.course_id == course_id and one.state == WAITLISTED]
        return sorted(waiting, key=lambda one: one.sequence)

    # --- write --------------------------------------------------------------------------------------------------

    def write(self, state: State) -> None:
        """What `seats.apply` and the statements after it write."""
        inserted, updated, deleted = state.net_changes()
        for one in inserted:
            assert (one.student_id, one.course_id) not in self.enrollments
        for one in updated:
            assert (one.student_id, one.course_id) in self.enrollments
        for pair in deleted:
            del self.enrollments[pair]
        _store(self.enrollments, [*inserted, *updated])
        for event in state.events:
            assert self.events.setdefault((event.course_id, event.sequence), event) is event
        for seats in (*state.opened_seats(), *state.touched_seats()):
            self.courses[seats.course_id] = seats.course
            self.seats[seats.course_id] = SeatRow(
                seats.enrolled_count,
                seats.waitlisted_count,
                seats.swap_count,
                seats.last_sequence,
                seats.last_event_time,
            )
        self.students.update(_only(state.students, state.changed_students))
        self._write_waivers(state)
        for course_id in state.deleted_courses:
            del self.courses[course_id], self.seats[course_id]
        for student_id in state.deleted_students:
            del self.students[student_id]
        self._check_constraints()

    def _write_waivers(self, state: State) -> None:
        """Only what has changed; those of who is deleted go with them."""
        for pair, reason in state.changed_waivers:
            kept = {one: waiver for one, waiver in self.waivers.get(pair, {}).items() if one != reason}
            if reason in state.waivers[pair]:
                kept[reason] = state.waivers[pair][reason]
            self.waivers[pair] = kept
        for pair in list(self.waivers):
            if not self.waivers[pair] or pair[0] in state.deleted_students or pair[1] in state.deleted_courses:
                del self.waivers[pair]

    def _check_constraints(self) -> None:
        for student_id, course_id in self.enrollments:
            assert student_id in self.students
            assert course_id in self.courses
        for course_id, row in self.seats.items():
            capacity = self.courses[course_id].capacity
            assert row.enrolled_count >= 0
            assert row.waitlisted_count >= 0
            assert capacity is None or row.enrolled_count <= capacity


def _only(table: dict[Any, Any], keys: Iterable[Any]) -> dict[Any, Any]:
    return {key: table[key] for key in keys if key in table}


def _store(table: dict[Pair, Enrollment], rows: Iterable[Enrollment]) -> None:
    # Positions are computed when they are read; the table has none.
    table.update({(one.student_id, one.course_id): one._replace(waitlist_position=0) for one in rows})


def _know(state: State, enrollments: Iterable[Enrollment]) -> None:
    state.enrollments.update({(one.student_id, one.course_id): one for one in enrollments})
