"""Servers with one safeguard taken out: `python -m tests.support.broken unlocked`.

Negative controls: a race test that such a server passes proves nothing about the safeguard.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Callable, Collection
from typing import Any

from enrollment_service.cli.main import cli
from enrollment_service.domain import rules
from enrollment_service.store import requests, seats
from tests.support.lockless import forget_the_lock

# What the database itself would catch; without these the fault shows as what it is, an oversold course.
DROP_CONSTRAINTS = """
    ALTER TABLE course_seats DROP CONSTRAINT ck_course_seats_enrolled_within_capacity;
    ALTER TABLE course_seats DROP CONSTRAINT ck_course_seats_counts_not_negative;
    ALTER TABLE enrollment_events DROP CONSTRAINT pk_enrollment_events;
    ALTER TABLE student_courses DROP CONSTRAINT pk_student_courses;
"""

# Between two locks, so that batches cross each other.
PAUSE = 0.001


def unordered() -> None:
    """Batches lock the seat rows of their courses one by one and in any order, and wait for those of others."""
    in_order = seats.lock_and_load

    async def in_disorder(connection: Any, course_ids: Collection[int], *others: Any, **_: Any) -> seats.Loaded:
        await connection.execute("SET LOCAL lock_timeout = '20s'")
        for course_id in random.sample(sorted(course_ids), len(course_ids)):
            await in_order(connection, [course_id], *others, skip_locked=False)
            await asyncio.sleep(PAUSE)
        return await in_order(connection, course_ids, *others, skip_locked=False)

    vars(seats)["lock_and_load"] = in_disorder


def unclaimed() -> None:
    """Nobody looks whether a request_id was used before."""

    async def claim(*_: Any) -> dict[Any, Any]:
        return {}

    vars(requests)["claim"] = claim


def forgetful() -> None:
    """Of several missing ids only the first is named."""
    found = rules._missing
    vars(rules)["_missing"] = lambda *arguments: found(*arguments)[:1]


FAULTS: dict[str, Callable[[], None]] = {
    "unlocked": forget_the_lock,
    "unordered": unordered,
    "unclaimed": unclaimed,
    "forgetful": forgetful,
}


if __name__ == "__main__":
    FAULTS[sys.argv[1]]()
    cli(["serve"], prog_name="broken")
