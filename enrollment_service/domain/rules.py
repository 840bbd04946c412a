"""The rules of enrollment, all of them and nowhere else: who gets a seat, who waits, who is refused and why.

`decide` is pure: it works on a state that was loaded for it and returns answers; the changes stand in the state
afterwards. Each rule checks in the contract's order (found, not there already, etag, preconditions), names every
violation of the first step that has any, and only then changes something. So a refusal never leaves a trace.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, cast

from enrollment_service.domain.commands import (
    Answer,
    Command,
    CreateCourse,
    CreateStudent,
    DeleteCourse,
    DeleteStudent,
    Done,
    Enroll,
    EnrollmentsAnswer,
    GrantWaivers,
    Import,
    ImportAnswer,
    ImportCourses,
    ImportStudents,
    Reconcile,
    ReconcileAnswer,
    RevokeWaivers,
    Swap,
    Unenroll,
    UpdateCourse,
    UpdateStudent,
    UpsertAnswer,
    WaiversAnswer,
)
from enrollment_service.domain.errors import (
    Reason,
    Refusal,
    Violation,
    course_not_found,
    course_taken,
    etag_mismatch,
    invalid_field,
    not_enrolled,
    not_found_by,
    student_not_found,
    student_taken,
)
from enrollment_service.domain.queries import ExplainQuery, Explanation
from enrollment_service.domain.records import (
    DROPPED,
    ENROLLED,
    NO_STATE,
    STATE_NAMES,
    WAITLISTED,
    WAIVABLE,
    CountedCourse,
    Course,
    Enrollment,
    EnrollmentView,
    NewCourse,
    NewStudent,
    Owners,
    ServiceReason,
    Student,
    Waiver,
)
from enrollment_service.domain.state import Cause, Seats, State

# How many courses may hang together by those who wait to swap.
MAX_TIES = 1_000
# Causes what nobody has asked for.
_NOBODY = Cause(None, "", "")


def decide(state: State, commands: Sequence[Command[Any]]) -> list[Answer | Refusal]:
    """The answer to each command, decided in order, each on what the ones before it left."""
    return [_outcome(state, command) for command in commands]


def _outcome(state: State, command: Command[Any]) -> Answer | Refusal:
    if command.validate_only:
        state = state.copy()
    try:
        _settle(state, command.locks)
        return _RULES[type(command)](state, command)
    except Refusal as refusal:
        return refusal


def _settle(state: State, course_ids: Sequence[int]) -> None:
    """Gives waiters the free seats that have become theirs because the clock was set back past a close time."""
    for course_id in course_ids:
        seats = state.seats.get(course_id)
        if seats is not None and seats.is_unsettled(state.now):
            state.promote(seats, _NOBODY)


# --- entering and leaving ---------------------------------------------------------------------------------------


def enroll(state: State, command: Enroll) -> EnrollmentsAnswer:
    """A student leaves some courses and enters others, or nothing changes.

    Nobody is promoted before everything else is done, so that the log of a course tells one story.
    """
    _refuse_if(_missing_in_plan(state, command.student_id, command.drop_course_ids, command.course_ids))
    courses = [state.seats[course_id] for course_id in command.course_ids]
    left = [state.seats[course_id] for course_id in command.drop_course_ids]
    _refuse_if([found for seats in courses for found in _already_in(state, command.student_id, seats)])
    _refuse_if([found for seats in courses for found in _no_entry(state, command.student_id, seats, command.waitlist)])
    cause = _cause(command)
    for seats in left:
        state.drop(state.enrollments[command.student_id, seats.course_id], seats, cause)
    entered = [(_enter(state, command.student_id, seats, cause), seats) for seats in courses]
    for seats in left:
        state.promote(seats, cause)
    if left:
        entered = [(_as_it_stands(state, enrollment, seats), seats) for enrollment, seats in entered]
    return EnrollmentsAnswer(tuple(EnrollmentView(enrollment, course=seats.counted) for enrollment, seats in entered))


def unenroll(state: State, command: Unenroll) -> EnrollmentsAnswer:
    """A student leaves a course or its waitlist; the first waiter takes the seat."""
    _refuse_if(_missing(state, command.student_id, command.locks))
    enrollment = state.enrollments.get((command.student_id, command.course_id))
    if enrollment is None:
        if command.allow_missing:
            return EnrollmentsAnswer((EnrollmentView(_never_enrolled(command)),))
        raise Refusal([not_enrolled(command.student_id, command.course_id)])
    if command.etag and command.etag != enrollment.etag:
        raise etag_mismatch(
            f"students/{command.student_id}/courses/{command.course_id}",
            "course_id",
            command.course_id,
            enrollment.etag,
        )
    seats = state.seats[command.course_id]
    cause = _cause(command)
    dropped = state.drop(enrollment, seats, cause)
    state.promote(seats, cause)
    return EnrollmentsAnswer((EnrollmentView(dropped, course=seats.counted),))


def swap(state: State, command: Swap) -> EnrollmentsAnswer:
    """A student leaves one course and takes a seat in another, or keeps the one and waits, or nothing changes."""
    _refuse_if(_missing_in_plan(state, command.student_id, (command.from_course_id,), (command.to_course_id,)))
    leaving = state.enrollments[command.student_id, command.from_course_id]
    source, target = state.seats[command.from_course_id], state.seats[command.to_course_id]
    waiting = state.enrollments.get((command.student_id, command.to_course_id))
    if command.waitlist and waiting is not None and waiting.state == WAITLISTED:
        _refuse_if(_chain_too_long(state, source, target))
    else:
        _refuse_if(_already_in(state, command.student_id, target))
        violations = _no_entry(state, command.student_id, target, command.waitlist)
        if command.waitlist and not _seat_is_free(target):
            violations += _chain_too_long(state, source, target)
        _refuse_if(violations)
        if _seat_is_free(target):
            cause = _cause(command, ServiceReason.SWAP)
            dropped = state.drop(leaving, source, cause)
            entered = state.seat(command.student_id, target, cause)
            state.promote(source, cause)
            return _swapped(dropped, source, entered, target)
        waiting = None
    return _wait_to_swap(state, command, leaving, waiting)


def _wait_to_swap(state: State, command: Swap, leaving: Enrollment, waiting: Enrollment | None) -> EnrollmentsAnswer:
    """A student keeps a course until another can be had; that may be now, where it closes a circle."""
    source, target = state.seats[command.from_course_id], state.seats[command.to_course_id]
    cause = _cause(command)
    if waiting is None:
        waiting = state.queue(command.student_id, target, cause, source.course_id)
    else:
        waiting = state.swap_from(waiting, target, source.course_id, cause)
    told = len(state.events)
    state.promote(target, cause)
    entered = state.enrollments[command.student_id, target.course_id]
    if entered.state == WAITLISTED:
        return EnrollmentsAnswer((EnrollmentView(_as_it_stands(state, waiting, target), course=target.counted),))
    left = next(
        event
        for event in state.events[told:]
        if (event.student_id, event.course_id) == (command.student_id, source.course_id)
    )
    dropped = Enrollment(
        command.student_id, source.course_id, DROPPED, 0, left.event_time, leaving.create_time, left.sequence
    )
    return _swapped(dropped, source, entered, target)


def _as_it_stands(state: State, enrollment: Enrollment, seats: Seats) -> Enrollment:
    """The enrollment after others have moved, which may have moved it too."""
    found = state.enrollments.get((enrollment.student_id, seats.course_id), enrollment)
    if found.state != WAITLISTED or not seats.queue_whole:
        return found
    return found._replace(waitlist_position=list(seats.queue).index(found.student_id) + 1)


def _swapped(dropped: Enrollment, source: Seats, entered: Enrollment, target: Seats) -> EnrollmentsAnswer:
    return EnrollmentsAnswer(
        (EnrollmentView(dropped, course=source.counted), EnrollmentView(entered, course=target.counted))
    )


def _chain_too_long(state: State, source: Seats, target: Seats) -> list[Violation]:
    """Promotions around a ticket move in one transaction, so only so many courses may hang on it."""
    tied = state.tied_to((source.course_id, target.course_id)) | state.upstream.get(target.course_id, frozenset())
    if len(tied) <= MAX_TIES:
        return []
    text = "Too many courses would hang on this swap; swap without waiting, or wait without swapping."
    return [_course_violation(Reason.SWAP_CHAIN_TOO_LONG, target, text, courses=len(tied), max_courses=MAX_TIES)]


def import_rows(state: State, command: Import) -> ImportAnswer:
    """Many students enter many courses, row by row; what a row is refused for is reported, not raised."""
    cause = _cause(command, ServiceReason.IMPORT)
    counts = {ENROLLED: 0, WAITLISTED: 0}
    already = 0
    rejected: list[tuple[int, Reason]] = []
    for index, pair in enumerate(command.pairs):
        student_id, course_id = pair
        seats = state.seats.get(course_id)
        if student_id in state.missing_students:
            rejected.append((index, Reason.STUDENT_NOT_FOUND))
        elif seats is None:
            rejected.append((index, Reason.COURSE_NOT_FOUND))
        elif pair in state.enrollments:
            already += 1
        elif violations := _no_entry(state, student_id, seats, command.waitlist):
            rejected.append((index, violations[0].reason))
        else:
            counts[_enter(state, student_id, seats, cause).state] += 1
    return ImportAnswer(counts[ENROLLED], counts[WAITLISTED], already, tuple(rejected))


def reconcile(state: State, command: Reconcile) -> ReconcileAnswer:
    """The enrolled students of a course become exactly the wanted ones, or nothing changes.

    Waiters who are not wanted leave first, so that every seat that becomes free goes to somebody wanted. Those who are
    wanted met the permit and the open time when they queued; from the close time on nobody gets a seat.
    """
    _refuse_if(_missing_of_roster(state, command))
    seats = state.seats[command.course]
    wanted = set(command.roster)
    present = state.enrollments_of(course_id=command.course)
    leaving = [enrollment for enrollment in present if enrollment.student_id not in wanted]
    staying = {enrollment.student_id for enrollment in present if enrollment.state == ENROLLED} & wanted
    _refuse_if(_brake(seats, len(leaving), command.max_removals) + _roster_room(state, seats, wanted, staying))
    cause = _cause(command, ServiceReason.RECONCILE)
    left: list[Seats] = []
    for enrollment in leaving:
        state.drop(enrollment, seats, cause)
        if enrollment.state == ENROLLED:
            left += state.fill(seats, cause)
    for student_id in sorted(wanted):
        if (student_id, seats.course_id) not in state.enrollments:
            state.seat(student_id, seats, cause)
    # What this sets in motion elsewhere comes once the roster is as it shall be.
    state.follow([seats, *left], cause)
    return ReconcileAnswer(
        added=tuple(sorted(wanted - staying)),
        removed=tuple(sorted(enrollment.student_id for enrollment in leaving)),
        unchanged_count=len(staying),
    )


# --- waivers ----------------------------------------------------------------------------------------------------


def grant_waivers(state: State, command: GrantWaivers) -> WaiversAnswer:
    """Refusals are lifted for students in a course, and these students need not be in it."""
    _refuse_if(_missing_students(state, command.student_ids) + _missing_courses(state, command.locks))
    seats, cause = state.seats[command.course_id], _cause(command)
    for student_id in command.student_ids:
        state.grant(student_id, seats, command.reasons, command.expire_time, cause)
    return WaiversAnswer(_waivers_of(state, command))


def revoke_waivers(state: State, command: RevokeWaivers) -> WaiversAnswer:
    """Refusals are lifted no more; who came in by a waiver stays."""
    _refuse_if(_missing_students(state, command.student_ids) + _missing_courses(state, command.locks))
    seats, cause = state.seats[command.course_id], _cause(command)
    revoked = _waivers_of(state, command)
    for student_id in command.student_ids:
        state.revoke(student_id, seats, command.reasons or WAIVABLE, cause)
    return WaiversAnswer(revoked)


def _waivers_of(state: State, command: GrantWaivers | RevokeWaivers) -> tuple[Waiver, ...]:
    """The waivers of the named reasons, student by student, each with those of its reasons that are named."""
    found: list[Waiver] = []
    for student_id in command.student_ids:
        of_event: dict[int, list[Reason]] = {}
        waivers = state.waivers.get((student_id, command.course_id), {})
        for reason in command.reasons or WAIVABLE:
            if reason in waivers:
                of_event.setdefault(waivers[reason].sequence, []).append(reason)
        for _, reasons in sorted(of_event.items()):
            found.append(waivers[reasons[0]]._replace(reasons=tuple(reasons)))
    return tuple(found)


# --- explaining -------------------------------------------------------------------------------------------------


def explain(state: State, query: ExplainQuery) -> list[Explanation]:
    """What `enroll` would answer for each course alone, with the violations of every step; changes nothing."""
    return [_explanation(state, query, course_id) for course_id in query.course_ids]


def _explanation(state: State, query: ExplainQuery, course_id: int) -> Explanation:
    found = _missing(state, query.student_id, (course_id,))
    seats = state.seats.get(course_id)
    if seats is None:
        return Explanation(course_id, NO_STATE, 0, found)
    if seats.is_unsettled(state.now):
        seats = seats.settled()
    found += _already_in(state, query.student_id, seats) + _no_entry(state, query.student_id, seats, query.waitlist)
    if found:
        return Explanation(course_id, NO_STATE, 0, found)
    if _seat_is_free(seats):
        return Explanation(course_id, ENROLLED, 0, found)
    return Explanation(course_id, WAITLISTED, seats.waitlisted_count + 1, found)


# --- courses and students ---------------------------------------------------------------------------------------


def create_course(state: State, command: CreateCourse) -> CountedCourse:
    """A course begins, unless another has one of its keys; whether one has, the insert has found out."""
    course = state.new_courses.get(command)
    if course is None:
        raise course_taken(state.owners.get(command, Owners()))
    return state.open_course(course, _cause(command)).counted


def update_course(state: State, command: UpdateCourse) -> CountedCourse:
    """Fields of a course change; seats that this frees or opens go to the waiters at once."""
    _refuse_if(_missing_courses(state, command.locks))
    seats = state.seats[command.course_id]
    _check_course_etag(seats, command.etag)
    wanted = seats.course._replace(**_seat_rules(seats))._replace(**command.changes)
    _refuse_if(_window_order(seats, wanted.enroll_open_time, wanted.enroll_close_time))
    _refuse_if(_capacity_below(seats, wanted.capacity))
    cause = _cause(command)
    if wanted != seats.course:
        state.change_course(seats, wanted._replace(version=wanted.version + 1, update_time=state.now), cause)
    state.promote(seats, cause)
    return seats.counted


def delete_course(state: State, command: DeleteCourse) -> Done:
    """A course goes; with force everybody in it is dropped, waiters first, and nobody is promoted."""
    _refuse_if(_missing_courses(state, command.locks))
    seats = state.seats[command.course_id]
    _check_course_etag(seats, command.etag)
    if not command.force:
        _refuse_if(_has_enrollments(f"courses/{command.course_id}", seats.enrolled_count, seats.waitlisted_count))
    cause = _cause(command, ServiceReason.COURSE_DELETED)
    for enrollment in state.enrollments_of(course_id=command.course_id):
        state.drop(enrollment, seats, cause)
    state.delete_course(seats, cause)
    return Done()


def create_student(state: State, command: CreateStudent) -> Student:
    """A student begins, unless another has one of their keys; whether one has, the insert has found out."""
    student = state.new_students.get(command)
    if student is None:
        raise student_taken(state.owners.get(command, Owners()))
    return student


def update_student(state: State, command: UpdateStudent) -> Student:
    """Fields of a student change."""
    student = _student(state, command.student_id, command.etag)
    wanted = student._replace(**command.changes)
    if wanted == student:
        return student
    wanted = wanted._replace(version=student.version + 1, update_time=state.now)
    state.change_student(wanted)
    return wanted


def delete_student(state: State, command: DeleteStudent) -> Done:
    """A student goes; with force all enrollments are dropped and the seats go to the waiters."""
    _student(state, command.student_id, command.etag)
    held = state.enrollments_of(student_id=command.student_id)
    if not command.force:
        waiting = sum(enrollment.state == WAITLISTED for enrollment in held)
        _refuse_if(_has_enrollments(f"students/{command.student_id}", len(held) - waiting, waiting))
    cause = _cause(command, ServiceReason.STUDENT_DELETED)
    courses = [state.seats[enrollment.course_id] for enrollment in held]
    for enrollment, seats in zip(held, courses, strict=True):
        state.drop(enrollment, seats, cause)
    for seats in courses:
        state.promote(seats, cause)
    state.delete_student(command.student_id)
    return Done()


def import_students(state: State, command: ImportStudents) -> UpsertAnswer:
    """Students begin or change by their external ids, row by row; what a row is refused for is reported."""
    work = state.upserts[command]
    names = command.fields or _imported(NewStudent)
    rows = _Rows()
    for index, row in enumerate(command.students):
        student_id = work.ids[index]
        if row is None:
            rows.reject(Reason.INVALID_FIELD)
        elif index in work.created:
            rows.add(student_id, "created")
        elif not student_id or ("email" in names and not work.may_take(index)):
            rows.reject(Reason.EMAIL_TAKEN)
        else:
            student = state.students[student_id]
            wanted = student._replace(**{name: getattr(row, name) for name in names})
            if wanted != student:
                if "email" in names:
                    work.take(index)
                state.change_student(wanted._replace(version=student.version + 1, update_time=state.now))
            rows.add(student_id, "unchanged" if wanted == student else "updated")
    return rows.answer


def import_courses(state: State, command: ImportCourses) -> UpsertAnswer:
    """Courses begin or change by their external ids, row by row; what a row is refused for is reported."""
    work = state.upserts[command]
    names = command.fields or _imported(NewCourse)
    cause = _cause(command, ServiceReason.IMPORT)
    rows = _Rows()
    for index, row in enumerate(command.courses):
        course_id = work.ids[index]
        if row is None:
            rows.reject(Reason.INVALID_FIELD)
        elif index in work.created:
            state.open_course(cast(Course, work.created[index]), cause)
            rows.add(course_id, "created")
        elif not course_id or ("code" in names and not work.may_take(index)):
            rows.reject(Reason.CODE_TAKEN)
        else:
            seats = state.seats[course_id]
            wanted = seats.course._replace(**_seat_rules(seats))._replace(
                **{name: getattr(row, name) for name in names}
            )
            refused = _window_order(seats, wanted.enroll_open_time, wanted.enroll_close_time)
            refused += _capacity_below(seats, wanted.capacity)
            if refused:
                rows.reject(refused[0].reason)
                continue
            rows.add(course_id, "unchanged" if wanted == seats.course else "updated")
            if wanted != seats.course:
                if "code" in names:
                    work.take(index)
                state.change_course(seats, wanted._replace(version=wanted.version + 1, update_time=state.now), cause)
                state.promote(seats, cause)
    return rows.answer


class _Rows:
    """What became of the rows of an import so far, in their order."""

    def __init__(self) -> None:
        self._ids: list[int] = []
        self._counts = {"created": 0, "updated": 0, "unchanged": 0}
        self._rejected: list[tuple[int, Reason]] = []

    def add(self, row_id: int, became: str) -> None:
        self._ids.append(row_id)
        self._counts[became] += 1

    def reject(self, reason: Reason) -> None:
        self._rejected.append((len(self._ids), reason))
        self._ids.append(0)

    @property
    def answer(self) -> UpsertAnswer:
        return UpsertAnswer(tuple(self._ids), **self._counts, rejected=tuple(self._rejected))


def _imported(kind: type[NewStudent | NewCourse]) -> tuple[str, ...]:
    """What a row may change of what is there: everything but the key that it is found by."""
    return tuple(name for name in kind._fields if name != "external_id")


_RULES: dict[type[Command[Any]], Callable[[State, Any], Answer]] = {
    Enroll: enroll,
    Unenroll: unenroll,
    Swap: swap,
    Import: import_rows,
    ImportStudents: import_students,
    ImportCourses: import_courses,
    Reconcile: reconcile,
    GrantWaivers: grant_waivers,
    RevokeWaivers: revoke_waivers,
    CreateCourse: create_course,
    UpdateCourse: update_course,
    DeleteCourse: delete_course,
    CreateStudent: create_student,
    UpdateStudent: update_student,
    DeleteStudent: delete_student,
}


# --- single rules -----------------------------------------------------------------------------------------------


def _no_entry(state: State, student_id: int, seats: Seats, waitlist: bool) -> list[Violation]:
    """Why a newcomer cannot enter a course now. Empty: there is a place."""
    return _gate(state, student_id, seats) + _no_place(seats, waitlist)


def _gate(state: State, student_id: int, seats: Seats) -> list[Violation]:
    """Why a newcomer cannot enter a course now, whatever seats there are: the permit, then the window."""
    if not seats.is_gated(state.now):
        return []
    violations = _window(seats, state.now)
    if seats.permit_required:
        violations.insert(0, _permit_required(student_id, seats))
    waived = state.waived(student_id, seats)
    return [violation for violation in violations if violation.reason not in waived]


def _permit_required(student_id: int, seats: Seats) -> Violation:
    text = "Only students with a permit may enter the course."
    return _course_violation(Reason.PERMIT_REQUIRED, seats, text, student_id=student_id)


def _window(seats: Seats, now: datetime) -> list[Violation]:
    violations: list[Violation] = []
    if seats.enroll_open_time is not None and now < seats.enroll_open_time:
        violations.append(
            _course_violation(
                Reason.ENROLLMENT_NOT_OPEN,
                seats,
                "Enrollment has not opened yet.",
                enroll_open_time=_timestamp(seats.enroll_open_time),
            )
        )
    if seats.enroll_close_time is not None and now >= seats.enroll_close_time:
        violations.append(
            _course_violation(
                Reason.ENROLLMENT_CLOSED,
                seats,
                "Enrollment has closed.",
                enroll_close_time=_timestamp(seats.enroll_close_time),
            )
        )
    return violations


def _no_place(seats: Seats, waitlist: bool) -> list[Violation]:
    """Why there is neither a seat nor, where that is enough, a place in line."""
    violations: list[Violation] = []
    if not _seat_is_free(seats):
        if not waitlist:
            violations.append(_course_full(seats))
        elif seats.waitlisted_count >= seats.waitlist_capacity:
            violations.append(
                _course_violation(
                    Reason.WAITLIST_FULL,
                    seats,
                    "The course and its waitlist are full.",
                    enrolled=seats.enrolled_count,
                    capacity=seats.capacity,
                    waitlisted=seats.waitlisted_count,
                    waitlist_capacity=seats.waitlist_capacity,
                )
            )
    return violations


def _seat_is_free(seats: Seats) -> bool:
    """A free seat is a newcomer's only if nobody waits for it."""
    return seats.waitlisted_count == 0 and seats.has_room


def _enter(state: State, student_id: int, seats: Seats, cause: Cause) -> Enrollment:
    return (state.seat if _seat_is_free(seats) else state.queue)(student_id, seats, cause)


def _course_full(seats: Seats) -> Violation:
    return _course_violation(
        Reason.COURSE_FULL,
        seats,
        "The course is full.",
        enrolled=seats.enrolled_count,
        capacity="unlimited" if seats.capacity is None else seats.capacity,
        **({"waitlisted": seats.waitlisted_count} if seats.waitlisted_count else {}),
    )


def _already_in(state: State, student_id: int, seats: Seats) -> list[Violation]:
    enrollment = state.enrollments.get((student_id, seats.course_id))
    if enrollment is None:
        return []
    if enrollment.state == ENROLLED:
        reason, text = Reason.ALREADY_ENROLLED, "The student is already enrolled in the course."
    else:
        reason, text = Reason.ALREADY_WAITLISTED, "The student already waits for the course."
    return [
        _course_violation(
            reason, seats, text, student_id=student_id, state=STATE_NAMES[enrollment.state], etag=enrollment.etag
        )
    ]


def _missing(state: State, student_id: int, course_ids: Sequence[int]) -> list[Violation]:
    return _missing_students(state, (student_id,)) + _missing_courses(state, course_ids)


def _missing_in_plan(
    state: State, student_id: int, to_leave: Sequence[int], to_enter: Sequence[int]
) -> list[Violation]:
    """What is left is decided first, so it is named first."""
    missing = _missing_students(state, (student_id,))
    is_known = not missing
    for course_id in to_leave:
        if course_id not in state.seats:
            missing.append(course_not_found(course_id))
        elif is_known and (student_id, course_id) not in state.enrollments:
            missing.append(not_enrolled(student_id, course_id))
    return missing + _missing_courses(state, to_enter)


def _missing_of_roster(state: State, command: Reconcile) -> list[Violation]:
    missing = [index for index, student_id in enumerate(command.roster) if student_id in state.missing_students]
    if command.course_external_id:
        students = [not_found_by("student", f"student_external_ids[{index}]") for index in missing]
        course = not_found_by("course", "course_external_id")
    else:
        students = [student_not_found(command.student_ids[index]) for index in missing]
        course = course_not_found(command.course_id)
    return students + ([] if command.course in state.seats else [course])


def _missing_students(state: State, student_ids: Sequence[int]) -> list[Violation]:
    return [student_not_found(student_id) for student_id in student_ids if student_id in state.missing_students]


def _missing_courses(state: State, course_ids: Sequence[int]) -> list[Violation]:
    return [course_not_found(course_id) for course_id in course_ids if course_id not in state.seats]


def _student(state: State, student_id: int, etag: str) -> Student:
    student = state.students.get(student_id)
    if student is None:
        raise Refusal([student_not_found(student_id)])
    if etag and etag != student.etag:
        raise etag_mismatch(f"students/{student_id}", "student_id", student_id, student.etag)
    return student


def _check_course_etag(seats: Seats, etag: str) -> None:
    if etag and etag != seats.course.etag:
        raise etag_mismatch(f"courses/{seats.course_id}", "course_id", seats.course_id, seats.course.etag)


def _seat_rules(seats: Seats) -> dict[str, Any]:
    """The locked row decides, not the details that were read or remembered with it."""
    return {
        "capacity": seats.capacity,
        "waitlist_capacity": seats.waitlist_capacity,
        "enroll_open_time": seats.enroll_open_time,
        "enroll_close_time": seats.enroll_close_time,
        "permit_required": seats.permit_required,
    }


def _window_order(seats: Seats, opens: datetime | None, closes: datetime | None) -> list[Violation]:
    """A window that a course has is left alone, whatever it is like: other fields can still be edited."""
    if (opens, closes) == (seats.enroll_open_time, seats.enroll_close_time):
        return []
    if opens is None or closes is None or opens < closes:
        return []
    return [invalid_field("course.enroll_close_time", "must be after enroll_open_time")]


def _capacity_below(seats: Seats, capacity: int | None) -> list[Violation]:
    if capacity is None or capacity >= seats.enrolled_count:
        return []
    return [
        _course_violation(
            Reason.CAPACITY_BELOW_ENROLLED,
            seats,
            "More students are enrolled than the new capacity allows.",
            enrolled=seats.enrolled_count,
            capacity=capacity,
        )
    ]


def _has_enrollments(subject: str, enrolled: int, waiting: int) -> list[Violation]:
    if not enrolled + waiting:
        return []
    kind, _, identifier = subject.partition("/")
    observed = {f"{kind[:-1]}_id": identifier, "enrolled": str(enrolled), "waitlisted": str(waiting)}
    text = "There are enrolled or waiting students; remove them, or delete with force."
    if kind == "students":
        text = "The student is enrolled or waits somewhere; unenroll first, or delete with force."
    return [Violation(Reason.HAS_ENROLLMENTS, subject, text, observed)]


def _brake(seats: Seats, removals: int, most: int) -> list[Violation]:
    if removals <= most:
        return []
    return [
        _course_violation(
            Reason.TOO_MANY_REMOVALS,
            seats,
            "The wanted roster would remove more students than allowed.",
            removals=removals,
            max_removals=most,
        )
    ]


def _roster_room(state: State, seats: Seats, wanted: set[int], staying: set[int]) -> list[Violation]:
    """Whether everybody wanted may come in, and can have a seat once everybody else has left."""
    window = _roster_gate(state, seats, sorted(wanted - staying))
    if seats.capacity is not None and len(wanted) > seats.capacity:
        window.append(
            _course_violation(
                Reason.COURSE_FULL,
                seats,
                "The wanted roster has more students than the course has seats.",
                wanted=len(wanted),
                enrolled=seats.enrolled_count,
                capacity=seats.capacity,
            )
        )
    return window


def _roster_gate(state: State, seats: Seats, student_ids: Sequence[int]) -> list[Violation]:
    """What keeps any of the students out: the window once, a missing permit of everyone.

    Of those who wait it is only the close time, which no waiver lifts: after it nobody is promoted.
    """
    found: dict[tuple[Reason, str], Violation] = {}
    closed = [one for one in _window(seats, state.now) if one.reason is Reason.ENROLLMENT_CLOSED]
    for student_id in student_ids:
        is_new = (student_id, seats.course_id) not in state.enrollments
        for violation in _gate(state, student_id, seats) if is_new else closed:
            subject = violation.subject
            if violation.reason is Reason.PERMIT_REQUIRED:
                subject = f"students/{student_id}/{subject}"
            found.setdefault((violation.reason, subject), replace(violation, subject=subject))
    return sorted(found.values(), key=lambda violation: WAIVABLE.index(violation.reason))


def _course_violation(reason: Reason, seats: Seats, text: str, **observed: object) -> Violation:
    shown = {"course_id": str(seats.course_id)} | {key: str(value) for key, value in observed.items()}
    return Violation(reason, f"courses/{seats.course_id}", text, shown)


def _never_enrolled(command: Unenroll) -> Enrollment:
    return Enrollment(command.student_id, command.course_id, DROPPED, 0, None, None, 0)


def _cause(command: Command[Any], otherwise: str = "") -> Cause:
    return Cause(command.request_id, command.caller.subject, command.reason or otherwise)


def _timestamp(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def _refuse_if(violations: Sequence[Violation]) -> None:
    if violations:
        raise Refusal(violations)
