"""The command `verify`: a line per check, ids and nothing personal, and an exit status to act on."""

from __future__ import annotations

import re
import subprocess

import pytest

from enrollment_service.store.checks import CHECKS
from tests.support.databases import Connection, PostgresServer, connected
from tests.support.mistakes import SOME_MISTAKES, Mistake
from tests.support.processes import run_command
from tests.support.traffic import ADDRESS, NAME

# What all is found: tests/store/test_checks.py.
CORRUPTIONS = """
    DELETE FROM enrollment_events WHERE course_id = 1 AND sequence = 2;
    UPDATE requests SET outcome = NULL WHERE request_id = (SELECT request_id FROM requests LIMIT 1);
    ALTER TABLE course_seats DROP CONSTRAINT fk_course_seats_course_id_courses;
    INSERT INTO course_seats (course_id) VALUES (99)
"""


async def run_verify(url: str) -> subprocess.CompletedProcess[str]:
    return await run_command("verify", DATABASE_URL=url)


async def test_the_command_says_ok(postgres_server: PostgresServer, copy_url: str) -> None:
    done = await run_verify(postgres_server.app_url(copy_url))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("  ok\n") == len(CHECKS)


async def test_the_command_names_ids_and_nothing_personal(copy_url: str) -> None:
    async with connected(copy_url) as connection:
        await connection.execute(CORRUPTIONS)
    done = await run_verify(copy_url)
    assert done.returncode == 1
    assert re.search("^sequences +WRONG", done.stdout, re.MULTILINE)
    assert "course_id=1 sequence=3" in done.stdout
    assert "course_id=99" in done.stdout
    assert NAME.split()[1] not in done.stdout + done.stderr
    assert ADDRESS not in done.stdout + done.stderr


async def test_the_command_tells_a_database_that_it_cannot_check(postgres_server: PostgresServer) -> None:
    nowhere = "postgresql://enrollment:secret@127.0.0.1:1/enrollment"
    unreachable = await run_verify(nowhere)
    assert (unreachable.returncode, unreachable.stdout) == (2, "")
    assert unreachable.stderr == "the database does not answer (ConnectionRefusedError)\n"
    async with postgres_server.database() as empty:
        unmigrated = await run_verify(empty)
    assert unmigrated.returncode == 78
    assert "schema revision none" in unmigrated.stderr


@pytest.mark.parametrize("mistake", SOME_MISTAKES, ids=str)
async def test_a_mistake_that_stays_is_one_line(database_url: str, connection: Connection, mistake: Mistake) -> None:
    async with mistake.made_in(database_url, connection) as url:
        ended = await run_verify(url)
    assert ended.returncode == 78
    mistake.check_line(ended.stderr)
