"""The checker of faults: what is right passes, and each promise that is broken is noticed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from faults.checker import Change, Evidence, violations
from faults.record import OK, REFUSED, UNKNOWN, Operation

COURSE = 7
ENTERS, WAITS, LEAVES, MOVES_UP = (0, 1), (0, 2), (1, 3), (2, 1)


def change(sequence: int, student: int, move: tuple[int, int], counts: tuple[int, int], of: str, **more: Any) -> Change:
    fields: dict[str, Any] = {"course_id": COURSE, "kind": 1, "position": 0, "capacity": 1, "time": sequence} | more
    before, after = move
    return Change(
        sequence=sequence, student_id=student, before=before, after=after, enrolled=counts[0], waitlisted=counts[1],
        request_id=of, **fields,
    )  # fmt: skip


def operation(number: int, kind: str, student: int, times: tuple[float, float], **more: Any) -> Operation:
    fields: dict[str, Any] = {"request_id": f"r{number}", "outcome": OK, "codes": ["OK"], "wait": True} | more
    return Operation(number, kind, student, [COURSE], invoked=times[0], returned=times[1], **fields)


# One seat: the first gets it, the second waits, a third who does not want to wait is refused, the first leaves.
CHANGES = [
    change(1, 0, (0, 0), (0, 0), "", kind=2),
    change(2, 1, ENTERS, (1, 0), "r0"),
    change(3, 2, WAITS, (1, 1), "r1", position=1),
    change(4, 1, LEAVES, (0, 1), "r3"),
    change(5, 2, MOVES_UP, (1, 0), "r3"),
]
OPERATIONS = [
    operation(0, "enroll", 1, (0, 1), answer={"enrollments": [(COURSE, 1, 2)]}),
    operation(1, "enroll", 2, (2, 3), answer={"enrollments": [(COURSE, 2, 3)]}),
    operation(2, "enroll", 3, (4, 5), wait=False, outcome=REFUSED, answer={"refused": [("COURSE_FULL", COURSE)]}),
    operation(3, "unenroll", 1, (6, 7), answer={"enrollments": [(COURSE, 3, 4)]}),
    operation(4, "roster", 0, (8, 9), request_id="", answer={"rows": [(2, 1, 0)], "sequence": 5}),
    operation(5, "enroll", 4, (8, 9), outcome=UNKNOWN, codes=["UNAVAILABLE"]),
]
RIGHT = Evidence(
    operations=OPERATIONS,
    changes=CHANGES,
    rows={COURSE: [(2, 1, 5)]},
    counts={COURSE: (1, 0)},
    waitlist_capacities={COURSE: 5},
    followed=[(COURSE, number) for number in (1, 2, 3, 2, 3, 4, 5)],
    pasts=[(COURSE, 3, [(1, 1, 0), (2, 2, 1)])],
)


def test_what_is_right_passes() -> None:
    assert violations(RIGHT) == []


def with_change(at: int, **fields: Any) -> Evidence:
    return replace(RIGHT, changes=[*CHANGES[:at], replace(CHANGES[at], **fields), *CHANGES[at + 1 :]])


def with_operation(at: int, **fields: Any) -> Evidence:
    return replace(RIGHT, operations=[*OPERATIONS[:at], replace(OPERATIONS[at], **fields), *OPERATIONS[at + 1 :]])


BROKEN: dict[str, tuple[Callable[[], Evidence], str]] = {
    "a hole in the log": (lambda: replace(RIGHT, changes=CHANGES[:3] + CHANGES[4:]), "stands at place"),
    "an oversold course": (lambda: with_change(2, after=1, position=0, enrolled=2, waitlisted=0), "not there"),
    "a wrong count": (lambda: with_change(1, enrolled=2), "counts"),
    "a wrong place in line": (lambda: with_change(2, position=2), "place in line"),
    "time runs backwards": (lambda: with_change(4, time=1), "time runs backwards"),
    "nobody is promoted": (lambda: replace(RIGHT, changes=CHANGES[:4]), "waits beside a free seat"),
    "promoted in another commit": (lambda: with_change(4, request_id=""), "waits beside a free seat"),
    "acknowledged and lost": (lambda: replace(RIGHT, changes=CHANGES[:1]), "acknowledged"),
    "done twice": (lambda: with_change(2, student_id=1, request_id="r0"), "acknowledged"),
    "refused and done": (lambda: with_operation(1, outcome=REFUSED, answer={}), "refused, and had an effect"),
    "nobody asked for it": (lambda: with_change(1, request_id="r99"), "which nobody sent"),
    "another answer": (lambda: with_operation(1, answer={"enrollments": [(COURSE, 1, 3)]}), "was answered 1"),
    "out of order": (lambda: with_operation(0, invoked=3.5, returned=4.0), "answered before this was asked"),
    "refused for what never was": (
        lambda: with_operation(2, answer={"refused": [("ALREADY_ENROLLED", COURSE)]}),
        "never so",
    ),
    "a copy refused for what it did": (
        lambda: with_operation(0, answer={"copies": [[("ALREADY_ENROLLED", COURSE)]]}),
        "never so",
    ),
    "a list from the past": (lambda: with_operation(4, answer={"rows": [(1, 1, 0), (2, 2, 1)], "sequence": 3}), "time"),
    "a torn list": (lambda: with_operation(4, answer={"rows": [], "sequence": 5}), "another roster"),
    "rows that are not in the log": (lambda: replace(RIGHT, rows={COURSE: [(1, 1, 2), (2, 1, 5)]}), "the rows"),
    "counts that are not kept": (lambda: replace(RIGHT, counts={COURSE: (2, 0)}), "counts"),
    "a watcher who misses one": (lambda: replace(RIGHT, followed=[(COURSE, 1), (COURSE, 3)]), "after 1"),
    "a watcher who is not told the end": (lambda: replace(RIGHT, followed=[(COURSE, 1)]), "of 5 events"),
    "another past": (lambda: replace(RIGHT, pasts=[(COURSE, 3, [(1, 1, 0)])]), "as of"),
    "no reason": (lambda: with_operation(5, codes=["INTERNAL"]), "ended in INTERNAL"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_noticed(name: str) -> None:
    broken, noticed = BROKEN[name]
    found = violations(broken())
    assert any(noticed in line for line in found), found
