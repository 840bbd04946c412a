"""Counts what was committed: who got a seat, who waits, who was promoted, who left, and who was refused and why.

A retried or replayed call counts once, a dry run not at all, and what was decided but never committed neither.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from enrollment_service.domain.commands import Command, Enroll, ImportAnswer, Reconcile, Swap
from enrollment_service.domain.errors import Reason, Refusal
from enrollment_service.domain.records import DROPPED, ENROLLED, NO_STATE, WAITLISTED, Event
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
# What they are refused for, but for rare mistakes. Shown as 0 before the first: a series that begins with the hundreds
# of a stampede has not grown since it began.
for _reason in (
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
    transitions = Counter((event.previous_state, event.state) for event in events)
    for transition, times in transitions.items():
        _COUNTERS[transition].inc(times)
    for reason, times in _refusals(outcomes).items():
        metrics.refused(reason, times)


def _refusals(outcomes: Mapping[Command[Any], Any]) -> Counter[Reason]:
    refusals: Counter[Reason] = Counter()
    for command, outcome in outcomes.items():
        if command.validate_only:
            continue
        if isinstance(outcome, ImportAnswer):
            refusals.update(reason for _, reason in outcome.rejected)
        elif isinstance(outcome, Refusal) and isinstance(command, _ENTRIES):
            refusals[outcome.reason] += 1
    return refusals
