"""A file on its way through the client: what becomes of its rows, whatever happens meanwhile."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from enrollment_service.cli.tables import UnreadableFileError
from enrollment_service.cli.target import Target
from enrollment_service.cli.upload import Report, import_file
from tests.support.databases import Connection
from tests.support.processes import environment, free_port
from tests.support.services import Service


async def test_a_file_becomes_enrollments(service: Service, connection: Connection, tmp_path: Path) -> None:
    student_ids = await service.client.students(9)
    (course_id,) = await service.client.courses(1, capacity=5)
    rows = [f"{student_id},{course_id}" for student_id in student_ids]
    file = tmp_path / "rows.csv"
    file.write_text("\n".join(["student_id,course_id", *rows, rows[0], "x,1", f"{2**63 - 1},{course_id}"]) + "\n")
    counted: list[int] = []
    report = Report()
    await import_file(
        file, Target(service.address), report, waitlist=False, chunk_size=2, patience=20, progress=counted.append
    )
    assert (report.counts["enrolled"], report.counts["already_enrolled"]) == (5, 1)
    assert [(one.line, one.reason) for one in sorted(report.rejected)] == [
        *((line, "COURSE_FULL") for line in (7, 8, 9, 10)),
        (12, "INVALID_FIELD"),
        (13, "STUDENT_NOT_FOUND"),
    ]
    assert sum(counted) == 11
    assert await connection.fetchval("SELECT count(*) FROM student_courses") == 5


async def test_what_stands_before_a_bad_byte_is_imported(
    service: Service, connection: Connection, tmp_path: Path
) -> None:
    student_ids = await service.client.students(3)
    (course_id,) = await service.client.courses(1)
    good = "".join(f"{student_id},{course_id}\n" for student_id in student_ids)
    file = tmp_path / "rows.csv"
    # Far enough behind, because files are read in blocks.
    file.write_bytes(b"student_id,course_id\n" + good.encode() + b"0,0\n" * 50_000 + b"\xff,1\n")
    with pytest.raises(UnreadableFileError):
        await import_file(
            file,
            Target(service.address),
            Report(),
            waitlist=False,
            chunk_size=1,
            patience=20,
            progress=lambda _: None,
        )
    assert await connection.fetchval("SELECT count(*) FROM student_courses") == 3


COURSES = "external_id,code,title,description,capacity,enroll_close_time\n"


async def imported(service: Service, folder: Path, text: str) -> Report:
    """What became of the rows of a file."""
    file, report = folder / "rows.csv", Report()
    file.write_text(text)
    await import_file(
        file, Target(service.address), report, waitlist=False, chunk_size=None, patience=20, progress=lambda _: None
    )
    return report


async def test_a_quote_that_nobody_closes_swallows_no_rows(service: Service, tmp_path: Path) -> None:
    rows = 'K-1,ART-1,Drawing,,5,\nK-2,ART-2,Drawing,"without end,5,\nK-3,ART-3,Drawing,,5,\n'
    with pytest.raises(UnreadableFileError, match="after line 2"):
        await imported(service, tmp_path, COURSES + rows)
    courses = (await service.client.call("ListCourses")).courses
    assert [(one.external_id, one.description) for one in courses] in ([], [("K-1", "")])


async def test_a_row_that_is_cut_off_clears_nothing(service: Service, tmp_path: Path) -> None:
    await imported(service, tmp_path, f"{COURSES}K-1,ART-1,Drawing,By hand,5,\n")
    report = await imported(service, tmp_path, f"{COURSES}K-1,ART-1,Painting\n")
    assert [(one.line, one.reason) for one in report.rejected] == [(2, "INVALID_FIELD")]
    (course,) = (await service.client.call("ListCourses")).courses
    assert (course.title, course.capacity) == ("Drawing", 5)


async def test_a_time_that_no_calendar_has_is_a_rejected_row(service: Service, tmp_path: Path) -> None:
    times = ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "2026-13-01T00:00:00Z", "2026-09-01T00:00:00Z"]
    rows = "".join(f"K-{number},ART-{number},Drawing,,5,{time}\n" for number, time in enumerate(times))
    report = await imported(service, tmp_path, COURSES + rows)
    assert [(one.line, one.reason) for one in report.rejected] == [(line, "INVALID_FIELD") for line in (2, 3, 4)]
    assert report.counts["created"] == 1


async def test_a_column_that_is_there_twice_is_refused(service: Service, tmp_path: Path) -> None:
    with pytest.raises(UnreadableFileError, match="the column email more than once"):
        await imported(service, tmp_path, "external_id,full_name,email,email\nS-1,Ann Lee,a@x.org,b@x.org\n")


def test_a_file_without_the_columns_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("a,b\n1,2\n")
    ran = subprocess.run(
        [sys.executable, "-m", "enrollment_service", "import", f"{file}"],
        env=environment(LISTEN=f"127.0.0.1:{free_port()}"), capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 2
    assert "student_id and course_id" in ran.stderr
