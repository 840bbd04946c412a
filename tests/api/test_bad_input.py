"""Bad values in good messages: every one is refused and named before the database sees it, over the wire."""

from __future__ import annotations

from typing import Any

import pytest

from enrollment_service.v1 import enrollment_pb2 as pb
from tests.support.client import Client
from tests.support.databases import Connection
from tests.support.refusals import refused

LARGEST = 2**63 - 1
STUDENT = {"full_name": "Ann", "email": "ann@example.org"}
COURSE = {"code": "ART-1", "title": "Drawing"}
UUID = "123e4567-e89b-12d3-a456-426614174000"

NAMES = [
    "",
    " ",
    "\u00a0\u2003",  # blank, though no ASCII space
    "x" * 201,
    "\U0001f600" * 201,
    "nul\0byte",
    "line\nbreak",
    "tab\tbreak",
    "escape\x1b[31m",
    "delete\x7f",
    "c1\x85control",
    "line\u2028separator",
    "paragraph\u2029separator",
    "bidi\u202eevil",
    "isolate\u2066evil",
    "mark\u200fevil",
]
EMAILS = [
    *("", " ", "ann", "@", "ann@", "@example.org", "a b@example.org", "a@b@c", "a@exam ple.org", "nul\0@example.org"),
    *("ann@example.org\n", "a\u202e@example.org", "a" * 243 + "@example.org"),
]
CODES = ["", " ", "  ", "x" * 41, "a/b", "a,b", "ART\n1", "nul\0", "ÄRT", "a\u202eb", "%", "1\uff11"]


def student(**changes: Any) -> dict[str, Any]:
    return {"student": pb.Student(**STUDENT | changes)}


def course(**changes: Any) -> dict[str, Any]:
    return {"course": pb.Course(**COURSE | changes)}


OWN_REASONS = [
    "migration", "waitlist_promotion", "swap", "trade", "import", "reconcile", "student_deleted", "course_deleted",
]  # fmt: skip


def rows() -> list[tuple[str, dict[str, Any], list[str]]]:
    """Method, fields of the request, and the fields that must be named."""
    table: list[tuple[str, dict[str, Any], list[str]]] = [
        ("CreateStudent", {}, ["student.full_name", "student.email"]),
        ("CreateCourse", {}, ["course.code", "course.title"]),
        ("CreateStudent", student(full_name="", email=""), ["student.full_name", "student.email"]),
        ("CreateCourse", course(capacity=-1), ["course.capacity"]),
        ("CreateCourse", course(capacity=-(2**31)), ["course.capacity"]),
        ("CreateCourse", course(waitlist_capacity=-1), ["course.waitlist_capacity"]),
        ("CreateCourse", course(description="x" * 2001), ["course.description"]),
        ("CreateCourse", course(description="nul\0"), ["course.description"]),
        ("CreateCourse", course(description="bidi\u202e"), ["course.description"]),
        ("CreateCourse", course(description="esc\x1b"), ["course.description"]),
        ("EnrollStudent", {}, ["student_id", "course_ids"]),
        ("EnrollStudent", {"student_id": 1, "course_ids": [1, 2, 1]}, ["course_ids"]),
        ("EnrollStudent", {"student_id": 1, "course_ids": [*range(1, 52)]}, ["course_ids"]),
        ("EnrollStudent", {"student_id": 1, "course_ids": [5, 0, -3]}, ["course_ids[1]", "course_ids[2]"]),
        ("EnrollStudent", {"student_id": 1, "course_ids": [1], "on_full": 999}, ["on_full"]),
        ("EnrollStudent", {"student_id": 1, "course_ids": [1], "on_full": -1}, ["on_full"]),
        ("SwapEnrollment", {"student_id": 1, "from_course_id": 2, "to_course_id": 2}, ["to_course_id"]),
        ("ReconcileRoster", {"course_id": 1, "student_ids": [*range(1, 5002)]}, ["student_ids"]),
        ("ReconcileRoster", {"course_id": 1, "max_removals": -1}, ["max_removals"]),
        ("ListStudents", {"query": "nul\0"}, ["query"]),
        ("ListCourses", {"query": "x" * 255}, ["query"]),
        ("ListStudents", {"page_size": -1}, ["page_size"]),
        ("ListCourses", {"page_size": -(2**31)}, ["page_size"]),
    ]
    table += [("CreateStudent", student(full_name=name), ["student.full_name"]) for name in NAMES]
    table += [("CreateStudent", student(email=email), ["student.email"]) for email in EMAILS]
    table += [("CreateCourse", course(code=code), ["course.code"]) for code in CODES]
    table += [("CreateCourse", course(title=title), ["course.title"]) for title in NAMES]
    for name in ("enroll_open_time", "enroll_close_time"):
        for moment in (
            {"seconds": 253_402_300_800},  # the year 10000
            {"seconds": -62_135_596_801},  # before the year 1
            {"seconds": LARGEST},
            {"nanos": 1_000_000_000},
            {"nanos": -1},
        ):
            table.append(("CreateCourse", course(**{name: moment}), [f"course.{name}"]))
    for closes in ({"seconds": 5}, {"seconds": 4, "nanos": 999_999_999}):
        window = {"enroll_open_time": {"seconds": 5}, "enroll_close_time": closes}
        table.append(("CreateCourse", course(**window), ["course.enroll_close_time"]))
    for request_id in ("1", "x" * 36, UUID[:-1], UUID + "0", f"{{{UUID}}}", UUID.replace("-", ""), f" {UUID}", "\0"):
        fields = {"student_id": 1, "course_ids": [1], "request_id": request_id}
        table.append(("EnrollStudent", fields, ["request_id"]))
    for reason in ("Upper", "a b", "x" * 65, "ä", "line\nbreak", "a/b"):
        table.append(("UnenrollStudent", {"student_id": 1, "course_id": 1, "reason": reason}, ["reason"]))
    one, mask = {"student_id": 1, "course_id": 1}, {"paths": ["title"]}
    writes: dict[str, dict[str, Any]] = {
        "CreateStudent": student(),
        "UpdateStudent": student(student_id=1) | {"update_mask": {"paths": ["full_name"]}},
        "DeleteStudent": {"student_id": 1},
        "CreateCourse": course(),
        "UpdateCourse": course(course_id=1) | {"update_mask": mask},
        "DeleteCourse": {"course_id": 1},
        "EnrollStudent": {"student_id": 1, "course_ids": [1]},
        "UnenrollStudent": one,
        "SwapEnrollment": {"student_id": 1, "from_course_id": 1, "to_course_id": 2},
        "ReconcileRoster": {"course_id": 1},
    }
    for method, fields in writes.items():
        table.append((method, fields | {"request_id": "x"}, ["request_id"]))
        if "reason" in getattr(pb, f"{method}Request").DESCRIPTOR.fields_by_name:
            table += [(method, fields | {"reason": own}, ["reason"]) for own in OWN_REASONS]
    for method, name in (("UpdateStudent", "student"), ("UpdateCourse", "course")):
        table.append((method, {}, [f"{name}.{name}_id", "update_mask"]))
    return table


@pytest.mark.parametrize(("method", "fields", "named"), rows())
async def test_a_bad_value_is_named(
    client: Client, connection: Connection, method: str, fields: dict[str, Any], named: list[str]
) -> None:
    with refused("INVALID_ARGUMENT", "INVALID_FIELD", fields=named) as refusal:
        await client.call(method, **fields)
    assert refusal.metadata["field"] == named[0]
    assert refusal.metadata.get("violation_count", "1") == str(len(named))
    for table in ("students", "courses"):
        assert await connection.fetchval(f"SELECT count(*) FROM {table}") == 0


BY_ID: list[tuple[str, dict[str, Any], str]] = [
    ("GetStudent", {"student_id": 0}, "student_id"),
    ("DeleteStudent", {"student_id": 0}, "student_id"),
    ("GetCourse", {"course_id": 0}, "course_id"),
    ("DeleteCourse", {"course_id": 0}, "course_id"),
    ("ListStudentCourses", {"student_id": 0}, "student_id"),
    ("ListCourseStudents", {"course_id": 0}, "course_id"),
    ("GetEnrollment", {"student_id": 0, "course_id": 1}, "student_id"),
    ("GetEnrollment", {"student_id": 1, "course_id": 0}, "course_id"),
    ("UnenrollStudent", {"student_id": 0, "course_id": 1}, "student_id"),
    ("UnenrollStudent", {"student_id": 1, "course_id": 0}, "course_id"),
    ("EnrollStudent", {"student_id": 0, "course_ids": [1]}, "student_id"),
    ("SwapEnrollment", {"student_id": 0, "from_course_id": 1, "to_course_id": 2}, "student_id"),
    ("SwapEnrollment", {"student_id": 1, "from_course_id": 0, "to_course_id": 2}, "from_course_id"),
    ("SwapEnrollment", {"student_id": 1, "from_course_id": 1, "to_course_id": 0}, "to_course_id"),
    ("ReconcileRoster", {"course_id": 0, "student_ids": [1]}, "course_id"),
]


@pytest.mark.parametrize(("method", "fields", "name"), BY_ID)
async def test_an_id_is_positive_and_may_be_huge(
    client: Client, method: str, fields: dict[str, Any], name: str
) -> None:
    for bad in (0, -1, -LARGEST - 1):
        with refused("INVALID_ARGUMENT", "INVALID_FIELD", fields=[name], metadata={"field": name}):
            await client.call(method, **fields | {name: bad})
    reason = "STUDENT_NOT_FOUND" if any(key.startswith("student_id") for key in fields) else "COURSE_NOT_FOUND"
    with refused("NOT_FOUND", reason) as refusal:
        await client.call(method, **fields | {name: LARGEST})
    assert any(str(LARGEST) in one for one in refusal.resources)


async def test_what_looks_dangerous_but_is_not_is_stored_as_it_is(client: Client) -> None:
    for name in (
        "Robert'); DROP TABLE students; --",
        "100%",
        "a_b",
        "\\",
        "$1",
        "{0}",
        "%s",
        "Ann\u200dLee",
        "x" * 200,
    ):
        created = await client.create_student(name)
        assert (await client.call("GetStudent", student_id=created.student_id)).student.full_name == name
    widest = "\U0001f600" * 200
    assert (await client.create_student(widest)).full_name == widest
    longest = "a" * 242 + "@example.org"
    assert (await client.create_student(email=longest)).email == longest
    assert len((await client.create_course("x" * 40, description="\U0001f600" * 2000)).description) == 2000


async def test_ids_capacities_and_times_may_be_extreme(client: Client) -> None:
    window: dict[str, Any] = {
        "enroll_open_time": {"seconds": -62_135_596_800},
        "enroll_close_time": {"seconds": 253_402_300_799},
    }
    course = await client.create_course(capacity=2**31 - 1, waitlist_capacity=2**31 - 1, **window)
    assert (await client.call("GetCourse", course_id=course.course_id)).course == course
    assert course.enroll_open_time.seconds == -62_135_596_800
    # The ends of time, to the nanosecond; the driver takes the first and the last microsecond for infinities.
    window = {"enroll_open_time": {"nanos": 0}, "enroll_close_time": {"seconds": 253_402_300_799, "nanos": 999_999_999}}
    course = await client.create_course(**window)
    assert (await client.call("GetCourse", course_id=course.course_id)).course == course
    assert course.enroll_close_time.seconds == 253_402_300_799
    await client.enroll((await client.create_student()).student_id, course.course_id)


async def test_hundreds_of_bad_fields_are_counted_and_capped(client: Client) -> None:
    with refused("INVALID_ARGUMENT", "INVALID_FIELD") as refusal:
        await client.call("ReconcileRoster", course_id=1, student_ids=range(-500, 0))
    assert refusal.metadata["violation_count"] == "500"
    assert refusal.fields == [f"student_ids[{index}]" for index in range(20)]


async def test_fifty_missing_courses_are_counted_and_capped(client: Client) -> None:
    ids = [LARGEST - index for index in range(50)]
    with refused("NOT_FOUND", "STUDENT_NOT_FOUND") as refusal:
        await client.enroll(LARGEST, *ids)
    assert refusal.metadata["violation_count"] == "51"
    assert refusal.resources == [f"students/{LARGEST}", *(f"courses/{one}" for one in ids[:19])]


@pytest.mark.parametrize(
    ("requests", "fields"),
    [
        ([{"chunk_id": 1}], ["student_ids"]),
        ([{"chunk_id": 1, "student_ids": [1, 2], "course_ids": [1]}], ["course_ids"]),
        ([{"chunk_id": 1, "student_ids": [1] * 10_001, "course_ids": [1] * 10_001}], ["student_ids"]),
        ([{"chunk_id": 1, "student_ids": [0], "course_ids": [-1]}], ["student_ids", "course_ids"]),
        ([{"chunk_id": 1, "student_ids": [1], "course_ids": [1], "on_full": 7}], ["on_full"]),
        ([{"chunk_id": 1, "student_ids": [1], "course_ids": [1], "request_id": "x"}], ["request_id"]),
    ],
)
async def test_a_bad_chunk_ends_an_import_after_the_chunks_before_it(
    client: Client, requests: list[dict[str, Any]], fields: list[str]
) -> None:
    (student_id,), (course_id,) = await client.students(1), await client.courses(1)
    good = {"chunk_id": 7, "student_ids": [student_id], "course_ids": [course_id]}
    answers = []
    with refused("INVALID_ARGUMENT", "INVALID_FIELD", fields=fields):
        chunks = [pb.ImportEnrollmentsRequest(**one) for one in [good, *requests]]
        async for answer in client.stub.ImportEnrollments(chunks):
            answers.append(answer)  # noqa: PERF401 - the answers before the refusal are wanted
    assert answers == [pb.ImportEnrollmentsResponse(chunk_id=7, enrolled=1)]
    assert await client.roster(course_id) == [student_id]
