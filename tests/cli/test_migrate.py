"""The command `migrate`: what it says where it cannot migrate. What migrations do: tests/store/test_migrations.py."""

from __future__ import annotations

import pytest

from tests.support.databases import Connection, PostgresServer, connected
from tests.support.mistakes import SOME_MISTAKES, Mistake, role_on
from tests.support.processes import free_port, run_command


@pytest.mark.parametrize("mistake", SOME_MISTAKES, ids=str)
async def test_a_mistake_that_stays_is_one_line(database_url: str, connection: Connection, mistake: Mistake) -> None:
    async with mistake.made_in(database_url, connection) as url:
        ended = await run_command("migrate", DATABASE_URL=url)
    assert ended.returncode == 78
    mistake.check_line(ended.stderr)


async def test_a_database_out_of_reach_is_one_line() -> None:
    ended = await run_command("migrate", DATABASE_URL=f"postgresql://u:p@127.0.0.1:{free_port()}/enrollment")
    assert (ended.returncode, ended.stderr) == (1, "the database does not answer (ConnectionRefusedError)\n")


async def test_a_newer_database_is_left_alone(database_url: str, connection: Connection) -> None:
    await connection.execute("UPDATE alembic_version SET version_num = '0999'")
    ended = await run_command("migrate", DATABASE_URL=database_url)
    assert ended.returncode == 78
    assert "newer than" in ended.stderr
    assert await connection.fetchval("SELECT version_num FROM alembic_version") == "0999"


async def test_a_role_that_may_not_create_tables_is_one_line(postgres_server: PostgresServer) -> None:
    async with postgres_server.database() as empty, connected(empty) as connection, role_on(empty, connection) as login:
        ended = await run_command("migrate", DATABASE_URL=login[1])
    assert ended.returncode == 78
    (line,) = ended.stderr.splitlines()
    assert "SQLSTATE 42501" in line


async def test_the_role_that_serves_is_sent_to_the_owner(
    postgres_server: PostgresServer, app_url: str, connection: Connection
) -> None:
    """Whether there is something to migrate or not."""
    owner = await connection.fetchval("SELECT current_user")
    for revision in ("0005", "0004"):
        await connection.execute("UPDATE alembic_version SET version_num = $1", revision)
        ended = await run_command("migrate", DATABASE_URL=app_url)
        assert ended.returncode == 78
        assert ended.stderr == (
            f'the role "{postgres_server.app_role}" may not change the schema: migrate as its owner, "{owner}" '
            "(SQLSTATE 42501)\n"
        )


async def test_a_role_that_is_to_serve_is_granted_its_rights(postgres_server: PostgresServer) -> None:
    async with postgres_server.database() as url, connected(url) as connection, role_on(url, connection) as (role, _):
        ended = await run_command("migrate", "--app-role", role, DATABASE_URL=url)
        assert (ended.returncode, ended.stderr) == (0, "")
        assert await connection.fetchval("SELECT has_table_privilege($1, 'students', 'SELECT')", role)


async def test_a_role_that_may_do_too_much_stops_the_migration(postgres_server: PostgresServer) -> None:
    async with postgres_server.database() as url, connected(url) as connection, role_on(url, connection) as (role, _):
        await connection.execute(f"GRANT CREATE ON SCHEMA public TO {role}")
        ended = await run_command("migrate", "--app-role", role, DATABASE_URL=url)
        assert ended.returncode == 78
        assert ended.stderr == (
            f'the role "{role}" may create objects in the schema public, which the service\'s role must not\n'
        )
        assert await connection.fetchval("SELECT to_regclass('students')") is None


async def test_a_role_that_is_not_there_is_one_line(database_url: str) -> None:
    ended = await run_command("migrate", "--app-role", "nobody here", DATABASE_URL=database_url)
    assert ended.returncode == 78
    assert ended.stderr == 'there is no role "nobody here": create it, or let the command `roles` do so\n'


async def test_tables_that_are_in_the_way_are_one_line(postgres_server: PostgresServer) -> None:
    async with postgres_server.database() as url:
        async with connected(url) as connection:
            await connection.execute("CREATE TABLE students (number int)")
        ended = await run_command("migrate", DATABASE_URL=url)
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert "SQLSTATE 42P07" in line
