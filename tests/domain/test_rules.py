"""The rules of enrollment one by one: each row of the contract's table of states, and the order of checks.

Random histories stand in `test_rules_histories.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import astuple
from datetime import datetime
from typing import Any
from uuid import UUID

import pytest

from enrollment_service.domain.caller import Caller
from enrollment_service.domain.commands import (
    Answer,
    Command,
    DeleteCourse,
    DeleteStudent,
    Enroll,
    EnrollmentsAnswer,
    Import,
    ImportAnswer,
    Reconcile,
    ReconcileAnswer,
    Swap,
    Unenroll,
    UpdateCourse,
    UpdateStudent,
)
from enrollment_service.domain.errors import Reason, Refusal
from enrollment_service.domain.records import (
    COURSE_CREATED,
    COURSE_DELETED,
    COURSE_UPDATED,
    DROPPED,
    ENROLLED,
    NO_STATE,
    OF_ENROLLMENT,
    WAITLISTED,
    Event,
)
from enrollment_service.domain.rules import decide
from tests.support.histories import hour
from tests.support.memory import Memory

ANN, BO, CY, DI, EM, FAY = range(1, 7)
ART, BIOLOGY, CHEMISTRY = range(11, 14)
NOBODY, NOTHING = 98, 99

Broken = tuple[Reason, str, Mapping[str, str]]


class School:
    """Six students and three courses in memory, at a time that the test moves."""

    def __init__(self, **art: Any) -> None:
        self.now = hour(0)
        self.memory = Memory()
        for student_id in (ANN, BO, CY, DI, EM, FAY):
            self.memory.create_student(student_id, self.now)
        self.course(ART, **art)
        self.course(BIOLOGY)
        self.course(CHEMISTRY)

    def course(self, course_id: int, **rules: Any) -> None:
        unlimited = {"capacity": None, "waitlist_capacity": 0, "enroll_open_time": None, "enroll_close_time": None}
        self.memory.create_course(course_id, self.now, **unlimited | rules)

    def run(self, *commands: Command[Any]) -> list[Answer | Refusal]:
        return self.memory.run(commands, self.now)

    def do(self, command: Command[Any]) -> Any:
        """The answer to a command, which must not be refused."""
        (answer,) = self.run(command)
        assert not isinstance(answer, Refusal), answer.violations
        return answer

    def refused(self, command: Command[Any]) -> list[Broken]:
        """Every violation of a command, which must be refused and leave no trace."""
        before = deepcopy(self.memory)
        (answer,) = self.run(command)
        assert isinstance(answer, Refusal), answer
        assert self.memory == before
        return [(one.reason, one.subject, one.observed) for one in answer.violations]

    def enter(self, *student_ids: int, course_id: int = ART) -> list[int]:
        """The states in which students get into a course, or onto its waitlist, one after the other."""
        entered = [
            self.do(Enroll(student_id=one, course_ids=(course_id,), waitlist=True)).enrollments[0].enrollment
            for one in student_ids
        ]
        return [one.state for one in entered]

    def seated(self, course_id: int = ART) -> list[int]:
        rows = self.memory.enrollments.values()
        return sorted(one.student_id for one in rows if (one.course_id, one.state) == (course_id, ENROLLED))

    def queue(self, course_id: int = ART) -> list[int]:
        return [one.student_id for one in self.memory.waiters(course_id)]

    def log(self, course_id: int = ART) -> list[Event]:
        """The events of a course."""
        return [event for (course, _), event in sorted(self.memory.events.items()) if course == course_id]

    def events(self, since: int = 0, course_id: int = ART) -> list[tuple[int, int, int]]:
        """Student, state before and after of each transition in a course, without the first ones."""
        transitions = [one for one in self.log(course_id) if one.student_id is not None]
        return [(one.student_id or 0, one.previous_state, one.state) for one in transitions[since:]]


def reasons(refusals: list[Broken]) -> list[tuple[str, str]]:
    return [(reason.value, subject) for reason, subject, _ in refusals]


@pytest.fixture
def full() -> School:
    """Ann sits in the one seat of Art, Bo and Cy wait, in this order."""
    school = School(capacity=1, waitlist_capacity=2)
    assert school.enter(ANN, BO, CY) == [ENROLLED, WAITLISTED, WAITLISTED]
    return school


# --- none -> ENROLLED ---------------------------------------------------------------------------------------------


def test_enroll_takes_a_free_seat() -> None:
    school = School(capacity=2)
    answer = school.do(Enroll(student_id=ANN, course_ids=(ART,)))
    ((enrollment, _, course),) = answer.enrollments
    assert (enrollment.state, enrollment.waitlist_position, enrollment.etag) == (ENROLLED, 0, "2")
    assert (enrollment.enroll_time, enrollment.create_time) == (school.now, school.now)
    assert (course.enrolled_count, course.waitlisted_count) == (1, 0)
    assert school.events() == [(ANN, NO_STATE, ENROLLED)]


def test_import_takes_free_seats_and_reports_the_others() -> None:
    school = School(capacity=1)
    answer = school.do(Import(student_ids=(ANN, BO, ANN, NOBODY, CY), course_ids=(ART, ART, ART, ART, NOTHING)))
    expected = ((1, Reason.COURSE_FULL), (3, Reason.STUDENT_NOT_FOUND), (4, Reason.COURSE_NOT_FOUND))
    assert answer == ImportAnswer(1, 0, 1, expected)


def test_reconcile_seats_who_is_missing() -> None:
    school = School(capacity=2)
    school.enter(ANN)
    answer = school.do(Reconcile(course_id=ART, student_ids=(BO, ANN)))
    assert answer == ReconcileAnswer((BO,), (), 1)
    assert school.seated() == [ANN, BO]


def test_swap_takes_a_free_seat(full: School) -> None:
    answer = full.do(Swap(student_id=ANN, from_course_id=ART, to_course_id=BIOLOGY))
    assert [(place.course_id, place.state) for place, *_ in answer.enrollments] == [(ART, DROPPED), (BIOLOGY, ENROLLED)]
    assert (full.seated(), full.queue()) == ([BO], [CY])


@pytest.mark.parametrize("free", [0, 1])
def test_a_newcomer_never_passes_a_waiter(full: School, free: int) -> None:
    """Not even where seats are free, as they are after the close time."""
    full.do(UpdateCourse(course_id=ART, changes={"enroll_close_time": hour(0), "capacity": 1 + free}))
    enroll = Enroll(student_id=DI, course_ids=(ART,))
    assert reasons(full.refused(enroll)) == [("ENROLLMENT_CLOSED", "courses/11"), ("COURSE_FULL", "courses/11")]


# --- none -> WAITLISTED -------------------------------------------------------------------------------------------


def test_waiters_get_positions_and_no_more_than_there_is_room_for(full: School) -> None:
    assert full.queue() == [BO, CY]
    full.do(UpdateCourse(course_id=ART, changes={"waitlist_capacity": 3}))
    answer = full.do(Enroll(student_id=DI, course_ids=(ART,), waitlist=True))
    ((enrollment, _, course),) = answer.enrollments
    assert (enrollment.state, enrollment.waitlist_position) == (WAITLISTED, 3)
    assert (course.enrolled_count, course.waitlisted_count) == (1, 3)
    full_both = {"enrolled": "1", "capacity": "1", "waitlisted": "3", "waitlist_capacity": "3", "course_id": "11"}
    refusal = full.refused(Enroll(student_id=EM, course_ids=(ART,), waitlist=True))
    assert refusal == [(Reason.WAITLIST_FULL, "courses/11", full_both)]


def test_import_waits_where_asked_to(full: School) -> None:
    full.do(UpdateCourse(course_id=ART, changes={"waitlist_capacity": 3}))
    answer = full.do(Import(student_ids=(DI, EM, BO), course_ids=(ART, ART, ART), waitlist=True))
    assert answer == ImportAnswer(0, 1, 1, ((1, Reason.WAITLIST_FULL),))
    assert full.queue() == [BO, CY, DI]


def test_full_without_a_waitlist_is_waitlist_full_only_for_who_would_wait() -> None:
    school = School(capacity=0, waitlist_capacity=0)
    assert school.refused(Enroll(student_id=ANN, course_ids=(ART,), waitlist=True))[0][0] is Reason.WAITLIST_FULL
    observed = {"course_id": "11", "enrolled": "0", "capacity": "0"}
    assert school.refused(Enroll(student_id=ANN, course_ids=(ART,))) == [(Reason.COURSE_FULL, "courses/11", observed)]


def test_fewer_may_wait_than_do(full: School) -> None:
    full.do(UpdateCourse(course_id=ART, changes={"waitlist_capacity": 0}))
    assert full.queue() == [BO, CY]


# --- WAITLISTED -> ENROLLED ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "seated", "queue"),
    [
        (Unenroll(student_id=ANN, course_id=ART), [BO], [CY]),
        (Swap(student_id=ANN, from_course_id=ART, to_course_id=BIOLOGY), [BO], [CY]),
        (DeleteStudent(student_id=ANN, force=True), [BO], [CY]),
        (UpdateCourse(course_id=ART, changes={"capacity": 2}), [ANN, BO], [CY]),
        (UpdateCourse(course_id=ART, changes={"capacity": 9}), [ANN, BO, CY], []),
        (UpdateCourse(course_id=ART, changes={"capacity": None}), [ANN, BO, CY], []),
        (Reconcile(course_id=ART, student_ids=(CY,), max_removals=2), [CY], []),
    ],
)
def test_a_freed_seat_goes_to_the_first_waiter_at_once(
    full: School, command: Command[Any], seated: list[int], queue: list[int]
) -> None:
    full.do(command)
    assert (full.seated(), full.queue()) == (seated, queue)
    promoted = [event for event in full.events(3) if event[1:] == (WAITLISTED, ENROLLED)]
    assert len(promoted) == 2 - len(queue) - (BO not in seated)


def test_a_promotion_names_its_cause() -> None:
    school = School(capacity=1, waitlist_capacity=1)
    school.enter(ANN, BO)
    request_id = UUID(int=7)
    school.do(
        Unenroll(student_id=ANN, course_id=ART, request_id=request_id, caller=Caller("registrar"), reason="moved")
    )
    dropped, promoted = school.log()[-2:]
    assert (dropped.request_id, dropped.actor, dropped.reason) == (request_id, "registrar", "moved")
    assert (promoted.request_id, promoted.actor, promoted.reason) == (request_id, "registrar", "waitlist_promotion")


def test_a_promotion_begins_a_state_not_an_enrollment(full: School) -> None:
    began, full.now = full.now, hour(1)
    full.do(Unenroll(student_id=ANN, course_id=ART))
    promoted = full.memory.enrollments[BO, ART]
    assert (promoted.create_time, promoted.enroll_time, promoted.sequence) == (began, hour(1), 6)


@pytest.mark.parametrize(
    ("closes", "seated", "queue"),
    [(hour(0), [], [BO, CY]), (hour(1), [BO], [CY]), (None, [BO], [CY])],
)
def test_nobody_is_promoted_once_closed(
    full: School, closes: datetime | None, seated: list[int], queue: list[int]
) -> None:
    full.do(UpdateCourse(course_id=ART, changes={"enroll_close_time": closes}))
    full.do(Unenroll(student_id=ANN, course_id=ART))
    assert (full.seated(), full.queue()) == (seated, queue)


@pytest.mark.parametrize("closes", [hour(5), None])
def test_a_moved_close_time_promotes(full: School, closes: datetime | None) -> None:
    full.do(UpdateCourse(course_id=ART, changes={"enroll_close_time": hour(1), "capacity": 1}))
    full.now = hour(2)
    full.do(Unenroll(student_id=ANN, course_id=ART))
    answer = full.do(UpdateCourse(course_id=ART, changes={"enroll_close_time": closes}))
    assert (full.seated(), full.queue()) == ([BO], [CY])
    assert (answer.enrolled_count, answer.waitlisted_count) == (1, 1)


def test_the_open_time_does_not_hold_up_promotion(full: School) -> None:
    full.do(UpdateCourse(course_id=ART, changes={"enroll_open_time": hour(9)}))
    full.do(Unenroll(student_id=ANN, course_id=ART))
    assert full.seated() == [BO]


def test_promotion_comes_before_the_next_command_of_the_batch(full: School) -> None:
    answers = full.run(Unenroll(student_id=ANN, course_id=ART), Enroll(student_id=DI, course_ids=(ART,)))
    assert isinstance(answers[1], Refusal)
    assert full.seated() == [BO]


# --- -> DROPPED ---------------------------------------------------------------------------------------------------


def test_unenroll_ends_a_seat_or_a_wait(full: School) -> None:
    ((waiter, *_),) = full.do(Unenroll(student_id=CY, course_id=ART)).enrollments
    ((sitter, *_),) = full.do(Unenroll(student_id=ANN, course_id=ART)).enrollments
    assert (waiter.state, sitter.state) == (DROPPED, DROPPED)
    assert full.events(3) == [(CY, WAITLISTED, DROPPED), (ANN, ENROLLED, DROPPED), (BO, WAITLISTED, ENROLLED)]


def test_a_waiter_may_swap(full: School) -> None:
    full.do(Swap(student_id=BO, from_course_id=ART, to_course_id=BIOLOGY))
    assert (full.queue(), full.seated(BIOLOGY)) == ([CY], [BO])


def test_reconcile_removes_waiters_first(full: School) -> None:
    answer = full.do(Reconcile(course_id=ART, student_ids=(DI,), max_removals=3))
    assert answer == ReconcileAnswer((DI,), (ANN, BO, CY), 0)
    dropped = [(BO, WAITLISTED, DROPPED), (CY, WAITLISTED, DROPPED), (ANN, ENROLLED, DROPPED)]
    assert full.events(3) == [*dropped, (DI, NO_STATE, ENROLLED)]


def test_a_deleted_course_drops_waiters_first_and_promotes_nobody(full: School) -> None:
    full.do(DeleteCourse(course_id=ART, force=True))
    assert full.events(3) == [(BO, WAITLISTED, DROPPED), (CY, WAITLISTED, DROPPED), (ANN, ENROLLED, DROPPED)]
    assert full.memory.enrollments == {}


def test_a_deleted_student_leaves_every_course(full: School) -> None:
    full.enter(BO, course_id=BIOLOGY)
    full.do(DeleteStudent(student_id=BO, force=True))
    assert (full.queue(), full.seated(BIOLOGY)) == ([CY], [])


def test_leaving_obeys_no_window(full: School) -> None:
    full.do(UpdateCourse(course_id=ART, changes={"enroll_close_time": hour(0)}))
    full.do(Unenroll(student_id=ANN, course_id=ART))
    full.do(Reconcile(course_id=ART, student_ids=(), max_removals=2))
    assert (full.seated(), full.queue()) == ([], [])


# --- DROPPED -> gone ----------------------------------------------------------------------------------------------


def test_who_rejoins_is_last(full: School) -> None:
    full.do(Unenroll(student_id=BO, course_id=ART))
    assert full.enter(BO) == [WAITLISTED]
    assert full.queue() == [CY, BO]
    assert full.events(3) == [(BO, WAITLISTED, DROPPED), (BO, NO_STATE, WAITLISTED)]


def test_drop_and_return_in_one_batch_is_one_net_change(full: School) -> None:
    full.run(
        Unenroll(student_id=ANN, course_id=ART),
        Enroll(student_id=ANN, course_ids=(ART,), waitlist=True),
        Unenroll(student_id=BO, course_id=ART),
    )
    assert (full.seated(), full.queue()) == ([CY], [ANN])
    assert len(full.events(3)) == 5


# --- the order of checks ------------------------------------------------------------------------------------------


@pytest.fixture
def strict(full: School) -> School:
    """Beside the full course: one that is closed and full, and one that is not open."""
    full.course(14, capacity=0, enroll_close_time=hour(0))
    full.course(15, enroll_open_time=hour(1))
    full.do(Enroll(student_id=DI, course_ids=(BIOLOGY,)))
    full.do(Unenroll(student_id=CY, course_id=ART))
    full.do(Enroll(student_id=DI, course_ids=(ART,), waitlist=True))
    return full


def test_everything_missing_is_named_student_first(strict: School) -> None:
    enroll = Enroll(student_id=NOBODY, course_ids=(NOTHING, 14, ART, 97))
    expected = [
        ("STUDENT_NOT_FOUND", "students/98"),
        ("COURSE_NOT_FOUND", "courses/99"),
        ("COURSE_NOT_FOUND", "courses/97"),
    ]
    assert reasons(strict.refused(enroll)) == expected


def test_being_there_comes_before_preconditions(strict: School) -> None:
    refusals = strict.refused(Enroll(student_id=DI, course_ids=(14, ART, BIOLOGY, 15)))
    assert reasons(refusals) == [("ALREADY_WAITLISTED", "courses/11"), ("ALREADY_ENROLLED", "courses/12")]
    assert refusals[0][2] == {"course_id": "11", "student_id": "4", "state": "WAITLISTED", "etag": "6"}
    assert refusals[1][2] == {"course_id": "12", "student_id": "4", "state": "ENROLLED", "etag": "2"}


def test_all_preconditions_are_named_in_request_order_window_before_seats(strict: School) -> None:
    refusals = strict.refused(Enroll(student_id=EM, course_ids=(15, ART, 14)))
    opens, closed = {"enroll_open_time": "2026-09-01T09:00:00Z"}, {"enroll_close_time": "2026-09-01T08:00:00Z"}
    assert refusals == [
        (Reason.ENROLLMENT_NOT_OPEN, "courses/15", {"course_id": "15", **opens}),
        (Reason.COURSE_FULL, "courses/11", {"course_id": "11", "enrolled": "1", "capacity": "1", "waitlisted": "2"}),
        (Reason.ENROLLMENT_CLOSED, "courses/14", {"course_id": "14", **closed}),
        (Reason.COURSE_FULL, "courses/14", {"course_id": "14", "enrolled": "0", "capacity": "0"}),
    ]


def test_one_refused_course_keeps_the_student_out_of_all(strict: School) -> None:
    strict.refused(Enroll(student_id=EM, course_ids=(BIOLOGY, CHEMISTRY, ART)))
    assert EM not in strict.seated(BIOLOGY)


@pytest.mark.parametrize(
    ("student", "leave", "enter", "expected"),
    [
        (NOBODY, NOTHING, 97, ["STUDENT_NOT_FOUND", "COURSE_NOT_FOUND", "COURSE_NOT_FOUND"]),
        (EM, ART, NOTHING, ["NOT_ENROLLED", "COURSE_NOT_FOUND"]),
        (EM, ART, 14, ["NOT_ENROLLED"]),
        (ANN, NOTHING, 14, ["COURSE_NOT_FOUND"]),
        (DI, ART, BIOLOGY, ["ALREADY_ENROLLED"]),
        (DI, BIOLOGY, ART, ["ALREADY_WAITLISTED"]),
        (ANN, ART, 14, ["ENROLLMENT_CLOSED", "COURSE_FULL"]),
        (ANN, ART, 15, ["ENROLLMENT_NOT_OPEN"]),
    ],
)
def test_a_refused_swap_keeps_the_seat(
    strict: School, student: int, leave: int, enter: int, expected: list[str]
) -> None:
    refusals = strict.refused(Swap(student_id=student, from_course_id=leave, to_course_id=enter))
    assert [reason for reason, _ in reasons(refusals)] == expected


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (
            Unenroll(student_id=NOBODY, course_id=NOTHING, allow_missing=True, etag="0"),
            [("STUDENT_NOT_FOUND", "students/98"), ("COURSE_NOT_FOUND", "courses/99")],
        ),
        (Unenroll(student_id=EM, course_id=ART, etag="0"), [("NOT_ENROLLED", "students/5/courses/11")]),
        (Unenroll(student_id=ANN, course_id=ART, etag="0"), [("ETAG_MISMATCH", "students/1/courses/11")]),
        (DeleteCourse(course_id=ART, etag="0"), [("ETAG_MISMATCH", "courses/11")]),
        (DeleteCourse(course_id=ART), [("HAS_ENROLLMENTS", "courses/11")]),
        (DeleteCourse(course_id=NOTHING, etag="0", force=True), [("COURSE_NOT_FOUND", "courses/99")]),
        (DeleteStudent(student_id=BO, etag="0"), [("ETAG_MISMATCH", "students/2")]),
        (DeleteStudent(student_id=BO), [("HAS_ENROLLMENTS", "students/2")]),
        (DeleteStudent(student_id=NOBODY, force=True), [("STUDENT_NOT_FOUND", "students/98")]),
        (UpdateStudent(student_id=BO, changes={}, etag="0"), [("ETAG_MISMATCH", "students/2")]),
        (UpdateCourse(course_id=ART, changes={"capacity": 0}, etag="0"), [("ETAG_MISMATCH", "courses/11")]),
        (UpdateCourse(course_id=ART, changes={"capacity": 0}), [("CAPACITY_BELOW_ENROLLED", "courses/11")]),
        (
            UpdateCourse(course_id=14, changes={"enroll_open_time": hour(0)}),
            [("INVALID_FIELD", "course.enroll_close_time")],
        ),
        (
            Reconcile(course_id=NOTHING, student_ids=(97, ANN, NOBODY)),
            [
                ("STUDENT_NOT_FOUND", "students/97"),
                ("STUDENT_NOT_FOUND", "students/98"),
                ("COURSE_NOT_FOUND", "courses/99"),
            ],
        ),
        (
            Reconcile(course_id=ART, student_ids=(EM, FAY), max_removals=2),
            [("TOO_MANY_REMOVALS", "courses/11"), ("COURSE_FULL", "courses/11")],
        ),
        (
            Reconcile(course_id=14, student_ids=(EM,)),
            [("ENROLLMENT_CLOSED", "courses/14"), ("COURSE_FULL", "courses/14")],
        ),
    ],
)
def test_a_step_names_all_it_finds_and_hides_the_next(
    strict: School, command: Command[Any], expected: list[tuple[str, str]]
) -> None:
    assert reasons(strict.refused(command)) == expected


def test_observed_values(strict: School) -> None:
    ((_, _, capacity),) = strict.refused(UpdateCourse(course_id=ART, changes={"capacity": 0}))
    assert capacity == {"course_id": "11", "enrolled": "1", "capacity": "0"}
    ((_, _, course),) = strict.refused(DeleteCourse(course_id=ART))
    assert course == {"course_id": "11", "enrolled": "1", "waitlisted": "2"}
    ((_, _, student),) = strict.refused(DeleteStudent(student_id=DI))
    assert student == {"student_id": "4", "enrolled": "1", "waitlisted": "1"}
    (brake, room) = strict.refused(Reconcile(course_id=ART, student_ids=(EM, FAY), max_removals=2))
    assert brake[2] == {"course_id": "11", "removals": "3", "max_removals": "2"}
    assert room[2] == {"course_id": "11", "wanted": "2", "enrolled": "1", "capacity": "1"}


# --- whatever the command -----------------------------------------------------------------------------------------


def test_capacity_from_unlimited_to_below_enrolled_is_refused() -> None:
    school = School()
    school.enter(ANN, BO)
    change = UpdateCourse(course_id=ART, changes={"capacity": 1})
    assert reasons(school.refused(change)) == [("CAPACITY_BELOW_ENROLLED", "courses/11")]
    assert school.do(UpdateCourse(course_id=ART, changes={"capacity": 2})).course.capacity == 2


def test_allow_missing_answers_and_writes_nothing(full: School) -> None:
    answer = full.do(Unenroll(student_id=EM, course_id=ART, allow_missing=True))
    assert isinstance(answer, EnrollmentsAnswer)
    ((enrollment, *_),) = answer.enrollments
    assert (enrollment.state, enrollment.enroll_time, enrollment.etag) == (DROPPED, None, "")
    assert full.events(3) == []


def test_an_etag_outlives_a_change_of_position(full: School) -> None:
    etag = full.memory.enrollments[CY, ART].etag
    full.do(Unenroll(student_id=BO, course_id=ART))
    full.do(Unenroll(student_id=CY, course_id=ART, etag=etag))
    assert full.queue() == []


@pytest.mark.parametrize(
    "command",
    [
        Enroll(student_id=DI, course_ids=(BIOLOGY, CHEMISTRY), validate_only=True),
        Swap(student_id=ANN, from_course_id=ART, to_course_id=BIOLOGY, validate_only=True),
        Reconcile(course_id=ART, student_ids=(CY,), max_removals=2, validate_only=True),
    ],
)
def test_a_dry_run_answers_as_live_and_changes_nothing(full: School, command: Any) -> None:
    before = deepcopy(full.memory)
    predicted = full.do(command)
    assert full.memory == before
    command.validate_only = False
    assert full.do(command) == predicted


def test_a_dry_run_does_not_show_in_the_next_command_of_the_batch() -> None:
    school = School(capacity=1)
    dry = Enroll(student_id=ANN, course_ids=(ART,), validate_only=True)
    answers = school.run(dry, Enroll(student_id=BO, course_ids=(ART,)))
    assert not any(isinstance(answer, Refusal) for answer in answers)
    assert school.seated() == [BO]


def test_counts_in_an_answer_are_those_right_after_its_own_command() -> None:
    school = School(capacity=2)
    answers = school.run(*(Enroll(student_id=one, course_ids=(ART,)) for one in (ANN, BO)))
    courses = [answer.enrollments[0].course for answer in answers if isinstance(answer, EnrollmentsAnswer)]
    assert [course.enrolled_count for course in courses if course is not None] == [1, 2]


def test_event_times_never_run_backwards() -> None:
    """Where the database's clock is set back, the log of a course stands still until the clock has caught up."""
    school = School()
    school.enter(ANN)
    school.now = hour(-1)
    school.enter(BO)
    school.now = hour(1)
    school.enter(CY)
    assert [event.event_time for event in school.log()] == [hour(0), hour(0), hour(0), hour(1)]


def test_a_change_that_changes_nothing_keeps_the_etag(full: School) -> None:
    assert full.do(UpdateCourse(course_id=ART, changes={"capacity": 1})).course.etag == "1"
    assert full.do(UpdateStudent(student_id=ANN, changes={"full_name": "Ann Lee"})).etag == "1"
    assert full.do(UpdateStudent(student_id=ANN, changes={"full_name": "Ann Li"})).etag == "2"


def test_decide_leaves_the_commands_and_its_caller_alone(full: School) -> None:
    """The same state and commands give the same answers and changes."""
    commands: list[Command[Any]] = [
        Unenroll(student_id=ANN, course_id=ART),
        Enroll(student_id=DI, course_ids=(ART,), waitlist=True),
    ]
    state = full.memory.load(commands, full.now)
    again, given = deepcopy(state), deepcopy(commands)
    assert decide(state, commands) == decide(again, commands)
    assert (state, list(map(astuple, commands))) == (again, list(map(astuple, given)))


# --- the log --------------------------------------------------------------------------------------------------------


def told(events: Iterable[Event]) -> list[tuple[int, int | None, int, int, int | None]]:
    """What each event is about, and the course after it."""
    return [(one.kind, one.student_id, one.enrolled_count, one.waitlisted_count, one.capacity) for one in events]


def test_every_event_has_the_counts_and_the_capacity_after_it() -> None:
    school = School(capacity=1, waitlist_capacity=5)
    school.enter(ANN, BO)
    school.do(UpdateCourse(course_id=ART, changes={"capacity": 3}, reason="larger_room"))
    school.do(DeleteStudent(student_id=ANN, force=True))
    school.do(DeleteCourse(course_id=ART, force=True, reason="cancelled"))
    assert told(school.log()) == [
        (COURSE_CREATED, None, 0, 0, 1),
        (OF_ENROLLMENT, ANN, 1, 0, 1),
        (OF_ENROLLMENT, BO, 1, 1, 1),
        (COURSE_UPDATED, None, 1, 1, 3),
        (OF_ENROLLMENT, BO, 2, 0, 3),
        (OF_ENROLLMENT, ANN, 1, 0, 3),
        (OF_ENROLLMENT, BO, 0, 0, 3),
        (COURSE_DELETED, None, 0, 0, 3),
    ]
    assert [one.reason for one in school.log()[3:]] == [
        "larger_room", "waitlist_promotion", "student_deleted", "cancelled", "cancelled",
    ]  # fmt: skip


def test_an_update_names_what_it_changed_and_nothing_else() -> None:
    school = School(capacity=1)
    school.do(UpdateCourse(course_id=ART, changes={"title": "Drawing", "capacity": 1}))
    school.do(UpdateCourse(course_id=ART, changes={"waitlist_capacity": 2, "title": "Painting", "capacity": 1}))
    school.do(UpdateCourse(course_id=ART, changes={"enroll_close_time": hour(9), "capacity": None}))
    assert [one.changed_fields for one in school.log()] == [
        None, ("title", "waitlist_capacity"), ("capacity", "enroll_close_time"),
    ]  # fmt: skip


def test_a_students_own_changes_are_in_no_log() -> None:
    school = School()
    school.do(UpdateStudent(student_id=ANN, changes={"full_name": "Ann Li"}))
    school.do(DeleteStudent(student_id=ANN))
    assert told(school.log()) == [(COURSE_CREATED, None, 0, 0, None)]
