"""The command `import`: files go through a server in chunks, rejected lines are named, interruptions are survived."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from tests.support.locks import held, until_waiting
from tests.support.processes import Processes, free_port, run_command

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


async def test_without_a_server_the_command_ends(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("student_id,course_id\n1,1\n")
    address = f"127.0.0.1:{free_port()}"
    done = await run_import(address, file, "--timeout", "1")
    assert done.returncode == 3
    assert "enrolled: 0\n" in done.stdout
    assert f"{address}: UNAVAILABLE" in done.stderr
    assert "Traceback" not in done.stderr


async def test_with_a_server_that_never_answers_the_command_ends(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("student_id,course_id\n1,1\n")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        done = await run_import(f"127.0.0.1:{silent.getsockname()[1]}", file, "--timeout", "1")
    assert done.returncode == 3
    assert "enrolled: 0\n" in done.stdout
    assert "import the file again" in done.stderr


async def test_a_number_of_thousands_of_digits_is_a_rejected_row(processes: Processes, tmp_path: Path) -> None:
    process, client = await processes.start()
    (student,), (course,) = await client.students(1), await client.courses(1)
    file = tmp_path / "rows.csv"
    file.write_text(f"student_id,course_id\n{'9' * 5_000},{course}\n{2**63},{course}\n{student:05000},{course}\n")
    done = await run_import(process.address, file)
    assert done.returncode == 1, done.stderr
    assert "enrolled: 1\n" in done.stdout
    assert "INVALID_FIELD: 2\n" in done.stdout
    assert max(len(line) for line in done.stdout.splitlines()) < 200
    assert await client.roster(course) == [student]


async def test_what_stands_in_a_file_does_not_reach_the_terminal_as_a_command(
    processes: Processes, tmp_path: Path
) -> None:
    process, _ = await processes.start()
    file = tmp_path / "rows.csv"
    file.write_text("student_id,course_id\n\x1b]0;title\x07,1\n\u202e1,\x9b2J\nÄrger,1\n")
    done = await run_import(process.address, file)
    assert done.returncode == 1
    assert not {character for character in done.stdout if not (character.isprintable() or character == "\n")}
    assert r"student '\x1b]0;title\x07', course 1: INVALID_FIELD" in done.stdout
    assert r"student '\u202e1', course '\x9b2J': INVALID_FIELD" in done.stdout
    assert "student Ärger, course 1: INVALID_FIELD" in done.stdout


async def test_a_place_where_rejected_rows_cannot_go_is_noticed_before_anything_is_sent(
    processes: Processes, tmp_path: Path
) -> None:
    process, client = await processes.start()
    (student,), (course,) = await client.students(1), await client.courses(1)
    file = tmp_path / "rows.csv"
    file.write_text(f"student_id,course_id\n{student},{course}\n")
    for place, said in ((tmp_path / "nowhere" / "rejected.csv", "No such file or directory"), (file, "to import")):
        done = await run_import(process.address, file, "--rejected", str(place))
        assert (done.returncode, done.stdout) == (2, "")
        assert said in done.stderr
    assert await client.roster(course) == []
    assert file.read_text().endswith(f"{student},{course}\n")


async def test_rejected_rows_that_cannot_be_written_are_shown(processes: Processes, tmp_path: Path) -> None:
    process, _ = await processes.start()
    file = tmp_path / "rows.csv"
    file.write_text("student_id,course_id\n" + "x,1\n" * 30)
    done = await run_import(process.address, file, "--rejected", "/dev/full")
    assert done.returncode == 1
    assert "/dev/full" in done.stderr
    assert done.stdout.count("student x, course 1: INVALID_FIELD") == 30


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_an_import_that_is_interrupted_says_how_far_it_got(
    processes: Processes, database_url: str, tmp_path: Path, number: signal.Signals
) -> None:
    process, client = await processes.start()
    students, (free, locked) = await client.students(10), await client.courses(2)
    file, rejected = tmp_path / "rows.csv", tmp_path / "rejected.csv"
    rows = [*(f"{student},{free}" for student in students), f"{students[0]},{locked}"]
    file.write_text("\n".join(["student_id,course_id", f"nobody,{free}", *rows]))
    async with held(database_url, locked) as observer:
        options = ("--chunk-size", "1", "--rejected", str(rejected))
        command = processes.spawn(("-m", "enrollment_service", "import", str(file), *options), LISTEN=process.address)
        await until_waiting(observer)
        command.signal(number)
        assert await command.ended() == 130
    output = command.log_file.read_text()
    (enrolled,) = [int(line.removeprefix("enrolled: ")) for line in output.splitlines() if line.startswith("enrolled")]
    assert 5 <= enrolled <= 10  # four chunks at the most are sent and not answered
    assert "Interrupted. What is counted was answered" in command.errors
    assert "Traceback" not in command.errors
    assert rejected.read_text().splitlines()[1] == f"2,nobody,{free},INVALID_FIELD"
