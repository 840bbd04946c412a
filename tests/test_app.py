"""Around the methods: health, reflection, profiles, ports, the schema that a server insists on, the command line."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2, health_pb2_grpc

from enrollment_service.cli.health import check
from enrollment_service.cli.main import cli
from enrollment_service.settings import Settings
from tests.conftest import StartService
from tests.support.client import PATIENCE, SERVICE, Client
from tests.support.databases import Connection, PostgresServer, connected
from tests.support.processes import PROJECT, Processes, environment, free_port
from tests.support.reflection import REFLECTIONS, ask
from tests.support.services import Service

# --- health and reflection --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", SERVICE])
async def test_the_server_and_its_service_are_healthy(client: Client, name: str) -> None:
    assert await client.health(name) == health_pb2.HealthCheckResponse.SERVING


async def test_an_unknown_service_has_no_health(client: Client) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await client.health("enrollment.v1.Other")
    assert failure.value.code() is grpc.StatusCode.NOT_FOUND


async def test_who_watches_the_health_is_told_of_the_shutdown(processes: Processes) -> None:
    process, client = await processes.start(SHUTDOWN_GRACE="30")
    stub: Any = health_pb2_grpc.HealthStub(client.channel)
    watch = stub.Watch(health_pb2.HealthCheckRequest(service=SERVICE), timeout=PATIENCE)
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    assert await asyncio.to_thread(check, process.address, PATIENCE) == 0
    process.signal(signal.SIGTERM)
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
    # Well within the grace period: who only watches does not hold up the shutdown.
    async with asyncio.timeout(10):
        assert await watch.read() is grpc.aio.EOF
        assert await process.ended() == 0
    assert await asyncio.to_thread(check, process.address, 1.0) == 1


@pytest.mark.parametrize("reflection", REFLECTIONS)
async def test_reflection_tells_what_a_client_without_the_proto_needs(client: Client, reflection: str) -> None:
    listed = await ask(client, reflection, list_services="")
    assert {SERVICE, "grpc.health.v1.Health"} <= {one.name for one in listed.list_services_response.service}
    found = await ask(client, reflection, file_containing_symbol=SERVICE)
    names = [FileDescriptorProto.FromString(data).name for data in found.file_descriptor_response.file_descriptor_proto]
    assert "enrollment_service/v1/enrollment.proto" in names


@pytest.mark.parametrize("reflection", REFLECTIONS)
async def test_in_production_there_is_no_reflection(start_service: StartService, reflection: str) -> None:
    service = await start_service(profile="production")
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await ask(service.client, reflection, list_services="")
    assert failure.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert (await service.client.create_student()).student_id


async def test_reflection_may_be_switched_on_in_production(start_service: StartService) -> None:
    service = await start_service(profile="production", reflection=True)
    assert (await ask(service.client, REFLECTIONS[0], list_services="")).list_services_response.service


# --- settings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("listen", ["0.0.0.0:50051", "[::]:50051", "192.0.2.1:50051", "example.org:50051"])
def test_production_stays_on_loopback_until_there_is_authentication(listen: str) -> None:
    with pytest.raises(ValueError, match="loopback"):
        Settings(listen=listen)
    assert Settings(listen=listen, profile="dev").listen == listen


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "localhost:50051", "[::1]:50051", "127.8.8.8:1"])
def test_loopback_has_many_names(listen: str) -> None:
    assert Settings(listen=listen).profile == "production"


@pytest.mark.parametrize("listen", ["", "50051", ":50051", "localhost", "localhost:", "localhost:http", "h:70000"])
def test_an_address_needs_host_and_port(listen: str) -> None:
    with pytest.raises(ValueError, match="HOST:PORT"):
        Settings(listen=listen, profile="dev")


@pytest.mark.parametrize("url", ["mysql://h/db", "sqlite:///file", "h/db", "postgresqlx://h"])
def test_a_database_url_is_one_of_postgresql(url: str) -> None:
    with pytest.raises(ValueError, match="postgresql://"):
        Settings(database_url=url)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg"])
def test_a_database_url_may_name_a_driver(scheme: str) -> None:
    assert Settings(database_url=f"{scheme}://u:p@h:1/db").database_url == "postgresql://u:p@h:1/db"


def test_settings_show_no_password() -> None:
    settings = Settings(database_url="postgresql://u:marked-password@h/db")
    assert "marked-password" not in repr(settings)
    with pytest.raises(ValueError, match="postgresql") as failure:
        Settings(database_url="mysql://u:marked-password@h/db")
    assert "marked-password" not in str(failure.value)


# --- the command line -------------------------------------------------------------------------------------------


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "enrollment_service", *arguments],
        cwd=PROJECT,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=40,
    )


async def run_beside(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(run, *arguments, **variables)


@pytest.mark.parametrize(
    ("variables", "text"),
    [
        ({"LISTEN": "0.0.0.0:50051"}, "loopback"),
        ({"LISTEN": "nonsense"}, "ENROLLMENT_LISTEN: "),
        ({"POOL_SIZE": "many"}, "ENROLLMENT_POOL_SIZE: "),
        ({}, "ENROLLMENT_DATABASE_URL"),
    ],
)
def test_settings_that_do_not_fit_are_explained(
    variables: dict[str, str], text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(f"ENROLLMENT_{name}", value)
    with pytest.raises(SystemExit) as ended:
        cli(["serve"])
    assert ended.value.code == 2
    assert text in capsys.readouterr().err


async def test_a_server_refuses_a_database_of_another_revision(database_url: str, connection: Connection) -> None:
    await connection.execute("UPDATE alembic_version SET version_num = '0001'")
    listen = f"127.0.0.1:{free_port()}"
    ended = await run_beside("serve", DATABASE_URL=database_url, LISTEN=listen)
    assert ended.returncode not in {0, 2}
    assert "0001" in ended.stderr
    assert "migrate" in ended.stderr
    assert "Traceback" not in ended.stderr


async def test_a_server_refuses_a_database_that_is_not_migrated(postgres_server: PostgresServer) -> None:
    async with postgres_server.database() as url:
        ended = await run_beside("serve", DATABASE_URL=url, LISTEN=f"127.0.0.1:{free_port()}")
    assert ended.returncode not in {0, 2}
    assert "none" in ended.stderr


async def test_a_port_is_not_shared_with_another_server(service: Service, database_url: str) -> None:
    ended = await run_beside("serve", DATABASE_URL=database_url, LISTEN=service.address)
    assert ended.returncode == 1
    assert "in use" in ended.stderr
    assert (await service.client.create_student()).student_id


async def test_a_server_waits_for_its_database(processes: Processes, database_url: str) -> None:
    """It comes up before the database does; then it serves without having been started again."""
    name = database_url.rpartition("/")[2]
    late = f"late_{name}"
    process = processes.spawn(DATABASE_URL=database_url.replace(name, late))
    client = await processes.client(process)
    async with asyncio.timeout(30):
        while not any(line["event"] == "waiting for the database" for line in process.log):  # noqa: ASYNC110 - a file
            await asyncio.sleep(0.05)
    async with connected(database_url.replace(name, "postgres")) as admin:
        await admin.execute(f"CREATE DATABASE {late} TEMPLATE {name}")
        try:
            await process.wait_serving(client)
            assert (await client.create_student()).student_id
            assert await process.stop() == 0
        finally:
            await admin.execute(f"DROP DATABASE {late} WITH (FORCE)")


async def test_the_health_command_is_for_containers(service: Service) -> None:
    """It asks on the address that the server was told to listen on, which may be all of them."""
    listen = f"0.0.0.0:{service.server.port}"
    assert (await run_beside("health", LISTEN=listen, PROFILE="dev")).returncode == 0
    assert (await run_beside("health", "--timeout", "1", LISTEN=f"127.0.0.1:{free_port()}")).returncode == 1


def test_the_port_check_knows_a_stranger() -> None:
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        assert check(f"127.0.0.1:{stranger.getsockname()[1]}", 0.3) == 1
