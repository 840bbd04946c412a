"""TLS and mTLS over the wire: who is let in by a certificate, and certificates that change under a server."""

from __future__ import annotations

import asyncio
import socket
import ssl
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509

from enrollment_service.client import EnrollmentClient
from enrollment_service.v1 import enrollment_pb2 as pb
from tests.conftest import StartService
from tests.support.authority import Authority, Certificate
from tests.support.client import client_of
from tests.support.databases import Connection
from tests.support.processes import Processes, free_port, run_command
from tests.support.provider import Provider
from tests.support.refusals import refused
from tests.support.services import Service, ServiceLog
from tests.support.thoroughness import mostly_long

REGISTRAR = "spiffe://example.org/registrar"
ROLES = f"""
[uri]
"{REGISTRAR}" = ["registrar"]
[dns]
"Catalog.example.org" = ["reader"]
"""
PATIENCE = 20.0


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def mtls(tmp_path: Path, authority: Authority) -> dict[str, Any]:
    """The settings of a server that knows its callers by their certificates."""
    roles = tmp_path / "roles.toml"
    roles.write_text(ROLES)
    server = authority.server()
    return {
        "profile": "production",
        "auth": "mtls",
        "tls_cert": f"{server.cert}",
        "tls_key": f"{server.key}",
        "tls_client_ca": f"{authority.file}",
        "mtls_roles": f"{roles}",
    }


def secured(service: Service, authority: Authority, caller: Certificate | None = None) -> Any:
    return client_of(f"localhost:{service.app.port}", credentials=authority.credentials(caller))


async def test_a_certificate_says_who_calls(
    start_service: StartService,
    mtls: dict[str, Any],
    authority: Authority,
    connection: Connection,
    service_log: ServiceLog,
) -> None:
    service = await start_service(**mtls)
    async with secured(service, authority, authority.issue("registrar", uri=[REGISTRAR])) as client:
        student, course = await client.create_student(), await client.create_course()
        await client.enroll(student.student_id, course.course_id)
    assert await connection.fetchval("SELECT max(actor) FROM enrollment_events") == REGISTRAR
    assert {line["actor"] for line in service_log.calls("EnrollStudent")} == {REGISTRAR}
    async with secured(service, authority, authority.issue("reader", dns=["catalog.example.org"])) as client:
        await client.call("GetCourse", course_id=course.course_id)
        with refused("PERMISSION_DENIED", "PERMISSION_DENIED", metadata={}):
            await client.create_student()


@pytest.mark.parametrize(
    "names",
    [
        {"uri": ["spiffe://example.org/other"]},
        {"uri": [f"{REGISTRAR}/x", "spiffe://example.org/REGISTRAR"]},
        {"dns": ["example.org", "a.catalog.example.org"]},
        {"uri": ["spiffe://catalog.example.org"]},
        {"uri": [f"{REGISTRAR}\0.evil", "spiffe://example.org/x"]},
    ],
)
async def test_whoever_is_in_no_table_may_do_nothing(
    start_service: StartService, mtls: dict[str, Any], authority: Authority, names: dict[str, Any]
) -> None:
    service = await start_service(**mtls)
    async with secured(service, authority, authority.issue("other", **names)) as client:
        with refused("PERMISSION_DENIED", "PERMISSION_DENIED", metadata={}):
            await client.call("ListCourses")


async def test_a_certificate_without_names_is_nobodys(
    start_service: StartService, mtls: dict[str, Any], authority: Authority
) -> None:
    service = await start_service(**mtls)
    # Its common name, which once meant something, is that of a registrar.
    async with secured(service, authority, authority.issue(REGISTRAR.replace("/", "_"))) as client:
        with refused("UNAUTHENTICATED", "UNAUTHENTICATED", metadata={}):
            await client.call("ListCourses")


async def test_without_a_certificate_of_the_authority_there_is_no_connection(
    start_service: StartService, mtls: dict[str, Any], authority: Authority, tmp_path: Path
) -> None:
    service = await start_service(**mtls)
    stranger = Authority(tmp_path, "stranger").issue("registrar2", uri=[REGISTRAR])
    expired = authority.issue("expired", uri=[REGISTRAR], lasts=timedelta(hours=-1))
    for caller in (None, stranger, expired):
        async with secured(service, authority, caller) as client:
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await client.call("ListCourses")
            assert failure.value.code() is grpc.StatusCode.UNAVAILABLE
    with pytest.raises(grpc.aio.AioRpcError):
        await service.client.call("ListCourses")  # without TLS


async def test_a_certificate_that_expires_counts_no_more_on_an_open_connection(
    start_service: StartService, mtls: dict[str, Any], authority: Authority
) -> None:
    service = await start_service(**mtls)
    brief = authority.issue("brief", uri=[REGISTRAR], lasts=timedelta(seconds=3))
    async with secured(service, authority, brief) as client, asyncio.timeout(PATIENCE):
        await client.call("ListCourses")
        with refused("UNAUTHENTICATED", "UNAUTHENTICATED", metadata={}):
            while True:
                await client.call("ListCourses")


async def test_a_token_alone_decides_where_there_is_one(
    start_service: StartService, mtls: dict[str, Any], authority: Authority, tmp_path: Path
) -> None:
    provider = Provider(tmp_path)
    service = await start_service(**mtls | provider.settings | {"auth": "jwt,mtls"})
    async with secured(service, authority, authority.issue("registrar", uri=[REGISTRAR])) as client:
        await client.create_student()
        with refused("UNAUTHENTICATED", "UNAUTHENTICATED", metadata={}):
            await client.bearing(provider.token("registrar", aud="other")).call("ListCourses")
        with refused("PERMISSION_DENIED", "PERMISSION_DENIED", metadata={}):
            await client.bearing(provider.token("reader")).create_student()
    async with secured(service, authority, authority.issue("nobody", uri=["spiffe://example.org/x"])) as client:
        await client.bearing(provider.token("registrar")).create_student()


async def test_roles_may_change_while_it_serves(
    start_service: StartService, mtls: dict[str, Any], authority: Authority, service_log: ServiceLog
) -> None:
    service = await start_service(**mtls)
    roles = Path(mtls["mtls_roles"])
    async with secured(service, authority, authority.issue("registrar", uri=[REGISTRAR])) as client:
        await client.create_student()

        async def still_may() -> bool:
            try:
                await client.create_student()
            except grpc.aio.AioRpcError as error:
                with refused("PERMISSION_DENIED", "PERMISSION_DENIED"):
                    raise error from None
                return False
            return True

        async def problem_is_logged() -> bool:
            assert await still_may()
            return any(line["event"] == "file not usable, keeping what was known" for line in service_log.lines)

        replace(roles, "nonsense")
        await until(problem_is_logged)
        replace(roles, ROLES.replace('["registrar"]', '["reader"]'))
        await until(lambda: negated(still_may))
        await client.call("ListCourses")


async def until(fact: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await fact():  # noqa: ASYNC110 - only the server knows
            await asyncio.sleep(0.02)


async def negated(fact: Callable[[], Awaitable[bool]]) -> bool:
    return not await fact()


def one_and_a_half(path: Path) -> bytes:
    whole = path.read_bytes()
    return whole + whole[: len(whole) // 2]


def replace(path: Path, content: str | bytes) -> None:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.mark.timeout(120)  # it waits for many connections, which cost the most on a busy machine
@pytest.mark.parametrize("workers", mostly_long(["1", "2"], ["1"]))
async def test_certificates_and_authorities_rotate_under_load_without_a_failed_call(
    processes: Processes, mtls: dict[str, Any], authority: Authority, tmp_path: Path, workers: str
) -> None:
    variables = {name.upper(): value for name, value in mtls.items()} | {"WORKERS": workers}
    process = processes.spawn(**variables)
    caller = authority.issue("registrar", uri=[REGISTRAR])
    address = f"localhost:{process.port}"
    async with client_of(address, credentials=authority.credentials(caller)) as client:
        await process.wait_serving(client)
        (course_id,) = await client.courses(1)
    async with calling(address, authority.credentials(caller), course_id) as calls:
        await until_more(calls, 50)
        second = authority.server()  # replaces the files
        await until(lambda: shows(process.port, authority, caller, second.serial))
        await until_more(calls, 50)
        # A new authority: its callers are let in, and those of the old one still are.
        other = Authority(tmp_path, "other-ca")
        newcomer = other.issue("newcomer", uri=[REGISTRAR])
        authority.file.write_bytes(authority.pem + other.pem)
        trusted = grpc.ssl_channel_credentials(authority.pem, newcomer.key.read_bytes(), newcomer.cert.read_bytes())
        await until(lambda: reachable(address, trusted))
        await until_more(calls, 50)
        # A key that does not fit changes nothing.
        replace(Path(mtls["tls_key"]), newcomer.key.read_bytes())
        await until_more(calls, 50)
        await until(lambda: reachable(address, trusted))
    assert calls.failed == []


class Calls:
    """Calls that were made, by callers of which each connects anew from time to time."""

    def __init__(self) -> None:
        self.made = 0
        self.failed: list[Exception] = []


@asynccontextmanager
async def calling(address: str, credentials: grpc.ChannelCredentials, course_id: int) -> AsyncIterator[Calls]:
    calls, ending = Calls(), asyncio.Event()

    async def call_for_ever() -> None:
        while not ending.is_set():
            async with EnrollmentClient(address, credentials=credentials) as client:
                for _ in range(10):
                    try:
                        await client.get_course(course_id)
                    except Exception as error:  # noqa: BLE001 - none may fail, in whatever way
                        calls.failed.append(error)
                    calls.made += 1

    callers = [asyncio.create_task(call_for_ever()) for _ in range(4)]
    try:
        yield calls
    finally:
        ending.set()
        await asyncio.gather(*callers)


async def until_more(calls: Calls, count: int) -> None:
    wanted = calls.made + count
    async with asyncio.timeout(PATIENCE):
        while calls.made < wanted:  # noqa: ASYNC110 - a counter
            await asyncio.sleep(0.02)


async def reachable(address: str, credentials: grpc.ChannelCredentials) -> bool:
    async with client_of(address, credentials=credentials) as client:
        try:
            return await client.health() == 1
        except grpc.aio.AioRpcError:
            return False


async def shows(port: int, authority: Authority, caller: Certificate, serial: int) -> bool:
    return await asyncio.to_thread(_serial_shown, port, authority, caller) == serial


def _serial_shown(port: int, authority: Authority, caller: Certificate) -> int:
    context = ssl.create_default_context(cadata=authority.pem.decode())
    context.load_cert_chain(caller.cert, caller.key)
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("127.0.0.1", port), PATIENCE) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connected,
    ):
        shown = connected.getpeercert(binary_form=True)
    assert shown is not None
    return x509.load_der_x509_certificate(shown).serial_number


@pytest.mark.parametrize(
    ("version", "served"),
    [
        (ssl.TLSVersion.TLSv1, False),
        (ssl.TLSVersion.TLSv1_1, False),
        (ssl.TLSVersion.TLSv1_2, True),
        (ssl.TLSVersion.TLSv1_3, True),
    ],
)
async def test_tls_is_of_version_1_2_at_least(
    start_service: StartService, mtls: dict[str, Any], authority: Authority, version: ssl.TLSVersion, served: bool
) -> None:
    service = await start_service(**mtls | {"auth": "none", "tls_client_ca": ""})
    context = ssl.create_default_context(cadata=authority.pem.decode())
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        context.minimum_version = context.maximum_version = version
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.set_alpn_protocols(["h2"])

    def handshake() -> bool:
        with socket.create_connection(("127.0.0.1", service.app.port), PATIENCE) as plain:
            try:
                with context.wrap_socket(plain, server_hostname="localhost"):
                    return True
            except (ssl.SSLError, ConnectionError):
                return False

    assert await asyncio.to_thread(handshake) is served


@pytest.mark.parametrize(
    ("setting", "text", "said"),
    [
        ("tls_cert", None, "ENROLLMENT_TLS_CERT, ENROLLMENT_TLS_KEY: No such file or directory"),
        ("tls_cert", "nonsense", "ENROLLMENT_TLS_CERT, ENROLLMENT_TLS_KEY: Unable to load PEM file"),
        ("tls_client_ca", "", "ENROLLMENT_TLS_CLIENT_CA: "),
        ("tls_client_ca", "half", "ENROLLMENT_TLS_CLIENT_CA: a certificate in it is not whole"),
        ("tls_cert", "half", "ENROLLMENT_TLS_CERT, ENROLLMENT_TLS_KEY: a certificate in it is not whole"),
        ("mtls_roles", "a = ", "ENROLLMENT_MTLS_ROLES: is no TOML: Invalid value (at "),
        ("mtls_roles", "a = 1", "ENROLLMENT_MTLS_ROLES: may only have the tables [uri] and [dns]"),
        ("mtls_roles", '[uri]\na = "reader"', 'ENROLLMENT_MTLS_ROLES: "a" needs a list of roles'),
        ("mtls_roles", '[uri]\na = ["student"]', 'ENROLLMENT_MTLS_ROLES: "a" needs a list of roles'),
    ],
)
async def test_a_file_that_is_of_no_use_ends_a_server_at_once(
    processes: Processes, mtls: dict[str, Any], setting: str, text: str | None, said: str
) -> None:
    if text is None:
        mtls[setting] += ".gone"
    elif text == "half":
        replace(Path(mtls[setting]), one_and_a_half(Path(mtls[setting])))
    else:
        replace(Path(mtls[setting]), text)
    process = processes.spawn(**{name.upper(): value for name, value in mtls.items()})
    assert await process.ended() == 78
    (line,) = process.errors.splitlines()
    assert line.startswith(said)


async def test_a_server_that_nobody_reads_the_errors_of_can_be_stopped(
    processes: Processes, mtls: dict[str, Any], authority: Authority
) -> None:
    process = processes.spawn(**{name.upper(): value for name, value in mtls.items()})
    caller = authority.issue("registrar", uri=[REGISTRAR])
    async with client_of(f"localhost:{process.port}", credentials=authority.credentials(caller)) as client:
        await process.wait_serving(client)
        for _ in range(50):
            _, writer = await asyncio.open_connection("127.0.0.1", process.port)
            writer.write(b"no handshake\r\n\r\n")
            writer.close()
        await client.create_student()
    assert await process.stop() == 0
    # What gRPC would write there for each of them, and wait until it is read.
    assert process.errors == ""


async def test_commands_reach_a_server_that_asks_for_certificates(
    processes: Processes, mtls: dict[str, Any], authority: Authority, tmp_path: Path
) -> None:
    provider = Provider(tmp_path)
    chosen = mtls | provider.settings | {"auth": "jwt,mtls"}
    variables = {name.upper(): value for name, value in chosen.items()}
    process = processes.spawn(**variables)
    nobody = authority.issue("nobody", uri=["spiffe://example.org/x"])
    address = f"localhost:{process.port}"
    async with client_of(address, credentials=authority.credentials(nobody)) as client:
        await process.wait_serving(client)
    token = tmp_path / "token"
    token.write_text(provider.token("registrar") + "\n")
    options = ["--ca", f"{authority.file}", "--cert", f"{nobody.cert}", "--key", f"{nobody.key}"]
    denied = await run_command("call", "ListCourses", "--address", address, *options)
    assert denied.returncode == 1
    assert '"PERMISSION_DENIED"' in denied.stderr
    bare = await run_command("call", "ListCourses", "--address", "192.0.2.1:1", "--token-file", f"{token}")
    assert (bare.returncode, bare.stderr) == (2, "a token is sent over TLS only, or to this machine: give --ca\n")
    for text in (b"", b"two lines\nof it", b"\xff\x00"):
        replace(tmp_path / "odd", text)
        odd = await run_command("call", "ListCourses", "--address", address, "--token-file", f"{tmp_path / 'odd'}")
        assert (odd.returncode, odd.stderr) == (2, f"{tmp_path / 'odd'}: holds no access token\n")
    options += ["--token-file", f"{token}"]
    called = await run_command("call", "ListCourses", "--address", address, *options)
    assert (called.returncode, called.stdout) == (0, "{}\n")
    rows = tmp_path / "rows.csv"
    rows.write_text("student_id,course_id\n1,1\n")
    imported = await run_command("import", f"{rows}", *options, LISTEN=address)
    assert imported.returncode == 1
    assert "STUDENT_NOT_FOUND: 1" in imported.stdout
    assert (await run_command("health", **variables | {"LISTEN": process.address})).returncode == 0
    assert (await run_command("health", **variables | {"LISTEN": f"127.0.0.1:{free_port()}"})).returncode == 1


async def test_the_client_takes_a_certificate_and_a_token_that_changes(
    start_service: StartService, mtls: dict[str, Any], authority: Authority, tmp_path: Path
) -> None:
    provider = Provider(tmp_path)
    service = await start_service(**mtls | provider.settings | {"auth": "jwt,mtls"})
    caller = authority.issue("nobody", uri=["spiffe://example.org/x"])
    tokens = [provider.token("registrar", subject=name) for name in ("ann", "ben")]
    async with EnrollmentClient(
        f"localhost:{service.app.port}", credentials=authority.credentials(caller), token=lambda: tokens.pop(0)
    ) as client:
        student = await client.create_student("Ann Lee", "ann@example.org")
        assert isinstance(student, pb.Student)
        assert (await client.get_student(student.student_id)).full_name == "Ann Lee"
    assert tokens == []
