"""Page tokens that an attacker made: their check fits, because it is no secret, but what they say may be anything.

Nothing in a token may reach further than a field of the same request: who forges one harms nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc
import pytest

from enrollment_service.api import pages
from enrollment_service.api.pages import IDS, Key
from enrollment_service.v1 import enrollment_pb2 as pb
from tests.support.client import Client
from tests.support.processes import Processes
from tests.support.refusals import refusal_of, refused

HONEST = 50
BEYOND = IDS.stop  # the first number that no id can be
BOTH_STATES = pb.ENROLLMENT_STATE_ENROLLED | pb.ENROLLMENT_STATE_WAITLISTED

NO_IDS: list[Key] = [(BEYOND,), (2**64,), (10**4000,), (-1,), (-BEYOND - 1,), (1, 2), (1, 2, 3)]
NO_PLACES: list[Key] = [(1, BEYOND), (2, 10**30), (1, -1), (0, 1), (3, 1), (-1, 1), (2**63, 1), (1,), (1, 2, 3)]
FORGED = [
    ("ListStudents", {}, "ListStudents ", NO_IDS),
    ("ListCourses", {}, "ListCourses False ", NO_IDS),
    ("ListStudentCourses", {"student_id": 1}, f"ListStudentCourses 1 {BOTH_STATES}", NO_IDS),
    ("ListCourseStudents", {"course_id": 1}, f"ListCourseStudents 1 {BOTH_STATES}", NO_PLACES),
]


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
            await client.call(method, page_token=pages._encode(scope, key), **fields)


@pytest.mark.parametrize(("method", "fields", "scope", "keys"), FORGED, ids=[method for method, *_ in FORGED])
async def test_a_forged_token_within_the_ranges_is_a_token(
    client: Client, method: str, fields: dict[str, Any], scope: str, keys: Sequence[Key]
) -> None:
    """The control: the check of the forged ones fits, so it is their numbers that they are refused for."""
    await school(client)
    key = (2, BEYOND - 1) if keys is NO_PLACES else (BEYOND - 1,)
    answer = await client.call(method, page_token=pages._encode(scope, key), **fields)
    assert answer.next_page_token == ""


async def test_a_forger_fails_alone_among_honest_callers(processes: Processes) -> None:
    _, client = await processes.start()
    await school(client)
    calls: list[Any] = [client.call("ListStudentCourses", student_id=1) for _ in range(HONEST)]
    for place, key in enumerate(NO_IDS):
        token = pages._encode(f"ListStudentCourses 1 {BOTH_STATES}", key)
        calls.insert(place * 7, client.call("ListStudentCourses", student_id=1, page_token=token))
    answers = await asyncio.gather(*calls, return_exceptions=True)
    failed = [refusal_of(answer).reason for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
    assert failed == ["PAGE_TOKEN_INVALID"] * len(NO_IDS)
    assert [len(answer.enrollments) for answer in answers if not isinstance(answer, BaseException)] == [1] * HONEST
