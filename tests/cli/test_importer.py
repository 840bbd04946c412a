"""The command `import`: files go through a server in chunks, rejected lines are named, interruptions are survived."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import pytest

from tests.support.processes import Processes, run_command

UNKNOWN = 2**40


async def run_import(address: str, file: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """The command as a user runs it."""
    return await run_command("import", str(file), *options, LISTEN=address)


async def test_the_command_imports_a_file_and_names_rejected_lines(processes: Processes, tmp_path: Path) -> None:
    process, client = await processes.start()
    students = await client.students(3)
    course = (await client.create_course(capacity=2)).course_id
    file, rejected = tmp_path / "rows.csv", tmp_path / "rejected.csv"
    lines = [
        "note,student_id,course_id",
        *(f"x,{one},{course}" for one in students),
        f"x,nobody,{course}",
        f"x,{UNKNOWN},{course}",
    ]
    file.write_text("\n".join(lines))

    done = await run_import(process.address, file, "--chunk-size", "2", "--rejected", str(rejected))

    assert done.returncode == 1, done.stderr
    assert "enrolled: 2\n" in done.stdout
    assert "rejected: 3\n" in done.stdout
    assert rejected.read_text().splitlines() == [
        "line,student_id,course_id,reason",
        f"4,{students[2]},{course},COURSE_FULL",
        f"5,nobody,{course},INVALID_FIELD",
        f"6,{UNKNOWN},{course},STUDENT_NOT_FOUND",
    ]
    assert await client.roster(course) == students[:2]
    again = await run_import(process.address, file, "--waitlist")
    assert "already enrolled: 2\n" in again.stdout


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"a,b\n1,2\n", "student_id and course_id"), (b"", "student_id and course_id"), (b"\xff\xfe\n1,2\n", "UTF-8")],
)
async def test_the_command_says_what_is_wrong_with_a_file(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "rows.csv"
    file.write_bytes(content)
    done = await run_import("127.0.0.1:1", file)
    assert done.returncode == 2
    assert said in done.stderr


async def test_rows_before_an_unreadable_place_are_imported(processes: Processes, tmp_path: Path) -> None:
    process, client = await processes.start()
    students = await client.students(1_000)
    course = (await client.create_course()).course_id
    file = tmp_path / "rows.csv"
    lines = "".join(f"{student},{course}\n" for student in students) * 10  # far more than is read ahead
    file.write_bytes(f"student_id,course_id\n{lines}".encode() + b"\xff\xff\n")

    done = await run_import(process.address, file, "--chunk-size", "100")

    assert done.returncode == 2
    assert "UTF-8" in done.stderr
    assert await client.roster(course) == students


async def test_the_command_goes_on_when_the_server_comes_back(processes: Processes, tmp_path: Path) -> None:
    """The server is killed in the middle; its successor gets the open chunks again, with their request ids."""
    process, client = await processes.start()
    students = await client.students(40)
    courses = await client.courses(20)
    file = tmp_path / "rows.csv"
    pairs = [(student, course) for student in students for course in courses]
    file.write_text("student_id,course_id\n" + "".join(f"{student},{course}\n" for student, course in pairs))

    running = asyncio.create_task(run_import(process.address, file, "--chunk-size", "5"))
    async with asyncio.timeout(20):
        while not await client.roster(courses[0]):
            pass
    process.process.kill()
    await process.ended()
    await processes.spawn(LISTEN=process.address).wait_serving(client)
    done = await running

    assert done.returncode == 0, done.stderr + done.stdout
    assert f"enrolled: {len(pairs)}\n" in done.stdout
    assert "already enrolled: 0\n" in done.stdout
    assert [await client.roster(course) for course in courses] == [students] * len(courses)
