"""Databases for tests: one PostgreSQL server a session, one migrated template on it, one clone of it per test.

The server is an embedded one, or that of ENROLLMENT_DATABASE_URL; there, only databases made here are touched.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import secrets
import shutil
import signal
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from dev.postgres import EmbeddedPostgres
from enrollment_service.cli.migrate import run_migrations

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
PATIENCE = 20.0  # seconds that a fact may take to come about, on a busy machine


@dataclass(frozen=True)
class PostgresServer:
    """A running server on which databases may be created."""

    url: str
    log_file: Path | None = None
    # What services are to serve as: it has the rights that `migrate --app-role` gives, and no others.
    app_role: str = field(default_factory=lambda: f"test_app_{secrets.token_hex(6)}")

    def url_of(self, name: str) -> str:
        """The URL of another database on it."""
        return urlunsplit(urlsplit(self.url)._replace(path=f"/{name}"))

    def app_url(self, url: str) -> str:
        """The URL of a database for a service."""
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        return urlunsplit(parts._replace(netloc=f"{self.app_role}:{self.app_role}@{host}"))

    async def execute(self, statement: str) -> None:
        """Runs a statement that cannot be part of a transaction, like CREATE DATABASE."""
        async with connected(self.url) as connection:
            await connection.execute(statement)

    @asynccontextmanager
    async def database(self, template: str = "template1") -> AsyncIterator[str]:
        """The URL of a new database, gone after the block with whoever is still connected to it."""
        name = f"test_{secrets.token_hex(6)}"
        # The quicker way where nothing is flushed to disk, and its checkpoints keep the WAL small.
        await self.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
        try:
            # A copy has the rights on the tables, but not those on the database.
            await self.execute(f"REVOKE TEMPORARY ON DATABASE {name} FROM PUBLIC")
            yield self.url_of(name)
        finally:
            await self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    @contextlib.contextmanager
    def filled(self, template: str, statements: str) -> Iterator[str]:
        """The name of a clone in which statements have run, to clone in turn, for as long as the block lasts."""
        name = f"test_filled_{secrets.token_hex(6)}"

        async def fill() -> None:
            await self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
            async with connected(self.url_of(name)) as connection:
                await connection.execute(statements)

        asyncio.run(fill())
        try:
            yield name
        finally:
            asyncio.run(self.execute(f"DROP DATABASE {name}"))

    @contextlib.contextmanager
    def template(self) -> Iterator[str]:
        """The name of a database that is migrated and empty, for as long as the block lasts, and so is the app role."""
        name = f"test_template_{secrets.token_hex(6)}"
        asyncio.run(self.execute(f"CREATE DATABASE {name}"))
        asyncio.run(self.execute(f"CREATE ROLE {self.app_role} LOGIN PASSWORD '{self.app_role}'"))
        try:
            migrate(self.url_of(name), self.app_role)
            yield name
        finally:
            asyncio.run(self.execute(f"DROP DATABASE {name} WITH (FORCE)"))
            asyncio.run(self.execute(f"DROP ROLE {self.app_role}"))


@contextlib.contextmanager
def embedded_server() -> Iterator[PostgresServer]:
    """A PostgreSQL of its own in a temporary folder; nothing of it is left afterwards."""
    with temporary_folder() as folder, destroyed(EmbeddedPostgres(folder / "postgres", durable=False)) as postgres:
        yield PostgresServer(postgres.ensure_running(), postgres.log_file)


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder for a PostgreSQL, gone after the block."""
    folder = Path(tempfile.mkdtemp(prefix="enrollment-tests-", dir=_memory()))
    folder.chmod(0o711)  # as root, PostgreSQL runs as another user, who must get through
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def destroyed(postgres: EmbeddedPostgres) -> Iterator[EmbeddedPostgres]:
    """Stops a PostgreSQL after the block, if it still runs, and deletes its data."""
    try:
        yield postgres
    finally:
        postgres.destroy()


def _memory() -> Path | None:
    """A folder in memory where there is one with room: cloning a database is ten times as quick there as on a disk."""
    memory = Path("/dev/shm")  # noqa: S108 - a folder of our own in it, with a name that nobody can guess
    roomy = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 2 << 30
    return memory if roomy else None


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Connection]:
    """A plain connection to a database."""
    connection: Connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def until_alone(connection: Connection) -> None:
    """Returns once no other session is in the connection's database: then the statistics of all others are in."""
    others = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
        "AND backend_type = 'client backend'"
    )
    async with asyncio.timeout(PATIENCE):
        while await connection.fetchval(others):  # noqa: ASYNC110 - the database announces no ends
            await asyncio.sleep(0.005)


def kill(postgres: EmbeddedPostgres) -> None:
    """Ends a server of the test's own as a crash does; the processes that it has started end by themselves."""
    pid = postgres.postmaster_pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


def joined(*urls: str) -> str:
    """One URL with the hosts of several, the first of which gives the rest; its server must be one that can write."""
    parts = [urlsplit(url) for url in urls]
    hosts = ",".join(part.netloc.rpartition("@")[2] for part in parts)
    login = parts[0].netloc.rpartition("@")[0]
    query = "&".join(filter(None, [parts[0].query, "target_session_attrs=read-write"]))
    return urlunsplit(parts[0]._replace(netloc=f"{login}@{hosts}", query=query))


def migrate(url: str, app_role: str | None = None) -> None:
    """Migrates a database with the project's own code."""
    in_thread(lambda: run_migrations(url, app_role=app_role))


def in_thread(work: Callable[[], None]) -> None:
    """Does something that runs an event loop of its own, as migrations do: in a thread that has none."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised again where it is seen
            failures.append(error)

    thread = threading.Thread(target=run, name="migrate")
    # What gRPC has left behind must not be collected there: it would wait for a thread of its own, and for ever.
    gc.disable()
    try:
        thread.start()
        thread.join()
    finally:
        gc.enable()
    if failures:
        raise failures[0]
