"""Access tokens over the wire: only one that is good in every respect lets its bearer in, and nothing tells why not."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from enrollment_service.api.auth.tokens import CLOCK_SKEW_SECONDS
from enrollment_service.v1 import enrollment_pb2 as pb
from tests.conftest import StartService
from tests.support.client import PATIENCE, Client
from tests.support.databases import Connection
from tests.support.provider import Provider, SigningKey, bearer, claims, forged_with_public_key, unsigned
from tests.support.refusals import refused
from tests.support.services import Service, ServiceLog

UNKNOWN = ("UNAUTHENTICATED", "UNAUTHENTICATED")


@pytest.fixture
def provider(tmp_path: Path) -> Provider:
    return Provider(tmp_path)


@pytest.fixture
async def guarded(start_service: StartService, provider: Provider) -> Service:
    """A service in the production profile that takes the provider's tokens."""
    return await start_service(profile="production", **provider.settings)


async def calls_with(client: Client, *metadata: tuple[str, Any]) -> None:
    await client.stub.ListCourses(pb.ListCoursesRequest(), timeout=PATIENCE, metadata=metadata)


def tampered(provider: Provider) -> str:
    """The claims of one token with the signature of another."""
    head, _, _ = provider.token("registrar").split(".")
    _, body, _ = unsigned({}, claims("registrar", subject="other")).split(".")
    return f"{head}.{body}.{provider.token('reader').rpartition('.')[2]}"


NOW = int(time.time())
BAD: dict[str, tuple[Callable[[Provider], str], str]] = {
    "empty": (lambda _: "", "no bearer token"),
    "no token": (lambda _: "x", "token malformed"),
    "three dots": (lambda _: "...", "token malformed"),
    "other key": (lambda _: SigningKey("first").sign(claims("registrar")), "wrong signature"),
    "unknown key": (lambda _: SigningKey("second").sign(claims("registrar")), "key not known"),
    "key id is a path": (lambda p: p.key.sign(claims("registrar"), kid="../x"), "key not known"),
    "key id is a number": (
        lambda _: unsigned({"alg": "ES256", "kid": 1}, claims("registrar"), b"x"),
        "token malformed",
    ),
    "alg none": (lambda _: unsigned({"alg": "none"}, claims("registrar")), "algorithm not accepted"),
    "alg None": (lambda _: unsigned({"alg": "None", "kid": "first"}, claims("registrar")), "algorithm not accepted"),
    "no alg": (lambda _: unsigned({"kid": "first"}, claims("registrar")), "algorithm not accepted"),
    "alg of another kind": (
        lambda _: unsigned({"alg": "RS256", "kid": "first"}, claims("registrar"), b"x" * 256),
        "algorithm not accepted",
    ),
    "HS256 with the public key": (forged_with_public_key, "algorithm not accepted"),
    "tampered": (tampered, "wrong signature"),
    "expired": (lambda p: p.token("registrar", exp=NOW - 100), "token expired"),
    "no expiry": (lambda p: p.token("registrar", exp=None), "claim missing"),
    "expiry is no number": (lambda p: p.token("registrar", exp="soon"), "token malformed"),
    "expires beyond a float": (lambda p: p.token("registrar", exp=10**400), "token malformed"),
    "expires at infinity": (lambda p: p.token("registrar", exp=float("inf")), "token malformed"),
    "not valid yet": (lambda p: p.token("registrar", nbf=NOW + 1000), "token not valid yet"),
    "issued in the future": (lambda p: p.token("registrar", iat=NOW + 1000), "token not valid yet"),
    "wrong issuer": (lambda p: p.token("registrar", iss="https://evil.example.org"), "wrong issuer"),
    "no issuer": (lambda p: p.token("registrar", iss=None), "claim missing"),
    "wrong audience": (lambda p: p.token("registrar", aud="other"), "wrong audience"),
    "no audience": (lambda p: p.token("registrar", aud=None), "claim missing"),
    "audience is a part": (lambda p: p.token("registrar", aud="enroll"), "wrong audience"),
    "no subject": (lambda p: p.token("registrar", sub=None), "claim missing"),
    "empty subject": (lambda p: p.token("registrar", subject=""), "subject not usable"),
    "subject is a number": (lambda p: p.token("registrar", sub=7), "token malformed"),
    "subject with a newline": (lambda p: p.token("registrar", subject="a\nb"), "subject not usable"),
    "subject with an escape": (lambda p: p.token("registrar", subject="a\x1b[31m"), "subject not usable"),
    "subject that turns round": (lambda p: p.token("registrar", subject="a\u202eb"), "subject not usable"),
    "blank subject": (lambda p: p.token("registrar", subject=" "), "subject not usable"),
    "long subject": (lambda p: p.token("registrar", subject="x" * 256), "subject not usable"),
    "unknown critical header": (lambda p: p.key.sign(claims("registrar"), crit=["x"], x=1), "token malformed"),
    "too long": (lambda p: p.token("registrar", padding="x" * 8000), "token too long"),
    "nested too deep": (
        lambda _: f"{base64.urlsafe_b64encode(b'[' * 5000).rstrip(b'=').decode()}.e30.e30",
        "token malformed",
    ),
}


@pytest.mark.parametrize("name", BAD)
async def test_a_bad_token_is_refused_and_nothing_tells_why(
    guarded: Service, provider: Provider, service_log: ServiceLog, name: str
) -> None:
    make, cause = BAD[name]
    with refused(*UNKNOWN, metadata={}) as refusal:
        await calls_with(guarded.client, *bearer(make(provider)))
    with refused(*UNKNOWN, metadata={}) as other:
        await calls_with(guarded.client)
    assert refusal.message == other.message
    with_token, without = service_log.calls("ListCourses")
    assert (with_token["cause"], without["cause"]) == (cause, "no token")
    await calls_with(guarded.client, *bearer(provider.token("registrar")))


@pytest.mark.parametrize("header", ["Basic YTpi", "Bearer", "bearer ", "Token x", "x", ""])
async def test_other_credentials_are_refused(guarded: Service, header: str) -> None:
    with refused(*UNKNOWN, metadata={}):
        await calls_with(guarded.client, ("authorization", header))


async def test_two_tokens_are_refused_even_if_both_are_good(guarded: Service, provider: Provider) -> None:
    good = bearer(provider.token("registrar"))
    with refused(*UNKNOWN, metadata={}):
        await calls_with(guarded.client, *good, *good)


async def test_a_token_of_100_kb_is_refused_and_the_server_lives(guarded: Service, provider: Provider) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await calls_with(guarded.client, *bearer("x" * 100_000))
    assert failure.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    await calls_with(guarded.client, *bearer(provider.token("registrar")))


async def test_nobody_learns_of_malformed_bytes_before_saying_who_it_is(guarded: Service, provider: Provider) -> None:
    with refused(*UNKNOWN, metadata={}):
        await guarded.client.raw("CreateStudent", b"\xff")
    with refused("PERMISSION_DENIED", "PERMISSION_DENIED", metadata={}):
        await guarded.client.bearing(provider.token("reader")).raw("CreateStudent", b"\xff")
    with refused("INVALID_ARGUMENT", "MALFORMED_REQUEST"):
        await guarded.client.bearing(provider.token("registrar")).raw("CreateStudent", b"\xff")


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
async def test_a_good_token_lets_in(start_service: StartService, tmp_path: Path, algorithm: str) -> None:
    provider = Provider(tmp_path, algorithm)
    service = await start_service(profile="production", **provider.settings)
    client = service.client.bearing(provider.token("registrar", aud=["other", "enrollment"]))
    assert (await client.create_student()).student_id
    assert (await client.create_student()).student_id


async def test_clocks_may_differ_a_little(guarded: Service, provider: Provider) -> None:
    now = int(time.time())
    await calls_with(guarded.client, *bearer(provider.token("reader", exp=now - 20)))
    await calls_with(guarded.client, *bearer(provider.token("reader", nbf=now + 20, iat=now + 20)))


async def test_a_token_may_leave_out_the_key_id_where_there_is_one_key(guarded: Service, provider: Provider) -> None:
    token = provider.key.sign(claims("reader"), kid=None)
    await calls_with(guarded.client, *bearer(token))


async def test_the_subject_is_the_actor_of_events_and_log_lines(
    guarded: Service, provider: Provider, connection: Connection, service_log: ServiceLog
) -> None:
    client = guarded.client.bearing(provider.token("registrar", subject="auth0|7 \u00fc"))
    student, course = await client.create_student(), await client.create_course()
    await client.enroll(student.student_id, course.course_id)
    actors = await connection.fetch("SELECT DISTINCT actor FROM enrollment_events WHERE student_id > 0")
    assert [row["actor"] for row in actors] == ["auth0|7 \u00fc"]
    (line,) = service_log.calls("EnrollStudent")
    assert line["actor"] == "auth0|7 \u00fc"
    assert "eyJ" not in service_log.text


async def test_a_request_id_is_ones_own(guarded: Service, provider: Provider) -> None:
    ann, ben = (guarded.client.bearing(provider.token("registrar", subject=name)) for name in ("ann", "ben"))
    student, course = await ann.create_student(), await ann.create_course()
    request_id = "123e4567-e89b-12d3-a456-426614174000"
    await ann.enroll(student.student_id, course.course_id, request_id=request_id)
    with refused("ALREADY_EXISTS", "ALREADY_ENROLLED"):
        await ben.enroll(student.student_id, course.course_id, request_id=request_id)
    (replayed,) = await ann.enroll(student.student_id, course.course_id, request_id=request_id)
    assert replayed.state == pb.ENROLLMENT_STATE_ENROLLED


async def test_a_token_is_forgotten_when_it_expires(guarded: Service, provider: Provider) -> None:
    expires = int(time.time()) + 2
    good = bearer(provider.token("reader", exp=expires - CLOCK_SKEW_SECONDS))
    with refused(*UNKNOWN, metadata={}):
        while time.time() < expires + PATIENCE:
            await calls_with(guarded.client, *good)
    assert time.time() >= expires


async def test_an_import_ends_when_its_token_expires(
    guarded: Service, provider: Provider, connection: Connection
) -> None:
    client = guarded.client.bearing(provider.token("registrar", exp=int(time.time()) + 2 - CLOCK_SKEW_SECONDS))
    student, course = await client.create_student(), await client.create_course()
    call = client.stub.ImportEnrollments(metadata=client.metadata)
    chunk = pb.ImportEnrollmentsRequest(chunk_id=1, student_ids=[student.student_id], course_ids=[course.course_id])
    with refused(*UNKNOWN, metadata={}):
        while True:
            await call.write(chunk)
            assert (await call.read()).chunk_id == 1
    assert await connection.fetchval("SELECT count(*) FROM student_courses") == 1


async def test_an_import_ends_when_its_key_is_withdrawn(
    start_service: StartService, provider: Provider, connection: Connection
) -> None:
    service = await start_service(**provider.settings, jwt_refresh_interval=1)
    client = service.client.bearing(provider.token("registrar"))
    student, course = await client.create_student(), await client.create_course()
    call = client.stub.ImportEnrollments(metadata=client.metadata)
    chunk = pb.ImportEnrollmentsRequest(chunk_id=1, student_ids=[student.student_id], course_ids=[course.course_id])
    await call.write(chunk)
    assert (await call.read()).chunk_id == 1
    provider.publish(SigningKey("second"))
    with refused(*UNKNOWN, metadata={}):
        while True:
            await call.write(chunk)
            assert (await call.read()).chunk_id == 1
    assert await connection.fetchval("SELECT count(*) FROM student_courses") == 1


async def test_health_is_open(guarded: Service) -> None:
    assert await guarded.client.health() == 1
