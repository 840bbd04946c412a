"""The matrix of bad input as one table, played in order over TLS, with tokens, against one server that must survive it.

Files beside this one look at single kinds of input more closely; here is all of it at once, as a caller could send it.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from enrollment_service.v1 import enrollment_pb2 as pb
from tests.conftest import StartService
from tests.support.authority import Authority
from tests.support.client import PATIENCE, SERVICE, Client, client_of
from tests.support.provider import Provider, SigningKey, bearer, claims, forged_with_public_key, unsigned
from tests.support.refusals import Refusal, check_form
from tests.support.services import Service, ServiceLog

LARGEST = 2**63 - 1
UUIDS = ["123e4567-e89b-12d3-a456-42661417400" + digit for digit in "0123456789"]
OK = "OK"
FIELD = "INVALID_ARGUMENT INVALID_FIELD"
MALFORMED = "INVALID_ARGUMENT MALFORMED_REQUEST"
PAGE_TOKEN = "INVALID_ARGUMENT PAGE_TOKEN_INVALID"
UNKNOWN = "UNAUTHENTICATED UNAUTHENTICATED"
DENIED = "PERMISSION_DENIED PERMISSION_DENIED"
TOO_LARGE = "RESOURCE_EXHAUSTED"
NOW = int(time.time())
NAMES = ("", " ", "\u2003", "x" * 201, "\U0001f600" * 201, "a\0b", "a\x7fb", "a\x85b", "a\u202eb", "a\u2028b")
EMAILS = ("", "ann", "a b@c", "@")
CODES = ("", "x" * 41, "a/b", "\u00c4", "%")


@dataclass
class World:
    """The server, its callers, and what the table has to work with."""

    client: Client
    provider: Provider
    authority: Authority
    port: int
    student: pb.Student
    course: pb.Course

    def bearing(self, *roles: str, **others: Any) -> Client:
        return self.client.bearing(self.provider.token(*roles, **others))


Act = Callable[[World], Awaitable[str]]


async def answer_to(call: Awaitable[Any]) -> str:
    """What a call was answered: OK, or code and reason; every refusal of ours is well formed."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        refusal = Refusal()
        refusal.read(error)
        if refusal.reason:
            check_form(refusal, error)
        return f"{refusal.code} {refusal.reason}".strip()
    return OK


def calls(method: str, **fields: Any) -> Act:
    """A call of a registrar."""
    return lambda world: answer_to(world.client.call(method, **fields))


def about(method: str, **fields: Any) -> Act:
    """The same, about the student and the course that there are."""

    async def act(world: World) -> str:
        ids = {"student_id": world.student.student_id, "course_id": world.course.course_id}
        known = getattr(pb, f"{method}Request").DESCRIPTOR.fields_by_name
        return await answer_to(
            world.client.call(method, **{name: value for name, value in ids.items() if name in known} | fields)
        )

    return act


def raw(data: bytes, method: str = "CreateStudent", service: str = SERVICE) -> Act:
    """A call with these bytes."""
    return lambda world: answer_to(world.client.raw(method, data, service))


def with_metadata(make: Callable[[World], Any]) -> Act:
    """A read with this metadata instead of the registrar's."""

    async def act(world: World) -> str:
        stub = world.client.stub.ListCourses
        return await answer_to(stub(pb.ListCoursesRequest(), timeout=PATIENCE, metadata=make(world)))

    return act


def token(make: Callable[[World], str]) -> Act:
    """A read with this token."""
    return with_metadata(lambda world: bearer(make(world)))


def student(**changes: Any) -> dict[str, Any]:
    return {"student": pb.Student(**{"full_name": "Ann", "email": "new@example.org"} | changes)}


def course(**changes: Any) -> dict[str, Any]:
    return {"course": pb.Course(**{"code": "NEW-1", "title": "Drawing"} | changes)}


def nested(name: bytes) -> bytes:
    """A CreateStudent request whose student has these bytes for a name."""
    inner = bytes([0x12, len(name)]) + name
    return bytes([0x0A, len(inner)]) + inner


def course_with_capacity(capacity: int) -> bytes:
    """A CreateCourse request with a number that no message of ours could hold."""
    number = pb.Course.DESCRIPTOR.fields_by_name["capacity"].number
    varint = bytearray()
    while capacity > 0x7F:
        varint.append(capacity & 0x7F | 0x80)
        capacity >>= 7
    inner: bytes = course()["course"].SerializeToString() + bytes([number << 3]) + varint + bytes([capacity])
    return bytes([0x0A, len(inner)]) + inner


def update(path: str) -> Act:
    """An update of the student's field of this name."""
    return calls("UpdateStudent", student=pb.Student(student_id=1), update_mask={"paths": [path]})


async def malformed_by_nobody(world: World) -> str:
    return await answer_to(Client(world.client.channel).raw("GetStudent", b"\xff"))


async def oversize(world: World, compression: grpc.Compression) -> str:
    call: Any = world.client.channel.unary_unary(f"/{SERVICE}/CreateStudent")
    data = b"\0" * (16 << 20)
    return await answer_to(call(data, timeout=PATIENCE, metadata=world.client.metadata, compression=compression))


async def bytes_on_a_socket(world: World, data: bytes, *, encrypted: bool) -> str:
    """The connection is closed, whatever it was."""
    context = None
    if encrypted:
        context = ssl.create_default_context(cadata=world.authority.pem.decode())
        context.set_alpn_protocols(["h2"])
    name = "localhost" if encrypted else None
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port, ssl=context, server_hostname=name)
    writer.write(data)
    try:
        async with asyncio.timeout(PATIENCE):
            while await reader.read(65536):
                pass
    except (ConnectionError, ssl.SSLError):
        pass
    writer.close()
    return "closed"


def socket(data: bytes, *, encrypted: bool) -> Act:
    return lambda world: bytes_on_a_socket(world, data, encrypted=encrypted)


async def literal(world: World, name: str) -> str:
    """What looks dangerous is stored as it is, and found by its beginning only."""
    made = await world.client.create_student(name)
    found = (await world.client.call("ListStudents", query=name)).students
    return OK if [one.student_id for one in found] == [made.student_id] and made.full_name == name else f"{found}"


async def stale_etag(world: World) -> str:
    made = await world.client.create_course()
    mask = {"paths": ["title"]}
    fresh = pb.Course(course_id=made.course_id, title="Painting", etag=made.etag)
    await world.client.call("UpdateCourse", course=fresh, update_mask=mask)
    return await answer_to(world.client.call("UpdateCourse", course=fresh, update_mask=mask))


async def below_taken(world: World) -> str:
    made = await world.client.create_course(capacity=1)
    await world.client.enroll(world.student.student_id, made.course_id)
    lowered = pb.Course(course_id=made.course_id, capacity=0)
    return await answer_to(world.client.call("UpdateCourse", course=lowered, update_mask={"paths": ["capacity"]}))


async def five_at_once(world: World) -> str:
    """One effect, one answer."""
    made = await world.client.create_course()
    request = {"student_id": world.student.student_id, "course_ids": [made.course_id], "request_id": UUIDS[0]}
    answers = await asyncio.gather(*(world.client.call("EnrollStudent", **request) for _ in range(5)))
    count = (await world.client.call("GetCourse", course_id=made.course_id)).course.enrolled_count
    same = len({answer.SerializeToString(deterministic=True) for answer in answers}) == 1
    return OK if same and count == 1 else f"{answers} {count}"


async def reused(world: World) -> str:
    one, other = await world.client.courses(2)
    await world.client.enroll(world.student.student_id, one, request_id=UUIDS[1])
    call = world.client.enroll(world.student.student_id, other, request_id=UUIDS[1])
    return await answer_to(call)


async def page_of_another_filter(world: World) -> str:
    await world.client.students(3)
    page = await world.client.call("ListStudents", page_size=1)
    return await answer_to(world.client.call("ListStudents", query="x", page_token=page.next_page_token))


async def tampered_page(world: World) -> str:
    page = (await world.client.call("ListStudents", page_size=1)).next_page_token
    return await answer_to(world.client.call("ListStudents", page_token=page[:-1] + ("A" if page[-1] != "A" else "B")))


async def rows_of_a_page(world: World, page_size: int) -> str:
    page = await world.client.call("ListStudents", page_size=page_size)
    return f"{len(page.students)}" if page.next_page_token else "all"


async def many_streams(world: World) -> str:
    """Of 10,000 streams most are refused, and others are served meanwhile."""
    greedy = world.bearing("registrar", subject="greedy")
    opened = [greedy.stub.ImportEnrollments(metadata=greedy.metadata) for _ in range(10_000)]
    try:
        refused = [asyncio.ensure_future(call.code()) for call in opened[20:]]
        await asyncio.wait(refused, return_when=asyncio.FIRST_COMPLETED)
        served = await answer_to(world.client.call("ListCourses"))
        codes = {one.result().name for one in refused if one.done()}
        return f"{'/'.join(codes)}, others {served}"
    finally:
        for call in opened:
            call.cancel()
        await asyncio.gather(*refused, return_exceptions=True)


TABLE: list[tuple[str, Act, str]] = [
    ("truncated message", raw(b"\x0a\x7fshort"), MALFORMED),
    ("invalid UTF-8", raw(nested(b"\xff\xfe")), MALFORMED),
    ("overlong NUL", raw(nested(b"\xc0\x80")), MALFORMED),
    ("5,000 nested groups", raw(b"\x0b" * 5000 + b"\x0c" * 5000), MALFORMED),
    ("message too large", lambda world: oversize(world, grpc.Compression.NoCompression), TOO_LARGE),
    ("gzip bomb", lambda world: oversize(world, grpc.Compression.Gzip), TOO_LARGE),
    ("200 KB of unknown fields", raw(b"\xc2\x3e\x80\x80\x04" + b"x" * 65536 + b"\x08\x01", "GetStudent"), OK),
    ("unknown method", raw(b"", "DropTables"), "UNIMPLEMENTED"),
    ("unknown service", raw(b"", "GetStudent", "enrollment.v2.Other"), "UNIMPLEMENTED"),
    ("40 KB of metadata", with_metadata(lambda world: [*world.client.metadata, ("x", "x" * 40_000)]), TOO_LARGE),
    ("HTTP/1.1", socket(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", encrypted=True), "closed"),
    ("garbage", socket(b"\xff" * 1000, encrypted=True), "closed"),
    ("garbage after the preface", socket(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 99, encrypted=True), "closed"),
    ("HTTP/1.1 without TLS", socket(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", encrypted=False), "closed"),
    ("garbage without TLS", socket(b"\x00" * 1000, encrypted=False), "closed"),
    *(
        (f"name {name[:12]!r}", calls("CreateStudent", **student(full_name=name)), FIELD)
        for name in NAMES
    ),
    ("newline in a name", calls("CreateStudent", **student(full_name='a\n{"level":"error"}')), FIELD),
    ("escape in a name", calls("CreateStudent", **student(full_name="a\x1b[31mb")), FIELD),
    *((f"email {email!r}", calls("CreateStudent", **student(email=email)), FIELD) for email in EMAILS),
    *((f"code {code!r}", calls("CreateCourse", **course(code=code)), FIELD) for code in CODES),
    ("SQL in a name", lambda world: literal(world, "Robert'); DROP TABLE students; --"), OK),
    ("percent", lambda world: literal(world, "%"), OK),
    ("underscore", lambda world: literal(world, "_"), OK),
    ("id 0", calls("GetStudent", student_id=0), FIELD),
    ("negative id", calls("GetStudent", student_id=-1), FIELD),
    ("largest id", calls("GetStudent", student_id=LARGEST), "NOT_FOUND STUDENT_NOT_FOUND"),
    ("request_id is no UUID", about("EnrollStudent", course_ids=[1], request_id="1"), FIELD),
    ("reason with capitals", about("UnenrollStudent", reason="Moved"), FIELD),
    ("reason of the service", about("UnenrollStudent", reason="import"), FIELD),
    ("capacity -1", calls("CreateCourse", **course(capacity=-1)), FIELD),
    ("capacity 2^31", raw(course_with_capacity(2**31), "CreateCourse"), FIELD),
    ("capacity below the seats taken", below_taken, "FAILED_PRECONDITION CAPACITY_BELOW_ENROLLED"),
    ("enum 999", about("EnrollStudent", course_ids=[1], on_full=999), FIELD),
    ("year 10000", calls("CreateCourse", **course(enroll_open_time={"seconds": 253_402_300_800})), FIELD),
    ("10^9 nanoseconds", calls("CreateCourse", **course(enroll_open_time={"nanos": 1_000_000_000})), FIELD),
    (
        "a window that closes before it opens",
        calls("CreateCourse", **course(enroll_open_time={"seconds": 5}, enroll_close_time={"seconds": 4})),
        FIELD,
    ),
    ("page_size -1", calls("ListStudents", page_size=-1), FIELD),
    ("page_size 10^9", lambda world: rows_of_a_page(world, 10**9), "all"),
    ("page_size 0", lambda world: rows_of_a_page(world, 0), "50"),
    ("page token of another filter", page_of_another_filter, PAGE_TOKEN),
    ("tampered page token", tampered_page, PAGE_TOKEN),
    ("page token of nonsense", calls("ListStudents", page_token="x"), PAGE_TOKEN),
    ("unknown mask path", update("full_nam"), FIELD),
    ("output-only mask path", update("etag"), FIELD),
    ("stale etag", stale_etag, "ABORTED ETAG_MISMATCH"),
    ("one request_id, five at once", five_at_once, OK),
    ("one request_id, two bodies", reused, "INVALID_ARGUMENT REQUEST_ID_REUSED"),
    ("duplicates", about("EnrollStudent", course_ids=[1, 1]), FIELD),
    ("51 courses", about("EnrollStudent", course_ids=range(1, 52)), FIELD),
    ("500 bad fields", about("ReconcileRoster", student_ids=range(-500, 0)), FIELD),
    ("no token", with_metadata(lambda _: ()), UNKNOWN),
    ("expired", token(lambda world: world.provider.token("registrar", exp=NOW - 100)), UNKNOWN),
    ("alg=none", token(lambda _: unsigned({"alg": "none"}, claims("registrar"))), UNKNOWN),
    ("wrong audience", token(lambda world: world.provider.token("registrar", aud="x")), UNKNOWN),
    ("wrong issuer", token(lambda world: world.provider.token("registrar", iss="x")), UNKNOWN),
    ("HS256 with the public key", token(lambda world: forged_with_public_key(world.provider)), UNKNOWN),
    ("kid=../x", token(lambda world: world.provider.key.sign(claims("registrar"), kid="../x")), UNKNOWN),
    ("somebody else's key", token(lambda _: SigningKey("first").sign(claims("registrar"))), UNKNOWN),
    ("two tokens", with_metadata(lambda world: [*world.client.metadata] * 2), UNKNOWN),
    ("100 KB token", token(lambda _: "x" * 100_000), TOO_LARGE),
    ("malformed bytes without a token", malformed_by_nobody, UNKNOWN),
    ("a reader writes", lambda world: answer_to(world.bearing("reader").create_student()), DENIED),
    (
        "a student asks for another, who is not there",
        lambda world: answer_to(world.bearing("student", student_id=1).call("GetStudent", student_id=LARGEST)),
        DENIED,
    ),
    (
        "a student asks for another, who is there",
        lambda world: answer_to(world.bearing("student", student_id=LARGEST).call("GetStudent", student_id=1)),
        DENIED,
    ),
    ("10,000 streams", many_streams, "RESOURCE_EXHAUSTED, others OK"),
]  # fmt: skip


@pytest.fixture
async def world(start_service: StartService, tmp_path: Path) -> Any:
    """A server in the production profile with TLS, tokens and a limit of streams per caller."""
    provider, authority = Provider(tmp_path), Authority(tmp_path)
    server = authority.server()
    service: Service = await start_service(
        profile="production",
        tls_cert=f"{server.cert}",
        tls_key=f"{server.key}",
        max_caller_streams=20,
        max_streams=10_000,
        **provider.settings,
    )
    async with client_of(f"localhost:{service.app.port}", credentials=authority.credentials()) as client:
        registrar = client.bearing(provider.token("registrar"))
        await registrar.students(54)
        student, course = await registrar.create_student(), await registrar.create_course()
        yield World(registrar, provider, authority, service.app.port, student, course)


async def test_every_row_is_answered_as_promised_and_the_server_goes_on(world: World, service_log: ServiceLog) -> None:
    answers = {name: (await act(world), expected) for name, act, expected in TABLE}
    assert {name: answer for name, (answer, expected) in answers.items() if answer != expected} == {}
    assert len(answers) == len(TABLE)
    # Nothing of it was unforeseen, every line is one line, and the server still does its work.
    assert [line for line in service_log.lines if line.get("code") == "INTERNAL" or line["level"] == "error"] == []
    assert (await world.client.create_student()).student_id
