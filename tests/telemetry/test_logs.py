"""What the logs say, and that no personal data is in them: the service's, and PostgreSQL's."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import grpc
import pytest

from enrollment_service.v1 import enrollment_pb2 as pb
from tests.support.client import Client
from tests.support.databases import Connection, PostgresServer
from tests.support.processes import Processes
from tests.support.refusals import refused
from tests.support.services import ServiceLog

# Every text that a caller may send carries this, in a spelling of its own for each place.
MARK = "Marked"
METHODS = [method.name for method in pb.DESCRIPTOR.services_by_name["EnrollmentService"].methods]


async def attempt(client: Client, method: str, **fields: Any) -> Any:
    try:
        return await client.call(method, **fields)
    except grpc.aio.AioRpcError as error:
        return error


async def call_everything(client: Client) -> list[Any]:
    """Every method, answered and refused in as many ways as possible, with marked texts wherever a text fits."""
    ann = pb.Student(full_name=f"{MARK}-name", email=f"{MARK}-mail@example.org")
    art = pb.Course(code=f"{MARK}-code", title=f"{MARK}-title", description=f"{MARK}-text", capacity=1)
    student = (await client.call("CreateStudent", student=ann)).student
    course = (await client.call("CreateCourse", course=art)).course
    other = await client.create_student(f"{MARK}-other", f"{MARK}-other@example.org")
    closed = await client.create_course(f"{MARK}-closed", f"{MARK}-title")
    ids = {"student_id": student.student_id, "course_id": course.course_id}
    bad = pb.Student(full_name=f"{MARK}\0nul", email=f"{MARK}-no-address")
    renamed = pb.Student(student_id=student.student_id, full_name=f"{MARK}-new", email=f"{MARK}-new@example.org")
    taken = pb.Student(student_id=other.student_id, email=renamed.email)
    recoded = pb.Course(course_id=course.course_id, code=f"{MARK}-closed", title=f"{MARK}-new", etag=f"{MARK}-etag")
    mask = {"paths": ["full_name", "email"]}
    calls: list[tuple[str, dict[str, Any]]] = [
        ("CreateStudent", {"student": ann}),
        ("CreateStudent", {"student": bad}),
        ("CreateCourse", {"course": art}),
        ("CreateCourse", {"course": pb.Course(code=f"{MARK}/", title=f"{MARK}\u202e", description=f"{MARK}\0")}),
        ("GetStudent", {"student_id": student.student_id}),
        ("GetStudent", {"student_id": 77}),
        ("GetCourse", {"course_id": course.course_id}),
        ("UpdateStudent", {"student": renamed, "update_mask": mask}),
        ("UpdateStudent", {"student": taken, "update_mask": {"paths": ["email"]}}),
        ("UpdateStudent", {"student": bad, "update_mask": {"paths": [f"{MARK}-path"]}}),
        ("UpdateCourse", {"course": recoded, "update_mask": {"paths": ["title"]}}),
        (
            "UpdateCourse",
            {"course": pb.Course(course_id=course.course_id, code=recoded.code), "update_mask": {"paths": ["code"]}},
        ),
        ("ListStudents", {"query": f"{MARK}-na"}),
        ("ListStudents", {"query": f"{MARK}\0", "page_token": f"{MARK}-token"}),
        ("ListCourses", {"query": f"{MARK}-ti", "page_token": f"{MARK}-token"}),
        ("EnrollStudent", {"student_id": student.student_id, "course_ids": [course.course_id], "reason": "fine"}),
        ("EnrollStudent", {"student_id": other.student_id, "course_ids": [course.course_id]}),
        ("EnrollStudent", {"student_id": 77, "course_ids": [78], "request_id": f"{MARK}-id"}),
        ("EnrollStudent", {"student_id": 77, "course_ids": [78], "reason": f"{MARK}-reason"}),
        ("GetEnrollment", ids),
        ("ListStudentCourses", {"student_id": student.student_id, "page_token": ""}),
        ("ListStudentCourses", {"student_id": student.student_id, "page_token": f"{MARK}-token"}),
        ("ListCourseStudents", {"course_id": course.course_id}),
        (
            "SwapEnrollment",
            {"student_id": student.student_id, "from_course_id": course.course_id, "to_course_id": closed.course_id},
        ),
        ("ReconcileRoster", {"course_id": closed.course_id, "student_ids": [other.student_id], "max_removals": 5}),
        ("UnenrollStudent", {"student_id": other.student_id, "course_id": closed.course_id, "etag": f"{MARK}-etag"}),
        ("UnenrollStudent", {"student_id": other.student_id, "course_id": closed.course_id}),
        ("DeleteCourse", {"course_id": course.course_id, "etag": f"{MARK}-etag"}),
        ("DeleteCourse", {"course_id": course.course_id, "force": True}),
        ("DeleteStudent", {"student_id": student.student_id, "etag": f"{MARK}-etag"}),
        ("DeleteStudent", {"student_id": student.student_id, "force": True}),
    ]
    answers = [await attempt(client, method, **fields) for method, fields in calls]
    for method in METHODS:
        kind: Any = client.channel.stream_stream if method == "ImportEnrollments" else client.channel.unary_unary
        if method == "WatchEnrollmentEvents":
            kind = client.channel.unary_stream
        answers += await malformed(kind(f"/enrollment.v1.EnrollmentService/{method}"), method)
    return answers


async def malformed(multicallable: Any, method: str) -> list[Any]:
    """What marked bytes that are no message bring."""
    data = b"\xff" + MARK.encode()
    try:
        if method == "ImportEnrollments":
            return [answer async for answer in multicallable([data], timeout=20)]
        if method == "WatchEnrollmentEvents":
            return [answer async for answer in multicallable(data, timeout=20)]
        return [await multicallable(data, timeout=20)]
    except grpc.aio.AioRpcError as error:
        return [error]


def check_unmarked(path: Path, start: int = 0) -> None:
    written = path.read_bytes()[start:].lower()
    assert MARK.lower().encode() not in written


async def test_no_personal_data_is_in_any_log(
    processes: Processes, postgres_server: PostgresServer, connection: Connection
) -> None:
    database_log = postgres_server.log_file
    start = database_log.stat().st_size if database_log else 0
    process, client = await processes.start(LOG_LEVEL="debug")
    # A fault of ours, whose description in the database quotes the whole row.
    await connection.execute(f"ALTER TABLE students ADD CONSTRAINT broken CHECK (full_name <> '{MARK}-broken')")
    answers = await call_everything(client)
    with refused("INTERNAL", "INTERNAL"):
        await client.create_student(f"{MARK}-broken", f"{MARK}-broken@example.org")
    assert await process.stop() == 0

    check_unmarked(process.log_file)
    assert process.errors == ""
    if database_log:
        assert b"ERROR" in database_log.read_bytes()[start:], "nothing went wrong, so nothing was proved"
        check_unmarked(database_log, start)
    codes = {answer.code().name for answer in answers if isinstance(answer, grpc.aio.AioRpcError)}
    assert codes >= {"INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", "FAILED_PRECONDITION", "ABORTED"}
    logged = {line["method"] for line in process.log if line["event"] == "call"}
    assert logged == {*METHODS}


async def test_every_call_is_one_line_with_what_an_operator_needs(client: Client, service_log: ServiceLog) -> None:
    (student_id,), course_ids = await client.students(1), await client.courses(2)
    service_log.clear()
    request_id = "123e4567-e89b-12d3-a456-426614174000"
    await client.enroll(student_id, *course_ids, request_id=request_id)
    await client.courses_of(student_id)
    await client.unenroll(student_id, course_ids[0])
    with refused("NOT_FOUND", "NOT_ENROLLED"):
        await client.unenroll(student_id, course_ids[0])
    lines = [line for line in service_log.lines if line["event"] == "call"]
    assert [(line["method"], line["code"], line["level"]) for line in lines] == [
        ("EnrollStudent", "OK", "info"),
        ("ListStudentCourses", "OK", "info"),
        ("UnenrollStudent", "OK", "info"),
        ("UnenrollStudent", "NOT_FOUND", "info"),
    ]
    assert all(0 < line["duration_ms"] < 60_000 and line["peer"].startswith("ipv4:127.0.0.1:") for line in lines)
    assert all(line["timestamp"].endswith("Z") and line["student_id"] == student_id for line in lines)
    assert (lines[0]["course_ids"], lines[0]["request_id"]) == (course_ids, request_id)
    assert (lines[2]["course_id"], lines[3]["reason"]) == (course_ids[0], "NOT_ENROLLED")


@pytest.mark.parametrize("text", ["line\nbreak", "\x1b[31mred", '"}{"event": "forged', "\u2028"])
async def test_what_a_caller_sends_never_breaks_a_line(client: Client, service_log: ServiceLog, text: str) -> None:
    with refused("INVALID_ARGUMENT", "INVALID_FIELD"):
        await client.call("EnrollStudent", student_id=1, course_ids=[1], request_id=text, reason=text)
    (line,) = [line for line in service_log.text.split("\n") if "EnrollStudent" in line]
    assert line.isprintable()
    assert "forged" not in {parsed["event"] for parsed in service_log.lines}


def test_of_what_libraries_log_only_the_place_is_kept(service_log: ServiceLog) -> None:
    try:
        raise ValueError(f"{MARK}-inside")
    except ValueError:
        logging.getLogger("some.library").exception("%s-text", MARK)
    logging.getLogger("some.library").info("%s-text", MARK)
    (line,) = service_log.lines
    assert (line["event"], line["logger"], line["level"]) == ("library", "some.library", "warning")
    assert line["error"]["type"] == "builtins.ValueError"
    assert MARK not in service_log.text


async def test_a_quiet_server_logs_its_faults_only(processes: Processes, connection: Connection) -> None:
    await connection.execute("ALTER TABLE students ADD CONSTRAINT broken CHECK (full_name <> 'broken')")
    process, client = await processes.start(LOG_LEVEL="error")
    await client.create_student()
    with refused("INTERNAL", "INTERNAL") as refusal:
        await client.create_student("broken")
    assert await process.stop() == 0
    assert [(line["event"], line["error_id"]) for line in process.log] == [("call", refusal.metadata["error_id"])]
