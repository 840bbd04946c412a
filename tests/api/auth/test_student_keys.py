"""Students whose token names them by an external id or an e-mail address instead of our id."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from enrollment_service.api.auth import holders
from enrollment_service.v1 import enrollment_pb2 as pb
from tests.conftest import StartService
from tests.support.client import Client
from tests.support.provider import Provider
from tests.support.refusals import refused
from tests.support.services import Service

DENIED = ("PERMISSION_DENIED", "PERMISSION_DENIED")
KEYS = {"external_id": "S-1", "email": "ann@x.org"}


@pytest.fixture
def provider(tmp_path: Path) -> Provider:
    return Provider(tmp_path)


class School:
    """A service whose tokens name students by one key, a registrar, and the students Ann and Bo."""

    def __init__(self, service: Service, provider: Provider, key: str) -> None:
        self.holders = service.app._authentication
        self.client = client = service.client
        self.provider = provider
        self.key = key
        self.registrar = client.bearing(provider.token("registrar"))

    async def open(self) -> None:
        self.ann, self.bo = [
            (await self.registrar.call("CreateStudent", student=student)).student
            for student in (
                pb.Student(full_name="Ann", email="ann@x.org", external_id="S-1"),
                pb.Student(full_name="Bo", email="bo@x.org", external_id="S-2"),
            )
        ]
        self.course = await self.registrar.create_course()

    def student(self, claim: object, *roles: str) -> Client:
        return self.client.bearing(self.provider.token(*(roles or ("student",)), who=claim))

    async def rename(self, student: pb.Student, value: str) -> None:
        changed = pb.Student(student_id=student.student_id, **{self.key: value})  # type: ignore[arg-type]
        await self.registrar.call("UpdateStudent", student=changed, update_mask={"paths": [self.key]})


@pytest.fixture(params=KEYS)
async def school(request: pytest.FixtureRequest, start_service: StartService, provider: Provider) -> School:
    names = {"jwt_student_claim": "who", "jwt_student_key": request.param}
    opened = School(await start_service(**provider.settings, **names), provider, request.param)
    await opened.open()
    return opened


async def test_a_student_gets_the_own_record_by_the_key_in_the_token_and_by_no_other(school: School) -> None:
    value = KEYS[school.key]
    ann = school.student(value)
    assert (await ann.call("GetStudent", **{school.key: value})).student == school.ann
    others: list[dict[str, Any]] = [
        {"student_id": school.ann.student_id},  # their own, but not what the token carries
        {"student_id": school.bo.student_id},
        {"student_id": 999},
        {"external_id": "S-2"},
        {"external_id": "S-999"},
        {"email": "bo@x.org"},
        {"email": "nobody@x.org"},
        {"email": "ANN@x.org"},
        {name: value for name, value in KEYS.items() if name != school.key},
        {"student_id": school.ann.student_id, school.key: value},
        {},
    ]
    for key in others:
        with refused(*DENIED, metadata={}):
            await ann.call("GetStudent", **key)


async def test_with_the_id_of_the_record_a_student_does_what_students_may(school: School) -> None:
    ann = school.student(KEYS[school.key])
    own = (await ann.call("GetStudent", **{school.key: KEYS[school.key]})).student.student_id
    assert len(await ann.enroll(own, school.course.course_id)) == 1
    assert await ann.courses_of(own) == [school.course.course_id]
    await ann.call("GetEnrollment", student_id=own, course_id=school.course.course_id)
    await ann.unenroll(own, school.course.course_id)
    watched: Any = ann.stub.WatchEnrollmentEvents(
        pb.WatchEnrollmentEventsRequest(student_id=own), metadata=ann.metadata, timeout=20
    )
    assert sum([len(answer.events) async for answer in watched]) == 2
    for other in (school.bo.student_id, 999):
        with refused(*DENIED, metadata={}):
            await ann.enroll(other, school.course.course_id)


@pytest.mark.parametrize("claim", [None, "", "nobody", True, 1.5, ["S-1"], {"S-1": 1}, "x" * 300, "a\nb", 0])
async def test_a_claim_that_names_nobody_opens_no_rows(school: School, claim: object) -> None:
    bearer = school.student(claim)
    for method in ("GetStudent", "ListStudentCourses"):
        with refused(*DENIED, metadata={}):
            await bearer.call(method, student_id=school.ann.student_id)
    await bearer.call("ListCourses")


@pytest.mark.parametrize("school", ["external_id"], indirect=True)
async def test_numbers_of_students_may_be_numbers_in_the_token(school: School) -> None:
    await school.rename(school.bo, "4711")
    assert (await school.student(4711).call("GetStudent", external_id="4711")).student.full_name == "Bo"


async def test_whoever_comes_later_need_not_wait(school: School) -> None:
    """That nobody has a key is not remembered."""
    late = school.student("late@x.org")
    with refused(*DENIED, metadata={}):
        await late.call("ListStudentCourses", student_id=school.bo.student_id)
    await school.rename(school.bo, "late@x.org")
    await late.call("ListStudentCourses", student_id=school.bo.student_id)


async def test_a_key_that_is_given_to_somebody_else_is_theirs_half_a_minute_later(
    school: School, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann = school.student(KEYS[school.key])
    await ann.call("ListStudentCourses", student_id=school.ann.student_id)
    await school.rename(school.ann, "free@x.org")
    await school.rename(school.bo, KEYS[school.key])
    # The record itself is never another's: it is asked for by the key.
    assert (await ann.call("GetStudent", **{school.key: KEYS[school.key]})).student.full_name == "Bo"
    await ann.call("ListStudentCourses", student_id=school.ann.student_id)
    later = time.monotonic() + holders.MAX_SECONDS
    monkeypatch.setattr(school.holders, "_clock", lambda: later)
    with refused(*DENIED, metadata={}):
        await ann.call("ListStudentCourses", student_id=school.ann.student_id)
    await ann.call("ListStudentCourses", student_id=school.bo.student_id)
