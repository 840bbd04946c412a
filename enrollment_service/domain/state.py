"""The working state of one batch: what was loaded, the transitions an enrollment can make, and what they changed.

Pure: no I/O, no clock, no randomness. When a transition is allowed is said in `rules.py`; here it is only made
sure that each one keeps rows, counts, queue and event log in step.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from operator import attrgetter
from typing import Any, NamedTuple, TypeAlias
from uuid import UUID

from enrollment_service.domain.commands import Command
from enrollment_service.domain.errors import Reason
from enrollment_service.domain.records import (
    COURSE_CREATED,
    COURSE_DELETED,
    COURSE_UPDATED,
    DROPPED,
    ENROLLED,
    NO_STATE,
    OF_ENROLLMENT,
    OF_WAIVER,
    WAITLISTED,
    CountedCourse,
    Course,
    Enrollment,
    Event,
    NewCourse,
    Owners,
    ServiceReason,
    Student,
    Waiver,
)

Pair = tuple[int, int]
# By the refusal that it lifts.
Waivers: TypeAlias = Mapping[Reason, Waiver]
# What to insert, update and delete in `student_courses`.
NetChanges: TypeAlias = tuple[list[Enrollment], list[Enrollment], list[Pair]]


class Cause(NamedTuple):
    """What the event log names for a transition: the request, the actor and the reason."""

    request_id: UUID | None
    actor: str
    reason: str


@dataclass(slots=True)
class Seats:
    """The seat row of a course, locked by this batch; the counts are those after the commands decided so far.

    The keys of `queue` are the first waiters in order: all of them if `queue_whole`, else at least as many as seats
    can become free in this batch plus waiters that can leave. Whoever leaves is found at once, however long it is.
    """

    course_id: int
    course: Course
    capacity: int | None
    waitlist_capacity: int
    enroll_open_time: datetime | None
    enroll_close_time: datetime | None
    permit_required: bool
    enrolled_count: int
    waitlisted_count: int
    # How many of those who wait keep another course until promoted.
    swap_count: int
    last_sequence: int
    last_event_time: datetime | None
    queue: OrderedDict[int, None] = field(default_factory=OrderedDict)
    queue_whole: bool = False

    @property
    def has_room(self) -> bool:
        """Whether fewer sit in the course than may."""
        return self.capacity is None or self.enrolled_count < self.capacity

    def settled(self) -> Seats:
        """The row with the counts that it has once those who wait beside free seats have them."""
        room = self.waitlisted_count if self.capacity is None else self.capacity - self.enrolled_count
        promoted = min(room, self.waitlisted_count)
        return replace(
            self,
            enrolled_count=self.enrolled_count + promoted,
            waitlisted_count=self.waitlisted_count - promoted,
        )

    def is_closed(self, now: datetime) -> bool:
        """Whether it is too late to enter, and to be promoted."""
        return self.enroll_close_time is not None and now >= self.enroll_close_time

    def is_gated(self, now: datetime) -> bool:
        """Whether anything beside the seats keeps newcomers out, unless they have a waiver."""
        too_early = self.enroll_open_time is not None and now < self.enroll_open_time
        return self.permit_required or too_early or self.is_closed(now)

    def is_unsettled(self, now: datetime) -> bool:
        """Whether somebody waits beside a free seat that is theirs by now.

        Whoever frees a seat promotes for it, so this is so only after the clock was set back past a close time.
        """
        return self.waitlisted_count > 0 and self.has_room and not self.is_closed(now)

    @property
    def counted(self) -> CountedCourse:
        """The course with its counts right now."""
        return CountedCourse(self.course, self.enrolled_count, self.waitlisted_count)

    def copy(self) -> Seats:
        """A row to try things on."""
        return replace(self, queue=self.queue.copy())


@dataclass(slots=True)
class Upserts:
    """What an import of students or of courses works on, by the index of the row, once what is new was inserted.

    The natural key is the e-mail address of a student and the code of a course, in the form in which the database
    compares it.

    Attributes:
        created: what was inserted.
        ids: whom the external id of a row stands for; 0 where nobody has it, because the natural key was taken.
        wanted: the natural key that a row asks for which was not inserted.
        holders: who has which natural key.
        keys: the same by id, of those who may change theirs.
        handed_on: who gives up a key that another row takes.
    """

    created: Mapping[int, Student | Course]
    ids: Sequence[int]
    wanted: Mapping[int, str]
    holders: dict[str, int]
    keys: dict[int, str]
    handed_on: set[int] = field(default_factory=set)
    _given_up: dict[str, int] = field(default_factory=dict)

    def may_take(self, index: int) -> bool:
        """Whether nobody else has the key that a row asks for."""
        return self.holders.get(self.wanted[index], self.ids[index]) == self.ids[index]

    def take(self, index: int) -> None:
        """Gives the key that a row asks for to whom the row is about."""
        taker, wanted = self.ids[index], self.wanted[index]
        had = self.keys[taker]
        if had == wanted:
            return
        del self.holders[had]
        self._given_up.setdefault(had, taker)
        if self._given_up.get(wanted, taker) != taker:
            self.handed_on.add(self._given_up[wanted])
        self.holders[wanted] = taker
        self.keys[taker] = wanted


@dataclass(slots=True)
class State:
    """Everything `decide` may look at, and the log of what it did."""

    now: datetime
    seats: dict[int, Seats] = field(default_factory=dict)
    enrollments: dict[Pair, Enrollment] = field(default_factory=dict)
    students: dict[int, Student] = field(default_factory=dict)
    missing_students: set[int] = field(default_factory=set)
    # Of the pairs that may need one, also those that have expired. Never changed in place.
    waivers: dict[Pair, Waivers] = field(default_factory=dict)
    # For courses that somebody may queue for to swap: those from which promotions can reach them.
    upstream: dict[int, frozenset[int]] = field(default_factory=dict)
    # What was inserted for the commands that create something, and who has the keys of the others.
    new_students: dict[Command[Any], Student] = field(default_factory=dict)
    new_courses: dict[Command[Any], Course] = field(default_factory=dict)
    owners: dict[Command[Any], Owners] = field(default_factory=dict)
    upserts: dict[Command[Any], Upserts] = field(default_factory=dict)

    events: list[Event] = field(default_factory=list)
    # Whether the row of a touched pair was in the database before the batch.
    existed: dict[Pair, bool] = field(default_factory=dict)
    touched_courses: set[int] = field(default_factory=set)
    opened_courses: set[int] = field(default_factory=set)
    # The names of the fields that are new, by the id of the course.
    changed_courses: dict[int, set[str]] = field(default_factory=dict)
    changed_students: set[int] = field(default_factory=set)
    changed_waivers: set[tuple[Pair, Reason]] = field(default_factory=set)
    deleted_courses: set[int] = field(default_factory=set)
    deleted_students: set[int] = field(default_factory=set)

    # The pairs of each student and of each course, once somebody has asked for them; most batches never do. Pairs of
    # enrollments that have ended since may still be among them.
    _pairs_of_student: dict[int, set[Pair]] | None = None
    _pairs_of_course: dict[int, set[Pair]] | None = None

    def copy(self) -> State:
        """A state to try a dry run on; what it changes is thrown away with it."""
        return State(
            now=self.now,
            seats={course_id: seats.copy() for course_id, seats in self.seats.items()},
            enrollments=dict(self.enrollments),
            students=dict(self.students),
            missing_students=set(self.missing_students),
            waivers=dict(self.waivers),
            upstream=self.upstream,
        )

    def enrollments_of(self, *, student_id: int | None = None, course_id: int | None = None) -> list[Enrollment]:
        """The live enrollments of a student, or in a course, waiters first, then by ids."""
        if self._pairs_of_student is None or self._pairs_of_course is None:
            self._pairs_of_student, self._pairs_of_course = _grouped(self.enrollments)
        pairs: set[Pair] = set()
        if student_id is not None:
            pairs |= self._pairs_of_student.get(student_id, set())
        if course_id is not None:
            pairs |= self._pairs_of_course.get(course_id, set())
        return _in_leaving_order([self.enrollments[pair] for pair in pairs if pair in self.enrollments])

    def seat(self, student_id: int, seats: Seats, cause: Cause) -> Enrollment:
        """Gives a newcomer a seat."""
        seats.enrolled_count += 1
        return self._enter(student_id, seats, ENROLLED, cause)

    def queue(self, student_id: int, seats: Seats, cause: Cause, swap_from_course_id: int = 0) -> Enrollment:
        """Puts a newcomer at the tail of the waitlist, who may keep another course until promoted."""
        seats.waitlisted_count += 1
        seats.swap_count += bool(swap_from_course_id)
        if seats.queue_whole:
            seats.queue[student_id] = None
        return self._enter(student_id, seats, WAITLISTED, cause, swap_from_course_id)

    def swap_from(self, waiting: Enrollment, seats: Seats, swap_from_course_id: int, cause: Cause) -> Enrollment:
        """Lets who waits in a queue that is known whole keep that course until promoted; the place stays."""
        position = list(seats.queue).index(waiting.student_id) + 1
        if waiting.swap_from_course_id == swap_from_course_id:
            return waiting._replace(waitlist_position=position)
        seats.swap_count += not waiting.swap_from_course_id
        self._touch(waiting, seats)
        event = self._log(seats, waiting.student_id, WAITLISTED, WAITLISTED, position, cause, swap_from_course_id)
        changed = waiting._replace(
            waitlist_position=position, swap_from_course_id=swap_from_course_id, latest=event.sequence
        )
        self.enrollments[waiting.student_id, waiting.course_id] = changed
        return changed

    def drop(self, enrollment: Enrollment, seats: Seats, cause: Cause) -> Enrollment:
        """Ends an enrollment; a seat that becomes free stays free until `promote`."""
        if enrollment.state == WAITLISTED:
            seats.waitlisted_count -= 1
            seats.swap_count -= bool(enrollment.swap_from_course_id)
            seats.queue.pop(enrollment.student_id, None)
        else:
            seats.enrolled_count -= 1
        self._touch(enrollment, seats)
        del self.enrollments[enrollment.student_id, enrollment.course_id]
        event = self._log(seats, enrollment.student_id, enrollment.state, DROPPED, 0, cause)
        return _begun(enrollment, DROPPED, event)

    def promote(self, seats: Seats, cause: Cause) -> None:
        """Gives free seats to the first waiters, in order, and what follows from it; nobody after the close time.

        Who swaps leaves the other course, where seats become free in turn. Circles that this closes are traded.
        """
        if seats.swap_count:
            self.follow([seats], cause)
        else:
            self.fill(seats, cause)

    def fill(self, seats: Seats, cause: Cause) -> list[Seats]:
        """Gives the free seats of a course to its first waiters; returns the courses that they left for it."""
        left: list[Seats] = []
        promoting = cause._replace(reason=ServiceReason.PROMOTION)
        while seats.waitlisted_count and seats.has_room and not seats.is_closed(self.now):
            waiting = self._promote_first(seats, promoting)
            kept = self._kept_by(waiting)
            if kept is not None:
                source = self.seats[kept.course_id]
                self.drop(kept, source, cause._replace(reason=ServiceReason.SWAP))
                left.append(source)
        return left

    def follow(self, courses: Iterable[Seats], cause: Cause) -> None:
        """Promotes and trades where somebody has left or another is first in line, until nobody can move any more."""
        pending = deque(courses)
        while pending:
            seats = pending.popleft()
            pending.extend(self.fill(seats, cause))
            if circle := self._circle(seats):
                self._trade(circle, cause._replace(reason=ServiceReason.TRADE))
                pending.extend(course for course, _ in circle)

    def _circle(self, start: Seats) -> list[tuple[Seats, Enrollment]]:
        """Full courses whose first waiters each hold a seat in the next one, the last one's in the first; or nothing.

        A course has one first waiter, so it points to one course at the most.
        """
        circle: list[tuple[Seats, Enrollment]] = []
        seen: set[int] = set()
        seats = start
        while seats.course_id not in seen:
            seen.add(seats.course_id)
            waiting = self._first_trader(seats)
            if waiting is None:
                return []
            circle.append((seats, waiting))
            seats = self.seats[waiting.swap_from_course_id]
        return circle if seats is start else []

    def _first_trader(self, seats: Seats) -> Enrollment | None:
        """Who is first in line, if they hold a seat in the course that they would leave."""
        if not seats.swap_count or seats.is_closed(self.now):
            return None
        waiting = self.enrollments[next(iter(seats.queue)), seats.course_id]
        kept = self._kept_by(waiting)
        return waiting if kept is not None and kept.state == ENROLLED else None

    def _trade(self, circle: Sequence[tuple[Seats, Enrollment]], cause: Cause) -> None:
        """All leave before any enters, so that no course ever has more students than seats."""
        for _, waiting in circle:
            kept = self.enrollments[waiting.student_id, waiting.swap_from_course_id]
            self.drop(kept, self.seats[kept.course_id], cause)
        for seats, _ in circle:
            self._promote_first(seats, cause)

    def _kept_by(self, waiting: Enrollment) -> Enrollment | None:
        """The seat or place in line that somebody would leave for this one, if they still have it."""
        if not waiting.swap_from_course_id:
            return None
        return self.enrollments.get((waiting.student_id, waiting.swap_from_course_id))

    def _promote_first(self, seats: Seats, cause: Cause) -> Enrollment:
        """Gives the first waiter a seat; returns the enrollment as it was."""
        student_id, _ = seats.queue.popitem(last=False)
        waiting = self.enrollments[student_id, seats.course_id]
        self._touch(waiting, seats)
        seats.waitlisted_count -= 1
        seats.swap_count -= bool(waiting.swap_from_course_id)
        seats.enrolled_count += 1
        event = self._log(seats, student_id, WAITLISTED, ENROLLED, 0, cause)
        self.enrollments[student_id, seats.course_id] = _begun(waiting, ENROLLED, event)
        return waiting

    def tied_to(self, course_ids: Iterable[int]) -> set[int]:
        """The courses that promotions in these can reach, by those who swap, with these; their queues are known."""
        reached = set(course_ids)
        pending = list(reached)
        while pending:
            course_id = pending.pop()
            seats = self.seats.get(course_id)
            if seats is None or not seats.swap_count:
                continue
            found = {self.enrollments[student_id, course_id].swap_from_course_id for student_id in seats.queue}
            pending += found - reached - {0}
            reached |= found - {0}
        return reached

    def waived(self, student_id: int, seats: Seats) -> list[Reason]:
        """The refusals that are lifted for a student in a course now."""
        waivers = self.waivers.get((student_id, seats.course_id))
        if not waivers:
            return []
        return [
            reason for reason, waiver in waivers.items() if waiver.expire_time is None or self.now < waiver.expire_time
        ]

    def grant(
        self, student_id: int, seats: Seats, reasons: Sequence[Reason], expire_time: datetime | None, cause: Cause
    ) -> None:
        """Lifts refusals for a student in a course; those that are lifted until then already stay as they are."""
        pair = (student_id, seats.course_id)
        known = self.waivers.get(pair, {})
        new = tuple(one for one in reasons if one not in known or known[one].expire_time != expire_time)
        if new:
            event = self._log_waiver(seats, student_id, new, expire_time, cause, revoked=False)
            waiver = Waiver(
                seats.course_id, student_id, new, expire_time, event.event_time, cause.actor, event.sequence
            )
            self._change_waivers(pair, new, {**known, **dict.fromkeys(new, waiver)})

    def revoke(self, student_id: int, seats: Seats, reasons: Sequence[Reason], cause: Cause) -> None:
        """Lifts refusals for a student in a course no more; what is not lifted is passed over."""
        pair = (student_id, seats.course_id)
        known = self.waivers.get(pair, {})
        if gone := tuple(one for one in reasons if one in known):
            self._log_waiver(seats, student_id, gone, None, cause, revoked=True)
            self._change_waivers(pair, gone, {one: waiver for one, waiver in known.items() if one not in gone})

    def _change_waivers(self, pair: Pair, changed: Iterable[Reason], waivers: Waivers) -> None:
        self.waivers[pair] = waivers
        self.changed_waivers.update((pair, reason) for reason in changed)
        self.touched_courses.add(pair[1])

    def open_course(self, course: Course, cause: Cause) -> Seats:
        """Gives a new course its seats, all of them free."""
        seats = Seats(
            course.course_id,
            course,
            course.capacity,
            course.waitlist_capacity,
            course.enroll_open_time,
            course.enroll_close_time,
            course.permit_required,
            enrolled_count=0,
            waitlisted_count=0,
            swap_count=0,
            last_sequence=0,
            last_event_time=None,
            queue_whole=True,
        )
        self.seats[course.course_id] = seats
        self.opened_courses.add(course.course_id)
        self._log_course(seats, COURSE_CREATED, None, cause)
        return seats

    def change_course(self, seats: Seats, course: Course, cause: Cause) -> None:
        """Replaces what clients write of a course, by something else."""
        new = {name for name, old, wanted in zip(Course._fields, seats.course, course, strict=True) if wanted != old}
        seats.course = course
        seats.capacity = course.capacity
        seats.waitlist_capacity = course.waitlist_capacity
        seats.enroll_open_time = course.enroll_open_time
        seats.enroll_close_time = course.enroll_close_time
        seats.permit_required = course.permit_required
        self.changed_courses.setdefault(course.course_id, set()).update(new)
        self.touched_courses.add(course.course_id)
        self._log_course(seats, COURSE_UPDATED, tuple(name for name in NewCourse._fields if name in new), cause)

    def delete_course(self, seats: Seats, cause: Cause) -> None:
        """Removes a course that nobody is in any more."""
        course_id = seats.course_id
        self._log_course(seats, COURSE_DELETED, None, cause)
        del self.seats[course_id]
        self.touched_courses.discard(course_id)
        self.changed_courses.pop(course_id, None)
        self.deleted_courses.add(course_id)

    def change_student(self, student: Student) -> None:
        """Replaces what clients write of a student."""
        self.students[student.student_id] = student
        self.changed_students.add(student.student_id)

    def delete_student(self, student_id: int) -> None:
        """Removes a student who is in no course any more."""
        del self.students[student_id]
        self.changed_students.discard(student_id)
        self.missing_students.add(student_id)
        self.deleted_students.add(student_id)

    def net_changes(self) -> NetChanges:
        """What to insert, update and delete in `student_courses`: one change per pair, sorted by pair.

        The order is that in which foreign keys lock the students, the same in every batch.
        """
        inserted: list[Enrollment] = []
        updated: list[Enrollment] = []
        deleted: list[Pair] = []
        for pair in sorted(self.existed):
            enrollment = self.enrollments.get(pair)
            if enrollment is None:
                if self.existed[pair]:
                    deleted.append(pair)
            else:
                (updated if self.existed[pair] else inserted).append(enrollment)
        return inserted, updated, deleted

    def opened_seats(self) -> Iterable[Seats]:
        """The seat rows that are new, by ascending id."""
        return [self.seats[course_id] for course_id in sorted(self.opened_courses)]

    def touched_seats(self) -> Iterable[Seats]:
        """The seat rows to write back, by ascending id."""
        return [self.seats[course_id] for course_id in sorted(self.touched_courses - self.opened_courses)]

    def _enter(
        self, student_id: int, seats: Seats, state: int, cause: Cause, swap_from_course_id: int = 0
    ) -> Enrollment:
        course_id = seats.course_id
        pair = (student_id, course_id)
        position = seats.waitlisted_count if state == WAITLISTED else 0
        self.existed.setdefault(pair, False)
        self.touched_courses.add(course_id)
        event = self._log(seats, student_id, NO_STATE, state, position, cause, swap_from_course_id)
        since = event.event_time
        enrollment = Enrollment(
            student_id, course_id, state, position, since, since, event.sequence, swap_from_course_id
        )
        self.enrollments[pair] = enrollment
        if self._pairs_of_student is not None and self._pairs_of_course is not None:
            self._pairs_of_student.setdefault(student_id, set()).add(pair)
            self._pairs_of_course.setdefault(course_id, set()).add(pair)
        return enrollment

    def _touch(self, enrollment: Enrollment, seats: Seats) -> None:
        self.existed.setdefault((enrollment.student_id, enrollment.course_id), True)
        self.touched_courses.add(seats.course_id)

    def _log(
        self,
        seats: Seats,
        student_id: int,
        previous: int,
        state: int,
        position: int,
        cause: Cause,
        swap_from_course_id: int = 0,
    ) -> Event:
        more = (None, None, False, swap_from_course_id) if swap_from_course_id else ()
        return self._append(seats, OF_ENROLLMENT, student_id, previous, state, position, None, cause, more)

    def _log_course(self, seats: Seats, kind: int, changed_fields: tuple[str, ...] | None, cause: Cause) -> None:
        self._append(seats, kind, None, NO_STATE, NO_STATE, 0, changed_fields, cause)

    def _log_waiver(
        self,
        seats: Seats,
        student_id: int,
        reasons: tuple[Reason, ...],
        expire_time: datetime | None,
        cause: Cause,
        *,
        revoked: bool,
    ) -> Event:
        waiver = (tuple(map(str, reasons)), expire_time, revoked)
        return self._append(seats, OF_WAIVER, student_id, NO_STATE, NO_STATE, 0, None, cause, waiver)

    def _append(
        self,
        seats: Seats,
        kind: int,
        student_id: int | None,
        previous: int,
        state: int,
        position: int,
        changed_fields: tuple[str, ...] | None,
        cause: Cause,
        more: tuple[Any, ...] = (),
    ) -> Event:
        """Adds an event to the log of a course; whoever calls this has brought the counts up to date."""
        seats.last_sequence += 1
        # The clock of a database may be set back; the log of a course may not.
        if seats.last_event_time is None or self.now > seats.last_event_time:
            seats.last_event_time = self.now
        event = Event(
            seats.course_id,
            seats.last_sequence,
            kind,
            student_id,
            previous,
            state,
            position,
            seats.enrolled_count,
            seats.waitlisted_count,
            seats.capacity,
            changed_fields,
            seats.last_event_time,
            *cause,
            *more,
        )
        self.events.append(event)
        return event


def _begun(enrollment: Enrollment, state: int, event: Event) -> Enrollment:
    """The enrollment in the state that an event has begun."""
    return enrollment._replace(
        state=state,
        waitlist_position=0,
        enroll_time=event.event_time,
        sequence=event.sequence,
        swap_from_course_id=0,
        latest=0,
    )


def _grouped(pairs: Iterable[Pair]) -> tuple[dict[int, set[Pair]], dict[int, set[Pair]]]:
    """Pairs by their student, and by their course."""
    of_student: dict[int, set[Pair]] = {}
    of_course: dict[int, set[Pair]] = {}
    for pair in pairs:
        of_student.setdefault(pair[0], set()).add(pair)
        of_course.setdefault(pair[1], set()).add(pair)
    return of_student, of_course


def _in_leaving_order(enrollments: list[Enrollment]) -> list[Enrollment]:
    """Waiters first, so that nobody is promoted who is about to leave too; then by ids.

    One key after the other: thousands of tuples would be compared for so long that nothing else could go on.
    """
    enrollments.sort(key=attrgetter("student_id"))
    enrollments.sort(key=attrgetter("course_id"))
    enrollments.sort(key=attrgetter("state"), reverse=True)
    return enrollments
