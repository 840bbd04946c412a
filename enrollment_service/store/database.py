"""The engine, the connections that the batches hold, and what a database error means.

A batch sends its statements prepared on the pooled connection's own driver connection: SQLAlchemy's executor would
cost more than the database does. A transaction begun there is invisible to SQLAlchemy, so every one goes through
`Lane.transaction`, and a connection that was not cleanly rolled back is thrown away, never returned.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from enum import Enum, auto
from typing import Any, TypeAlias

import asyncpg
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from enrollment_service.settings import Settings

DriverConnection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


# The newest migration, which this code is written for; a test holds it equal to Alembic's head.
SCHEMA_REVISION = "0005"


# The batch statements are short and look rows up by key, whatever the parameters.
PLANNER_SETTINGS = {"plan_cache_mode": "force_generic_plan", "jit": "off", "random_page_cost": "1.1"}


class Fault(Enum):
    """What a database error says about the transaction it broke."""

    RETRY = auto()  # it did not happen, and the same again may succeed
    GONE = auto()  # the connection is lost, or the server cannot write
    TIMEOUT = auto()  # a lock or statement took too long; it did not happen
    RACED = auto()  # a row it refers to was deleted meanwhile; it did not happen
    DUPLICATE = auto()  # a unique key is taken; it did not happen
    OTHER = auto()  # anything else: a fault of ours


_FAULTS = {
    "40001": Fault.RETRY,
    "40P01": Fault.RETRY,
    "0A000": Fault.RETRY,  # a cached plan that DDL made stale
    "25006": Fault.GONE,  # the primary was demoted under the pool
    "57P01": Fault.GONE,
    "57P02": Fault.GONE,
    "57P03": Fault.GONE,
    "53300": Fault.GONE,
    "55P03": Fault.TIMEOUT,
    "57014": Fault.TIMEOUT,
    "23503": Fault.RACED,
    "23505": Fault.DUPLICATE,
}


class CommitUnknownError(Exception):
    """The connection was lost while COMMIT was under way: the transaction may or may not have happened."""


def fault_of(error: BaseException) -> Fault:
    """What an error of the driver or of SQLAlchemy means, by its SQLSTATE, never by its text."""
    if isinstance(error, DBAPIError) and error.orig is not None:
        error = error.orig.__cause__ or error.orig
    state = getattr(error, "sqlstate", None)
    if state is not None:
        return Fault.GONE if state.startswith("08") else _FAULTS.get(state, Fault.OTHER)
    # The driver's own errors: it could not connect, or the connection broke under it. Or the pool has none to give.
    lost = isinstance(error, asyncpg.InterfaceError | OSError | TimeoutError | PoolTimeoutError)
    return Fault.GONE if lost else Fault.OTHER


def constraint_of(error: BaseException) -> str:
    """The name of the constraint that an error is about, or an empty string."""
    if isinstance(error, DBAPIError) and error.orig is not None:
        error = error.orig.__cause__ or error.orig
    return getattr(error, "constraint_name", None) or ""


def driver_url(url: str) -> str:
    """A database URL in the form that SQLAlchemy wants for asyncpg."""
    return f"postgresql+asyncpg://{url.partition('://')[2]}"


def build_engine(settings: Settings) -> AsyncEngine:
    """An engine whose connections all have the service's time limits and planner settings."""
    server_settings = {
        "application_name": "enrollment-service",
        "timezone": "UTC",
        "lock_timeout": str(settings.lock_timeout_ms),
        "statement_timeout": str(settings.statement_timeout_ms),
        "idle_in_transaction_session_timeout": str(settings.statement_timeout_ms),
        **PLANNER_SETTINGS,
    }

    async def connect() -> Any:
        # A URL in libpq's form, so that sslmode, several hosts and the like work as everywhere else.
        return await asyncpg.connect(
            settings.database_url, timeout=settings.connect_timeout, server_settings=server_settings
        )

    return create_async_engine(
        "postgresql+asyncpg://",
        async_creator=connect,
        pool_size=settings.pool_size,
        max_overflow=0,
        pool_timeout=settings.connect_timeout,
        pool_pre_ping=True,
        hide_parameters=True,
    )


class Lane:
    """One pooled connection, held by one batcher for as long as it is healthy."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._pooled: AsyncConnection | None = None
        self._driver: DriverConnection | None = None

    async def connection(self) -> DriverConnection:
        """The driver connection, opened when there is none or it has been lost."""
        if self._driver is not None and not self._driver.is_closed():
            return self._driver
        await self.discard()
        self._pooled = await self._engine.connect()
        raw = await self._pooled.get_raw_connection()
        driver: DriverConnection | None = raw.driver_connection
        assert driver is not None
        self._driver = driver
        return driver

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[DriverConnection]:
        """A transaction that is committed when the block ends, rolled back when it raises.

        Raises:
            CommitUnknownError: the outcome of the commit cannot be known.
        """
        connection = await self.connection()
        committing = False
        try:
            async with connection.transaction():
                yield connection
                committing = True
        except BaseException as error:
            fault = fault_of(error)
            if fault is Fault.GONE or not isinstance(error, Exception) or connection.is_in_transaction():
                await self.discard()
            if committing and (fault is Fault.GONE or not isinstance(error, Exception)):
                raise CommitUnknownError from error
            raise

    async def discard(self) -> None:
        """Throws the connection away; the next use opens another."""
        pooled, self._pooled, self._driver = self._pooled, None, None
        if pooled is not None:
            # Nothing here may hide the error that made us throw it away.
            with suppress(Exception):
                await pooled.invalidate()
            with suppress(Exception):
                await pooled.close()

    async def close(self) -> None:
        """Gives the connection back to the pool."""
        pooled, self._pooled, self._driver = self._pooled, None, None
        if pooled is not None:
            await pooled.close()


async def schema_revision(engine: AsyncEngine) -> str | None:
    """The revision that the database's schema has, or None where no migration has run."""
    async with engine.connect() as connection:
        known = await connection.scalar(text("SELECT to_regclass('alembic_version') IS NOT NULL"))
        return await connection.scalar(text("SELECT version_num FROM alembic_version")) if known else None
