"""Counts what was committed: who got a seat, who waits, who was promoted, who left, and who was refused and why.

A retried or replayed call counts once, a dry run not at all, and what was decided but never committed neither.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from enrollment_service.domain.commands import Command, Enroll, ImportAnswer, Reconcile, Swap
from enrollment_service.domain.errors import Reason, Refusal
from enrollment_service.domain.records import DROPPED, ENROLLED, NO_STATE, OF_ENROLLMENT, WAITLISTED, Event
from enrollment_service.telemetry import metrics

_COUNTERS = {
    (NO_STATE, ENROLLED): metrics.seats_granted,
    (NO_STATE, WAITLISTED): metrics.waits_begun,
    (WAITLISTED, ENROLLED): metrics.promotions,
    (ENROLLED, DROPPED): metrics.drops,
    (WAITLISTED, DROPPED): metrics.drops,
}
# The commands by which students enter a course.
_ENTRIES = (Enroll, Swap, Reconcile)
# The outcomes in which somebody is refused.
_TOLD = (Refusal, ImportAnswer)
# What they are refused for, but for rare mistakes. Shown as 0 before the first: a series that begins with the hundreds
# of a stampede has not grown since it began.
for _reason in (
    Reason.PERMIT_REQUIRED,
    Reason.COURSE_FULL,
    Reason.WAITLIST_FULL,
    Reason.ENROLLMENT_NOT_OPEN,
    Reason.ENROLLMENT_CLOSED,
    Reason.ALREADY_ENROLLED,
    Reason.ALREADY_WAITLISTED,
    Reason.STUDENT_NOT_FOUND,
    Reason.COURSE_NOT_FOUND,
):
    metrics.refused(_reason, 0)


def count(events: Sequence[Event], outcomes: Mapping[Command[Any], Any]) -> None:
    """Counts the transitions of a committed transaction, and the refusals among what was decided in it."""
    times: dict[tuple[int, int], int] = {}
    for event in events:
        # Who waits on, now to swap, has not moved.
        if event.kind == OF_ENROLLMENT and event.previous_state != event.state:
            transition = event.previous_state, event.state
            times[transition] = times.get(transition, 0) + 1
    for transition, number in times.items():
        _COUNTERS[transition].inc(number)
    for command, outcome in outcomes.items():
        if isinstance(outcome, _TOLD) and not command.validate_only:
            _count_refusals(command, outcome)


def _count_refusals(command: Command[Any], outcome: Refusal | ImportAnswer) -> None:
    if isinstance(outcome, ImportAnswer):
        for reason, number in Counter(reason for _, reason in outcome.rejected).items():
            metrics.refused(reason, number)
    elif isinstance(command, _ENTRIES):
        metrics.refused(outcome.reason, 1)
