"""The command `serve` in one process: what it refuses, and what it waits for. Several: test_workers.py."""

from __future__ import annotations

import asyncio

from tests.support.databases import Connection, PostgresServer, connected
from tests.support.processes import Processes, free_port, run_command
from tests.support.services import Service


async def test_a_server_refuses_a_database_of_another_revision(database_url: str, connection: Connection) -> None:
    await connection.execute("UPDATE alembic_version SET version_num = '0001'")
    listen = f"127.0.0.1:{free_port()}"
    ended = await run_command("serve", DATABASE_URL=database_url, LISTEN=listen)
    assert ended.returncode not in {0, 2}
    assert "0001" in ended.stderr
    assert "migrate" in ended.stderr
    assert "Traceback" not in ended.stderr


async def test_a_server_refuses_a_database_that_is_not_migrated(postgres_server: PostgresServer) -> None:
    async with postgres_server.database() as url:
        ended = await run_command("serve", DATABASE_URL=url, LISTEN=f"127.0.0.1:{free_port()}")
    assert ended.returncode not in {0, 2}
    assert "none" in ended.stderr


async def test_a_port_is_not_shared_with_another_server(service: Service, database_url: str) -> None:
    ended = await run_command("serve", DATABASE_URL=database_url, LISTEN=service.address)
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
