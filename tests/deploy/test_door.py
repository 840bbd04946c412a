"""The door for HTTP, over real HTTP: every path of the contract, every kind of mistake, streams, gRPC-Web and gRPC."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from google.protobuf import json_format
from google.protobuf.descriptor import MethodDescriptor
from google.rpc import code_pb2, error_details_pb2

from dev.door import configured
from dev.openapi import Binding, bindings
from enrollment_service.v1 import enrollment_pb2 as pb
from tests.conftest import StartService
from tests.support.client import Client, client_of
from tests.support.door import JSON, Answer, Door, door_to, grpc_web_frames
from tests.support.locks import held
from tests.support.processes import free_port
from tests.support.provider import Provider
from tests.support.refusals import refused
from tests.support.services import Service
from tests.support.watching import events_of, history

SERVICE = pb.DESCRIPTOR.services_by_name["EnrollmentService"]
BINDINGS = [binding for method in SERVICE.methods for binding in bindings(method)]
# Importing it tells protobuf's JSON mapping what may be packed into a status.
assert error_details_pb2.ErrorInfo

# What other programs call already, literally.
PLAIN = {
    ("post", "/enrollments"): "EnrollStudent",
    ("post", "/students/enroll"): "EnrollStudent",
    ("post", "/api/v1/enroll"): "EnrollStudent",
    ("post", "/students/{student_id}/courses"): "EnrollStudent",
    ("get", "/students/{student_id}/courses"): "ListStudentCourses",
    ("get", "/api/v1/students/{student_id}/courses"): "ListStudentCourses",
    ("get", "/students/{student_id}"): "ListStudentCourses",
    ("delete", "/students/{student_id}/courses/{course_id}"): "UnenrollStudent",
}


# What no method could mean, whatever is in the database.
MALFORMED: list[tuple[str, str, bytes | None]] = [
    ("POST", "/v1/students", b"{"),
    ("POST", "/v1/students", b"{bad json}"),
    ("POST", "/v1/students", b'{"full_name": "\xff\xfe"}'),
    ("POST", "/v1/students", b"[]"),
    ("POST", "/v1/students", b'"text"'),
    ("POST", "/v1/students", b'{"full_name": 5}'),
    ("POST", "/v1/students", b'{"student_id": "many"}'),
    ("POST", "/v1/courses", b'{"capacity": 1e10}'),
    ("POST", "/v1/courses", b'{"enroll_open_time": "tomorrow"}'),
    ("POST", "/enrollments", b'{"on_full": "ON_FULL_PUSH"}'),
    ("POST", "/enrollments", b'{"course_ids": 1.5}'),
    ("POST", "/v1/enrollments:import", b'{"chunk_id": 1}'),
    ("POST", "/v1/enrollments:import", b'[{"chunk_id": 1}'),
    ("POST", "/students/1/courses", b'{"student_id": 2, "course_ids": [1]}'),
    ("PATCH", "/v1/students/1", b'{"student_id": 2}'),
    ("GET", "/v1/students/ann", None),
    ("GET", "/v1/students/99999999999999999999", None),
    ("GET", "/v1/students?nobody=knows", None),
    ("GET", "/v1/students?page_size=many", None),
    ("GET", "/v1/students/1/courses?states=ASLEEP", None),
    ("GET", "/v1/events?follow=perhaps", None),
    ("GET", "/v1/students%2F1", None),
    # What the transcoder takes for JSON, or passes over.
    ("POST", "/v1/students", b"{'full_name': 'Ann Lee', 'email': 'ann@example.org', 'fullname': 'x'}"),
    ("POST", "/v1/students", b'{"full_name": \'}\', "email": "ann@example.org", "fullname": "x"}'),
    ("POST", "/v1/students", b'{"full_name": "Ann Lee", "email": "ann@example.org",}'),
    ("POST", "/v1/students", b'{"full_name": "Ann Lee", "email": "ann@example.org"} {}'),
    ("POST", "/v1/students", b'{"full_name": "Ann Lee", "email": "ann@example.org", "fullName": "Bo"}'),
    ("POST", "/v1/students", b'{"full_name": "Ann Lee", "email": "ann@example.org", "email": "bo@example.org"}'),
    ("POST", "/v1/students?student.email=ann@example.org", b'{"full_name": "Ann Lee"}'),
    ("GET", "/v1/students?page_size=1&page_size=2", None),
    ("GET", "/v1/students?pageSize=1&page_size=2", None),
    ("GET", "/v1/students?query", None),
    ("GET", "/v1/students?=ann", None),
    ("DELETE", "/v1/students/1", b'{"etag": "0"}'),
    ("GET", "/v1/students", b'{"query": "ann"}'),
]


# Each with the field that is named, and the message that has no such field.
UNKNOWN_FIELDS: list[tuple[str, str, Any, tuple[str, str]]] = [
    ("POST", "/v1/students", {"fullname": "Ann Lee"}, ("fullname", "Student")),
    ("POST", "/v1/students", {"student": {"full_name": "Ann Lee"}}, ("student", "Student")),
    ("PATCH", "/v1/courses/1?update_mask=title", {"titel": "Painting"}, ("titel", "Course")),
    ("POST", "/enrollments", {"student_id": 1, "course_ids": [1], "onfull": 2}, ("onfull", "EnrollStudentRequest")),
    ("POST", "/enrollments", {"course_ids": ["1]", "}"], "x": 1}, ("x", "EnrollStudentRequest")),
    ("POST", "/enrollments", {"reason": '\\"', "x": [{}]}, ("x", "EnrollStudentRequest")),
    ("POST", "/enrollments", b'{"\\u0073tudent_id": 1}', ("\\u0073tudent_id", "EnrollStudentRequest")),
    ("POST", "/v1/enrollments:import", [{}, {"chunk": 1}], ("chunk", "ImportEnrollmentsRequest")),
    ("POST", "/v1/students/", {"fullname": "Ann Lee"}, ("fullname", "Student")),
    ("POST", "//v1//students//", {"fullname": "Ann Lee"}, ("fullname", "Student")),
    ("POST", "/v1/x/../students/.", {"fullname": "Ann Lee"}, ("fullname", "Student")),
    ("POST", "/students/1/courses/", {"course_ids": [1], "onfull": 2}, ("onfull", "EnrollStudentRequest")),
]


@pytest.fixture
async def door(service: Service) -> AsyncIterator[Door]:
    """A door to `service`."""
    async with door_to(service.address) as opened:
        yield opened


async def example_of(binding: Binding, client: Client) -> tuple[str, Any]:
    """A path with its query, and a body, that a method can do: for new rows each time."""
    (student,), (course, other) = await client.students(1), sorted(await client.courses(2))
    await client.enroll(student, course)
    ids = {"student_id": student, "course_id": course}
    bodies: dict[str, Any] = {
        "CreateStudent": {"full_name": "Ann Lee", "email": f"ann{student}@example.org"},
        "UpdateStudent": {"full_name": "Ann Lee"},
        "CreateCourse": {"code": f"ART-{student}", "title": "Drawing"},
        "UpdateCourse": {"title": "Painting"},
        "EnrollStudent": {"student_id": student, "course_ids": [other]},
        "SwapEnrollment": {"from_course_id": course, "to_course_id": other},
        "ImportEnrollments": [{"chunk_id": 1, "student_ids": [student], "course_ids": [other]}],
        "ImportStudents": [{"students": [{"external_id": "S-1", "full_name": "Ann Lee", "email": "s1@example.org"}]}],
        "ImportCourses": [{"courses": [{"external_id": "C-1", "code": "MUS-1", "title": "Orchestra"}]}],
        "ReconcileRoster": {"student_ids": [student]},
        "GrantWaivers": {"student_ids": [student], "reasons": ["ERROR_REASON_PERMIT_REQUIRED"]},
        "RevokeWaivers": {"student_ids": [student]},
    }
    queries = {  # of a method, or of one of its paths
        "UpdateStudent": "?update_mask=full_name",
        "UpdateCourse": "?update_mask=title",
        "DeleteStudent": "?force=true",
        "DeleteCourse": "?force=true",
        "ExplainEnrollment": f"?course_ids={course}&course_ids={other}",
    }
    name = binding.method.name
    body = bodies[name] if binding.body else None
    if isinstance(body, dict) and binding.body == "*":
        body = {field: value for field, value in body.items() if field not in binding.path_fields}
    return binding.shown_path.format(**ids) + queries.get(binding.path, queries.get(name, "")), body


def status_in(answer: Answer, http: int, code: str) -> Any:
    """The status in an answer, which has this code."""
    assert answer.status == http, answer
    status = answer.json
    assert set(status) == {"code", "message", "details"}
    assert code_pb2.Code.Name(status["code"]) == code
    return status


def refusal_in(answer: Answer, http: int, code: str, reason: str) -> Any:
    """The metadata of a refusal of the service."""
    info, *_ = status_in(answer, http, code)["details"]
    assert (info["@type"], info["domain"]) == ("type.googleapis.com/google.rpc.ErrorInfo", "enrollment.v1")
    assert info["reason"] == reason
    return info["metadata"]


def message_of(method: MethodDescriptor, answer: Any) -> Any:
    """An answer as a message; fields that it has not are an error."""
    return json_format.ParseDict(answer, getattr(pb, method.output_type.name)())


@pytest.mark.timeout(180)
async def test_every_path_of_the_contract_is_served(door: Door, client: Client) -> None:
    for binding in BINDINGS:
        path, body = await example_of(binding, client)
        answer = await door.ask(binding.verb.upper(), path, body)
        assert answer.status == 200, (path, answer)
        if binding.is_feed:
            messages = answer.events
        else:
            messages = answer.json if binding.method.server_streaming else [answer.json]
        assert messages
        for message in messages:
            message_of(binding.method, message)


def test_the_paths_of_the_plain_api_are_those_that_others_call() -> None:
    plain = {
        (binding.verb, binding.path): binding.method.name for binding in BINDINGS if not binding.path.startswith("/v1/")
    }
    assert plain == PLAIN


def test_every_method_has_a_path_under_v1_first() -> None:
    assert [next(bindings(method)).path.split("/")[1] for method in SERVICE.methods] == ["v1"] * len(SERVICE.methods)


async def test_the_student_with_courses_and_the_student_alone(door: Door, client: Client) -> None:
    student, course = await client.create_student(), await client.create_course()
    await client.enroll(student.student_id, course.course_id)
    with_courses = (await door.ask("GET", f"/students/{student.student_id}")).json
    assert [one["course"]["code"] for one in with_courses["enrollments"]] == [course.code]
    alone = (await door.ask("GET", f"/v1/students/{student.student_id}")).json
    assert alone == {"student": with_courses["student"]}


async def test_answers_have_the_names_of_the_contract_and_requests_either(door: Door) -> None:
    for number, names in enumerate([("full_name", "email"), ("fullName", "email")]):
        body = dict(zip(names, ("Ann Lee", f"ann{number}@example.org"), strict=True))
        created = (await door.ask("POST", "/v1/students", body)).json["student"]
        assert created["full_name"] == "Ann Lee"
        assert created["student_id"] == f"{number + 1}"
    page = (await door.ask("GET", "/v1/students?pageSize=1")).json
    assert page == (await door.ask("GET", "/v1/students?page_size=1")).json
    assert len(page["students"]) == 1


async def test_defaults_are_there_and_what_is_unset_is_not(door: Door) -> None:
    course = (await door.ask("POST", "/v1/courses", {"code": "ART-1", "title": "Drawing"})).json["course"]
    assert (course["waitlist_capacity"], course["description"]) == (0, "")
    assert {"capacity", "enroll_open_time"} & set(course) == set()
    closed = (await door.ask("PATCH", "/v1/courses/1?update_mask=capacity", {"capacity": 0})).json["course"]
    assert closed["capacity"] == 0


async def test_errors_have_their_details_and_a_fitting_status(door: Door, client: Client) -> None:
    (student, other), (course,) = await client.students(2), await client.courses(1, capacity=1)
    enroll = {"student_id": student, "course_ids": [course]}
    assert refusal_in(await door.ask("GET", "/v1/students/99"), 404, "NOT_FOUND", "STUDENT_NOT_FOUND") == {
        "student_id": "99"
    }
    assert (await door.ask("POST", "/enrollments", enroll)).status == 200
    refusal_in(await door.ask("POST", "/enrollments", enroll), 409, "ALREADY_EXISTS", "ALREADY_ENROLLED")
    full = await door.ask("POST", "/enrollments", {"student_id": other, "course_ids": [course]})
    assert refusal_in(full, 400, "FAILED_PRECONDITION", "COURSE_FULL")["capacity"] == "1"
    assert full.json["details"][1]["violations"][0]["subject"] == f"courses/{course}"
    invalid = await door.ask("POST", "/v1/students", {"email": "nobody"})
    refusal_in(invalid, 400, "INVALID_ARGUMENT", "INVALID_FIELD")
    assert len(invalid.json["details"][1]["field_violations"]) == 2
    changed = await door.ask("DELETE", f"/v1/students/{other}?etag=7")
    refusal_in(changed, 409, "ABORTED", "ETAG_MISMATCH")
    early = await door.ask("GET", f"/students/{student}?as_of=2026-01-01T00:00:00Z")
    refusal_in(early, 400, "OUT_OF_RANGE", "INVALID_FIELD")


async def test_a_deadline_may_be_set(door: Door, client: Client, database_url: str) -> None:
    (student,), (course,) = await client.students(1), await client.courses(1)
    enroll = {"student_id": student, "course_ids": [course]}
    async with held(database_url, course):
        late = await door.ask("POST", "/enrollments", enroll, headers=JSON | {"grpc-timeout": "300m"})
    status_in(late, 504, "DEADLINE_EXCEEDED")


async def test_what_is_malformed_is_refused_at_the_door(door: Door) -> None:
    for verb, path, body in MALFORMED:
        answer = await door.ask(verb, path, body)
        assert status_in(answer, 400, "INVALID_ARGUMENT")["details"] == [], (verb, path, body)


async def test_fields_that_nobody_knows_are_refused(door: Door) -> None:
    for verb, path, body, (field, kind) in UNKNOWN_FIELDS:
        status = status_in(await door.ask(verb, path, body), 400, "INVALID_ARGUMENT")
        assert status["message"] == f'Could not find field "{field}" in the type "enrollment.v1.{kind}".'


async def test_what_the_path_says_cannot_be_said_again(door: Door, client: Client) -> None:
    (student, other), (course,) = await client.students(2), await client.courses(1)
    await client.enroll(other, course)
    for name in ("student_id", "studentId", "%73tudent_id"):
        for verb, path in (("GET", f"/students/{student}"), ("DELETE", f"/students/{student}/courses/{course}")):
            for asked in (f"{path}?page_size=1&{name}={other}", f"{path}/?{name}={other}"):
                status = status_in(await door.ask(verb, asked), 400, "INVALID_ARGUMENT")
                assert status["message"] == f'The path has the field "{unquote(name)}" already.'
    mask = "update_mask=full_name&student.student_id=2"
    status_in(await door.ask("PATCH", f"/v1/students/1?{mask}", {"full_name": "Bo"}), 400, "INVALID_ARGUMENT")
    assert await client.courses_of(other) == [course]


async def test_moments_have_no_fields_that_nobody_knows(door: Door) -> None:
    course = {"code": "ART-1", "title": "Drawing", "enroll_open_time": {"second": 1}}
    status = status_in(await door.ask("POST", "/v1/courses", course), 400, "INVALID_ARGUMENT")
    assert status["message"] == 'Could not find field "second" in the type "google.protobuf.Timestamp".'


async def test_a_slash_at_the_end_does_not_matter(door: Door, client: Client) -> None:
    (student,), (course,) = await client.students(1), await client.courses(1)
    enrolled = await door.ask("POST", "/students/enroll/", {"student_id": student, "course_ids": [course]})
    assert enrolled.json["enrollments"][0]["course_id"] == f"{course}"
    (_, end) = (await door.ask("GET", f"/v1/courses/{course}/events/")).events
    assert end["end"]["code"] == 0


async def test_a_plus_in_a_query_is_a_space(door: Door, client: Client) -> None:
    student = await client.create_student("Ann Lee", "a+b@example.org")
    for query in ("query=Ann+Lee", "query=Ann%20Lee", "query=a%2Bb"):
        (found,) = (await door.ask("GET", f"/v1/students?{query}")).json["students"]
        assert found["student_id"] == f"{student.student_id}"


async def test_headers_that_grpc_reads_do_no_harm(door: Door, client: Client) -> None:
    student = await client.create_student()
    path = f"/v1/students/{student.student_id}"
    for deadline in ("soon", "2", "-1S", "2 S", "999999999S", "1S, 1S"):
        status = status_in(await door.ask("GET", path, headers={"grpc-timeout": deadline}), 400, "INVALID_ARGUMENT")
        assert status["message"].startswith("The header grpc-timeout must be")
    harmless = {"x-trace-bin": "!", "grpc-encoding": "gzip", "grpc-status": "9", "grpc-timeout": "99999999H"}
    assert (await door.ask("GET", path, headers=harmless)).status == 200


async def test_a_deadline_holds_where_the_service_stands_still() -> None:
    """Which does not even say that it has passed."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with door_to(f"127.0.0.1:{silent.getsockname()[1]}") as door:
            late = await door.ask("GET", "/v1/students", headers={"grpc-timeout": "10m"})
    assert status_in(late, 504, "DEADLINE_EXCEEDED")["message"] == "The service did not answer in time."


async def test_what_is_deeply_nested_is_refused(door: Door) -> None:
    deep = b"[" * 200_000
    for path in ("/v1/students", "/enrollments", "/v1/enrollments:import"):
        status_in(await door.ask("POST", path, deep), 400, "INVALID_ARGUMENT")
        status_in(await door.ask("POST", path, b'{"course_ids": ' + deep), 400, "INVALID_ARGUMENT")


async def test_wrong_verbs_and_wrong_paths_are_not_found(door: Door) -> None:
    verbs: dict[str, set[str]] = {}
    for binding in BINDINGS:
        verbs.setdefault(binding.shown_path.format(student_id=1, course_id=1), set()).add(binding.verb.upper())
    wrong = [(verb, path) for path, right in verbs.items() for verb in {"GET", "PUT", "DELETE", "PATCH"} - right]
    assert len(wrong) > 40
    wrong.remove(("GET", "/students/enroll"))  # the student whose number is "enroll"
    for verb, path in [*wrong, ("GET", "/nowhere"), ("GET", "/v1"), ("POST", "/v1/students/1/courses:push")]:
        body: Any = {} if verb in ("PUT", "PATCH", "POST") else None
        status_in(await door.ask(verb, path, body), 404, "NOT_FOUND")


async def test_what_a_foreign_page_could_send_is_refused(door: Door, client: Client) -> None:
    body = json.dumps({"full_name": "Eve", "email": "eve@example.org"}).encode()
    plain = ("text/plain", "application/x-www-form-urlencoded")
    # And what looks like gRPC without being it.
    nearly = ("application/grpcjson", "application/grpc-foo", "application/grpc;json", "application/grpc-web+json")
    for sent in ({}, *({"content-type": kind} for kind in plain + nearly)):
        status_in(await door.ask("POST", "/v1/students", body, headers=sent), 415, "INVALID_ARGUMENT")
    named = await door.ask("GET", "/v1/students", headers={"host": "elsewhere.example.org"})
    status_in(named, 404, "NOT_FOUND")
    assert (await client.call("ListStudents")).students == []
    assert (await door.ask("GET", "/v1/students", headers={"host": "localhost:8080"})).status == 200


async def test_requests_have_a_largest_size(door: Door, client: Client) -> None:
    name = "n" * (4 * 1024 * 1024)
    huge = await door.ask("POST", "/v1/students", {"full_name": name, "email": "a@example.org"})
    assert status_in(huge, 413, "RESOURCE_EXHAUSTED")["message"] == "The request is too large."
    long = await door.ask("GET", "/v1/students", headers={"x-long": "x" * 20_000})
    status_in(long, 431, "RESOURCE_EXHAUSTED")
    (student,), (course,) = await client.students(1), await client.courses(1)
    chunk = {"student_ids": [student] * 10_000, "course_ids": [course] * 10_000}
    chunks = [{"chunk_id": number, **chunk} for number in range(80)]
    assert len(json.dumps(chunks)) > len(name)
    *answers, _ = (await door.ask("POST", "/v1/enrollments:import", chunks)).json
    assert [answer["chunk_id"] for answer in answers] == [f"{number}" for number in range(80)]
    within = [{"chunk_id": 1, "student_ids": [student] * 10_001, "course_ids": [course] * 10_001}]
    refusal_in(await door.ask("POST", "/v1/enrollments:import", within), 400, "INVALID_ARGUMENT", "INVALID_FIELD")


async def test_a_body_that_does_not_arrive_is_given_up(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever sends it by the byte would hold a connection for ever."""

    def impatient(*arguments: Any) -> Any:
        text = json.dumps(configured(*arguments))
        assert '"600s"' in text
        return json.loads(text.replace('"120s"', '"1s"').replace('"600s"', '"1s"'))

    monkeypatch.setattr("dev.door.configured", impatient)
    async with door_to(service.address) as door:
        for path in ("/v1/students", "/v1/students:import"):
            reader, writer = await asyncio.open_connection(*door.address.split(":"))
            head = [f"POST {path} HTTP/1.1", "host: localhost", *map(": ".join, JSON.items()), "content-length: 99"]
            writer.write("\r\n".join([*head, "", "["]).encode())
            assert await reader.readline() == b"HTTP/1.1 408 Request Timeout\r\n"
            writer.close()
            await writer.wait_closed()


async def test_imports_are_arrays_whose_last_element_tells_the_end(door: Door, client: Client) -> None:
    (student,), (course,) = await client.students(1), await client.courses(1)
    good = {"chunk_id": 1, "student_ids": [student], "course_ids": [course]}
    answer, end = (await door.ask("POST", "/v1/enrollments:import", [good])).json
    assert (answer["chunk_id"], answer["enrolled"]) == ("1", 1)
    assert end["end"] == {"code": 0, "message": "", "details": []}
    bad = {"chunk_id": 2, "student_ids": [student]}
    answer, end = (await door.ask("POST", "/v1/enrollments:import", [good, bad])).json
    assert answer["already_enrolled"] == 1
    assert end["end"]["code"] == code_pb2.INVALID_ARGUMENT
    assert end["end"]["details"][0]["reason"] == "INVALID_FIELD"


async def test_the_feed_is_a_stream_of_events_whose_last_tells_the_end(door: Door, client: Client) -> None:
    (student,), (course, _) = await client.students(1), await client.courses(2)
    await client.enroll(student, course)
    everything = await events_of(client)
    for path, count in (("/v1/events", 3), (f"/v1/courses/{course}/events", 2), (f"/v1/students/{student}/events", 1)):
        *messages, end = (await door.ask("GET", path)).events
        assert end["end"] == {"code": 0, "message": "", "details": []}
        found = [event for message in messages for event in message["events"]]
        assert len(found) == count
        parsed = [json_format.ParseDict(event, pb.EnrollmentEvent()) for event in found]
        assert all(event in everything for event in parsed)
        assert messages[-1]["caught_up"] is True
        (rest, _) = (await door.ask("GET", f"{path}?resume_token={messages[-1]['resume_token']}")).events
        assert rest["events"] == []
    unknown = await door.ask("GET", "/v1/events?resume_token=lost")
    refusal_in(unknown, 400, "INVALID_ARGUMENT", "RESUME_TOKEN_INVALID")


async def test_a_watcher_sees_what_happens_and_is_told_of_the_end(door: Door, service: Service) -> None:
    (course,) = await service.client.courses(1)
    messages: list[Any] = []
    async for line in door.lines(f"/v1/courses/{course}/events?follow=true"):
        if not line:
            continue
        messages.append(json.loads(line.removeprefix("data: ")))
        if len(messages) == 1:
            (student,) = await service.client.students(1)
            await service.client.enroll(student, course)
        elif any(event["sequence"] == "2" for event in messages[-1]["events"]):
            asyncio.get_running_loop().create_task(service.app.drain())
    assert messages[-1]["end"]["code"] == code_pb2.UNAVAILABLE
    assert messages[-1]["end"]["details"][0]["reason"] == "SHUTTING_DOWN"


async def test_grpc_web_goes_through_the_same_port(door: Door, client: Client) -> None:
    student = await client.create_student()
    path = f"/{SERVICE.full_name}/GetStudent"
    for known in (student.student_id, 99):
        request = pb.GetStudentRequest(student_id=known).SerializeToString()
        framed = bytes([0]) + len(request).to_bytes(4) + request
        answer = await door.ask("POST", path, framed, headers={"content-type": "application/grpc-web+proto"})
        assert (answer.status, answer.headers["content-type"]) == (200, "application/grpc-web+proto")
        frames = dict(grpc_web_frames(answer.body))
        if known == student.student_id:
            assert pb.GetStudentResponse.FromString(frames[0]).student == student
            assert b"grpc-status:0" in frames[128]
        else:
            assert answer.headers.get("grpc-status") == "5"


async def test_grpc_goes_through_the_same_port(door: Door, client: Client) -> None:
    student = await client.create_student()
    (course,) = await client.courses(1)
    async with client_of(door.address) as through:
        assert (await through.call("GetStudent", student_id=student.student_id)).student == student
        with refused("NOT_FOUND", "STUDENT_NOT_FOUND", metadata={"student_id": "99"}):
            await through.call("GetStudent", student_id=99)
        (message,) = await history(through, course_id=course)
        assert (len(message.events), message.HasField("end")) == (1, False)


async def test_a_service_that_is_gone_is_said_to_be_and_nothing_more() -> None:
    port = free_port()
    async with door_to(f"127.0.0.1:{port}") as door:
        for path in ("/v1/students", "/v1/events"):
            answer = await door.ask("GET", path)
            status = status_in(answer, 503, "UNAVAILABLE")
            assert status["message"] == "The service cannot be reached."
            assert status["details"] == [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retry_delay": "1s"}]
            assert f"{port}" not in answer.body.decode()


async def test_credentials_go_through(start_service: StartService, tmp_path: Path) -> None:
    provider = Provider(tmp_path)
    service = await start_service(**provider.settings)
    async with door_to(service.address) as door:
        refusal_in(await door.ask("GET", "/v1/students"), 401, "UNAUTHENTICATED", "UNAUTHENTICATED")
        allowed = {"authorization": f"Bearer {provider.token('reader')}"}
        assert (await door.ask("GET", "/v1/students", headers=allowed)).json["students"] == []
        body = {"full_name": "Ann Lee", "email": "ann@example.org"}
        denied = await door.ask("POST", "/v1/students", body, headers=allowed | JSON)
        refusal_in(denied, 403, "PERMISSION_DENIED", "PERMISSION_DENIED")
