"""The rules of enrollment once more, slowly and obviously: lists that are searched, copies that are thrown away.

Written from the contract's text, not from the code it is compared with. It takes the same commands and answers in
plain tuples. `tests/test_rules.py` holds `decide` against it, `tests/test_seats_histories.py` the whole service.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
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
    Reconcile,
    RevokeWaivers,
    Swap,
    Unenroll,
    UpdateCourse,
    UpdateStudent,
)

NONE, ENROLLED, WAITLISTED, DROPPED = 0, 1, 2, 3

# (student_id, course_id, state, waitlist_position, enroll_time, create_time, latest sequence, swap_from_course_id)
Row = tuple[int, int, int, int, datetime | None, datetime | None, int, int]
# What an event tells of.
OF_ENROLLMENT, CREATED, UPDATED, DELETED, OF_WAIVER = 1, 2, 3, 4, 5
WRITTEN_BY_CLIENTS = (
    "code", "title", "description", "capacity", "waitlist_capacity", "enroll_open_time", "enroll_close_time",
    "permit_required",
)  # fmt: skip
WAIVABLE = ("PERMIT_REQUIRED", "ENROLLMENT_NOT_OPEN", "ENROLLMENT_CLOSED")
# (course_id, student_id, reasons, expire_time, create_time)
Waived = tuple[int, int, tuple[str, ...], datetime | None, datetime]


class LogLine(NamedTuple):
    """An event, as far as a history decides what stands in it."""

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
    reason: str
    waived_reasons: tuple[str, ...] | None = None
    waiver_expire_time: datetime | None = None
    waiver_revoked: bool = False
    swap_from_course_id: int | None = None


# (reason, subject)
Broken = tuple[str, str]


class Refused(Exception):
    """The call is refused; nothing has changed."""

    def __init__(self, broken: list[Broken]) -> None:
        super().__init__(broken)
        self.broken = broken


@dataclass
class Place:
    """A student's seat in a course, or place in its queue."""

    student_id: int
    since: datetime
    began: datetime
    sequence: int = 0
    # Of a waiter: the course to leave when promoted, or 0.
    swap_from: int = 0

    def starts(self, line: LogLine) -> None:
        self.since = self.began = line.event_time
        self.sequence = line.sequence


@dataclass
class ModelCourse:
    """A course with who sits in it and who waits, in the order they came."""

    course_id: int
    rules: dict[str, Any]
    version: int = 1
    seated: list[Place] = field(default_factory=list)
    waiting: list[Place] = field(default_factory=list)
    # By student and refusal: until when it is lifted, and the event that said so.
    waivers: dict[tuple[int, str], tuple[datetime | None, LogLine]] = field(default_factory=dict)

    @property
    def counts(self) -> tuple[int, int]:
        return len(self.seated), len(self.waiting)

    @property
    def has_seat(self) -> bool:
        return self.rules["capacity"] is None or len(self.seated) < self.rules["capacity"]

    def place(self, student_id: int) -> Place | None:
        return next((one for one in self.seated + self.waiting if one.student_id == student_id), None)


@dataclass
class Model:
    """Students, courses and the log. `log` keeps the events of deleted courses."""

    now: datetime
    students: dict[int, dict[str, Any]] = field(default_factory=dict)
    courses: dict[int, ModelCourse] = field(default_factory=dict)
    log: dict[int, list[LogLine]] = field(default_factory=dict)

    def create_student(self, student_id: int) -> None:
        self.students[student_id] = {"full_name": "Ann Lee", "version": 1}

    def create_course(self, course_id: int, **rules: Any) -> None:
        course = self.courses[course_id] = ModelCourse(course_id, {"title": "Drawing"} | rules)
        self._write_of_course(course, CREATED, None, "")

    # --- what tests ask -----------------------------------------------------------------------------------------

    def answer(self, command: Command[Any]) -> Any:
        """What the command is answered, as plain tuples; a refusal as the list of what is broken."""
        world = copy.deepcopy(self) if getattr(command, "validate_only", False) else self
        for course_id in command.locks:
            # A clock that was set back past a close time leaves free seats to waiters.
            if course_id in world.courses:
                world._promote(world.courses[course_id])
        try:
            return getattr(world, f"_{type(command).__name__.lower()}")(command)
        except Refused as refused:
            return refused.broken

    def rows(self) -> list[Row]:
        """Every live enrollment, positions included, by student and course."""
        found = []
        for course in self.courses.values():
            found += [_row(one, course.course_id, ENROLLED, 0) for one in course.seated]
            found += [
                _row(one, course.course_id, WAITLISTED, position) for position, one in enumerate(course.waiting, 1)
            ]
        return sorted(found)

    def events(self) -> list[LogLine]:
        """The whole log, by course and sequence."""
        return [line for _, lines in sorted(self.log.items()) for line in lines]

    def waivers(self, course_id: int) -> list[Waived]:
        """All waivers in a course, by student and by when they were granted."""
        course = self.courses[course_id]
        students = sorted({student_id for student_id, _ in course.waivers})
        return [one for student_id in students for one in self._waivers_of(course, student_id, WAIVABLE)]

    def student_etag(self, student_id: int) -> str:
        student = self.students.get(student_id)
        return "" if student is None else str(student["version"])

    def course_etag(self, course_id: int) -> str:
        course = self.courses.get(course_id)
        return "" if course is None else str(course.version)

    def enrollment_etag(self, student_id: int, course_id: int) -> str:
        course = self.courses.get(course_id)
        place = course.place(student_id) if course else None
        return "" if place is None else str(place.sequence)

    # --- entering and leaving -----------------------------------------------------------------------------------

    def _enroll(self, command: Enroll) -> Any:
        broken = self._no_student(command.student_id)
        for course_id in command.drop_course_ids:
            broken += self._not_in(command.student_id, course_id)
        self._refuse(broken + self._no_courses(*command.course_ids))
        courses = [self.courses[course_id] for course_id in command.course_ids]
        self._refuse([line for course in courses for line in self._already_in(command.student_id, course)])
        self._refuse(
            [line for course in courses for line in self._no_entry(command.student_id, course, command.waitlist)]
        )
        left = [self.courses[course_id] for course_id in command.drop_course_ids]
        for course in left:
            self._leave(command.student_id, course, command.reason)
        rows = [self._enter(command.student_id, course, command.reason) for course in courses]
        for course in left:
            self._promote(course)
        rows = [self._row_now(command.student_id, course) or row for course, row in zip(courses, rows, strict=True)]
        return rows, [course.counts for course in courses]

    def _unenroll(self, command: Unenroll) -> Any:
        self._refuse(self._no_student(command.student_id) + self._no_courses(command.course_id))
        course = self.courses[command.course_id]
        place = course.place(command.student_id)
        if place is None and command.allow_missing:
            return [(command.student_id, command.course_id, DROPPED, 0, None, None, 0, 0)], []
        subject = f"students/{command.student_id}/courses/{command.course_id}"
        if place is None:
            raise Refused([("NOT_ENROLLED", subject)])
        if command.etag not in ("", str(place.sequence)):
            raise Refused([("ETAG_MISMATCH", subject)])
        row = self._leave(command.student_id, course, command.reason)
        self._promote(course)
        return [row], [course.counts]

    def _swap(self, command: Swap) -> Any:
        broken = self._no_student(command.student_id) + self._not_in(command.student_id, command.from_course_id)
        self._refuse(broken + self._no_courses(command.to_course_id))
        source = self.courses[command.from_course_id]
        target = self.courses[command.to_course_id]
        if not command.waitlist or command.student_id not in [one.student_id for one in target.waiting]:
            self._refuse(self._already_in(command.student_id, target))
            self._refuse(self._no_entry(command.student_id, target, command.waitlist))
            if target.has_seat and not target.waiting:
                left = self._leave(command.student_id, source, command.reason or "swap")
                entered = self._sit(command.student_id, target, command.reason or "swap")
                self._promote(source)
                return [left, entered], [source.counts, target.counts]
        return self._wait_to_swap(command, source, target)

    def _wait_to_swap(self, command: Swap, source: ModelCourse, target: ModelCourse) -> Any:
        kept = source.place(command.student_id)
        place = target.place(command.student_id)
        assert kept is not None
        if place is None:
            place = Place(command.student_id, self.now, self.now, swap_from=source.course_id)
            target.waiting.append(place)
            place.starts(self._write_wait(target, place, NONE, command.reason))
        elif place.swap_from != source.course_id:
            place.swap_from = source.course_id
            place.sequence = self._write_wait(target, place, WAITLISTED, command.reason).sequence
        self._promote(target)
        row = self._row_now(command.student_id, target)
        assert row is not None
        if row[2] == WAITLISTED:
            return [row], [target.counts]
        line = [one for one in self.log[source.course_id] if one.student_id == command.student_id][-1]
        left = (command.student_id, source.course_id, DROPPED, 0, line.event_time, kept.began, line.sequence, 0)
        return [left, row], [source.counts, target.counts]

    def _write_wait(self, course: ModelCourse, place: Place, before: int, reason: str) -> LogLine:
        """An event of a waiter who keeps another course."""
        position = course.waiting.index(place) + 1
        line = self._write(course, place.student_id, before, WAITLISTED, position, reason)
        self.log[course.course_id][-1] = told = line._replace(swap_from_course_id=place.swap_from)
        return told

    def _row_now(self, student_id: int, course: ModelCourse) -> Row | None:
        return next((row for row in self.rows() if row[:2] == (student_id, course.course_id)), None)

    def _import(self, command: Import) -> Any:
        enrolled = waitlisted = already = 0
        rejected = []
        for index, (student_id, course_id) in enumerate(zip(command.student_ids, command.course_ids, strict=True)):
            broken = self._no_student(student_id) or self._no_courses(course_id)
            if not broken and self.courses[course_id].place(student_id):
                already += 1
                continue
            broken = broken or self._no_entry(student_id, self.courses[course_id], command.waitlist)
            if broken:
                rejected.append((index, broken[0][0]))
            elif self._enter(student_id, self.courses[course_id], command.reason or "import")[2] == ENROLLED:
                enrolled += 1
            else:
                waitlisted += 1
        return enrolled, waitlisted, already, rejected

    def _reconcile(self, command: Reconcile) -> Any:
        missing = [line for student_id in command.student_ids for line in self._no_student(student_id)]
        self._refuse(missing + self._no_courses(command.course_id))
        course = self.courses[command.course_id]
        wanted = sorted(command.student_ids)
        staying = [one.student_id for one in course.seated if one.student_id in wanted]
        waiters = sorted(one.student_id for one in course.waiting if one.student_id not in wanted)
        sitters = sorted(one.student_id for one in course.seated if one.student_id not in wanted)
        self._refuse(self._roster_broken(course, command, len(waiters) + len(sitters)))
        reason = command.reason or "reconcile"
        for student_id in waiters:
            self._leave(student_id, course, reason)
        left: list[ModelCourse] = []
        for student_id in sitters:
            self._leave(student_id, course, reason)
            left += self._fill(course)
        for student_id in wanted:
            if course.place(student_id) is None:
                self._sit(student_id, course, reason)
        self._promote(course, *left)
        added = [student_id for student_id in wanted if student_id not in staying]
        return added, sorted(waiters + sitters), len(staying)

    def _roster_broken(self, course: ModelCourse, command: Reconcile, removals: int) -> list[Broken]:
        subject = f"courses/{course.course_id}"
        broken = [("TOO_MANY_REMOVALS", subject)] if removals > command.max_removals else []
        new = [one for one in sorted(command.student_ids) if one not in [place.student_id for place in course.seated]]
        for reason in WAIVABLE:
            for student_id in new:
                gate = self._gate_broken(student_id, course)
                if course.place(student_id):  # the rest was met when they queued
                    gate = [line for line in self._window_broken(course) if line[0] == "ENROLLMENT_CLOSED"]
                if (reason, subject) in gate:
                    if reason != "PERMIT_REQUIRED":
                        broken.append((reason, subject))
                        break
                    broken.append((reason, f"students/{student_id}/{subject}"))
        capacity = course.rules["capacity"]
        if capacity is not None and len(command.student_ids) > capacity:
            broken.append(("COURSE_FULL", subject))
        return broken

    # --- waivers ------------------------------------------------------------------------------------------------

    def _grantwaivers(self, command: GrantWaivers) -> Any:
        missing = [line for student_id in command.student_ids for line in self._no_student(student_id)]
        self._refuse(missing + self._no_courses(command.course_id))
        course, answer = self.courses[command.course_id], []
        for student_id in command.student_ids:
            new = [
                reason
                for reason in command.reasons
                if course.waivers.get((student_id, reason), ("none",))[0] != command.expire_time
            ]
            if new:
                line = self._write_waiver(course, student_id, new, command.expire_time, False, command.reason)
                for reason in new:
                    course.waivers[student_id, reason] = (command.expire_time, line)
            answer += self._waivers_of(course, student_id, command.reasons)
        return answer

    def _revokewaivers(self, command: RevokeWaivers) -> Any:
        missing = [line for student_id in command.student_ids for line in self._no_student(student_id)]
        self._refuse(missing + self._no_courses(command.course_id))
        course, answer = self.courses[command.course_id], []
        for student_id in command.student_ids:
            answer += self._waivers_of(course, student_id, command.reasons or WAIVABLE)
            gone = [one for one in command.reasons or WAIVABLE if (student_id, one) in course.waivers]
            if gone:
                self._write_waiver(course, student_id, gone, None, True, command.reason)
            for reason in gone:
                del course.waivers[student_id, reason]
        return answer

    def _waivers_of(self, course: ModelCourse, student_id: int, reasons: Sequence[str]) -> list[Waived]:
        """Those that were granted together are one."""
        have = [
            (reason, course.waivers[student_id, reason]) for reason in reasons if (student_id, reason) in course.waivers
        ]
        found = []
        for number in sorted({line.sequence for _, (_, line) in have}):
            together = [(str(reason), until, line) for reason, (until, line) in have if line.sequence == number]
            _, until, line = together[0]
            names = tuple(reason for reason, _, _ in together)
            found.append((course.course_id, student_id, names, until, line.event_time))
        return found

    # --- courses and students -----------------------------------------------------------------------------------

    def _updatecourse(self, command: UpdateCourse) -> Any:
        course = self._course(command.course_id, command.etag)
        rules = course.rules | dict(command.changes)
        if (
            rules["enroll_open_time"] is not None
            and rules["enroll_close_time"] is not None
            and rules["enroll_open_time"] >= rules["enroll_close_time"]
        ):
            raise Refused([("INVALID_FIELD", "course.enroll_close_time")])
        if rules["capacity"] is not None and rules["capacity"] < len(course.seated):
            raise Refused([("CAPACITY_BELOW_ENROLLED", f"courses/{course.course_id}")])
        changed = tuple(name for name in WRITTEN_BY_CLIENTS if name in rules and rules[name] != course.rules[name])
        if changed:
            course.version += 1
            course.rules = rules
            self._write_of_course(course, UPDATED, changed, command.reason)
        self._promote(course)
        return course.version, course.counts

    def _deletecourse(self, command: DeleteCourse) -> Any:
        course = self._course(command.course_id, command.etag)
        if course.counts != (0, 0) and not command.force:
            raise Refused([("HAS_ENROLLMENTS", f"courses/{course.course_id}")])
        for places in (course.waiting, course.seated):
            for student_id in sorted(one.student_id for one in places):
                self._leave(student_id, course, command.reason or "course_deleted")
        self._write_of_course(course, DELETED, None, command.reason or "course_deleted")
        del self.courses[course.course_id]
        return ()

    def _updatestudent(self, command: UpdateStudent) -> Any:
        student = self._student(command.student_id, command.etag)
        changed = student | dict(command.changes)
        changed["version"] += changed != student
        self.students[command.student_id] = changed
        return changed["version"]

    def _deletestudent(self, command: DeleteStudent) -> Any:
        self._student(command.student_id, command.etag)
        courses = [self.courses[course_id] for course_id in sorted(self.courses)]
        waits = [one for one in courses if command.student_id in [place.student_id for place in one.waiting]]
        sits = [one for one in courses if command.student_id in [place.student_id for place in one.seated]]
        if waits + sits and not command.force:
            raise Refused([("HAS_ENROLLMENTS", f"students/{command.student_id}")])
        for course in waits + sits:
            self._leave(command.student_id, course, command.reason or "student_deleted")
        for course in waits + sits:
            self._promote(course)
        del self.students[command.student_id]
        for course in courses:
            course.waivers = {key: one for key, one in course.waivers.items() if key[0] != command.student_id}
        return ()

    def _course(self, course_id: int, etag: str) -> ModelCourse:
        self._refuse(self._no_courses(course_id))
        if etag not in ("", str(self.courses[course_id].version)):
            raise Refused([("ETAG_MISMATCH", f"courses/{course_id}")])
        return self.courses[course_id]

    def _student(self, student_id: int, etag: str) -> dict[str, Any]:
        self._refuse(self._no_student(student_id))
        if etag not in ("", str(self.students[student_id]["version"])):
            raise Refused([("ETAG_MISMATCH", f"students/{student_id}")])
        return self.students[student_id]

    # --- single rules -------------------------------------------------------------------------------------------

    def _refuse(self, broken: list[Broken]) -> None:
        if broken:
            raise Refused(broken)

    def _no_student(self, student_id: int) -> list[Broken]:
        return [] if student_id in self.students else [("STUDENT_NOT_FOUND", f"students/{student_id}")]

    def _no_courses(self, *course_ids: int) -> list[Broken]:
        return [("COURSE_NOT_FOUND", f"courses/{one}") for one in course_ids if one not in self.courses]

    def _not_in(self, student_id: int, course_id: int) -> list[Broken]:
        """What stands in the way of leaving a course; of a student who does not exist that is told once."""
        if course_id not in self.courses:
            return self._no_courses(course_id)
        if student_id not in self.students or self.courses[course_id].place(student_id):
            return []
        return [("NOT_ENROLLED", f"students/{student_id}/courses/{course_id}")]

    def _already_in(self, student_id: int, course: ModelCourse) -> list[Broken]:
        subject = f"courses/{course.course_id}"
        if student_id in [one.student_id for one in course.seated]:
            return [("ALREADY_ENROLLED", subject)]
        return [("ALREADY_WAITLISTED", subject)] if course.place(student_id) else []

    def _window_broken(self, course: ModelCourse) -> list[Broken]:
        subject, broken = f"courses/{course.course_id}", []
        if course.rules["enroll_open_time"] is not None and self.now < course.rules["enroll_open_time"]:
            broken.append(("ENROLLMENT_NOT_OPEN", subject))
        if course.rules["enroll_close_time"] is not None and self.now >= course.rules["enroll_close_time"]:
            broken.append(("ENROLLMENT_CLOSED", subject))
        return broken

    def _gate_broken(self, student_id: int, course: ModelCourse) -> list[Broken]:
        permit = [("PERMIT_REQUIRED", f"courses/{course.course_id}")] if course.rules["permit_required"] else []
        broken = []
        for line in permit + self._window_broken(course):
            until = course.waivers.get((student_id, line[0]), (self.now, None))[0]
            if until is not None and until <= self.now:
                broken.append(line)
        return broken

    def _no_entry(self, student_id: int, course: ModelCourse, waitlist: bool) -> list[Broken]:
        subject, broken = f"courses/{course.course_id}", self._gate_broken(student_id, course)
        if not course.has_seat or course.waiting:
            if not waitlist:
                broken.append(("COURSE_FULL", subject))
            elif len(course.waiting) >= course.rules["waitlist_capacity"]:
                broken.append(("WAITLIST_FULL", subject))
        return broken

    # --- what changes -------------------------------------------------------------------------------------------

    def _enter(self, student_id: int, course: ModelCourse, reason: str) -> Row:
        if course.has_seat and not course.waiting:
            return self._sit(student_id, course, reason)
        place = Place(student_id, self.now, self.now)
        course.waiting.append(place)
        place.starts(self._write(course, student_id, NONE, WAITLISTED, len(course.waiting), reason))
        return _row(place, course.course_id, WAITLISTED, len(course.waiting))

    def _sit(self, student_id: int, course: ModelCourse, reason: str) -> Row:
        place = Place(student_id, self.now, self.now)
        course.seated.append(place)
        place.starts(self._write(course, student_id, NONE, ENROLLED, 0, reason))
        return _row(place, course.course_id, ENROLLED, 0)

    def _leave(self, student_id: int, course: ModelCourse, reason: str) -> Row:
        place = course.place(student_id)
        assert place is not None
        was, places = (ENROLLED, course.seated) if place in course.seated else (WAITLISTED, course.waiting)
        places.remove(place)
        line = self._write(course, student_id, was, DROPPED, 0, reason)
        return student_id, course.course_id, DROPPED, 0, line.event_time, place.began, line.sequence, 0

    def _promote(self, *courses: ModelCourse) -> None:
        """Whoever can move moves, and so on with what this has set in motion."""
        pending = list(courses)
        while pending:
            course = pending.pop(0)
            pending += self._fill(course)
            circle = self._circle(course)
            places = [one.waiting[0] for one in circle]
            for place in places:
                self._leave(place.student_id, self.courses[place.swap_from], "trade")
            for one in circle:
                self._move_up(one, "trade")
            pending += circle

    def _fill(self, course: ModelCourse) -> list[ModelCourse]:
        """Seats for who is first; returns where they were until now."""
        left = []
        while course.waiting and course.has_seat and self._is_open(course):
            student_id, swap_from = course.waiting[0].student_id, course.waiting[0].swap_from
            self._move_up(course, "waitlist_promotion")
            source = self.courses.get(swap_from)
            if source is not None and source.place(student_id):
                self._leave(student_id, source, "swap")
                left.append(source)
        return left

    def _move_up(self, course: ModelCourse, reason: str) -> None:
        place = course.waiting.pop(0)
        course.seated.append(place)
        place.swap_from = 0
        line = self._write(course, place.student_id, WAITLISTED, ENROLLED, 0, reason)
        place.since, place.sequence = line.event_time, line.sequence

    def _is_open(self, course: ModelCourse) -> bool:
        closes = course.rules["enroll_close_time"]
        return closes is None or self.now < closes

    def _circle(self, course: ModelCourse) -> list[ModelCourse]:
        """From a course to the one where its first waiter sits, and on, if that leads back to it."""
        found = [course]
        while len(found) <= len(self.courses):
            last = found[-1]
            if not last.waiting or not self._is_open(last):
                return []
            first = last.waiting[0]
            source = self.courses.get(first.swap_from)
            if source is None or first.student_id not in [one.student_id for one in source.seated]:
                return []
            if source is course:
                return found
            found.append(source)
        return []

    def _write(
        self, course: ModelCourse, student_id: int, before: int, after: int, position: int, reason: str
    ) -> LogLine:
        return self._append(course, OF_ENROLLMENT, (student_id, before, after, position), None, reason)

    def _write_of_course(
        self, course: ModelCourse, kind: int, changed_fields: tuple[str, ...] | None, reason: str
    ) -> None:
        self._append(course, kind, (None, NONE, NONE, 0), changed_fields, reason)

    def _write_waiver(
        self,
        course: ModelCourse,
        student_id: int,
        reasons: Sequence[str],
        until: datetime | None,
        revoked: bool,
        reason: str,
    ) -> LogLine:
        line = self._append(course, OF_WAIVER, (student_id, NONE, NONE, 0), None, reason)
        told = line._replace(waived_reasons=tuple(map(str, reasons)), waiver_expire_time=until, waiver_revoked=revoked)
        self.log[course.course_id][-1] = told
        return told

    def _append(
        self,
        course: ModelCourse,
        kind: int,
        transition: tuple[int | None, int, int, int],
        changed_fields: tuple[str, ...] | None,
        reason: str,
    ) -> LogLine:
        """The course is already as it is after the event."""
        lines = self.log.setdefault(course.course_id, [])
        time = max([self.now] + [line.event_time for line in lines[-1:]])
        after = (*course.counts, course.rules["capacity"], changed_fields)
        line = LogLine(course.course_id, len(lines) + 1, kind, *transition, *after, time, reason)
        lines.append(line)
        return line


def _row(place: Place, course_id: int, state: int, position: int) -> Row:
    since, began = place.since, place.began
    return place.student_id, course_id, state, position, since, began, place.sequence, place.swap_from
