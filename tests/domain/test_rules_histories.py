"""`decide` under random histories, against a slow, obvious model; and that the histories notice broken rules."""

from __future__ import annotations

import itertools
from collections import Counter, OrderedDict
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from enrollment_service.domain import rules
from enrollment_service.domain.commands import Command, Enroll, Swap, Unenroll
from enrollment_service.domain.footprint import Footprint
from enrollment_service.domain.records import (
    COURSE_CREATED,
    COURSE_DELETED,
    COURSE_UPDATED,
    DROPPED,
    ENROLLED,
    NO_STATE,
    OF_ENROLLMENT,
    WAITLISTED,
    WAIVABLE,
)
from enrollment_service.domain.state import State
from tests.support.histories import COURSES, STUDENTS, Batch, Cast, batches, course_rules, hour, plain, plain_row
from tests.support.memory import Memory
from tests.support.model import LogLine, Model
from tests.support.services import START


class Histories(RuleBasedStateMachine):
    """Any sequence of batches leads to the answers, rows and events of the model, and keeps every invariant."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = Memory()
        self.model = Model(START)
        self.cast = Cast()
        self.ids = itertools.count(1)
        # Courses that nobody has called for since the clock was set back.
        self.unsettled: set[int] = set()

    @initialize(rules=st.lists(course_rules(), min_size=len(COURSES), max_size=len(COURSES)))
    def begin(self, rules: list[dict[str, Any]]) -> None:
        for slot, one in zip(COURSES, rules, strict=True):
            self._create_course(slot, one)

    def _replace_the_deleted(self, rules: dict[str, Any]) -> None:
        for slot in STUDENTS:
            if self.cast.students.get(slot) not in self.model.students:
                student_id = self.cast.students[slot] = next(self.ids)
                self.memory.create_student(student_id, self.model.now)
                self.model.create_student(student_id)
        for slot in COURSES:
            if self.cast.courses[slot] not in self.model.courses:
                self._create_course(slot, rules)

    def _create_course(self, slot: int, rules: dict[str, Any]) -> None:
        course_id = self.cast.courses[slot] = next(self.ids)
        self.memory.create_course(course_id, self.model.now, **rules)
        self.model.create_course(course_id, **rules)

    @rule(batch=batches())
    def decide(self, batch: Batch) -> None:
        """Etags are those before the batch, as callers know them."""
        self.model.now += timedelta(hours=batch.hours)
        self._replace_the_deleted(batch.rules)
        commands = [self.cast.resolve(command, self.model) for command in batch.commands]
        expected = [self.model.answer(command) for command in commands]
        assert [plain(answer) for answer in self.memory.run(commands, self.model.now)] == expected
        if batch.hours < 0:
            self.unsettled = set(self.memory.courses)
        self.unsettled -= {one for command in commands if not command.validate_only for one in command.locks}

    @invariant()
    def tables_are_the_models(self) -> None:
        positions = {
            one: position
            for course_id in self.memory.courses
            for position, one in enumerate(self.memory.waiters(course_id), 1)
        }
        rows = [one._replace(waitlist_position=positions.get(one, 0)) for one in self.memory.enrollments.values()]
        assert sorted(map(plain_row, rows)) == self.model.rows()
        events = [one for _, one in sorted(self.memory.events.items())]
        assert [tuple(getattr(one, name) for name in LogLine._fields) for one in events] == self.model.events()

    @invariant()
    def waivers_are_the_models(self) -> None:
        for course_id in self.memory.courses:
            found = []
            for (student_id, _), waivers in sorted(
                one for one in self.memory.waivers.items() if one[0][1] == course_id
            ):
                for number in sorted({waiver.sequence for waiver in waivers.values()}):
                    reasons = [one for one in WAIVABLE if one in waivers and waivers[one].sequence == number]
                    waiver = waivers[reasons[0]]
                    names = tuple(map(str, reasons))
                    found.append((course_id, student_id, names, waiver.expire_time, waiver.create_time))
            assert found == self.model.waivers(course_id)

    @invariant()
    def counts_are_those_of_the_rows(self) -> None:
        counted = Counter((one.course_id, one.state) for one in self.memory.enrollments.values())
        for course_id, row in self.memory.seats.items():
            counts = (counted[course_id, ENROLLED], counted[course_id, WAITLISTED])
            assert (row.enrolled_count, row.waitlisted_count) == counts

    @invariant()
    def nobody_waits_beside_a_free_seat(self) -> None:
        for course_id, course in self.memory.courses.items():
            row = self.memory.seats[course_id]
            assert course.capacity is None or row.enrolled_count <= course.capacity
            open_still = course.enroll_close_time is None or self.model.now < course.enroll_close_time
            if row.waitlisted_count and open_still and course_id not in self.unsettled:
                assert row.enrolled_count == course.capacity

    @invariant()
    def log_folds_to_the_rows(self) -> None:
        last: dict[tuple[int, int], int] = {}
        kinds: dict[int, int] = {}
        limits: dict[int, int | None] = {}
        numbers: Counter[int] = Counter()
        times: dict[int, datetime] = {}
        for _, event in sorted(self.memory.events.items()):
            assert (event.kind == COURSE_CREATED) == (event.course_id not in kinds)
            assert kinds.get(event.course_id) != COURSE_DELETED
            kinds[event.course_id] = event.kind
            if event.kind in (COURSE_CREATED, COURSE_UPDATED):
                limits[event.course_id] = event.capacity
            assert event.capacity == limits[event.course_id]
            if event.kind == OF_ENROLLMENT:
                assert event.student_id is not None
                before = last.get((event.student_id, event.course_id))
                assert event.previous_state == (NO_STATE if before in (None, DROPPED) else before)
                last[event.student_id, event.course_id] = event.state
            there = Counter(state for (_, course_id), state in last.items() if course_id == event.course_id)
            assert (event.enrolled_count, event.waitlisted_count) == (there[ENROLLED], there[WAITLISTED])
            numbers[event.course_id] += 1
            assert event.sequence == numbers[event.course_id]
            assert event.event_time >= times.setdefault(event.course_id, event.event_time)
            times[event.course_id] = event.event_time
        live = {pair: state for pair, state in last.items() if state != DROPPED}
        assert live == {pair: one.state for pair, one in self.memory.enrollments.items()}
        for course_id, row in self.memory.seats.items():
            assert row.last_sequence == numbers[course_id]
            assert row.last_event_time == times.get(course_id)
            assert self.memory.courses[course_id].capacity == limits[course_id]
        assert {course_id for course_id, kind in kinds.items() if kind != COURSE_DELETED} == self.memory.courses.keys()


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=100, stateful_step_count=25, deadline=None)


# --- negative controls: the histories notice a broken rule --------------------------------------------------------


def promote_the_last(state: State, seats: Any, cause: Any) -> None:
    seats.queue = OrderedDict.fromkeys(reversed(seats.queue))
    _promote(state, seats, cause)
    seats.queue = OrderedDict.fromkeys(reversed(seats.queue))


def promote_after_closing(state: State, seats: Any, cause: Any) -> None:
    closes, seats.enroll_close_time = seats.enroll_close_time, None
    _promote(state, seats, cause)
    seats.enroll_close_time = closes


def one_waiter_too_few(footprint: Footprint, *seats: Any) -> dict[int, int]:
    return {course_id: max(0, most - 1) for course_id, most in _waiters_needed(footprint, *seats).items()}


def dry_run_on_the_real_state(state: State) -> State:
    return state


def net_changes_without_updates(state: State) -> Any:
    inserted, _, deleted = _net_changes(state)
    return inserted, [], deleted


def append_with_the_course_as_it_was(state: State, seats: Any, *event: Any) -> Any:
    """The counts of an event are those before it."""
    appended = _append(state, seats, *event)
    earlier = [one for one in state.events[:-1] if one.course_id == seats.course_id]
    if earlier:
        before = earlier[-1]
        appended = state.events[-1] = appended._replace(
            enrolled_count=before.enrolled_count, waitlisted_count=before.waitlisted_count
        )
    return appended


_promote, _waiters_needed, _net_changes = State.promote, Footprint.waiters_needed, State.net_changes
_append = State._append


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("owner", "name", "broken"),
    [
        (State, "promote", lambda *_: []),
        (State, "promote", promote_the_last),
        (State, "promote", promote_after_closing),
        (State, "_kept_by", lambda *_: None),
        (State, "copy", dry_run_on_the_real_state),
        (State, "net_changes", net_changes_without_updates),
        (State, "_log_course", lambda *_: None),
        (State, "_append", append_with_the_course_as_it_was),
        (Footprint, "waiters_needed", one_waiter_too_few),
        (rules, "_seat_is_free", lambda seats: seats.has_room),
        (rules, "_already_in", lambda *_: []),
        (rules, "_capacity_below", lambda *_: []),
        (rules, "_brake", lambda *_: []),
        (State, "waived", lambda *_: []),
        (State, "waived", lambda state, student_id, seats: list(state.waivers.get((student_id, seats.course_id), ()))),
        (Footprint, "waivers_needed", lambda footprint, *_: sorted(footprint.waived)),
        (rules, "_check_course_etag", lambda *_: None),
    ],
)
def test_histories_notice(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, broken: Any) -> None:
    monkeypatch.setattr(owner, name, broken)
    search = settings(
        max_examples=1_000, stateful_step_count=25, deadline=None, derandomize=True, database=None,
        phases=[Phase.generate], report_multiple_bugs=False,
    )  # fmt: skip
    with pytest.raises(Exception):  # noqa: B017, PT011 - whichever check is the first to notice
        run_state_machine_as_test(Histories, settings=search)


# --- what random histories meet too seldom ----------------------------------------------------------------------


def enters(student: int, course: int) -> Enroll:
    return Enroll(student_id=student, course_ids=(course,), waitlist=True)


def wants_to_swap(student: int, leave: int, enter: int) -> Swap:
    return Swap(student_id=student, from_course_id=leave, to_course_id=enter, waitlist=True)


ONE_SEAT: dict[str, Any] = {
    "capacity": 1, "waitlist_capacity": 9, "enroll_open_time": None, "enroll_close_time": None,
    "permit_required": False,
}  # fmt: skip
CLOSES = ONE_SEAT | {"enroll_close_time": hour(2)}
# The rules of all courses, and what happens in them: so many hours later, a command.
TRADE = (
    ONE_SEAT,
    [
        *((0, enters(student, course)) for student, course in ((1, 1), (2, 2), (3, 3), (4, 2))),
        *((1, wants_to_swap(student, leave, enter)) for student, leave, enter in ((1, 1, 3), (2, 2, 1), (3, 3, 2))),
        # The first in line for course 2 leaves it; now three are first, around a circle.
        (0, Unenroll(student_id=4, course_id=2)),
    ],
)
CLOCK_SET_BACK = (
    CLOSES,
    [(0, enters(1, 1)), (0, enters(2, 1)), (3, Unenroll(student_id=1, course_id=1)), (-2, enters(3, 1))],
)


def play(rules: dict[str, Any], script: Sequence[tuple[int, Command[Any]]]) -> Histories:
    """Each command alone, with a look at the tables after it."""
    histories = Histories()
    histories.begin([rules] * len(COURSES))
    for hours, command in script:
        histories.decide(Batch([command], rules, hours))
        histories.tables_are_the_models()
    return histories


def held(histories: Histories) -> set[tuple[int, int]]:
    """Who sits where, by slot."""
    students = {student_id: slot for slot, student_id in histories.cast.students.items()}
    courses = {course_id: slot for slot, course_id in histories.cast.courses.items()}
    rows = histories.memory.enrollments.values()
    return {(students[one.student_id], courses[one.course_id]) for one in rows if one.state == ENROLLED}


def test_three_trade_once_each_is_first() -> None:
    assert held(play(*TRADE)) == {(1, 3), (2, 1), (3, 2)}


def test_a_free_seat_is_a_waiters_once_the_clock_is_set_back() -> None:
    assert held(play(*CLOCK_SET_BACK)) == {(2, 1)}


@pytest.mark.parametrize(
    ("owner", "name", "broken", "script"),
    [(State, "_circle", lambda *_: [], TRADE), (rules, "_settle", lambda *_: None, CLOCK_SET_BACK)],
)
def test_scripts_notice(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, broken: Any, script: Any) -> None:
    monkeypatch.setattr(owner, name, broken)
    with pytest.raises(AssertionError):
        play(*script)
