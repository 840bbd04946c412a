"""The database of one process: engine, clock and course cache, built once and handed to whoever reads or writes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from functools import partial
from typing import TypeAlias, TypeVar

from sqlalchemy import func, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.sql.expression import ColumnElement

from enrollment_service.settings import Settings
from enrollment_service.store.connect import connect
from enrollment_service.store.course_cache import CourseCache
from enrollment_service.store.pool import Pool
from enrollment_service.store.transactions import HeldConnection, retried

Result = TypeVar("Result")
# An expression for the time.
Clock: TypeAlias = ColumnElement[datetime]

# The newest migration, which this code is written for; a test holds it equal to Alembic's head.
SCHEMA_REVISION = "0005"

# The batch statements are short and look rows up by key, whatever the parameters.
PLANNER_SETTINGS = {"plan_cache_mode": "force_generic_plan", "jit": "off", "random_page_cost": "1.1"}


class Database:
    """What every read and every write of this process shares.

    The clock is the database's, so that all replicas go by the same; tests give their own.
    """

    def __init__(self, settings: Settings, clock: Clock | None = None) -> None:
        self.engine = build_engine(settings)
        self._pool = Pool(self.engine, settings)
        self.clock: Clock = func.clock_timestamp() if clock is None else clock
        self.courses = CourseCache()

    def hold(self) -> HeldConnection:
        """A connection for one batcher to keep; it is opened on first use."""
        return HeldConnection(self._pool)

    async def read(self, work: Callable[[AsyncConnection], Awaitable[Result]]) -> Result:
        """What `work` reads on a connection of the pool, all of it in one snapshot.

        Raises:
            DatabaseUnavailable: the database does not answer.
        """

        async def attempt() -> Result:
            async with self._pool.taken() as connection:
                await connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
                return await work(connection)

        return await retried(attempt)

    async def schema_revision(self) -> str | None:
        """The revision that the database's schema has, or None where no migration has run."""
        async with self._pool.taken() as connection:
            known = await connection.scalar(text("SELECT to_regclass('alembic_version') IS NOT NULL"))
            return await connection.scalar(text("SELECT version_num FROM alembic_version")) if known else None

    def cut(self) -> None:
        """Cuts all connections and opens no more: whoever still waits for the database is told at once."""
        self._pool.cut()

    async def close(self) -> None:
        """Closes the connections of the pool, within a moment."""
        await self._pool.close()


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

    return create_async_engine(
        "postgresql+asyncpg://",
        async_creator=partial(
            connect, settings.database_url, timeout_seconds=settings.connect_timeout, server_settings=server_settings
        ),
        pool_size=settings.pool_size,
        max_overflow=0,
        pool_timeout=settings.connect_timeout,
        pool_pre_ping=True,
        hide_parameters=True,
    )
