"""The command `call`: JSON in, JSON out, and an exit status that says what became of it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.wrappers_pb2 import StringValue

from enrollment_service.cli.json_call import request_of, shown_error
from enrollment_service.client import Refused
from enrollment_service.client.methods import METHODS
from enrollment_service.v1 import enrollment_pb2 as pb
from tests.support.databases import Connection
from tests.support.processes import environment, free_port
from tests.support.scripted import scripted_server
from tests.support.services import Service

Ran = subprocess.CompletedProcess[str]


async def call(address: str, *arguments: str, stdin: str = "") -> Ran:
    command = [sys.executable, "-m", "enrollment_service", "call", *arguments]
    return await asyncio.to_thread(
        subprocess.run, command, env=environment(LISTEN=address), input=stdin, capture_output=True, text=True
    )


async def test_the_first_calls(service: Service) -> None:
    address = service.address
    student = '{"student": {"full_name": "Ann Lee", "email": "ann@example.org"}}'
    created = await call("0.0.0.0:" + address.rpartition(":")[2], "CreateStudent", student)
    assert (created.returncode, created.stderr) == (0, "")
    answer = json.loads(created.stdout)["student"]
    assert (answer["student_id"], answer["full_name"], answer["etag"]) == ("1", "Ann Lee", "1")
    course = '{"course": {"code": "ART-1", "title": "Drawing", "capacity": 0}}'
    assert (await call("127.0.0.1:9", "CreateCourse", course, "--address", address)).returncode == 0

    full = await call(
        address, "enrollment.v1.EnrollmentService/EnrollStudent", "-", stdin='{"student_id":1,\n"course_ids":[1]}'
    )
    assert (full.returncode, full.stdout) == (1, "")
    error = json.loads(full.stderr)
    assert (error["code"], error["message"]) == ("FAILED_PRECONDITION", "The course is full.")
    assert error["request_id"]
    info, failure = error["details"]
    assert info == {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo", "domain": "enrollment.v1", "reason": "COURSE_FULL",
        "metadata": {"capacity": "0", "course_id": "1", "enrolled": "0"},
    }  # fmt: skip
    assert failure["violations"][0]["subject"] == "courses/1"

    wider = '{"course": {"course_id": 1, "waitlist_capacity": 3}, "update_mask": {"paths": ["waitlist_capacity"]}}'
    assert json.loads((await call(address, "UpdateCourse", wider)).stdout)["course"]["waitlist_capacity"] == 3


async def test_lines_of_chunks_become_lines_of_answers(service: Service, connection: Connection) -> None:
    student_ids = await service.client.students(4)
    (course_id,) = await service.client.courses(1)
    lines = [json.dumps({"student_ids": [one], "course_ids": [course_id]}) for one in student_ids]
    ran = await call(service.address, "ImportEnrollments", "-", stdin="\n".join([*lines, "", '{"nothing": 1}']))
    answers = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [(answer["chunk_id"], answer["enrolled"]) for answer in answers] == [(f"{n}", 1) for n in (1, 2, 3, 4)]
    assert ran.returncode == 2
    assert "nothing" in ran.stderr
    assert await connection.fetchval("SELECT count(*) FROM student_courses") == 4


async def test_what_a_watch_answers_comes_in_lines() -> None:
    async def feed(*_: Any) -> Any:
        for number in (1, 2):
            yield pb.WatchEnrollmentEventsResponse(resume_token=f"{number}")

    async with scripted_server() as server:
        server.stream = feed
        ran = await call(server.address, "WatchEnrollmentEvents")
    assert ran.stdout == '{"resume_token": "1"}\n{"resume_token": "2"}\n'


async def test_nobody_there() -> None:
    ran = await call(f"127.0.0.1:{free_port()}", "CreateStudent", "--timeout", "1")
    assert ran.returncode == 3
    assert json.loads(ran.stderr)["code"] == "UNAVAILABLE"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["Enroll"], "has no method Enroll"),
        (["EnrollStudent", "student 1"], "not a EnrollStudentRequest in JSON"),
        (["EnrollStudent", "[]"], "a request is an object"),
        (["EnrollStudent", '{"pupil": 1}'], "pupil"),
        ([], "METHOD"),
    ],
)
async def test_what_makes_no_sense_is_a_matter_of_usage(arguments: list[str], said: str) -> None:
    ran = await call("127.0.0.1:9", *arguments)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert said in ran.stderr


async def test_a_call_loads_no_database() -> None:
    code = (
        "import sys; from enrollment_service.cli.main import cli\n"
        "try: cli(['call', 'GetStudent', '--timeout', '0.1'])\n"
        "finally: print(*sys.modules)"
    )
    ran = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", code], capture_output=True, text=True)
    loaded = {name.partition(".")[0] for name in ran.stdout.split()}
    assert "grpc" in loaded
    assert loaded & {"sqlalchemy", "asyncpg", "alembic", "uvloop"} == set()


@pytest.mark.parametrize(
    "mask",
    ['"capacity,waitlist_capacity"', '"capacity,waitlistCapacity"', '{"paths": ["capacity", "waitlist_capacity"]}'],
)
def test_a_field_mask_may_be_written_in_any_way(mask: str) -> None:
    request = request_of(METHODS["UpdateCourse"], f'{{"update_mask": {mask}}}')
    assert list(request.update_mask.paths) == ["capacity", "waitlist_capacity"]


def test_a_detail_of_a_kind_not_known_is_shown_as_it_came() -> None:
    packed = Packed()
    packed.Pack(StringValue(value="x"))
    shown = shown_error(Refused(grpc.StatusCode.ABORTED, "No.", [packed]))
    assert shown["details"] == [{"@type": "type.googleapis.com/google.protobuf.StringValue", "value": "CgF4"}]
