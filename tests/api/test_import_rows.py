"""The streams of students and courses: created or updated by their external ids, a chunk a transaction."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from enrollment_service.v1 import enrollment_pb2 as pb
from tests.support.client import Client
from tests.support.databases import Connection, connected
from tests.support.refusals import refused
from tests.support.verification import wrong_in

Chunk = pb.ImportStudentsRequest | pb.ImportCoursesRequest


def student(number: str, email: str = "", full_name: str = "Ann Lee") -> pb.Student:
    return pb.Student(external_id=number, full_name=full_name, email=email or f"{number}@x.org")


def course(number: str, code: str = "", **fields: Any) -> pb.Course:
    return pb.Course(**{"external_id": number, "code": code or number, "title": "Drawing"} | fields)


def chunk(*rows: pb.Student | pb.Course, mask: Sequence[str] | None = None, **fields: Any) -> Chunk:
    update_mask = None if mask is None else FieldMask(paths=mask)
    students = [row for row in rows if isinstance(row, pb.Student)]
    if students:
        return pb.ImportStudentsRequest(students=students, update_mask=update_mask, **fields)
    courses = [row for row in rows if isinstance(row, pb.Course)]
    return pb.ImportCoursesRequest(courses=courses, update_mask=update_mask, **fields)


async def imported(client: Client, *chunks: Chunk) -> list[Any]:
    """All answers of one stream."""
    method = (
        client.stub.ImportStudents if isinstance(chunks[0], pb.ImportStudentsRequest) else client.stub.ImportCourses
    )
    return [answer async for answer in method(iter(chunks), timeout=30)]


def told(answer: Any) -> tuple[list[int], list[tuple[int, str]]]:
    """How many were created, updated, left alone and rejected; and the rejected rows."""
    rows = [(row.index, pb.ErrorReason.Name(row.reason).removeprefix("ERROR_REASON_")) for row in answer.rejected_rows]
    return [answer.created, answer.updated, answer.unchanged, answer.rejected], rows


async def test_students_are_created_updated_and_left_alone_by_their_external_ids(client: Client) -> None:
    (first,) = await imported(client, chunk(student("S-1"), student("S-2"), student("S-3"), chunk_id=7))
    assert (first.chunk_id, *told(first)) == (7, [3, 0, 0, 0], [])
    (again,) = await imported(
        client, chunk(student("S-3", full_name="Bo"), student("S-4"), student("S-1"), student("S-2", "S-2@X.ORG"))
    )
    assert told(again) == ([1, 2, 1, 0], [])
    assert [again.student_ids[0], *again.student_ids[2:]] == [first.student_ids[2], *first.student_ids[:2]]
    found = [(await client.call("GetStudent", student_id=one)).student for one in again.student_ids]
    assert [(one.external_id, one.full_name, one.email, one.etag) for one in found] == [
        ("S-3", "Bo", "S-3@x.org", "2"),
        ("S-4", "Ann Lee", "S-4@x.org", "1"),
        ("S-1", "Ann Lee", "S-1@x.org", "1"),
        ("S-2", "Ann Lee", "S-2@X.ORG", "2"),
    ]


async def test_rows_that_cannot_be_are_reported_with_their_reason(client: Client) -> None:
    await client.create_student(email="taken@x.org")
    rows = [
        student("S-1"),
        student(""),
        student("S-2", "nobody"),
        student("S-1", "other@x.org"),
        student("S-3", "TAKEN@x.org"),
        student("S-4", "s-1@X.org"),
        student("S-5"),
        student("S\n6"),
    ]
    (answer,) = await imported(client, chunk(*rows))
    invalid, taken = "INVALID_FIELD", "EMAIL_TAKEN"
    assert told(answer) == (
        [2, 0, 0, 6], [(1, invalid), (2, invalid), (3, invalid), (4, taken), (5, taken), (7, invalid)]
    )  # fmt: skip
    assert [one > 0 for one in answer.student_ids] == [True, False, False, False, False, False, True, False]


async def test_a_mask_spares_the_other_fields_of_who_is_there(client: Client) -> None:
    await imported(client, chunk(student("S-1", "old@x.org", "Old")))
    (answer,) = await imported(client, chunk(student("S-1", "new@x.org", "New"), student("S-2"), mask=["full_name"]))
    assert told(answer) == ([1, 1, 0, 0], [])
    found = (await client.call("GetStudent", external_id="S-1")).student
    assert (found.full_name, found.email) == ("New", "old@x.org")


async def test_addresses_are_handed_on_within_a_chunk_to_rows_further_down(client: Client) -> None:
    await imported(client, chunk(*(student(f"S-{number}", f"a{number}@x.org") for number in range(5))))
    down = [student("S-0", "free@x.org"), *(student(f"S-{number}", f"a{number - 1}@x.org") for number in range(1, 5))]
    (answer,) = await imported(client, chunk(*down))
    assert told(answer) == ([0, 5, 0, 0], [])
    up = [student(f"S-{number}", f"a{number}@x.org") for number in range(5)]
    (answer,) = await imported(client, chunk(*up))
    # Each asks for what the next one still has; only the last asks for what is free.
    assert told(answer) == ([0, 1, 0, 4], [(number, "EMAIL_TAKEN") for number in range(4)])
    for free in (1, 2, 3, 4):
        (answer,) = await imported(client, chunk(*up))
        assert answer.updated == 1, free
    assert told((await imported(client, chunk(*up)))[0]) == ([0, 0, 5, 0], [])


async def test_a_chunk_sent_again_is_answered_from_record(client: Client) -> None:
    request_id = str(uuid.uuid4())
    sent = chunk(student("S-1"), student("S-2", "none"), request_id=request_id)
    (first,) = await imported(client, sent)
    await imported(client, chunk(student("S-1", full_name="Bo")))
    assert await imported(client, sent) == [first]
    assert (await client.call("GetStudent", external_id="S-1")).student.full_name == "Bo"
    with refused("INVALID_ARGUMENT", "REQUEST_ID_REUSED"):
        await imported(client, chunk(student("S-1"), student("S-3"), request_id=request_id))


async def test_courses_begin_change_and_promote_with_events_of_the_import(
    client: Client, connection: Connection, database_url: str
) -> None:
    (first,) = await imported(
        client, chunk(course("C-1", capacity=1, waitlist_capacity=5), course("C-2", description="Line\nbreak"))
    )
    assert told(first) == ([2, 0, 0, 0], [])
    students = await client.students(4)
    for one in students:
        await client.enroll(one, first.course_ids[0], on_full=pb.ON_FULL_WAITLIST)
    rows = [
        course("C-1", capacity=3, waitlist_capacity=5),
        course("C-2", description="Line\nbreak"),
        course("C-3"),
        course("C-4", "c-3 "),
    ]
    (again,) = await imported(client, chunk(*rows))
    assert told(again) == ([1, 1, 1, 1], [(3, "CODE_TAKEN")])
    assert list(again.course_ids[:2]) == list(first.course_ids)
    assert (await client.call("GetCourse", external_id="C-1")).course.enrolled_count == 3
    assert await client.roster(first.course_ids[0]) == students
    events = await connection.fetch(
        "SELECT kind, reason, changed_fields, capacity FROM enrollment_events WHERE course_id = $1 AND kind <> 1 "
        "OR reason = 'waitlist_promotion' ORDER BY sequence",
        first.course_ids[0],
    )
    promoted = (1, "waitlist_promotion", None, 3)
    assert [tuple(event) for event in events] == [
        (2, "import", None, 1), (3, "import", ["capacity"], 3), promoted, promoted
    ]  # fmt: skip
    assert await wrong_in(database_url) == []


async def test_rules_of_courses_hold_row_by_row(client: Client) -> None:
    (first,) = await imported(client, chunk(course("C-1", capacity=5), course("C-2")))
    for one in await client.students(2):
        await client.enroll(one, first.course_ids[0])
    early, late = {"seconds": 1_000}, {"seconds": 2_000}
    rows = [
        course("C-1", capacity=1),
        course("C-2", enroll_open_time=late, enroll_close_time=early),
        course("C-3", "a/b"),
        course("C-4", enroll_open_time=early, enroll_close_time=late),
        course("C-5", enroll_open_time={"seconds": 2**60}),
    ]
    (answer,) = await imported(client, chunk(*rows))
    invalid = "INVALID_FIELD"
    assert told(answer) == (
        [1, 0, 0, 4], [(0, "CAPACITY_BELOW_ENROLLED"), (1, invalid), (2, invalid), (4, invalid)]
    )  # fmt: skip
    # A mask decides which rules a row can break.
    assert told((await imported(client, chunk(course("C-1", capacity=1), mask=["title"])))[0]) == ([0, 0, 1, 0], [])
    # With the others as they are, one end of a window may come to lie before the other.
    rows = [course("C-4", enroll_close_time=early)]
    assert told((await imported(client, chunk(*rows, mask=["enroll_close_time"])))[0])[1] == [(0, "INVALID_FIELD")]


async def test_codes_are_handed_on_like_addresses(client: Client, database_url: str) -> None:
    await imported(client, chunk(course("C-1", "A"), course("C-2", "B"), course("C-3", "C")))
    (answer,) = await imported(client, chunk(course("C-1", "D"), course("C-2", "a"), course("C-3", "b", title="T")))
    assert told(answer) == ([0, 3, 0, 0], [])
    found = [(await client.call("GetCourse", external_id=f"C-{number}")).course for number in (1, 2, 3)]
    assert [(one.code, one.title, one.etag) for one in found] == [
        ("D", "Drawing", "2"),
        ("a", "Drawing", "2"),
        ("b", "T", "2"),
    ]
    assert await wrong_in(database_url) == []


async def test_as_many_rows_as_allowed_are_one_transaction(
    client: Client, connection: Connection, database_url: str
) -> None:
    (answer,) = await imported(client, chunk(*(course(f"C-{number}", capacity=1) for number in range(5_000))))
    assert told(answer) == ([5_000, 0, 0, 0], [])
    (answer,) = await imported(client, chunk(*(course(f"C-{number}", capacity=2) for number in range(5_000))))
    assert told(answer) == ([0, 5_000, 0, 0], [])
    counts = "SELECT kind, count(DISTINCT xid), count(*) FROM enrollment_events GROUP BY kind ORDER BY kind"
    assert [tuple(row) for row in await connection.fetch(counts)] == [(2, 1, 5_000), (3, 1, 5_000)]
    assert await wrong_in(database_url) == []
    (answer,) = await imported(client, chunk(*(student(f"S-{number}") for number in range(5_000))))
    assert told(answer) == ([5_000, 0, 0, 0], [])
    codes = await connection.fetch(
        "SELECT external_id FROM students WHERE id = ANY($1) ORDER BY id", answer.student_ids
    )
    assert [row[0] for row in codes] == [f"S-{number}" for number in range(5_000)]


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (pb.ImportStudentsRequest(), "students"),
        (chunk(*[student("S-1")] * 5_001), "students"),
        (chunk(student("S-1"), mask=[]), "update_mask"),
        (chunk(student("S-1"), mask=["external_id"]), "update_mask"),
        (chunk(student("S-1"), request_id="7"), "request_id"),
        (pb.ImportCoursesRequest(), "courses"),
        (chunk(course("C-1"), mask=["title", "etag"]), "update_mask"),
    ],
)
async def test_a_malformed_chunk_ends_the_stream_after_those_before(client: Client, wrong: Chunk, field: str) -> None:
    good = chunk(student("S-9")) if isinstance(wrong, pb.ImportStudentsRequest) else chunk(course("C-9"))
    method = client.stub.ImportStudents if isinstance(good, pb.ImportStudentsRequest) else client.stub.ImportCourses
    answers = []
    with refused("INVALID_ARGUMENT", "INVALID_FIELD", fields=[field]):
        async for answer in method(iter([good, wrong, good]), timeout=30):
            answers.append(told(answer))  # noqa: PERF401 - what came before the refusal is kept
    assert answers == [([1, 0, 0, 0], [])]


@pytest.mark.parametrize("make", [student, course])
async def test_two_imports_of_the_same_rows_at_once_create_each_once(
    client: Client, connection: Connection, make: Any, database_url: str
) -> None:
    """Lone courses are locked in the order of ids, new ones wait for each other's keys: neither may lose a row."""
    rows = [make(f"X-{number}") for number in range(300)]
    both = [[chunk(*rows[at : at + 30]) for at in range(0, 300, 30)] for _ in range(2)]
    both[1].reverse()
    answers = await asyncio.gather(*(imported(client, *chunks) for chunks in both))
    totals = [told(answer)[0] for stream in answers for answer in stream]
    assert [sum(column) for column in zip(*totals, strict=True)] == [300, 0, 300, 0]
    table = "students" if make is student else "courses"
    assert await connection.fetchval(f"SELECT count(*) FROM {table}") == 300
    assert await wrong_in(database_url) == []


@pytest.mark.parametrize("new", [True, False])
async def test_an_address_that_somebody_takes_meanwhile_is_taken(client: Client, database_url: str, new: bool) -> None:
    if not new:
        await imported(client, chunk(student("S-1", "old@x.org")))
    async with connected(database_url) as other:
        transaction = other.transaction()
        await transaction.start()
        await other.execute("INSERT INTO students (full_name, email) VALUES ('Bo', 'wanted@x.org')")
        importing = asyncio.create_task(imported(client, chunk(student("S-1", "wanted@x.org"), student("S-2"))))
        done, _ = await asyncio.wait([importing], timeout=0.2)
        assert not done
        await transaction.commit()
    (answer,) = await importing
    assert told(answer) == ([1, 0, 0, 1], [(0, "EMAIL_TAKEN")])


async def test_a_student_who_is_deleted_meanwhile_is_created_again(client: Client, database_url: str) -> None:
    ((first, *_),) = [answer.student_ids for answer in await imported(client, chunk(student("S-1")))]
    async with connected(database_url) as other:
        transaction = other.transaction()
        await transaction.start()
        await other.execute("DELETE FROM students WHERE id = $1", first)
        importing = asyncio.create_task(imported(client, chunk(student("S-1", full_name="Bo"))))
        done, _ = await asyncio.wait([importing], timeout=0.2)
        assert not done
        await transaction.commit()
    (answer,) = await importing
    assert told(answer) == ([1, 0, 0, 0], [])
    assert answer.student_ids[0] != first


async def test_names_and_numbers_are_in_no_log_line(client: Client, service_log: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError):
        await imported(client, chunk(student("S-4711", "a4711@x.org", "Zoe4711")), pb.ImportStudentsRequest())
    assert [line for line in service_log.lines if "4711" in str(line)] == []
    assert [line["created"] for line in service_log.lines if line["event"] == "chunk imported"] == [1]
