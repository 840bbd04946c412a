"""Was every promise kept? Judged from what clients saw and from what is there in the end, by the contract alone.

The feed says in which order things happened in a course. That order is taken as the witness of linearizability: every
answer must be right at its place in it, and no operation may stand before one that had ended when it was invoked. So
nothing is searched for, and no history is too long. What is bound to several courses (an enrollment in two, a swap) is
checked to have happened in all of them or in none, and for the rest course by course: no common moment is looked for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise

from faults.record import OK, REFUSED, UNKNOWN, Operation

NONE, ENROLLED, WAITLISTED, DROPPED = 0, 1, 2, 3
# Kinds of events.
OF_ENROLLMENT, OF_CREATION, OF_CHANGE = 1, 2, 3

Held = tuple[int, int, int]  # student_id, state, place in line


@dataclass(frozen=True)
class Change:
    """An event of the feed.

    Attributes:
        time: when it happened, in microseconds since 1970.
        capacity: the seats of the course after it; None: no limit.
    """

    course_id: int
    sequence: int
    kind: int
    student_id: int
    before: int
    after: int
    position: int
    enrolled: int
    waitlisted: int
    capacity: int | None
    time: int
    request_id: str


@dataclass
class Course:
    """A course as the events up to some moment make it."""

    capacity: int | None = None
    seated: dict[int, None] = field(default_factory=dict)
    line: list[int] = field(default_factory=list)

    @property
    def has_seat(self) -> bool:
        """Whether one is free."""
        return self.capacity is None or len(self.seated) < self.capacity

    def held(self) -> list[Held]:
        """Who is there, by student."""
        waiting = [(student, WAITLISTED, place) for place, student in enumerate(self.line, 1)]
        return sorted([(student, ENROLLED, 0) for student in self.seated] + waiting)

    def take(self, change: Change) -> list[str]:
        """Makes the change, and says what is wrong about it."""
        if change.kind != OF_ENROLLMENT:
            self.capacity = change.capacity
            wrong = []
        else:
            wrong = self._move(change)
        if (change.enrolled, change.waitlisted) != (len(self.seated), len(self.line)):
            wrong.append("the counts are not those of who is there")
        return wrong

    def _move(self, change: Change) -> list[str]:
        match change.before, change.after:
            case 0, 1:
                return self._sit(change.student_id)
            case 0, 2:
                return self._wait(change.student_id, change.position)
            case 2, 1:
                return self._move_up(change.student_id)
            case 1, 3 if change.student_id in self.seated:
                del self.seated[change.student_id]
                return []
            case 2, 3 if change.student_id in self.line:
                self.line.remove(change.student_id)
                return []
            case 2, 2 if change.student_id in self.line:
                return []
        return [f"the change from {change.before} to {change.after} cannot be"]

    def _sit(self, student_id: int) -> list[str]:
        wrong = [] if self.has_seat else ["a seat was given that is not there"]
        if self.line:
            wrong.append(f"a newcomer passed {len(self.line)} who wait")
        self.seated[student_id] = None
        return wrong

    def _wait(self, student_id: int, position: int) -> list[str]:
        wrong = ["somebody had to wait beside a free seat"] if self.has_seat and not self.line else []
        self.line.append(student_id)
        if position != len(self.line):
            wrong.append(f"the place in line is {position}, not {len(self.line)}")
        return wrong

    def _move_up(self, student_id: int) -> list[str]:
        wrong = [] if self.line[:1] == [student_id] else ["somebody was promoted who was not first in line"]
        if not self.has_seat:
            wrong.append("somebody was promoted to a seat that is not there")
        self.line = [one for one in self.line if one != student_id]
        self.seated[student_id] = None
        return wrong


@dataclass(frozen=True)
class Evidence:
    """What there is to judge by.

    Attributes:
        operations: all that clients did.
        changes: every event in the database, by course and sequence.
        rows: who is where in the end, by course: student, state and ticket (the order of waiting).
        counts: how many are enrolled and wait in the end, by course, as the service keeps them.
        waitlist_capacities: how many may wait, by course.
        followed: what a watcher was sent, course and sequence, in that order; None: nobody watched.
        pasts: rosters as of a time in microseconds: course, time, who was there.
        expected_codes: those that calls may end with, beside OK and refusals.
    """

    operations: Sequence[Operation]
    changes: Sequence[Change]
    rows: Mapping[int, Sequence[tuple[int, int, int]]]
    counts: Mapping[int, tuple[int, int]]
    waitlist_capacities: Mapping[int, int]
    followed: Sequence[tuple[int, int]] | None = None
    pasts: Sequence[tuple[int, int, Sequence[Held]]] = ()
    # CANCELLED: gRPC ends so what it had not handed over yet when a server stops.
    expected_codes: frozenset[str] = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "CANCELLED"})


def violations(evidence: Evidence) -> list[str]:
    """Every promise that was broken, in words."""
    log = _Log(evidence.changes)
    checks = (_rules, _effects, _order, _refusals, _reads, _tables, _feed, _pasts, _codes)
    return [line for check in checks for line in check(evidence, log)]


class _Log:
    """The events by course and by request, and each course as it was after each of them."""

    def __init__(self, changes: Sequence[Change]) -> None:
        self.courses: dict[int, list[Change]] = defaultdict(list)
        self.caused: dict[str, list[Change]] = defaultdict(list)
        for change in changes:
            self.courses[change.course_id].append(change)
            if change.request_id:
                self.caused[change.request_id].append(change)
        self.wrong: list[str] = []
        # By course: after how many events who was there, and of how many seats.
        self.states: dict[int, list[Course]] = {}
        for course_id, events in self.courses.items():
            self.states[course_id] = list(self._fold(course_id, events))

    def _fold(self, course_id: int, events: Sequence[Change]) -> Iterator[Course]:
        course = Course()
        yield Course()
        for number, change in enumerate(events, 1):
            if change.sequence != number:
                self.wrong.append(f"course {course_id}: event {change.sequence} stands at place {number}")
            self.wrong += [f"course {course_id}, event {number}: {line}" for line in course.take(change)]
            yield Course(course.capacity, dict(course.seated), list(course.line))
        for earlier, later in pairwise(events):
            if later.time < earlier.time:
                self.wrong.append(f"course {course_id}, event {later.sequence}: time runs backwards")


def _rules(_: Evidence, log: _Log) -> Iterator[str]:
    """Capacity, order of the line, promotion in the commit that frees the seat; numbers without holes."""
    yield from log.wrong
    for course_id, events in log.courses.items():
        for course, change, following in zip(log.states[course_id][1:], events, [*events[1:], None], strict=True):
            if following is not None and following.request_id == change.request_id:
                continue
            if course.line and course.has_seat:
                yield f"course {course_id}, event {change.sequence}: {course.line[0]} waits beside a free seat"


def _effects(evidence: Evidence, log: _Log) -> Iterator[str]:
    """What was acknowledged is there once, what was refused is not, and the rest is there whole or not at all."""
    known = {operation.request_id for operation in evidence.operations}
    for request_id in log.caused.keys() - known:
        yield f"events were caused by {request_id}, which nobody sent"
    for operation in evidence.operations:
        if not operation.request_id:
            continue
        own = _own(operation, log)
        expected = _expected(operation)
        if operation.outcome == REFUSED and own:
            yield f"operation {operation.number} was refused, and had an effect"
        if operation.outcome == OK and not _is_whole(operation, own):
            yield f"operation {operation.number} was acknowledged: {len(own)} of {expected} effects"
        if operation.outcome == UNKNOWN and own and not _is_whole(operation, own):
            yield f"operation {operation.number} took effect in part, or twice: {len(own)} of {expected} effects"
        if operation.outcome == OK:
            yield from _answers(operation, log)


def _own(operation: Operation, log: _Log) -> list[Change]:
    """What an operation did about its own student and courses; not whom it promoted."""
    if operation.kind == "capacity":
        return [one for one in log.caused[operation.request_id] if one.kind == OF_CHANGE]
    return [
        one
        for one in log.caused[operation.request_id]
        if one.student_id == operation.student_id and one.course_id in operation.course_ids
    ]


def _expected(operation: Operation) -> int:
    return 1 if operation.kind in ("unenroll", "capacity") else len(operation.course_ids)


def _is_whole(operation: Operation, own: Sequence[Change]) -> bool:
    """Whether these are all the effects of an operation, each of them once."""
    entered = [one.course_id for one in own if one.before == NONE and one.kind == OF_ENROLLMENT]
    left = [one.course_id for one in own if one.after == DROPPED]
    match operation.kind:
        case "enroll":
            return sorted(entered) == sorted(operation.course_ids) and not left
        case "unenroll":
            return left == operation.course_ids
        case "swap":
            source, target = operation.course_ids
            if (left, entered) == ([source], [target]):
                return True
            # Whoever only waits for the target keeps the source; who waited already may have changed nothing.
            waiting = [one for one in own if one.course_id == target and one.after == WAITLISTED]
            return len(waiting) == 1 or (not own and operation.outcome == OK)
    # A capacity that is set anew to what it is changes nothing.
    return len(own) <= 1


def _answers(operation: Operation, log: _Log) -> Iterator[str]:
    """Each enrollment in an answer is what its event says."""
    for course_id, state, sequence in operation.answer.get("enrollments", ()):
        events = log.courses.get(course_id, [])
        told = events[sequence - 1] if 0 < sequence <= len(events) else None
        if told is None or (told.student_id, told.after) != (operation.student_id, state):
            yield f"operation {operation.number} was answered {state} by event {sequence} of course {course_id}"


def _order(evidence: Evidence, log: _Log) -> Iterator[str]:
    """Whoever was answered before somebody else began stands before them."""
    operations = {one.request_id: one for one in evidence.operations if one.request_id}
    for course_id, events in log.courses.items():
        earliest_return = float("inf")
        for change in reversed(events):
            operation = operations.get(change.request_id)
            if operation is None:
                continue
            if earliest_return < operation.invoked:
                yield f"course {course_id}, event {change.sequence}: a later event was answered before this was asked"
            if operation.outcome == OK:
                earliest_return = min(earliest_return, operation.returned)


class _Window:
    """Between which events of a course something that had no effect must have been decided."""

    def __init__(self, evidence: Evidence, log: _Log) -> None:
        operations = {one.request_id: one for one in evidence.operations if one.request_id}
        self._log = log
        self._times: dict[int, list[tuple[float, float]]] = {}
        for course_id, events in log.courses.items():
            times = []
            for change in events:
                operation = operations.get(change.request_id)
                returned = operation.returned if operation and operation.outcome == OK else float("inf")
                times.append((operation.invoked if operation else 0.0, returned))
            self._times[course_id] = times

    def of(self, course_id: int, operation: Operation) -> range:
        """The numbers of events after which it may have been decided."""
        times = self._times.get(course_id, [])
        least = max((at for at, (_, returned) in enumerate(times, 1) if returned < operation.invoked), default=0)
        begun = (at for at, (invoked, _) in enumerate(times, 1) if invoked > operation.returned)
        return range(least, min(begun, default=len(times) + 1))


def _refusals(evidence: Evidence, log: _Log) -> Iterator[str]:
    """There was a moment, while it was asked, at which each reason of a refusal was true."""
    window = _Window(evidence, log)
    for operation in evidence.operations:
        refused = [operation.answer.get("refused", ())] if operation.outcome == REFUSED else []
        for reason, course_id in chain(*refused, *operation.answer.get("copies", ())):
            states = log.states.get(course_id)
            if states is None:
                continue
            most = evidence.waitlist_capacities.get(course_id, 0)
            # Once it has taken effect, a copy is answered from record.
            own = [one.sequence for one in log.caused.get(operation.request_id, ()) if one.course_id == course_id]
            moments = [at for at in window.of(course_id, operation) if at < min(own, default=at + 1)]
            if not any(_is_true(reason, states[at], operation, most) for at in moments):
                yield f"operation {operation.number} was refused for {reason} in course {course_id}, which was never so"


def _is_true(reason: str, course: Course, operation: Operation, most_waiting: int) -> bool:
    student = operation.student_id
    match reason:
        case "":  # as the first of several that are alike: the student is in the course already
            return student in course.seated or student in course.line
        case "COURSE_FULL":
            return not course.has_seat or bool(course.line)
        case "WAITLIST_FULL":
            return (not course.has_seat or bool(course.line)) and len(course.line) >= most_waiting
        case "ALREADY_ENROLLED":
            return student in course.seated
        case "ALREADY_WAITLISTED":
            return student in course.line
        case "NOT_ENROLLED":
            return student not in course.seated and student not in course.line
        case "CAPACITY_BELOW_ENROLLED":
            return operation.capacity is not None and operation.capacity < len(course.seated)
    return False


def _reads(evidence: Evidence, log: _Log) -> Iterator[str]:
    """A roster is that of the event it names, and no older than what had been answered when it was asked for."""
    window = _Window(evidence, log)
    for operation in evidence.operations:
        if operation.kind != "roster" or operation.outcome != OK:
            continue
        (course_id,) = operation.course_ids
        sequence = operation.answer["sequence"]
        if sequence not in window.of(course_id, operation):
            yield f"operation {operation.number} read course {course_id} as of event {sequence}, which is another time"
        elif log.states[course_id][sequence].held() != _as_held(operation.answer["rows"]):
            yield f"operation {operation.number} read another roster than that of event {sequence} of {course_id}"


def _as_held(rows: Iterable[Sequence[int]]) -> list[Held]:
    return sorted((student, state, position) for student, state, position in rows)


def _tables(evidence: Evidence, log: _Log) -> Iterator[str]:
    """The tables are what the feed makes of them."""
    for course_id, states in log.states.items():
        rows = evidence.rows.get(course_id, ())
        line = [student for student, state, _ in sorted(rows, key=lambda row: row[2]) if state == WAITLISTED]
        seated = {student for student, state, _ in rows if state == ENROLLED}
        if (seated, line) != (set(states[-1].seated), states[-1].line):
            yield f"course {course_id}: the rows are not what the feed makes of them"
        if evidence.counts.get(course_id, (0, 0)) != (len(seated), len(line)):
            yield f"course {course_id}: the counts are not those of the rows"
    for course_id in evidence.rows.keys() - log.states.keys():
        yield f"course {course_id}: there are rows, and nothing in the feed"


def _feed(evidence: Evidence, log: _Log) -> Iterator[str]:
    """A watcher was sent everything, in order; what came twice came again from the same place on."""
    if evidence.followed is None:
        return
    seen: dict[int, int] = defaultdict(int)
    for course_id, sequence in evidence.followed:
        if sequence > seen[course_id] + 1:
            yield f"course {course_id}: the watcher was sent event {sequence} after {seen[course_id]}"
        seen[course_id] = max(seen[course_id], sequence)
    for course_id, events in log.courses.items():
        if seen[course_id] != len(events):
            yield f"course {course_id}: the watcher was sent {seen[course_id]} of {len(events)} events"


def _pasts(evidence: Evidence, log: _Log) -> Iterator[str]:
    """A list as of a time is what the events up to it make."""
    for course_id, time, held in evidence.pasts:
        last = sum(change.time <= time for change in log.courses[course_id])
        if log.states[course_id][last].held() != _as_held(held):
            yield f"course {course_id}: as of {time} it was not as it was after event {last}"


def _codes(evidence: Evidence, _: _Log) -> Iterator[str]:
    """Nothing ended in a way that callers cannot know what to do about."""
    for operation in evidence.operations:
        for code in operation.codes:
            if code != "OK" and not code.startswith("REFUSED ") and code not in evidence.expected_codes:
                yield f"operation {operation.number} ended in {code}"
