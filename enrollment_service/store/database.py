"""The database of one process: engine, clock and course cache, built once and handed to whoever reads or writes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Any, TypeAlias, TypeVar

from sqlalchemy import func, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool
from sqlalchemy.sql.expression import ColumnElement

from enrollment_service.settings import Settings
from enrollment_service.store.connect import connect
from enrollment_service.store.course_cache import CourseCache
from enrollment_service.store.events import check_log, give_new_epoch
from enrollment_service.store.pool import Pool, driver_of, watch_over
from enrollment_service.store.probe import Probe
from enrollment_service.store.rights import check_may_migrate
from enrollment_service.store.statements import Prepared
from enrollment_service.store.transactions import DriverConnection, HeldConnection, retried, told
from enrollment_service.telemetry import metrics

Result = TypeVar("Result")
# An expression for the time.
Clock: TypeAlias = ColumnElement[datetime]

# The newest migration, which this code is written for; a test holds it equal to Alembic's head. Revisions are numbers
# in order, so that one that this code does not know yet is known to be newer.
SCHEMA_REVISION = "0010"

# Connections that are held, at the most: by the reader, the probe and the feed one each, by the writer's lanes six, and
# by the housekeeping two while it is at work.
MAX_HELD = 11

# The batch statements are short and look rows up by key, whatever the parameters.
PLANNER_SETTINGS = {"plan_cache_mode": "force_generic_plan", "jit": "off", "random_page_cost": "1.1"}

# A process that stands still in the middle of a transaction holds its locks for so long, in milliseconds, and no
# longer: PostgreSQL ends the transaction, and the process begins anew when it goes on.
MAX_IDLE_IN_TRANSACTION_MS = 2_000


class WrongSchemaError(Exception):
    """The database has another schema than this code is written for. The text says what to do."""


class OlderSchemaError(WrongSchemaError):
    """The database is not migrated, or only by an earlier version: `migrate` mends it."""


class Database:
    """What every read and every write of this process shares.

    The clock is the database's, so that all replicas go by the same; tests give their own.
    """

    def __init__(self, settings: Settings, clock: Clock | None = None) -> None:
        watch = watch_over(settings)
        # Connections that are held are not of the pool: however many lists are under way, nobody else waits for one.
        self._held_pool = Pool(build_engine(settings, poolclass=NullPool), settings, watch)
        self.max_lists = settings.pool_size - MAX_HELD
        self._pool_size = settings.pool_size
        self.engine = build_engine(
            settings,
            pool_size=self.max_lists,
            max_overflow=0,
            pool_timeout=settings.connect_timeout,
            pool_pre_ping=True,
        )
        self._pool = Pool(self.engine, settings, watch)
        self.clock: Clock = func.clock_timestamp() if clock is None else clock
        self.courses = CourseCache()
        # How many transactions that changed something have been committed.
        self.writes = 0

    def samples(self) -> list[metrics.Sample]:
        """What can be seen from outside."""
        return [*self._pool.watch.samples(), (metrics.connections_max, lambda: self._pool_size)]

    def hold(self, lock_timeout_ms: int | None = None, statements: Sequence[Prepared] = ()) -> HeldConnection:
        """A connection for one batcher to keep; it is opened on first use.

        Args:
            lock_timeout_ms: how long its transactions wait for a lock; by default as the settings say.
            statements: all that its transactions may send while they hold locks.
        """
        return HeldConnection(self._held_pool, self.courses.clear, lock_timeout_ms, statements)

    def probe(self) -> Probe:
        """What finds out whether the database can be written."""
        return Probe(self.hold(), SCHEMA_REVISION)

    def leave(self) -> None:
        """Gives up all connections there are now, as soon as their work is done."""
        self._pool.watch.leave()

    async def read(self, work: Callable[[AsyncConnection], Awaitable[Result]]) -> Result:
        """What `work` reads on a connection of the pool, all of it in one snapshot; no more than `max_lists` at once.

        Raises:
            DatabaseUnavailable: the database does not answer.
        """

        async def attempt() -> Result:
            async with self._pool.taken() as connection:
                await connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
                return await work(connection)

        try:
            return await retried(attempt)
        except Exception as error:
            failure = told(error)
            if failure is error:
                raise
            raise failure from error

    async def look(self, work: Callable[[DriverConnection], Awaitable[Result]]) -> Result:
        """The same on the driver's connection, where every statement has its own moment.

        Raises:
            DatabaseUnavailable: the database does not answer.
        """

        async def on_driver(connection: AsyncConnection) -> Result:
            return await work(await driver_of(connection))

        return await self.read(on_driver)

    async def schema_revision(self) -> str | None:
        """The revision that the database's schema has, or None where no migration has run."""
        async with self._pool.taken() as connection:
            known = await connection.scalar(text("SELECT to_regclass('alembic_version') IS NOT NULL"))
            return await connection.scalar(text("SELECT version_num FROM alembic_version")) if known else None

    async def check_schema(self) -> None:
        """Returns if the database has the schema that this code is written for.

        Raises:
            WrongSchemaError: it has another.
        """
        revision = await self.schema_revision()
        found = f"the database has schema revision {revision or 'none'}"
        ours = f"this version's {SCHEMA_REVISION}"
        if revision is None or (revision.isdigit() and revision < SCHEMA_REVISION):
            raise OlderSchemaError(f"{found}, older than {ours}: run `python -m enrollment_service migrate`")
        if revision.isdigit() and revision > SCHEMA_REVISION:
            raise WrongSchemaError(f"{found}, newer than {ours}: run the version that migrated it, or a later one")
        if revision != SCHEMA_REVISION:
            raise WrongSchemaError(f"{found}, which is none of this service's: is it the right database?")

    async def check_log(self) -> None:
        """Returns if the event log was written by this database.

        Raises:
            MisconfiguredError: it was restored from another one, and has no new epoch yet.
        """
        async with self._pool.taken() as connection:
            await check_log(await driver_of(connection))

    async def give_new_epoch(self) -> None:
        """Has this database written the whole event log, however long that takes; all resume tokens expire."""
        async with self._pool.taken() as connection:
            driver = await driver_of(connection)
            async with driver.transaction():
                await driver.execute("SET LOCAL statement_timeout = 0")
                await give_new_epoch(driver)

    async def check_may_migrate(self) -> None:
        """Returns if the role of the settings may change the schema.

        Raises:
            MisconfiguredError: it may not.
        """
        async with self._pool.taken() as connection:
            await connection.run_sync(check_may_migrate)

    def cut(self) -> None:
        """Cuts all connections and opens no more: whoever still waits for the database is told at once."""
        self._held_pool.cut()
        self._pool.cut()

    async def close(self) -> None:
        """Closes all connections, within a moment."""
        await self._held_pool.close()
        await self._pool.close()


def build_engine(settings: Settings, **pool: Any) -> AsyncEngine:
    """An engine whose connections all have the service's time limits and planner settings.

    Args:
        settings: where the database is, and the limits.
        pool: what SQLAlchemy is to know of the pool.
    """
    server_settings = {
        "application_name": "enrollment-service",
        "timezone": "UTC",
        "lock_timeout": str(settings.lock_timeout_ms),
        "statement_timeout": str(settings.statement_timeout_ms),
        "idle_in_transaction_session_timeout": str(MAX_IDLE_IN_TRANSACTION_MS),
        **PLANNER_SETTINGS,
    }

    return create_async_engine(
        "postgresql+asyncpg://",
        async_creator=partial(
            connect,
            settings.database_url,
            password=settings.password,
            timeout_seconds=settings.connect_timeout,
            server_settings=server_settings,
        ),
        hide_parameters=True,
        **pool,
    )
