"""Imports of whole schools, killed in the middle and started again: in the end everything is there, once."""

from __future__ import annotations

import asyncio
import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.cli.test_oneroster import write_export
from tests.support.databases import Connection
from tests.support.processes import Processes, ServerProcess
from tests.support.verification import wrong_in

PATIENCE = 300.0


class School(NamedTuple):
    """How many students and courses, and in how many courses each student is."""

    students: int
    courses: int
    each: int

    @property
    def pairs(self) -> list[tuple[int, int]]:
        return [
            (student, (student * 7 + number * 13) % self.courses)
            for student in range(self.students)
            for number in range(self.each)
        ]


# Seven and thirteen are prime to the numbers of courses: no student is twice in one.
SMALL = School(students=1_000, courses=40, each=4)
LARGE = School(students=100_000, courses=5_000, each=10)
SIZES = [
    pytest.param(SMALL, marks=[pytest.mark.long, pytest.mark.timeout(180)]),
    pytest.param(LARGE, marks=[pytest.mark.long, pytest.mark.timeout(1800)]),
]


class Site:
    """A server that imports go to, and what is in its database."""

    def __init__(self, processes: Processes, server: ServerProcess, connection: Connection) -> None:
        self.processes = processes
        self.server = server
        self.connection = connection

    def start(self, *arguments: str) -> ServerProcess:
        return self.processes.spawn(("-m", "enrollment_service", "import", *arguments), LISTEN=self.server.address)

    async def count(self, table: str) -> int:
        found: int = await self.connection.fetchval(f"SELECT count(*) FROM {table}")
        return found

    async def kill_at(self, table: str, rows: int, *arguments: str) -> None:
        """Starts the command and kills it when there are so many rows; it must not be done by then."""
        command = self.start(*arguments)
        async with asyncio.timeout(PATIENCE):
            while await self.count(table) < rows:
                assert command.process.poll() is None, command.errors
                await asyncio.sleep(0)
        command.process.kill()
        assert await command.ended() == -9

    async def run(self, *arguments: str) -> str:
        """Runs the command to its end."""
        command = self.start(*arguments)
        assert await asyncio.to_thread(command.process.wait, PATIENCE) == 0, command.errors
        return command.log_file.read_text()


@pytest.fixture
async def site(processes: Processes, connection: Connection) -> Site:
    server, _ = await processes.start_lasting()
    return Site(processes, server, connection)


async def check(site: Site, school: School, url: str) -> None:
    """Exactly the students, courses and enrollments of the school, and every promise kept."""
    found = await site.connection.fetch(
        "SELECT substr(s.external_id, 3)::int, substr(c.external_id, 3)::int FROM student_courses e "
        "JOIN students s ON s.id = e.student_id JOIN courses c ON c.id = e.course_id ORDER BY 1, 2"
    )
    assert [tuple(row) for row in found] == sorted(school.pairs)
    assert (await site.count("students"), await site.count("courses")) == (school.students, school.courses)
    # Nobody left and came again on the way.
    assert await site.count("enrollment_events") == school.courses + len(school.pairs)
    assert await wrong_in(url) == []


def write_csv(path: Path, columns: str, rows: Sequence[Sequence[object]]) -> str:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns.split(","), *rows])
    return str(path)


@pytest.mark.parametrize("school", SIZES)
async def test_files_of_students_courses_and_enrollments(
    site: Site, tmp_path: Path, database_url: str, school: School
) -> None:
    students = [(f"s-{number}", "Ann Lee", f"a{number}@x.org") for number in range(school.students)]
    courses = [(f"c-{number}", f"C-{number}", "Drawing", 1_000) for number in range(school.courses)]
    pairs = [(f"s-{student}", f"c-{course}") for student, course in school.pairs]
    files = [
        ("students", write_csv(tmp_path / "students.csv", "external_id,full_name,email", students), len(students)),
        ("courses", write_csv(tmp_path / "courses.csv", "external_id,code,title,capacity", courses), len(courses)),
        (
            "student_courses",
            write_csv(tmp_path / "enrollments.csv", "student_external_id,course_external_id", pairs),
            len(pairs),
        ),
    ]
    for table, file, rows in files:
        size = ("--chunk-size", str(min(max(rows // 20, 5), 10_000)))
        await site.kill_at(table, rows // 4, file, *size)
        said = await site.run(file, *size)
        assert "rejected: 0\n" in said
    await check(site, school, database_url)


@pytest.mark.parametrize("school", SIZES)
async def test_a_oneroster_export(site: Site, tmp_path: Path, database_url: str, school: School) -> None:
    export = write_export(
        tmp_path / "export",
        users=[(f"s-{number}", f"Ann{number}", f"a{number}@x.org") for number in range(school.students)],
        classes=[(f"k-{number}", "Drawing", f"C-{number}") for number in range(school.courses)],
        enrollments=[(f"k-{course}", f"s-{student}") for student, course in school.pairs],
    )
    arguments = ("--oneroster", str(export), "--chunk-size", str(school.students // 20))
    await site.kill_at("students", school.students // 4, *arguments)
    await site.kill_at("student_courses", len(school.pairs) // 4, *arguments)
    # The server, too, may go while the command waits for it.
    command = site.start(*arguments)
    async with asyncio.timeout(PATIENCE):
        while await site.count("student_courses") < len(school.pairs) // 2:
            assert command.process.poll() is None, command.errors
            await asyncio.sleep(0)
        site.server.process.kill()
        await site.server.ended()
        site.processes.spawn(LISTEN=site.server.address)
        assert await asyncio.to_thread(command.process.wait, PATIENCE) == 0, command.errors
    assert "rejected: 0\n" in command.log_file.read_text()
    await check(site, school, database_url)
