"""The fold of a log, under random histories of commands: at any time it says what the rows were then."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule, run_state_machine_as_test

from enrollment_service.domain import history
from enrollment_service.domain.history import Queue, Roster, Standing, Step, Stood, moved, stood
from enrollment_service.domain.records import DROPPED, ENROLLED, NO_STATE, OF_ENROLLMENT, WAITLISTED, Enrollment, Event
from tests.domain.test_rules_histories import Histories

EVERYBODY = ENROLLED | WAITLISTED
ALL = 10**6


class Pasts(Histories):
    """After each batch, what all rows are; at the end of each, the log has to know all of that still."""

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[datetime, list[Enrollment]] = {}

    @property
    def moment(self) -> datetime:
        """By now everything has happened, also if the clock was set back."""
        return max([self.model.now, *(one.event_time for one in self.memory.events.values())])

    def rows(self) -> list[Enrollment]:
        """The rows as they are, in the order of rosters, with positions."""
        found: list[Enrollment] = []
        for course_id in sorted(self.memory.courses):
            theirs = [one for one in self.memory.enrollments.values() if one.course_id == course_id]
            found += sorted((one for one in theirs if one.state == ENROLLED), key=lambda one: one.student_id)
            waiters = sorted((one for one in theirs if one.state == WAITLISTED), key=lambda one: one.sequence)
            found += [one._replace(waitlist_position=place) for place, one in enumerate(waiters, 1)]
        return [one._replace(waitlist_position=0) if one.state == ENROLLED else one for one in found]

    def events(self, course_id: int, moment: datetime) -> list[Event]:
        """The events of a course up to a time."""
        those = [one for key, one in sorted(self.memory.events.items()) if key[0] == course_id]
        return [one for one in those if one.event_time <= moment]

    def courses(self) -> list[int]:
        """All that there ever were."""
        return sorted({course_id for course_id, _ in self.memory.events})

    @invariant()
    def the_log_knows_what_was(self) -> None:
        # Once the clock was set back, more may happen at times that were asked about before.
        self.known = {moment: rows for moment, rows in self.known.items() if moment < self.model.now}
        self.known[self.moment] = self.rows()
        for moment, rows in self.known.items():
            folded = {course_id: Roster(self.events(course_id, moment)) for course_id in self.courses()}
            pages = [roster.page(course_id, (0, 0), ALL, EVERYBODY) for course_id, roster in folded.items()]
            assert [one.enrollment for page in pages for one in page] == rows
            assert {one.course_id for one in rows} <= {one for one, roster in folded.items() if roster.exists}

    @invariant()
    def a_deleted_course_does_not_exist(self) -> None:
        there = {one for one in self.courses() if Roster(self.events(one, self.moment)).exists}
        assert there == set(self.memory.courses)

    @invariant()
    def whoever_waits_has_the_same_place_in_every_fold(self) -> None:
        for course_id in self.courses():
            events = self.events(course_id, self.moment)
            queue = Queue()
            for event in events:
                if WAITLISTED in (event.state, event.previous_state):
                    queue.add(event)
            for one in Roster(events).page(course_id, (0, 0), ALL, WAITLISTED):
                assert queue.position(one.ticket) == one.enrollment.waitlist_position

    @invariant()
    def the_past_of_a_student_is_that_of_their_courses(self) -> None:
        by_student: defaultdict[int, list[Enrollment]] = defaultdict(list)
        for course_id in self.courses():
            standings: dict[int, Standing | None] = {}
            for event in self.events(course_id, self.moment):
                if event.kind == OF_ENROLLMENT and event.student_id is not None:
                    standings[event.student_id] = moved(standings.get(event.student_id), event)
            for student_id, standing in standings.items():
                if standing is not None:
                    by_student[student_id].append(stood(student_id, course_id, standing, 0).enrollment)
        rows = [one._replace(waitlist_position=0) for one in self.rows()]
        assert sorted(one for theirs in by_student.values() for one in theirs) == sorted(rows)

    @rule(limit=st.integers(1, 3), states=st.sampled_from([ENROLLED, WAITLISTED, EVERYBODY]))
    def pages_are_the_whole_in_pieces(self, limit: int, states: int) -> None:
        for course_id in self.courses():
            roster = Roster(self.events(course_id, self.moment))
            whole = roster.page(course_id, (0, 0), ALL, EVERYBODY)
            pieces: list[Stood] = []
            while page := roster.page(course_id, pieces[-1].key if pieces else (0, 0), limit, states):
                assert len(page) <= limit
                pieces += page
            assert pieces == [one for one in whole if one.enrollment.state & states]


def test_an_event_that_leaves_the_state_keeps_the_place_in_line() -> None:
    """As of a waiter who is to leave another course for the seat than before."""
    first = datetime(2026, 9, 1, tzinfo=UTC)
    later = datetime(2026, 9, 2, tzinfo=UTC)
    joined = Step(1, 5, OF_ENROLLMENT, 7, NO_STATE, WAITLISTED, first)
    again = Step(1, 8, OF_ENROLLMENT, 7, WAITLISTED, WAITLISTED, later, swap_from_course_id=3)
    stays = Standing(WAITLISTED, 5, ticket=5, enroll_time=first, create_time=first, swap_from_course_id=3, latest=8)
    assert moved(moved(None, joined), again) == stays


TestPasts = Pasts.TestCase
TestPasts.settings = settings(max_examples=30, stateful_step_count=15, deadline=None)


def test_the_histories_notice_a_fold_that_forgets_who_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control."""
    monkeypatch.setattr(history, "DROPPED", DROPPED + 1)
    quick = settings(max_examples=50, stateful_step_count=15, deadline=None, phases=[Phase.generate], database=None)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(Pasts, settings=quick)
