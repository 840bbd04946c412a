"""`python -m dev`, which `make run` and `make migrate` call: a database, the newest schema, a service to try."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev.postgres import EmbeddedPostgres
from enrollment_service.store.database import SCHEMA_REVISION
from tests.support.databases import PostgresServer, connected
from tests.support.processes import Processes, run
from tests.support.reflection import REFLECTIONS, ask

pytestmark = pytest.mark.long

DEV = ("-m", "dev")


@pytest.fixture
def postgres(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    """A folder for an embedded database."""
    server = EmbeddedPostgres(tmp_path / "postgres")
    yield server
    server.destroy()


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_it_migrates_serves_and_shows_how_to_call(
    processes: Processes, postgres_server: PostgresServer, workers: str
) -> None:
    async with postgres_server.database() as url:
        process = processes.spawn(DEV, DATABASE_URL=url, PROFILE="production", WORKERS=workers)
        client = await processes.client(process)
        await process.wait_serving(client)
        assert (await ask(client, REFLECTIONS[0], list_services="")).list_services_response.service
        assert (await client.create_student()).student_id == 1
        assert await process.stop() == 0
    lines = [line for line in process.errors.splitlines() if "enrollment_service call" in line]
    assert len(lines) == 3
    assert all(process.address in line for line in lines)


@pytest.mark.timeout(120)
async def test_it_needs_no_database(processes: Processes, postgres: EmbeddedPostgres) -> None:
    """It brings its own, and keeps the data for the next time."""
    for number in (1, 2):
        process = processes.spawn(DEV, DATABASE_URL="", DATA_DIR=f"{postgres.home}")
        client = await processes.client(process)
        await process.wait_serving(client)
        assert (await client.create_student()).student_id == number
        assert await process.stop() == 0
        assert postgres.postmaster_pid() is None


@pytest.mark.timeout(120)
def test_it_may_only_migrate_as_alembic_does(postgres: EmbeddedPostgres) -> None:
    variables = {"DATABASE_URL": "", "DATA_DIR": f"{postgres.home}"}
    migrated = run(*DEV, "migrate", **variables)
    assert migrated.returncode == 0, migrated.stderr
    assert postgres.postmaster_pid() is None

    current = run("-m", "alembic", "current", **variables)
    assert current.stdout.split() == [SCHEMA_REVISION, "(head)"], current.stderr
    assert postgres.postmaster_pid() is None


async def test_a_database_of_ones_own_is_migrated_instead(postgres_server: PostgresServer) -> None:
    async with postgres_server.database() as url:
        migrated = await asyncio.to_thread(run, *DEV, "migrate", DATABASE_URL=url)
        assert migrated.returncode == 0, migrated.stderr
        async with connected(url) as connection:
            assert await connection.fetchval("SELECT version_num FROM alembic_version") == SCHEMA_REVISION


def test_settings_that_do_not_fit_are_explained_before_anything_starts(tmp_path: Path) -> None:
    refused = run(*DEV, LISTEN="nonsense", DATA_DIR=f"{tmp_path / 'postgres'}")
    assert refused.returncode == 2
    assert "ENROLLMENT_LISTEN: " in refused.stderr
    assert not (tmp_path / "postgres").exists()
