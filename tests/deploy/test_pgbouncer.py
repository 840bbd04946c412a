"""The service through PgBouncer, with the configuration of `deploy/pgbouncer`: it does what it does without."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest
import yaml

from enrollment_service.store.connect import SEARCH_PATH
from enrollment_service.store.database import PLANNER_SETTINGS, Database
from tests.deploy.test_compose import Merged
from tests.support.client import PATIENCE
from tests.support.databases import PostgresServer, connected, temporary_folder
from tests.support.debian import program
from tests.support.processes import PROJECT, Processes, free_port, processes_on
from tests.support.refusals import outcome_of
from tests.support.services import service_on, settings_for
from tests.support.traffic import traffic
from tests.support.watching import check_order, events_of

FOLDER = PROJECT / "deploy" / "pgbouncer"
INI = (FOLDER / "pgbouncer.ini").read_text()
ROLE = (FOLDER / "role.sql").read_text()
# From it on, prepared statements are kept apart.
OLDEST = (1, 21)
ASKED_FOR = [
    *SEARCH_PATH, "lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout", *PLANNER_SETTINGS,
]  # fmt: skip

pytestmark = pytest.mark.usefixtures("verified")


def pgbouncer_program() -> str:
    """Where it is; the test is skipped where there is none that can do it."""
    found = program("pgbouncer", "pgbouncer")
    said = subprocess.run([found, "--version"], capture_output=True, text=True)
    version = re.match(r"PgBouncer (\d+)\.(\d+)", said.stdout)
    if version is None:
        pytest.skip(f"PgBouncer does not run here: {said.stderr.strip()[:200]}")
    if (int(version[1]), int(version[2])) < OLDEST:
        pytest.skip(f"PgBouncer {version[1]}.{version[2]} knows no prepared statements: 1.21 is needed")
    return found


def written(ini: str, **settings: str) -> str:
    """A configuration with other settings."""
    for name, value in settings.items():
        ini, count = re.subn(rf"^{name} = .*$", f"{name} = {value}", ini, flags=re.MULTILINE)
        assert count == 1, name
    return ini


@contextmanager
def pgbouncer(app_url: str, **settings: str) -> Iterator[str]:
    """PgBouncer as it is configured, but for addresses and these settings; the database's URL through it."""
    found = pgbouncer_program()
    database, port = urlsplit(app_url), free_port()
    name = database.path.removeprefix("/")
    with temporary_folder() as folder:
        (folder / "userlist.txt").write_text(f'"{database.username}" "{database.password}"\n')
        server = f"{name} = host={database.hostname} port={database.port}"
        ini = re.sub(r"^enrollment = .*$", server, INI, flags=re.MULTILINE)
        places = {"listen_addr": "127.0.0.1", "listen_port": f"{port}", "auth_file": f"{folder}/userlist.txt"}
        (folder / "pgbouncer.ini").write_text(written(ini, **places | settings))
        # It does not run as root.
        user = ["--user=nobody"] if os.geteuid() == 0 else []
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen([found, *user, f"{folder}/pgbouncer.ini"], stdout=log, stderr=log)
        try:
            yield urlunsplit(database._replace(netloc=f"{database.username}:{database.password}@127.0.0.1:{port}"))
        finally:
            process.terminate()
            process.wait(PATIENCE)
            print((folder / "log").read_text())


@asynccontextmanager
async def role_as_told(server: PostgresServer, app_url: str) -> AsyncIterator[None]:
    """The test's role has what role.sql gives it, in the test's database."""
    name = urlsplit(app_url).path.removeprefix("/")
    statements = ROLE.replace("ROLE enrollment_app SET", f"ROLE {server.app_role} IN DATABASE {name} SET")
    async with connected(server.url) as connection:
        await connection.execute(statements)
    yield


@pytest.fixture
async def pooled_url(postgres_server: PostgresServer, app_url: str) -> AsyncIterator[str]:
    """The test's database for a service, through PgBouncer."""
    async with role_as_told(postgres_server, app_url):
        with pgbouncer(app_url) as url:
            yield url


async def in_force(url: str) -> dict[str, str]:
    """What is in force on connections of the service."""
    database = Database(settings_for(url))
    try:
        return {name: await database.look(lambda it, name=name: it.fetchval(f"SHOW {name}")) for name in ASKED_FOR}  # type: ignore[misc]
    finally:
        await database.close()


async def test_connections_have_the_settings_that_they_have_without_it(app_url: str, pooled_url: str) -> None:
    assert await in_force(pooled_url) == await in_force(app_url)


async def test_without_what_the_role_is_given_they_would_not(app_url: str) -> None:
    """The negative control."""
    with pgbouncer(app_url) as url:
        pooled, direct = await in_force(url), await in_force(app_url)
    # Not every PostgreSQL is built with a compiler in it.
    assert {name for name in ASKED_FOR if pooled[name] != direct[name]} | {"jit"} == set(ASKED_FOR)


async def test_every_kind_of_call_works(pooled_url: str) -> None:
    async with service_on(pooled_url) as service:
        await traffic(service.client)
        events = await events_of(service.client)
        check_order(events)
        assert len(events) > 20
        assert await service.client.health("ready") == 1


async def test_two_servers_on_few_connections_sell_no_seat_twice(
    postgres_server: PostgresServer, app_url: str, tmp_path: Path
) -> None:
    async with role_as_told(postgres_server, app_url):
        # Fewer than one server holds by itself.
        with pgbouncer(app_url, default_pool_size="5") as url:
            async with processes_on(url, tmp_path) as pooled:
                await stampede(pooled)


async def stampede(processes: Processes) -> None:
    (_, first), (_, second) = await processes.start_several(2)
    students, (course,) = await first.students(100), await first.courses(1, capacity=20)
    calls = [outcome_of((first, second)[n % 2].enroll(student, course)) for n, student in enumerate(students)]
    outcomes = Counter(await asyncio.gather(*calls))
    assert outcomes == {"OK": 20, "FAILED_PRECONDITION COURSE_FULL": 80}
    assert len(await second.roster(course)) == 20


async def test_without_prepared_statements_of_its_own_it_would_not_work(app_url: str, tmp_path: Path) -> None:
    """The negative control: on connections that are lent, a statement is gone, or is somebody else's."""
    with pgbouncer(app_url, max_prepared_statements="0", default_pool_size="2") as url:
        async with processes_on(url, tmp_path) as pooled:
            clients = [client for _, client in await pooled.start_several(2)]
            calls = [clients[number % 2].create_student() for number in range(40)]
            outcomes = await asyncio.gather(*map(outcome_of, calls))
    print(Counter(outcomes))
    assert set(outcomes) & {"INTERNAL INTERNAL", "UNAVAILABLE DATABASE_UNAVAILABLE"}


def test_what_is_ignored_is_what_the_service_asks_for_and_the_role_is_given() -> None:
    (ignored,) = re.findall(r"^ignore_startup_parameters = (.*)$", INI, re.MULTILINE)
    assert sorted(ignored.split(", ")) == sorted(ASKED_FOR)
    assert sorted(re.findall(r"SET (\w+) =", ROLE)) == sorted(ASKED_FOR)


def test_in_compose_the_servers_come_through_it_and_the_migration_does_not() -> None:
    laid_over = yaml.load((PROJECT / "deploy/compose.pgbouncer.yml").read_text(), Merged)["services"]  # noqa: S506 - safe
    url = urlsplit(laid_over["server"]["environment"]["ENROLLMENT_DATABASE_URL"])
    (port,) = re.findall(r"^listen_port = (\d+)$", INI, re.MULTILINE)
    assert (url.hostname, url.port) == ("pgbouncer", int(port))
    assert "migrate" not in laid_over
    assert "COPY deploy/pgbouncer/pgbouncer.ini" in (FOLDER / "Dockerfile").read_text()
    assert "!deploy/pgbouncer" in (PROJECT / ".dockerignore").read_text().splitlines()
