"""The guide for existing databases, executed: its SQL on the tables that it starts from, then the service on them."""

from __future__ import annotations

import re
import warnings
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from alembic import command
from alembic.config import Config

from tests.docs.documents import PROJECT, blocks, read, section
from tests.support.databases import Connection, PostgresServer, connected, in_thread
from tests.support.services import service_on
from tests.support.verification import wrong_in

PAGE = "docs/adopting.md"
JOIN_TABLE = "student_courses"


@pytest.fixture
async def empty_url(postgres_server: PostgresServer) -> AsyncIterator[str]:
    """A database without any table."""
    async with postgres_server.database() as url:
        yield url


def starting_tables() -> list[str]:
    """The statements of the first block: students, courses, the join table."""
    return [statement for statement in blocks("sql", read(PAGE))[0].split(";\n") if statement.strip()]


def searches() -> list[str]:
    """The queries that must return no rows."""
    (block,) = blocks("sql", section(PAGE, "2. Find rows that do not fit"))
    return block.splitlines()


def changes() -> list[str]:
    """What is run on the tables, and what is run only if there is a join table."""
    return blocks("sql", section(PAGE, "3. Change the tables"))


async def fill(connection: Connection, *, joined: bool) -> None:
    """What an old system leaves behind: gaps, missing values, a deleted last row."""
    await connection.execute(
        "INSERT INTO students (name, email, created_at) VALUES ('Ann Lee', 'Ann@Example.org', '2020-01-01 08:00'),"
        " ('Bo Chen', 'bo@example.org', NULL), ('Cy Roe', 'cy@example.org', now())"
    )
    await connection.execute("DELETE FROM students WHERE name = 'Cy Roe'")
    await connection.execute(
        "INSERT INTO courses (code, title, description) VALUES ('ART-1', 'Drawing', NULL), (NULL, 'Choir', 'Songs')"
    )
    if joined:
        await connection.execute(
            "INSERT INTO student_courses (student_id, course_id, enrolled_at) VALUES (1, 1, '2021-01-01'), (1, 2, NULL)"
        )


def alembic(url: str, work: Callable[..., Any], *arguments: Any) -> None:
    config = Config(PROJECT / "alembic.ini")
    config.attributes["database_url"] = url

    def run() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Alembic knows neither xid8 nor operator classes
            work(config, *arguments)

    in_thread(run)


async def adopt(url: str, *, joined: bool) -> None:
    """Follows the guide from its first table to its last command."""
    async with connected(url) as connection:
        for statement in starting_tables():
            if joined or JOIN_TABLE not in statement:
                await connection.execute(statement)
        await fill(connection, joined=joined)
        for query in searches():
            if joined or JOIN_TABLE not in query:
                assert await connection.fetch(query) == [], query
        always, if_joined = changes()
        await connection.execute(always)
        if joined:
            await connection.execute(if_joined)
    commands = [
        re.sub(r"\s+#.*", "", line).removeprefix(".venv/bin/alembic ")
        for line in blocks("", section(PAGE, "4. Mark the revision, and upgrade"))[0].splitlines()
    ]
    assert commands == ["stamp 0001", "upgrade head", "check"]
    alembic(url, command.stamp, "0002" if joined else "0001")
    alembic(url, command.upgrade, "head")
    alembic(url, command.check)


@pytest.mark.parametrize("joined", [True, False])
async def test_the_guide_ends_in_a_database_that_the_service_serves(empty_url: str, joined: bool) -> None:
    await adopt(empty_url, joined=joined)
    assert await wrong_in(empty_url) == []
    async with service_on(empty_url) as service:
        client = service.client
        assert await client.courses_of(1) == ([1, 2] if joined else [])
        assert (
            await client.call("GetStudent", student_id=1)
        ).student.create_time.ToJsonString() == "2020-01-01T08:00:00Z"
        assert (await client.call("GetCourse", course_id=2)).course.code == "COURSE-2"
        assert (await client.create_student()).student_id == 4  # never an id again that was given out
        await client.enroll(2, 1, 2)


async def test_the_searches_find_what_does_not_fit(empty_url: str) -> None:
    async with connected(empty_url) as connection:
        for statement in starting_tables():
            await connection.execute(statement)
        await connection.execute("INSERT INTO students (name, email) VALUES ('', 'a@x'), ('A', 'b@x'), ('B', 'B@x')")
        await connection.execute("INSERT INTO courses (code, title) VALUES ('Ä', 'A title')")
        await connection.execute("INSERT INTO student_courses (student_id, course_id) VALUES (1, NULL)")
        found = [len(await connection.fetch(query)) for query in searches()]
        # Two codes that are equal cannot be there: these tables have a unique constraint.
        assert found == [1, 1, 0, 1, 1]


async def test_what_it_says_about_sql_afterwards(empty_url: str) -> None:
    (update,) = re.findall(r"`((?:UPDATE|INSERT)[^`]+)`", section(PAGE, "5. From then on"))
    await adopt(empty_url, joined=True)
    async with service_on(empty_url) as service, connected(empty_url) as connection:
        while (course := await service.client.create_course()).course_id < 12:
            pass
        assert course.course_id == 12
        await service.client.enroll(1, 12)
        await connection.execute("UPDATE courses SET title = 'Newer' WHERE id = 12")
        await connection.execute(update)
        (held,) = [one for one in await _courses(service.client) if one.course_id == 12]
        assert held.course.title == "Newer"
    assert await wrong_in(empty_url) == []


async def _courses(client: Any) -> list[Any]:
    return list((await client.call("ListStudentCourses", student_id=1)).enrollments)
