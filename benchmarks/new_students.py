"""ImportStudents beside psql COPY: the same new students, each with an external id, into the same table."""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import grpc

from benchmarks import contestants
from benchmarks.bench import Bench
from benchmarks.contestants import ContestantError
from benchmarks.database import Database, libpq_environment
from enrollment_service.v1.enrollment_pb2 import ImportStudentsRequest, Student
from enrollment_service.v1.enrollment_pb2_grpc import EnrollmentServiceStub

STUDENTS = 50_000
_CHUNK = 5_000
_TIMEOUT = 120.0
_COPY = "\\copy students (full_name, email, external_id) from '{file}'\n"


def by_service(bench: Bench, url: str) -> None:
    """Measure the stream, with a server of its own."""
    with bench.measuring("import_students.service"), bench.running(contestants.SERVICE, url) as server:
        bench.note("import_students.service", import_students(server.address))


def by_copy(bench: Bench, url: str) -> None:
    """Measure psql."""
    with bench.measuring("import_students.copy"):
        bench.note("import_students.copy", copy_students(bench.database, url))


def import_students(address: str) -> float:
    """Imports the students, checks that each was created, and returns students per second."""
    began = time.perf_counter()
    try:
        created = asyncio.run(_import(address))
    except grpc.RpcError as error:
        raise ContestantError(f"ImportStudents: {error.code().name} {error.details()}") from error
    seconds = time.perf_counter() - began
    if created != STUDENTS:
        raise ContestantError(f"ImportStudents: {created} of {STUDENTS} students were created")
    return STUDENTS / seconds


async def _import(address: str) -> int:
    async with grpc.aio.insecure_channel(address) as channel:
        answers = EnrollmentServiceStub(channel).ImportStudents(_chunks(), timeout=_TIMEOUT)
        return sum([answer.created async for answer in answers])


def _chunks() -> Iterator[ImportStudentsRequest]:
    for start in range(0, STUDENTS, _CHUNK):
        students = [
            Student(full_name=name, email=email, external_id=number)
            for name, email, number in map(_fields, range(start, start + _CHUNK))
        ]
        yield ImportStudentsRequest(chunk_id=start + 1, students=students)


def _fields(number: int) -> tuple[str, str, str]:
    return f"New Student {number}", f"new{number}@example.org", f"N-{number}"


def copy_students(database: Database, url: str) -> float:
    """Students a second by COPY, in one transaction, with all indexes in place."""
    program = database.program("psql")
    if program is None:
        raise ContestantError("psql is not installed")
    with tempfile.TemporaryDirectory() as folder:
        rows, script = Path(folder) / "students", Path(folder) / "script.sql"
        rows.write_text("".join("\t".join(_fields(number)) + "\n" for number in range(STUDENTS)))
        script.write_text(_COPY.format(file=rows))
        command = [program, "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", f"--file={script}"]
        began = time.perf_counter()
        finished = subprocess.run(
            command, env=libpq_environment(url), capture_output=True, text=True, timeout=_TIMEOUT, check=False
        )
        seconds = time.perf_counter() - began
    if finished.returncode != 0:
        raise ContestantError(f"psql: {finished.stderr.strip()[-300:]}")
    return STUDENTS / seconds
