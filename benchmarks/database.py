"""The PostgreSQL everybody is measured on: durable, and each round on a fresh copy of the loaded data set."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Self, TypeVar
from urllib.parse import unquote, urlsplit

import asyncpg

from benchmarks import dataset
from benchmarks.contestants import PROJECT
from benchmarks.scale import Scale
from dev.postgres import EmbeddedPostgres

T = TypeVar("T")

_PREFIX = "enrollment_bench_"
_LONGEST_STATEMENT = 600.0
# Durable throughout. The memory is what a small server has; checkpoints come when the benchmark asks for them.
_SETTINGS = {
    "shared_buffers": "512MB",
    "max_wal_size": "8GB",
    "min_wal_size": "1GB",
    "checkpoint_timeout": "1h",
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
}


class _Tuned(EmbeddedPostgres):
    """The embedded server with more memory."""

    def _options(self, port: int) -> str:
        return " ".join([super()._options(port), *(f"-c {name}={value}" for name, value in _SETTINGS.items())])


class Database:
    """A server and the databases the benchmark makes on it. Use as a context manager: all of them are dropped."""

    def __init__(self, home: Path) -> None:
        """home: where the embedded server keeps its data; not used if ENROLLMENT_DATABASE_URL names another one."""
        self._given = os.environ.get("ENROLLMENT_DATABASE_URL")
        self._embedded = None if self._given else _Tuned(home)
        self._base = ""

    def __enter__(self) -> Self:
        self._base = self._embedded.ensure_running() if self._embedded else self._given or ""
        self._drop_all()
        return self

    def __exit__(self, *_: object) -> None:
        if self._embedded:
            self._embedded.destroy()
        else:
            self._drop_all()

    def url(self, name: str) -> str:
        """The URL of one of our databases."""
        return urlsplit(self._base)._replace(path=f"/{_PREFIX}{name}").geturl()

    def postmaster(self) -> int | None:
        """The process of the embedded server; None where the server is not ours."""
        return self._embedded.postmaster_pid() if self._embedded else None

    def settings(self) -> str:
        """One line on the server: version and what makes it durable."""
        names = "server_version", "fsync", "synchronous_commit", "full_page_writes", "shared_buffers"

        async def read(connection: asyncpg.Connection) -> str:
            return ", ".join([f"{name} {await connection.fetchval(f'SHOW {name}')}" for name in names])

        return self._run(self._base, read)

    def load(self, name: str, scale: Scale) -> None:
        """Make a database: migrated by the service, then filled."""
        self._execute(f"CREATE DATABASE {_PREFIX}{name}")
        environment = {**os.environ, "ENROLLMENT_DATABASE_URL": self.url(name)}
        command = [sys.executable, "-m", "enrollment_service", "migrate"]
        subprocess.run(command, cwd=PROJECT, env=environment, check=True, timeout=120, stdout=subprocess.DEVNULL)
        self._run(self.url(name), lambda connection: dataset.load(connection, scale))

    def copy(self, source: str, name: str, scale: Scale) -> str:
        """Make a fresh, warm copy of a loaded database, and return its URL."""
        self.drop(name)
        self._execute(f"CREATE DATABASE {_PREFIX}{name} TEMPLATE {_PREFIX}{source} STRATEGY file_copy")
        self.warm(name, scale)
        return self.url(name)

    def warm(self, name: str, scale: Scale) -> None:
        """See dataset.py."""
        self._run(self.url(name), lambda connection: dataset.warm(connection, scale))

    def drop(self, name: str) -> None:
        """Drop a database if it exists."""
        self._execute(f"DROP DATABASE IF EXISTS {_PREFIX}{name} WITH (FORCE)")

    def last_sequences(self, name: str) -> dict[int, int]:
        """See dataset.py."""
        return self._run(self.url(name), dataset.last_sequences)

    def seats_taken(self, name: str, course_id: int) -> int:
        """How many rows of a course there are."""
        count = "SELECT count(*) FROM student_courses WHERE course_id = $1 AND state = 1"
        return int(self._run(self.url(name), lambda connection: connection.fetchval(count, course_id)))

    def courses_out_of_balance(self, name: str) -> int:
        """See dataset.py."""
        return self._run(self.url(name), dataset.courses_out_of_balance)

    def program(self, name: str) -> str | None:
        """The path of psql or pgbench: the server's own, else one that is installed; None if there is none."""
        if self._embedded and (own := self._embedded.bin / name).exists():
            return str(own)
        return shutil.which(name)

    def _drop_all(self) -> None:
        async def names(connection: asyncpg.Connection) -> list[str]:
            statement = "SELECT datname FROM pg_database WHERE starts_with(datname, $1)"
            return [row["datname"] for row in await connection.fetch(statement, _PREFIX)]

        for name in self._run(self._base, names):
            self.drop(name.removeprefix(_PREFIX))

    def _execute(self, statement: str) -> None:
        self._run(self._base, lambda connection: connection.execute(statement))

    def _run(self, url: str, work: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
        async def connected() -> T:
            connection = await asyncpg.connect(url, command_timeout=_LONGEST_STATEMENT)
            try:
                return await work(connection)
            finally:
                await connection.close()

        return asyncio.run(connected())


def libpq_environment(url: str) -> dict[str, str]:
    """What psql and pgbench read from the environment, so that no password stands on a command line."""
    parts = urlsplit(url)
    return {
        **os.environ,
        "PGHOST": parts.hostname or "127.0.0.1",
        "PGPORT": str(parts.port or 5432),
        "PGUSER": unquote(parts.username or ""),
        "PGPASSWORD": unquote(parts.password or ""),
        "PGDATABASE": parts.path.lstrip("/"),
    }
