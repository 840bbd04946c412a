"""The command `serve` in one process: what it refuses, and what it waits for. Several: test_workers.py."""

from __future__ import annotations

import asyncio
import resource
import signal

import grpc
import psutil
import pytest

from enrollment_service.v1 import enrollment_pb2 as pb
from tests.support.client import client_of
from tests.support.databases import Connection, PostgresServer
from tests.support.mistakes import MISTAKES, PASSWORD, Mistake, role_on
from tests.support.processes import Processes, ServerProcess, free_port, run_command
from tests.support.proxy import proxied
from tests.support.refusals import refused
from tests.support.services import Service

# More than a server needs for itself, its database and one caller.
FEW_FILES = 128


async def until_waiting(process: ServerProcess) -> dict[str, str]:
    """The line of the log that says that the server waits for its database, once it is there."""
    async with asyncio.timeout(30):
        while True:
            lines = [line for line in process.log if line["event"] == "waiting for the database"]
            if lines:
                return lines[0]
            await asyncio.sleep(0.05)  # the log is a file


@pytest.mark.parametrize(
    ("revision", "words"),
    [("0001", "older than"), ("0999", "newer than"), ("ae1027a6acf", "none of this service's")],
)
async def test_a_server_refuses_a_database_of_another_revision(
    database_url: str, connection: Connection, revision: str, words: str
) -> None:
    await connection.execute("UPDATE alembic_version SET version_num = $1", revision)
    ended = await run_command("serve", AUTH="none", DATABASE_URL=database_url, LISTEN=f"127.0.0.1:{free_port()}")
    assert ended.returncode == 78
    (line,) = ended.stderr.splitlines()
    assert f"schema revision {revision}" in line
    assert words in line
    assert ("migrate`" in line) == (words == "older than")


async def test_a_server_refuses_a_database_that_is_not_migrated(postgres_server: PostgresServer) -> None:
    async with postgres_server.database() as url:
        ended = await run_command("serve", AUTH="none", DATABASE_URL=url, LISTEN=f"127.0.0.1:{free_port()}")
    assert ended.returncode == 78
    assert "none" in ended.stderr


@pytest.mark.parametrize("mistake", MISTAKES, ids=str)
async def test_a_mistake_that_stays_ends_the_server_with_one_line(
    database_url: str, connection: Connection, mistake: Mistake
) -> None:
    async with mistake.made_in(database_url, connection) as url:
        ended = await run_command("serve", AUTH="none", DATABASE_URL=url, LISTEN=f"127.0.0.1:{free_port()}")
    assert ended.returncode == 78
    mistake.check_line(ended.stderr)


async def test_a_port_is_not_shared_with_another_server(service: Service, app_url: str) -> None:
    ended = await run_command("serve", AUTH="none", DATABASE_URL=app_url, LISTEN=service.address)
    assert ended.returncode == 1
    assert "in use" in ended.stderr
    assert (await service.client.create_student()).student_id


async def test_a_server_waits_for_its_database(processes: Processes, app_url: str) -> None:
    """It comes up before the database does; then it serves without having been started again."""
    async with proxied(app_url) as (proxy, url):
        proxy.refuse()
        process = processes.spawn(DATABASE_URL=url)
        client = await processes.client(process)
        assert (await until_waiting(process))["fault"] == "GONE"
        proxy.refusing = False
        await process.wait_serving(client)
        assert (await client.create_student()).student_id
        assert await process.stop() == 0


async def test_a_server_waits_for_a_free_connection_and_says_for_what(
    processes: Processes, database_url: str, connection: Connection
) -> None:
    async with role_on(database_url, connection) as (role, url):
        await connection.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")
        await connection.execute(f"GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {role}")
        await connection.execute(f"ALTER ROLE {role} CONNECTION LIMIT 0")
        process = processes.spawn(DATABASE_URL=url)
        line = await until_waiting(process)
        assert (line["fault"], line["sqlstate"]) == ("GONE", "53300")
        await connection.execute(f"ALTER ROLE {role} CONNECTION LIMIT -1")
        await process.wait_serving(await processes.client(process))
        assert await process.stop() == 0


async def test_a_mistake_made_later_is_unavailable_and_logged_but_not_for_every_call(
    processes: Processes, database_url: str, connection: Connection
) -> None:
    """Somebody may be rotating the password, and take a right away and give it back."""
    async with role_on(database_url, connection) as (role, url):
        await connection.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")
        await connection.execute(f"GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {role}")
        process, client = await processes.start(DATABASE_URL=url)
        await connection.execute(f"REVOKE SELECT ON students FROM {role}")
        for _ in range(20):
            with refused("UNAVAILABLE", "DATABASE_UNAVAILABLE"):
                await client.call("ListStudents")
        await connection.execute(f"GRANT SELECT ON students TO {role}")
        await connection.execute(f"ALTER ROLE {role} PASSWORD 'another'")
        await connection.fetch("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = $1", role)
        for _ in range(20):
            with refused("UNAVAILABLE", "DATABASE_UNAVAILABLE"):
                await client.create_student()
        await connection.execute(f"ALTER ROLE {role} PASSWORD '{PASSWORD}'")
        assert (await client.create_student()).student_id
        assert await process.stop() == 0
    lines = [line for line in process.log if line["event"] == "database unavailable"]
    assert {(line["level"], line["fault"], line["sqlstate"]) for line in lines} == {
        ("error", "MISCONFIGURED", "42501"),
        ("error", "MISCONFIGURED", "28P01"),
    }
    assert len(lines) < 20


async def test_a_server_that_waits_ends_well_when_it_is_told_to(processes: Processes) -> None:
    process = processes.spawn(DATABASE_URL=f"postgresql://127.0.0.1:{free_port()}/enrollment")
    await until_waiting(process)
    process.signal(signal.SIGTERM)
    assert await process.ended() == 0
    assert process.errors == ""


async def test_silent_connections_do_not_use_up_what_a_process_may_open(processes: Processes) -> None:
    """The usual soft limit is low; strangers reach it without any credentials."""
    usual = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (FEW_FILES, usual[1]))
    try:
        process = processes.spawn()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, usual)
    await process.wait_serving(await processes.client(process))
    silent = [await asyncio.open_connection("127.0.0.1", process.port) for _ in range(FEW_FILES)]
    async with client_of(process.address) as newcomer:
        assert (await newcomer.create_student()).student_id
    for _, writer in silent:
        writer.close()


async def test_with_few_files_to_open_silent_connections_would_lock_others_out(processes: Processes) -> None:
    """The control: a process that may open no more than that."""
    process, _ = await processes.start()
    psutil.Process(process.pid).rlimit(psutil.RLIMIT_NOFILE, (FEW_FILES, FEW_FILES))
    silent = [await asyncio.open_connection("127.0.0.1", process.port) for _ in range(FEW_FILES)]
    async with client_of(process.address) as newcomer:
        with pytest.raises(grpc.aio.AioRpcError):
            await newcomer.stub.GetStudent(pb.GetStudentRequest(student_id=1), timeout=2)
    for _, writer in silent:
        writer.close()
