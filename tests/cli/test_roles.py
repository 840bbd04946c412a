"""The command `roles`: what it says, and what it keeps to itself. What it sets up: tests/store/test_rights.py."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest

from tests.support.databases import Connection, connected
from tests.support.mistakes import PASSWORD, SOME_MISTAKES, Mistake, role_on
from tests.support.processes import run_command

pytestmark = pytest.mark.long


@pytest.fixture
async def names(connection: Connection) -> AsyncIterator[tuple[str, str]]:
    """Names for a migrator and an app role; roles of these names are gone afterwards."""
    suffix = secrets.token_hex(6)
    chosen = f"test_migrator_{suffix}", f"test_app_{suffix}"
    yield chosen
    for role in chosen:
        if await connection.fetchval("SELECT count(*) FROM pg_roles WHERE rolname = $1", role):
            await connection.execute(f"REASSIGN OWNED BY {role} TO CURRENT_USER; DROP OWNED BY {role}")
            await connection.execute(f"DROP ROLE {role}")


async def test_the_roles_can_migrate_and_serve(database_url: str, names: tuple[str, str], tmp_path: Path) -> None:
    files = [tmp_path / "migrator", tmp_path / "app"]
    for file in files:
        file.write_text(f"{PASSWORD}-{file.name}\n")
    arguments = ("--migrator-password-file", f"{files[0]}", "--app-password-file", f"{files[1]}")
    ended = await run_command("roles", *names, *arguments, DATABASE_URL=database_url)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")

    migrator, app = ({"DATABASE_URL": as_role(database_url, name)} for name in names)
    migrator["DATABASE_PASSWORD_FILE"], app["DATABASE_PASSWORD_FILE"] = map(str, files)
    ended = await run_command("migrate", "--app-role", names[1], **migrator)
    assert (ended.returncode, ended.stderr) == (0, "")
    ended = await run_command("verify", **app)
    assert (ended.returncode, ended.stderr) == (0, "")
    ended = await run_command("migrate", **app)
    assert ended.returncode == 78
    assert "may not change the schema" in ended.stderr


def as_role(url: str, role: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{role}@{parts.netloc.rpartition('@')[2]}"))


@pytest.mark.parametrize("mistake", SOME_MISTAKES, ids=str)
async def test_a_mistake_that_stays_is_one_line(
    database_url: str, connection: Connection, names: tuple[str, str], mistake: Mistake
) -> None:
    async with mistake.made_in(database_url, connection) as url:
        ended = await run_command("roles", *names, DATABASE_URL=url)
    assert ended.returncode == 78
    mistake.check_line(ended.stderr)


async def test_who_may_not_create_roles_is_told(
    database_url: str, connection: Connection, names: tuple[str, str]
) -> None:
    async with role_on(database_url, connection) as (_, url):
        ended = await run_command("roles", *names, DATABASE_URL=url)
    assert ended.returncode == 78
    (line,) = ended.stderr.splitlines()
    assert "permission denied to create role" in line
    assert "SQLSTATE 42501" in line


@pytest.mark.parametrize("content", ["", "\n", "pässword\n"])
async def test_a_password_that_is_of_no_use_is_one_line(
    database_url: str, names: tuple[str, str], tmp_path: Path, content: str
) -> None:
    file = tmp_path / "password"
    file.write_text(content)
    ended = await run_command("roles", *names, "--app-password-file", f"{file}", DATABASE_URL=database_url)
    assert ended.returncode == 78
    (line,) = ended.stderr.splitlines()
    assert "empty" in line or "ASCII" in line
    assert "pässword" not in line


async def test_no_role_is_made_where_another_cannot_be(
    database_url: str, names: tuple[str, str], tmp_path: Path
) -> None:
    file = tmp_path / "password"
    file.write_text("pässword\n")
    await run_command("roles", *names, "--app-password-file", f"{file}", DATABASE_URL=database_url)
    async with connected(database_url) as connection:
        assert await connection.fetchval("SELECT count(*) FROM pg_roles WHERE rolname = ANY($1::text[])", [*names]) == 0
