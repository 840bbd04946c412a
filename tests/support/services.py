"""Services in the test's own process: real ones on real ports, with settings and a clock that the test chooses."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import DateTime, literal_column
from sqlalchemy.sql.expression import ColumnElement

from enrollment_service.app import App, serving
from enrollment_service.settings import Settings
from enrollment_service.telemetry import logs
from tests.support.client import Client, client_of
from tests.support.databases import Connection

# One for all tests: statements are compiled once per clock.
CLOCK: ColumnElement[datetime] = literal_column("(SELECT now FROM test_clock)", DateTime(timezone=True))
START = datetime(2026, 9, 1, 8, 0, tzinfo=UTC)


def settings_for(database_url: str, **settings: Any) -> Settings:
    """Settings for a service on a database: the dev profile on any free port, and no delay, unless said otherwise."""
    chosen: dict[str, Any] = {
        "profile": "dev",
        "listen": "127.0.0.1:0",
        "database_url": database_url,
        "shutdown_delay": 0,
    }
    return Settings(**(chosen | settings))


@dataclass(frozen=True)
class Service:
    """A server in this process and a client of it."""

    app: App
    settings: Settings
    client: Client

    @property
    def address(self) -> str:
        """Where others can reach it."""
        return f"127.0.0.1:{self.app.port}"


@asynccontextmanager
async def service_on(
    database_url: str, clock: ColumnElement[datetime] | None = None, **settings: Any
) -> AsyncIterator[Service]:
    """A service that serves inside the block and is drained after it."""
    chosen = settings_for(database_url, **settings)
    async with serving(chosen, clock) as server, client_of(f"127.0.0.1:{server.port}") as client:
        yield Service(server, chosen, client)


class Clock:
    """A clock that stands still in a table of the test's database until the test moves it."""

    column = CLOCK

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def create(self) -> None:
        """Makes the table, at START."""
        await self._connection.execute("CREATE TABLE test_clock (now timestamptz NOT NULL)")
        await self._connection.execute("INSERT INTO test_clock VALUES ($1)", START)
        await self._connection.execute("GRANT SELECT ON test_clock TO PUBLIC")

    async def now(self) -> datetime:
        """The time it shows."""
        shown: datetime = await self._connection.fetchval("SELECT now FROM test_clock")
        return shown

    async def set(self, moment: datetime) -> None:
        """Shows another time, later or earlier."""
        await self._connection.execute("UPDATE test_clock SET now = $1", moment)

    async def advance(self, **duration: float) -> None:
        """Moves on; the arguments are those of timedelta."""
        await self.set(await self.now() + timedelta(**duration))


class ServiceLog:
    """What services in this process log; loggers are bound once, so one file serves the whole session."""

    def __init__(self) -> None:
        self._file = io.BytesIO()
        self._buffer = logs.configure("debug", self._file)

    @property
    def text(self) -> str:
        """Everything since the last `clear`."""
        self._buffer.flush()
        return self._file.getvalue().decode()

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The same, line by line."""
        return [json.loads(line) for line in self.text.split("\n") if line]

    def calls(self, method: str) -> list[dict[str, Any]]:
        """The lines about calls of a method."""
        return [line for line in self.lines if line["event"] == "call" and line["method"] == method]

    def clear(self) -> None:
        """Forgets what was logged."""
        self._buffer.flush()
        self._file.seek(0)
        self._file.truncate()
