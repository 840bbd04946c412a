"""The fixtures: a fresh database per test, a service on it in this process, and server processes on it."""

from __future__ import annotations

import asyncio
import atexit
import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Protocol

import pytest

from enrollment_service.store.database import Database
from tests.support.client import Client
from tests.support.databases import Connection, PostgresServer, connected, embedded_server
from tests.support.processes import Processes, processes_on
from tests.support.services import Clock, Service, ServiceLog, service_on, settings_for
from tests.support.traffic import traffic
from tests.support.verification import wrong_in


class StartService(Protocol):
    """Starts a service on the test's database; keyword arguments are settings."""

    async def __call__(self, clock: Any = None, **settings: Any) -> Service: ...


def pytest_configure() -> None:
    """A SIGTERM ends the tests as Ctrl-C does, so that no server of theirs is left behind."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # Hundreds of processes are started. Where Python is told to keep no compiled code, each would compile all of it.
    if os.environ.pop("PYTHONDONTWRITEBYTECODE", None):
        os.environ["PYTHONPYCACHEPREFIX"] = tempfile.mkdtemp(prefix="enrollment-tests-compiled-")
        atexit.register(shutil.rmtree, os.environ["PYTHONPYCACHEPREFIX"], ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """The server of ENROLLMENT_DATABASE_URL, or an embedded one. Other settings do not reach the tests."""
    variables = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("ENROLLMENT_")}
    try:
        if url := variables.get("ENROLLMENT_DATABASE_URL"):
            yield PostgresServer(url)
        else:
            with embedded_server() as server:
                yield server
    finally:
        os.environ.update(variables)


@pytest.fixture(scope="session")
def template(postgres_server: PostgresServer) -> Iterator[str]:
    """The name of a migrated, empty database to clone."""
    with postgres_server.template() as name:
        yield name


@pytest.fixture
async def database_url(postgres_server: PostgresServer, template: str) -> AsyncIterator[str]:
    """A migrated, empty database of the test's own."""
    async with postgres_server.database(template) as url:
        yield url


@pytest.fixture
def app_url(postgres_server: PostgresServer, database_url: str) -> str:
    """The test's database for a service: as the role that may only serve. `database_url` is for its owner."""
    return postgres_server.app_url(database_url)


@pytest.fixture(scope="session")
def lived_in(postgres_server: PostgresServer, template: str) -> Iterator[str]:
    """The name of a database after `traffic`, to clone."""
    name = f"test_lived_in_{secrets.token_hex(6)}"

    async def fill() -> None:
        await postgres_server.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        async with service_on(postgres_server.app_url(postgres_server.url_of(name))) as service:
            await traffic(service.client)

    asyncio.run(fill())
    yield name
    asyncio.run(postgres_server.execute(f"DROP DATABASE {name}"))


@pytest.fixture
async def copy_url(postgres_server: PostgresServer, lived_in: str) -> AsyncIterator[str]:
    """A database after `traffic` of the test's own."""
    async with postgres_server.database(lived_in) as url:
        yield url


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    """A plain connection to the test's database, to look at or to change what callers cannot."""
    async with connected(database_url) as connection:
        yield connection


@pytest.fixture(scope="session")
def session_log() -> ServiceLog:
    """Where services in this process log."""
    return ServiceLog()


@pytest.fixture(autouse=True)
def service_log(session_log: ServiceLog) -> Iterator[ServiceLog]:
    """What services in this process log during this test; where the test fails, pytest shows what was not routine."""
    session_log.clear()
    yield session_log
    print(*(line for line in session_log.lines if line["level"] != "info"), sep="\n")


@pytest.fixture
async def start_service(app_url: str) -> AsyncIterator[StartService]:
    """Starts services in this process; they are drained when the test is over."""
    async with AsyncExitStack() as stack:

        async def start(clock: Any = None, **settings: Any) -> Service:
            return await stack.enter_async_context(service_on(app_url, clock, **settings))

        yield start


@pytest.fixture
async def service(start_service: StartService) -> Service:
    """A service in this process, in the dev profile."""
    return await start_service()


@pytest.fixture
def client(service: Service) -> Client:
    """A client of `service`."""
    return service.client


@pytest.fixture
async def clock(connection: Connection) -> Clock:
    """A clock to move by hand. Start the service that goes by it with `start_service(clock=clock.column)`."""
    made = Clock(connection)
    await made.create()
    return made


@pytest.fixture
async def timed_client(start_service: StartService, clock: Clock) -> Client:
    """A client of a service that goes by the test's clock."""
    return (await start_service(clock=clock.column)).client


@pytest.fixture
async def database(app_url: str) -> AsyncIterator[Database]:
    """The test's database as the service has it."""
    made = Database(settings_for(app_url))
    yield made
    await made.close()


@pytest.fixture
async def verified(database_url: str) -> AsyncIterator[None]:
    """When the test is over, its database must keep every promise about enrollments."""
    yield
    assert await wrong_in(database_url) == []


@pytest.fixture
async def processes(app_url: str, tmp_path: Path) -> AsyncIterator[Processes]:
    """Starts server processes on the test's database."""
    async with processes_on(app_url, tmp_path) as started:
        yield started
