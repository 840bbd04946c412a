"""Every list, page by page: complete, in order, stable while others change rows; tokens bound to their query."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from enrollment_service.v1 import enrollment_pb2 as pb
from tests.support.client import Client
from tests.support.databases import Connection
from tests.support.refusals import refused


@dataclass
class Listing:
    """A list with rows in it: how to ask for it, and how to add and remove a row."""

    method: str
    rows: str
    key: str
    fields: dict[str, int]
    add: Callable[[], Awaitable[int]]
    remove: Callable[[int], Awaitable[Any]]

    async def keys(self, client: Client, **fields: Any) -> list[list[int]]:
        pages = await client.pages(self.method, self.rows, **self.fields, **fields)
        return [[getattr(row, self.key) for row in page] for page in pages]


async def students(client: Client) -> Listing:
    async def add() -> int:
        return (await client.create_student()).student_id

    async def remove(student_id: int) -> None:
        await client.call("DeleteStudent", student_id=student_id)

    return Listing("ListStudents", "students", "student_id", {}, add, remove)


async def courses(client: Client) -> Listing:
    async def add() -> int:
        return (await client.create_course()).course_id

    async def remove(course_id: int) -> None:
        await client.call("DeleteCourse", course_id=course_id)

    return Listing("ListCourses", "courses", "course_id", {}, add, remove)


async def student_courses(client: Client) -> Listing:
    (student_id,) = await client.students(1)

    async def add() -> int:
        (course_id,) = await client.courses(1)
        await client.enroll(student_id, course_id)
        return course_id

    async def remove(course_id: int) -> None:
        await client.unenroll(student_id, course_id)

    return Listing("ListStudentCourses", "enrollments", "course_id", {"student_id": student_id}, add, remove)


async def course_students(client: Client) -> Listing:
    """Nine of a course's students have a seat, everybody else waits, so pages cross from one to the other."""
    (course_id,) = await client.courses(1, capacity=9, waitlist_capacity=1000)

    async def add() -> int:
        (student_id,) = await client.students(1)
        await client.enroll(student_id, course_id, on_full=pb.ON_FULL_WAITLIST)
        return student_id

    async def remove(student_id: int) -> None:
        await client.unenroll(student_id, course_id)

    return Listing("ListCourseStudents", "enrollments", "student_id", {"course_id": course_id}, add, remove)


every_list = pytest.mark.parametrize("make", [students, courses, student_courses, course_students])
Make = Callable[[Client], Awaitable[Listing]]


@every_list
@pytest.mark.parametrize(("size", "pages"), [(1, 7), (3, 3), (7, 1), (8, 1), (0, 1), (1_000_000_000, 1)])
async def test_pages_are_complete_and_in_order(client: Client, make: Make, size: int, pages: int) -> None:
    listing = await make(client)
    made = [await listing.add() for _ in range(7)]
    found = await listing.keys(client, page_size=size)
    assert [key for page in found for key in page] == made
    assert len(found) == pages


@every_list
async def test_an_empty_list_is_one_empty_page(client: Client, make: Make) -> None:
    assert await (await make(client)).keys(client) == [[]]


@every_list
async def test_a_row_that_does_not_change_appears_exactly_once(client: Client, make: Make) -> None:
    listing = await make(client)
    made = [await listing.add() for _ in range(30)]
    # Of every three rows, one is deleted after the first page; new rows come before every page. The first nine stay:
    # somebody who leaves a seat would move a waiter from one part of the list to the other.
    doomed = set(made[9::3])
    seen: list[int] = []
    token = ""
    while True:
        answer = await client.call(listing.method, page_size=7, page_token=token, **listing.fields)
        seen += [getattr(row, listing.key) for row in getattr(answer, listing.rows)]
        token = answer.next_page_token
        if not token:
            break
        for key in [key for key in doomed if key in seen[:7] or len(seen) >= 7][:4]:
            await listing.remove(key)
            doomed.discard(key)
        if len(seen) < 25:
            await listing.add()
    assert len(seen) == len(set(seen))
    assert [key for key in seen if key in made and key not in made[9::3]] == [
        key for key in made if key not in made[9::3]
    ]


@every_list
async def test_a_page_has_fifty_rows_unless_asked_otherwise(client: Client, make: Make) -> None:
    listing = await make(client)
    for _ in range(51):
        await listing.add()
    assert [len(page) for page in await listing.keys(client)] == [50, 1]


async def test_a_page_never_has_more_than_a_thousand_rows(client: Client, connection: Connection) -> None:
    await connection.execute(
        "INSERT INTO students (full_name, email) SELECT 'S', 's' || n || '@example.org' FROM generate_series(1, 1001) n"
    )
    pages = await client.pages("ListStudents", "students", page_size=1_000_000)
    assert [len(page) for page in pages] == [1000, 1]


async def test_a_page_ends_early_before_it_becomes_too_large_for_a_client(
    client: Client, connection: Connection
) -> None:
    await connection.execute(
        "WITH made AS (INSERT INTO courses (code, title, description) "
        "SELECT 'C-' || n, 'T', repeat('\U0001f3a8', 2000) FROM generate_series(1, 600) n RETURNING id) "
        "INSERT INTO course_seats (course_id) SELECT id FROM made"
    )
    pages = await client.pages("ListCourses", "courses", page_size=1000)
    assert sum(map(len, pages)) == 600
    assert len(pages) == 3
    assert all(sum(course.ByteSize() for course in page) <= 2_000_000 for page in pages)


@every_list
async def test_a_negative_page_size_is_refused(client: Client, make: Make) -> None:
    listing = await make(client)
    with refused("INVALID_ARGUMENT", "INVALID_FIELD", fields=["page_size"]):
        await client.call(listing.method, page_size=-1, **listing.fields)


def damaged(token: str) -> list[str]:
    """A token with one bit flipped, padded, cut short, continued, decoded, and things that never were tokens."""
    raw = bytearray(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    flipped = []
    for index in (0, len(raw) - 1):
        other = bytearray(raw)
        other[index] ^= 1
        flipped.append(base64.urlsafe_b64encode(other).decode().rstrip("="))
    padded = token + "=" * (-len(token) % 4 or 1)
    return [*flipped, padded, token[:-2], token + "AAAA", "0", "1", "====", "\u00e9", "%00", "-1", "A" * 5000]


@every_list
async def test_a_damaged_token_is_refused(client: Client, make: Make) -> None:
    listing = await make(client)
    for _ in range(2):
        await listing.add()
    token = (await client.call(listing.method, page_size=1, **listing.fields)).next_page_token
    for broken in damaged(token):
        with refused("INVALID_ARGUMENT", "PAGE_TOKEN_INVALID", fields=["page_token"]):
            await client.call(listing.method, page_token=broken, **listing.fields)


async def test_a_token_belongs_to_its_list_and_its_filter(client: Client) -> None:
    ids = await client.students(2)
    course_ids = await client.courses(2)
    for student_id in ids:
        await client.enroll(student_id, *course_ids)
    enrolled = [pb.ENROLLMENT_STATE_ENROLLED]
    lists: list[tuple[str, dict[str, Any]]] = [
        ("ListStudents", {}),
        ("ListStudents", {"query": "ann"}),
        ("ListCourses", {}),
        ("ListCourses", {"query": "dra"}),
        ("ListCourses", {"only_open": True}),
        ("ListStudentCourses", {"student_id": ids[0]}),
        ("ListStudentCourses", {"student_id": ids[1]}),
        ("ListStudentCourses", {"student_id": ids[0], "states": enrolled}),
        ("ListCourseStudents", {"course_id": course_ids[0]}),
        ("ListCourseStudents", {"course_id": course_ids[1]}),
        ("ListCourseStudents", {"course_id": course_ids[0], "states": enrolled}),
    ]
    tokens = [(await client.call(method, page_size=1, **fields)).next_page_token for method, fields in lists]
    assert len(set(tokens)) == len(lists)
    for index, token in enumerate(tokens):
        for other, (method, fields) in enumerate(lists):
            if other == index:
                await client.call(method, page_token=token, **fields)
                continue
            with refused("INVALID_ARGUMENT", "PAGE_TOKEN_INVALID"):
                await client.call(method, page_token=token, **fields)


async def test_the_size_of_a_page_may_change_from_page_to_page(client: Client) -> None:
    ids = await client.students(5)
    first = await client.call("ListStudents", page_size=2)
    rest = await client.call("ListStudents", page_size=10, page_token=first.next_page_token)
    assert [one.student_id for one in [*first.students, *rest.students]] == ids
