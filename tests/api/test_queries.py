"""The filters of ListStudents and ListCourses: prefixes taken literally whatever their case, and open windows."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from tests.conftest import StartService
from tests.support.client import Client
from tests.support.databases import Connection, until_alone
from tests.support.services import START, Clock, service_on

NAMES = [
    "Ann Lee",
    "ANNA Ø",
    "Bo Ann",
    "100% Bob",
    "100 Bob",
    "a_b",
    "aXb",
    "back\\slash",
    "backslash",
    "'; DROP TABLE students; --",
    "/slash",
    "//slash",
    "[abc]",
    "^start",
    "Émile",
    "İpek",
    "STRAẞE",
]


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("ann", ["Ann Lee", "ANNA Ø"]),
        ("ANN", ["Ann Lee", "ANNA Ø"]),
        ("Ann L", ["Ann Lee"]),
        ("Lee", []),
        ("100%", ["100% Bob"]),
        ("%", []),
        ("_", []),
        ("a_", ["a_b"]),
        ("back\\", ["back\\slash"]),
        ("\\", []),
        ("/", ["/slash", "//slash"]),
        ("//", ["//slash"]),
        ("/s", ["/slash"]),
        ("'; DROP TABLE", ["'; DROP TABLE students; --"]),
        ("[", ["[abc]"]),
        ("^", ["^start"]),
        ("émi", ["Émile"]),
        ("İp", ["İpek"]),
        ("STRAẞ", ["STRAẞE"]),
        ("zz", []),
    ],
)
async def test_students_by_the_beginning_of_their_name(client: Client, query: str, names: list[str]) -> None:
    for name in NAMES:
        await client.create_student(name)
    answer = await client.call("ListStudents", query=query)
    assert [one.full_name for one in answer.students] == names


async def test_students_by_the_beginning_of_their_address(client: Client) -> None:
    for address in ("Ann@example.org", "bob%x@example.org", "bobbx@example.org", "example@ann.org"):
        await client.create_student("Somebody", address)
    for query, addresses in {
        "ANN@": ["Ann@example.org"],
        "bob%": ["bob%x@example.org"],
        "ann": ["Ann@example.org"],
        "somebody": ["Ann@example.org", "bob%x@example.org", "bobbx@example.org", "example@ann.org"],
    }.items():
        answer = await client.call("ListStudents", query=query)
        assert [one.email for one in answer.students] == addresses


@pytest.mark.parametrize(
    ("query", "codes"),
    [
        ("art", ["ART-1", "art_2"]),
        ("art_", ["art_2"]),
        ("DRAW", ["ART-1"]),
        ("50%", ["X-3"]),
        ("50", ["X-3", "X-4"]),
        ("ing", []),
    ],
)
async def test_courses_by_the_beginning_of_code_or_title(client: Client, query: str, codes: list[str]) -> None:
    for code, title in (("ART-1", "Drawing"), ("art_2", "Painting"), ("X-3", "50% off"), ("X-4", "50 ways")):
        await client.create_course(code, title)
    answer = await client.call("ListCourses", query=query)
    assert [one.code for one in answer.courses] == codes


async def test_only_courses_whose_window_is_open_now_full_or_not(start_service: StartService, clock: Clock) -> None:
    client = (await start_service(clock.column)).client
    hour = timedelta(hours=1)
    for code, opens, closes, capacity in (
        ("always", None, None, None),
        ("full", None, None, 0),
        ("opened", START, None, None),
        ("opens", START + hour, None, None),
        ("closed", None, START, None),
        ("closes", None, START + hour, None),
        ("within", START - hour, START + hour, None),
        ("over", START - 2 * hour, START - hour, None),
    ):
        window: dict[str, Any] = {"enroll_open_time": opens, "enroll_close_time": closes, "capacity": capacity}
        await client.create_course(code, **{name: value for name, value in window.items() if value is not None})

    async def listed(**fields: object) -> list[str]:
        return [one.code for one in (await client.call("ListCourses", **fields)).courses]

    assert await listed(only_open=True) == ["always", "full", "opened", "closes", "within"]
    assert await listed(only_open=True, query="o") == ["opened"]
    assert len(await listed()) == 8
    await clock.advance(hours=1)
    assert await listed(only_open=True) == ["always", "full", "opened", "opens"]


async def test_a_prefix_is_found_by_an_index(app_url: str, connection: Connection) -> None:
    await connection.execute(
        "INSERT INTO students (full_name, email) "
        "SELECT md5(n::text), n || '@example.org' FROM generate_series(1, 9000) n"
    )
    await connection.execute("ANALYZE students")
    async with service_on(app_url) as service:
        assert (await service.client.call("ListStudents", query="c4ca42")).students
    # Its connections are closed; their backends hand in their statistics before they are gone.
    await until_alone(connection)
    scans = await connection.fetch("SELECT indexrelname, idx_scan FROM pg_stat_user_indexes WHERE relname = 'students'")
    used = {row["indexrelname"] for row in scans if row["idx_scan"]}
    assert {"ix_students_full_name_prefix", "ix_students_email_prefix"} <= used
