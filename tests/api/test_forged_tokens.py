"""Page tokens that an attacker made: their check fits, because it is no secret, but what they say may be anything.

Nothing in a token may reach further than a field of the same request: who forges one harms nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc
import pytest

from enrollment_service.api import pages, resume
from enrollment_service.api.pages import IDS, Key
from enrollment_service.domain.feed import Mark, Place, Scope, Snapshot
from enrollment_service.v1 import enrollment_pb2 as pb
from tests.support.client import Client
from tests.support.processes import Processes
from tests.support.refusals import refusal_of, refused

HONEST = 50
BEYOND = IDS.stop  # the first number that no id can be
MARK = Mark(Place(Snapshot(700, 700), "0123456789abcdef", 1, 1))
BOTH_STATES = pb.ENROLLMENT_STATE_ENROLLED | pb.ENROLLMENT_STATE_WAITLISTED

NO_IDS: list[Key] = [(BEYOND,), (2**64,), (10**4000,), (-1,), (-BEYOND - 1,), (1, 2), (1, 2, 3)]
NO_PLACES: list[Key] = [(1, BEYOND), (2, 10**30), (1, -1), (0, 1), (3, 1), (-1, 1), (2**63, 1), (1,), (1, 2, 3)]
FORGED = [
    ("ListStudents", {}, "ListStudents ", NO_IDS),
    ("ListCourses", {}, "ListCourses False ", NO_IDS),
    ("ListStudentCourses", {"student_id": 1}, f"ListStudentCourses 1 {BOTH_STATES}", NO_IDS),
    ("ListCourseStudents", {"course_id": 1}, f"ListCourseStudents 1 {BOTH_STATES}", NO_PLACES),
]


def forged(scope: str, key: Key) -> str:
    """A token whose check fits. Those of enrollments carry what the first page has given out; here that is nothing."""
    return pages._encode(scope, key, ",0" if scope.startswith(("ListStudentCourses", "ListCourseStudents")) else "")


async def school(client: Client) -> None:
    """One student in one course; both have the id 1."""
    student, course = await client.create_student(), await client.create_course()
    await client.enroll(student.student_id, course.course_id)
    assert (student.student_id, course.course_id) == (1, 1)


@pytest.mark.parametrize(("method", "fields", "scope", "keys"), FORGED, ids=[method for method, *_ in FORGED])
async def test_a_forged_token_is_refused(
    client: Client, method: str, fields: dict[str, Any], scope: str, keys: Sequence[Key]
) -> None:
    await school(client)
    for key in keys:
        with refused("INVALID_ARGUMENT", "PAGE_TOKEN_INVALID", fields=["page_token"]):
            await client.call(method, page_token=forged(scope, key), **fields)


@pytest.mark.parametrize(("method", "fields", "scope", "keys"), FORGED, ids=[method for method, *_ in FORGED])
async def test_a_forged_token_within_the_ranges_is_a_token(
    client: Client, method: str, fields: dict[str, Any], scope: str, keys: Sequence[Key]
) -> None:
    """The control: the check of the forged ones fits, so it is their numbers that they are refused for."""
    await school(client)
    key = (2, BEYOND - 1) if keys is NO_PLACES else (BEYOND - 1,)
    answer = await client.call(method, page_token=forged(scope, key), **fields)
    assert answer.next_page_token == ""


@pytest.mark.parametrize(
    "carried",
    ["", ",", "x,0", ",-1", ",1,1", f",{BEYOND}", ",9" * 40_000, resume.encode(Scope(course_id=2), MARK) + ",0"],
)
async def test_what_a_page_token_carries_is_a_token_of_the_same_course(client: Client, carried: str) -> None:
    await school(client)
    token = pages._encode(f"ListCourseStudents 1 {BOTH_STATES}", (1, 0), carried)
    with refused("INVALID_ARGUMENT", "PAGE_TOKEN_INVALID", fields=["page_token"]):
        await client.call("ListCourseStudents", course_id=1, page_token=token)


async def test_a_forger_fails_alone_among_honest_callers(processes: Processes) -> None:
    _, client = await processes.start()
    await school(client)
    calls: list[Any] = [client.call("ListStudentCourses", student_id=1) for _ in range(HONEST)]
    for place, key in enumerate(NO_IDS):
        token = forged(f"ListStudentCourses 1 {BOTH_STATES}", key)
        calls.insert(place * 7, client.call("ListStudentCourses", student_id=1, page_token=token))
    answers = await asyncio.gather(*calls, return_exceptions=True)
    failed = [refusal_of(answer).reason for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
    assert failed == ["PAGE_TOKEN_INVALID"] * len(NO_IDS)
    assert [len(answer.enrollments) for answer in answers if not isinstance(answer, BaseException)] == [1] * HONEST
