"""What was so at a time: a fold of the events up to then. Pure; nothing is known here of how events are read.

Events come one after the other, those of a course in the order of their sequence. What is kept of them is what is still
so: memory grows with who is in a course at a moment, not with how often they came and went.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from heapq import nsmallest
from typing import NamedTuple, TypeAlias

from enrollment_service.domain.records import (
    COURSE_DELETED,
    DROPPED,
    ENROLLED,
    NO_STATE,
    OF_ENROLLMENT,
    WAITLISTED,
    Enrollment,
    Event,
)


class Step(NamedTuple):
    """What a fold must know of an event."""

    course_id: int
    sequence: int
    kind: int
    student_id: int | None
    previous_state: int
    state: int
    event_time: datetime
    swap_from_course_id: int | None = None


# A whole event will do.
Stepped: TypeAlias = Step | Event


class Standing(NamedTuple):
    """How somebody stands in a course: since when, and by which event; the ticket is their place in line.

    What they keep until promoted, and which event has changed it since, is as in `Enrollment`.
    """

    state: int
    sequence: int
    ticket: int
    enroll_time: datetime
    create_time: datetime
    swap_from_course_id: int = 0
    latest: int = 0


class Stood(NamedTuple):
    """An enrollment as it was, and its place in line."""

    enrollment: Enrollment
    ticket: int

    @property
    def key(self) -> tuple[int, int]:
        """Its place in a roster: the enrolled by the student's id, then the waiters by their tickets."""
        state = self.enrollment.state
        return state, self.enrollment.student_id if state == ENROLLED else self.ticket


def moved(before: Standing | None, event: Stepped) -> Standing | None:
    """How somebody stands after an event of theirs; None: not at all any more."""
    if event.state == DROPPED:
        return None
    kept = event.swap_from_course_id or 0 if event.state == WAITLISTED else 0
    if before is None or event.previous_state == NO_STATE:
        return Standing(event.state, event.sequence, event.sequence, event.event_time, event.event_time, kept)
    if event.state == before.state:
        return before._replace(swap_from_course_id=kept, latest=event.sequence)
    return Standing(event.state, event.sequence, before.ticket, event.event_time, before.create_time)


class Roster:
    """Who is in a course and who waits for it, after the events so far."""

    def __init__(self, events: Iterable[Stepped] = ()) -> None:
        self.exists = False
        self._standings: dict[int, Standing] = {}
        for event in events:
            self.add(event)

    def add(self, event: Stepped) -> None:
        """Takes the next event of the course into account."""
        self.exists = event.kind != COURSE_DELETED
        if event.kind == OF_ENROLLMENT and event.student_id is not None:
            standing = moved(self._standings.pop(event.student_id, None), event)
            if standing is not None:
                self._standings[event.student_id] = standing

    @property
    def standings(self) -> Mapping[int, Standing]:
        """How everybody stands, by the id of the student."""
        return self._standings

    def page(self, course_id: int, after: tuple[int, int], limit: int, states: int) -> list[Stood]:
        """Who comes after a key: the enrolled by the student's id, then the waiters by position.

        Args:
            course_id: the course.
            after: the key, a state and what its list is sorted by; (0, 0) is before all.
            limit: so many at the most.
            states: which states are wanted, one bit each.
        """
        wanted = (one for one in self._stood(course_id) if one.enrollment.state & states and one.key > after)
        return nsmallest(limit, wanted, key=lambda one: one.key)

    def _stood(self, course_id: int) -> Iterable[Stood]:
        waiters = [(one.ticket, student) for student, one in self._standings.items() if one.state == WAITLISTED]
        positions = {student: place for place, (_, student) in enumerate(sorted(waiters), 1)}
        for student_id, one in self._standings.items():
            yield stood(student_id, course_id, one, positions.get(student_id, 0))


def stood(student_id: int, course_id: int, standing: Standing, position: int) -> Stood:
    """A standing as an enrollment."""
    state, sequence, ticket, entered, created, kept, latest = standing
    enrollment = Enrollment(student_id, course_id, state, position, entered, created, sequence, kept, latest)
    return Stood(enrollment, ticket)


class Queue:
    """Who waits for a course, after the events so far; those of its waiters are enough."""

    def __init__(self) -> None:
        self._tickets: dict[int, int] = {}

    def add(self, event: Stepped) -> None:
        """Takes the next event into account."""
        if event.kind != OF_ENROLLMENT or event.student_id is None:
            return
        if event.state != WAITLISTED:
            self._tickets.pop(event.student_id, None)
        else:
            self._tickets.setdefault(event.student_id, event.sequence)

    def position(self, ticket: int) -> int:
        """The place in line of whoever has a ticket."""
        return sum(other <= ticket for other in self._tickets.values())
