"""What an operator may get wrong about the database: each mistake made for real, and what must be said of it."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

from tests.support.databases import Connection

PASSWORD = "marked-password"


@dataclass(frozen=True)
class Mistake:
    """A mistake in the URL or in the rights."""

    name: str
    said: str  # the SQLSTATE, or a word of the line
    path: str = ""  # instead of the database's name
    parameters: str = ""
    host: str = ""
    statement: str = ""  # what goes wrong on the server

    def __str__(self) -> str:
        return self.name

    @asynccontextmanager
    async def made_in(self, url: str, connection: Connection) -> AsyncIterator[str]:
        """The URL of a database with the mistake in it."""
        async with role_on(url, connection) as (role, stranger):
            parts = urlsplit(stranger)
            login, _, host = parts.netloc.rpartition("@")
            if self.statement:
                await connection.execute(self.statement.format(role=role, database=parts.path[1:]))
            parts = parts._replace(netloc=f"{login}@{self.host or host}", query=self.parameters)
            yield urlunsplit(parts._replace(path=self.path or parts.path))

    def check_line(self, errors: str) -> None:
        """What a command wrote to standard error is one line that names the mistake, and no password."""
        (line,) = errors.splitlines()
        assert self.said in line
        assert PASSWORD not in line


# Under what no waiting helps.
MISTAKES = [
    Mistake("wrong password", "SQLSTATE 28P01", statement="ALTER ROLE {role} PASSWORD 'another'"),
    Mistake("missing database", "SQLSTATE 3D000", path="/nowhere"),
    Mistake("no right to connect", "SQLSTATE 42501", statement="REVOKE CONNECT ON DATABASE {database} FROM PUBLIC"),
    Mistake("no right to read", "SQLSTATE 42501"),
    Mistake("bad value of a parameter", "SQLSTATE 22023", parameters="work_mem=lots"),
    Mistake("unknown parameter", "SQLSTATE 42704", parameters="work_men=1MB"),
    Mistake("fixed parameter", "SQLSTATE 55P02", parameters="max_connections=5"),
    Mistake("unknown sslmode", "sslmode", parameters="sslmode=sometimes"),
    Mistake("missing certificate", "sslrootcert", parameters="sslmode=require&sslrootcert=/nowhere.pem"),
    Mistake("port that is no number", "port must be a number", host="127.0.0.1:http"),
    Mistake("port beyond all ports", "port must be a number", host="127.0.0.1:70000"),
    Mistake("host with an empty label", "not a valid URL", host="db..example.org"),
    Mistake("bracket that is not closed", "not a valid URL", host="[::1"),
]
# For commands that come to the database on the same way as the server: one on the server, one in the URL.
SOME_MISTAKES = [MISTAKES[0], MISTAKES[-1]]


@asynccontextmanager
async def role_on(url: str, connection: Connection) -> AsyncIterator[tuple[str, str]]:
    """A role that may log in and has no rights of its own, and its URL of the database; gone after the block."""
    role = f"test_role_{secrets.token_hex(6)}"
    await connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'")
    try:
        parts = urlsplit(url)
        yield role, urlunsplit(parts._replace(netloc=f"{role}:{PASSWORD}@{parts.netloc.rpartition('@')[2]}"))
    finally:
        await connection.execute(f"DROP OWNED BY {role}")
        await connection.execute(f"DROP ROLE {role}")
