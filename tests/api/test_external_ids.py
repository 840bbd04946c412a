"""The numbers that other systems use: set, changed, cleared and found by, over the wire."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from enrollment_service.v1 import enrollment_pb2 as pb
from tests.support.client import Client
from tests.support.databases import Connection
from tests.support.refusals import refusal_of, refused

KINDS = ["Student", "Course"]
LONGEST = "\u674e" * 255


async def create(client: Client, kind: str, external_id: str = "", **fields: Any) -> Any:
    made: Any
    if kind == "Student":
        made = pb.Student(**{"full_name": "Ann", "email": f"{external_id or 'a'}@x.org"} | fields)
    else:
        made = pb.Course(**{"code": (external_id or "A")[:40], "title": "Drawing"} | fields)
    made.external_id = external_id
    return getattr(await client.call(f"Create{kind}", **{kind.lower(): made}), kind.lower())


async def update(client: Client, kind: str, one: Any, *paths: str, **values: Any) -> Any:
    id_name = f"{kind.lower()}_id"
    changed = type(one)(**{id_name: getattr(one, id_name)} | values)
    answer = await client.call(f"Update{kind}", **{kind.lower(): changed}, update_mask={"paths": paths})
    return getattr(answer, kind.lower())


async def get(client: Client, kind: str, **key: Any) -> Any:
    return getattr(await client.call(f"Get{kind}", **key), kind.lower())


def id_of(kind: str, one: Any) -> int:
    found: int = getattr(one, f"{kind.lower()}_id")
    return found


@pytest.mark.parametrize("kind", KINDS)
async def test_an_external_id_is_stored_and_found_by(client: Client, kind: str) -> None:
    created = await create(client, kind, "S-0815")
    assert created.external_id == "S-0815"
    assert await get(client, kind, external_id="S-0815") == created
    assert await get(client, kind, **{f"{kind.lower()}_id": id_of(kind, created)}) == created


async def test_a_student_is_found_by_the_address_and_a_course_by_its_code_however_written(client: Client) -> None:
    student = await create(client, "Student", email="Ann@Example.org")
    course = await create(client, "Course", code="Art  1 B")
    assert await get(client, "Student", email="aNN@example.ORG") == student
    assert await get(client, "Course", code="  ART 1 b ") == course
    with refused("NOT_FOUND", "COURSE_NOT_FOUND", metadata={"field": "code"}):
        await get(client, "Course", code="ART1B")


async def test_many_keys_at_once_share_a_batch_and_each_finds_its_own(client: Client) -> None:
    students = await asyncio.gather(*(create(client, "Student", f"S-{index}") for index in range(20)))
    keys = [
        key
        for one in students
        for key in ({"external_id": one.external_id}, {"email": one.email.upper()}, {"student_id": one.student_id})
    ]
    found = await asyncio.gather(*(get(client, "Student", **key) for key in keys))
    assert found == [one for one in students for _ in range(3)]


@pytest.mark.parametrize(
    ("method", "key", "field"),
    [
        ("GetStudent", {}, "student_id"),
        ("GetStudent", {"student_id": 1, "external_id": "S"}, "external_id"),
        ("GetStudent", {"external_id": "S", "email": "a@x.org"}, "email"),
        ("GetStudent", {"student_id": -1}, "student_id"),
        ("GetStudent", {"external_id": "x" * 256}, "external_id"),
        ("GetStudent", {"external_id": "a\nb"}, "external_id"),
        ("GetStudent", {"email": "a\0b"}, "email"),
        ("GetCourse", {}, "course_id"),
        ("GetCourse", {"course_id": 1, "code": "A"}, "code"),
        ("GetCourse", {"external_id": "S", "code": "A"}, "code"),
        ("GetCourse", {"code": "x" * 255}, "code"),
    ],
)
async def test_exactly_one_key(client: Client, method: str, key: dict[str, Any], field: str) -> None:
    with refused("INVALID_ARGUMENT", "INVALID_FIELD", fields=[field]):
        await client.call(method, **key)


@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_not_there_is_named_by_its_field_and_not_by_its_key(client: Client, kind: str) -> None:
    with refused("NOT_FOUND", f"{kind.upper()}_NOT_FOUND", metadata={"field": "external_id"}) as refusal:
        await get(client, kind, external_id="S-0815")
    assert refusal.resources == [f"{kind.lower()}s"]
    assert "0815" not in str(refusal.status)


@pytest.mark.parametrize("kind", KINDS)
async def test_an_external_id_is_given_once(client: Client, kind: str) -> None:
    first = await create(client, kind, "S-1", **own(kind, "one"))
    name, taken = f"{kind.lower()}s/{id_of(kind, first)}", {f"{kind.lower()}_id": str(id_of(kind, first))}
    with refused("ALREADY_EXISTS", "EXTERNAL_ID_TAKEN", metadata=taken, resources=[name]) as refusal:
        await create(client, kind, "S-1", **own(kind, "two"))
    assert "S-1" not in str(refusal.status)
    other = await create(client, kind, "s-1", **own(kind, "two"))  # its case counts
    with refused("ALREADY_EXISTS", "EXTERNAL_ID_TAKEN", metadata=taken, resources=[name]):
        await update(client, kind, other, "external_id", external_id="S-1")
    assert await get(client, kind, external_id="s-1") == other


def own(kind: str, name: str) -> dict[str, str]:
    return {"email": f"{name}@x.org"} if kind == "Student" else {"code": name}


@pytest.mark.parametrize("kind", KINDS)
async def test_both_keys_that_are_taken_are_named_with_their_owners(client: Client, kind: str) -> None:
    by_key = await create(client, kind, **own(kind, "one"))
    by_number = await create(client, kind, "S-1", **own(kind, "two"))
    taken = [f"{kind.lower()}s/{id_of(kind, one)}" for one in (by_key, by_number)]
    with refused("ALREADY_EXISTS", "EMAIL_TAKEN" if kind == "Student" else "CODE_TAKEN", resources=taken):
        await create(client, kind, "S-1", **own(kind, "one"))


@pytest.mark.parametrize("kind", KINDS)
async def test_of_concurrent_creates_with_one_external_id_one_wins(client: Client, kind: str) -> None:
    answers = await asyncio.gather(
        *(create(client, kind, "S-1", **own(kind, f"n{index}")) for index in range(10)), return_exceptions=True
    )
    refusals = [refusal_of(one) for one in answers if isinstance(one, grpc.aio.AioRpcError)]
    (winner,) = [one for one in answers if not isinstance(one, BaseException)]
    assert [one.reason for one in refusals] == ["EXTERNAL_ID_TAKEN"] * 9
    assert {one.metadata[f"{kind.lower()}_id"] for one in refusals} == {str(id_of(kind, winner))}


@pytest.mark.parametrize("kind", KINDS)
async def test_an_external_id_changes_and_is_cleared(client: Client, kind: str) -> None:
    first = await create(client, kind, "S-1", **own(kind, "one"))
    changed = await update(client, kind, first, "external_id", external_id=LONGEST)
    assert (changed.external_id, changed.etag) == (LONGEST, "2")
    cleared = await update(client, kind, first, "external_id")
    assert (cleared.external_id, cleared.etag) == ("", "3")
    for number in range(2):  # any number of them have none
        await create(client, kind, **own(kind, f"none{number}"))
    assert await create(client, kind, "S-1", **own(kind, "two"))
    with refused("NOT_FOUND", f"{kind.upper()}_NOT_FOUND"):
        await get(client, kind, external_id=LONGEST)


@pytest.mark.parametrize("wrong", ["x" * 256, "a\tb", "a\u202eb", "\x7f", "\u00a0"])
@pytest.mark.parametrize("kind", KINDS)
async def test_it_must_be_printable_and_not_too_long(client: Client, kind: str, wrong: str) -> None:
    with refused("INVALID_ARGUMENT", "INVALID_FIELD", fields=[f"{kind.lower()}.external_id"]):
        await create(client, kind, wrong, **own(kind, "one"))


@pytest.mark.parametrize(("kind", "rows"), [("Student", "students"), ("Course", "courses")])
async def test_lists_by_its_beginning(client: Client, kind: str, rows: str) -> None:
    for number in ("S%-1", "s%-2", "T-1", ""):
        await create(client, kind, number, **own(kind, f"x{number.replace('%', '')}"))
    answer = await client.call(f"List{rows.title()}", query="S%")
    assert [one.external_id for one in getattr(answer, rows)] == ["S%-1", "s%-2"]


async def test_events_name_the_field_and_never_the_number(client: Client, connection: Connection) -> None:
    course = await create(client, "Course", "S-4711", code="A")
    await update(client, "Course", course, "external_id", external_id="S-0815")
    events = await connection.fetch("SELECT * FROM enrollment_events WHERE course_id = $1 ORDER BY 2", course.course_id)
    assert [event["changed_fields"] for event in events] == [None, ["external_id"]]
    assert not [text for text in map(str, events) if "4711" in text or "0815" in text]


async def test_a_course_shows_its_external_id_beside_enrollments(client: Client) -> None:
    student, course = await create(client, "Student", "S-1"), await create(client, "Course", "C-1")
    await client.enroll(student.student_id, course.course_id)
    held = await client.call("ListStudentCourses", student_id=student.student_id)
    roster = await client.call("ListCourseStudents", course_id=course.course_id)
    pair = await client.call("GetEnrollment", student_id=student.student_id, course_id=course.course_id)
    assert [held.student.external_id, held.enrollments[0].course.external_id] == ["S-1", "C-1"]
    assert [roster.course.external_id, roster.enrollments[0].student.external_id] == ["C-1", "S-1"]
    assert [pair.enrollment.course.external_id, pair.enrollment.student.external_id] == ["C-1", "S-1"]


async def test_an_enrolled_student_gets_a_number_without_waiting(client: Client, connection: Connection) -> None:
    """The number is no key that rows point at: whoever is being entered in a course does not hold up its change."""
    student, course = await create(client, "Student"), await create(client, "Course")
    async with connection.transaction():
        await connection.execute("SELECT 1 FROM students WHERE id = $1 FOR KEY SHARE", student.student_id)
        await connection.execute("SELECT 1 FROM courses WHERE id = $1 FOR KEY SHARE", course.course_id)
        assert (await update(client, "Student", student, "external_id", external_id="S-1")).external_id == "S-1"
        assert (await update(client, "Course", course, "external_id", external_id="C-1")).external_id == "C-1"
