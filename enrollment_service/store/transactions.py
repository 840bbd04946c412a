"""The one way to run a transaction or a read, and the one policy of when to try again.

Only what certainly did not happen is tried again. A batch sends its statements prepared on the pooled connection's
own driver connection: SQLAlchemy's executor would cost more than the database does. A transaction begun there is
invisible to SQLAlchemy, so every one goes through `HeldConnection.transaction`, and a connection that was not cleanly
rolled back is thrown away, never returned.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any, TypeAlias, TypeVar

import asyncpg
import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from enrollment_service.domain.errors import DatabaseUnavailable
from enrollment_service.store.driver import DriverConnection as DriverConnection
from enrollment_service.store.faults import CommitUnknownError, Fault, facts_of, fault_of
from enrollment_service.store.pool import Pool, driver_of
from enrollment_service.store.statements import Prepared
from enrollment_service.telemetry.seldom import Seldom

log = structlog.get_logger()
_told_seldom = Seldom(seconds=1.0)

PooledConnection: TypeAlias = AsyncConnection
Result = TypeVar("Result")

# The server may only be read: it was the primary, and is a standby now.
READ_ONLY = "25006"
# DDL elsewhere has changed what a prepared statement returns.
STALE_PLAN = "0A000"
PAUSE_SECONDS = 0.01  # times the number of tries so far, at random
# How often work is tried in all that broke with such a fault. On a fresh connection it may well succeed; if it does
# not, or if the server has no room, waiting is the caller's choice. An unknown commit is never tried again.
_MAX_TRIES = {
    Fault.RETRY: 5,
    Fault.RACED: 5,
    Fault.GONE: 2,
    Fault.MISCONFIGURED: 1,
    Fault.EXHAUSTED: 1,
    Fault.UNKNOWN: 1,
}


async def retried(work: Callable[[], Awaitable[Result]]) -> Result:
    """The result of `work`, which leaves no trace where it fails; tried again where that may help.

    Raises:
        DatabaseUnavailable: it failed however often it was tried, or nobody knows whether it did.
        Exception: what `work` raised for which no other try is worth while: a timeout, a taken key, a fault of ours.
    """
    tries = 0
    while True:
        tries += 1
        try:
            return await work()
        except Exception as error:
            fault = fault_of(error)
            if fault not in _MAX_TRIES:
                raise
            if tries >= _MAX_TRIES[fault]:
                _log_cause(error)
                raise DatabaseUnavailable from error
        await asyncio.sleep(random.uniform(0, PAUSE_SECONDS * tries))  # noqa: S311 - no secret


def snapshot(connection: DriverConnection) -> AbstractAsyncContextManager[Any]:
    """A block in which all statements read the database as of one moment."""
    return connection.transaction(isolation="repeatable_read", readonly=True)


def _log_cause(error: Exception) -> None:
    """What callers are not told: why the database is unavailable. An error is what waiting does not mend."""
    facts = facts_of(error)
    if times := _told_seldom.due(tuple(facts.values())):
        write = log.error if fault_of(error) in (Fault.MISCONFIGURED, Fault.EXHAUSTED) else log.warning
        write("database unavailable", times=times, **facts)


def told(error: Exception) -> Exception:
    """What a caller is told of work that failed: a fault of ours is left as it is, to be hidden at the door."""
    return error if fault_of(error) is Fault.OTHER else DatabaseUnavailable()


class HeldConnection:
    """One pooled connection, held by one batcher for as long as it is healthy.

    Statements of transactions that lock rows are prepared before the first one begins. While the driver prepares one,
    PostgreSQL does not take the session for idle: if this process stood still just then, in the middle of a
    transaction, others would wait for its locks for as long as the connection lasts.
    """

    def __init__(
        self,
        pool: Pool,
        replaced: Callable[[], None],
        lock_timeout_ms: int | None = None,
        statements: Sequence[Prepared] = (),
    ) -> None:
        """Nothing is opened before the first use.

        Args:
            pool: where it comes from.
            replaced: called when another connection takes the place of one that was lost. It may lead to another
                server, after a failover to one where the newest changes never happened.
            lock_timeout_ms: how long its transactions wait for a lock; by default as the settings say.
            statements: all that its transactions may send while they hold locks.
        """
        self._pool = pool
        self._watch = pool.watch
        self._replaced = replaced
        self._lock_timeout_ms = lock_timeout_ms
        self._statements = statements
        self._prepared = 0  # so many of them
        self._lost = False
        self._pooled: AsyncConnection | None = None
        self._driver: DriverConnection | None = None

    async def transact(self, work: Callable[[DriverConnection], Awaitable[Result]]) -> Result:
        """What `work` returns, committed; tried again where it certainly did not happen."""

        async def attempt() -> Result:
            async with self.transaction() as connection:
                return await work(connection)

        return await retried(attempt)

    async def read(self, work: Callable[[DriverConnection], Awaitable[Result]]) -> Result:
        """What `work` reads, outside of any transaction of ours; `work` may begin a snapshot."""

        async def attempt() -> Result:
            try:
                connection = await self.connection()
                self._watch.begin(connection)
                try:
                    return await work(connection)
                finally:
                    self._watch.end(connection)
            except BaseException:
                # Whatever happened, the connection may still be busy with it.
                await self.discard()
                raise

        return await retried(attempt)

    async def connection(self) -> DriverConnection:
        """The driver connection, opened when there is none or it has been lost."""
        if self._driver is not None and not self._driver.is_closed():
            return self._driver
        await self.discard()
        self._pooled = await self._pool.take()
        driver = await driver_of(self._pooled)
        if self._lock_timeout_ms is not None:
            self._watch.begin(driver)
            await driver.execute(f"SET lock_timeout = {self._lock_timeout_ms:d}")
            self._watch.end(driver)
        self._driver = driver
        self._prepared = 0
        if self._lost:
            self._lost = False
            self._replaced()
        return driver

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[DriverConnection]:
        """A transaction that is committed when the block ends, rolled back when it raises.

        Raises:
            CommitUnknownError: the outcome of the commit cannot be known.
        """
        connection = await self.connection()
        self._watch.begin(connection)
        committing = False
        try:
            if self._prepared < len(self._statements):
                await self._prepare(connection)
            async with connection.transaction():
                yield connection
                committing = True
        except BaseException as error:
            lost = fault_of(error) is Fault.GONE or not isinstance(error, Exception)
            state = getattr(error, "sqlstate", None)
            if lost or state == STALE_PLAN or connection.is_in_transaction():
                await self.discard()
            if state == READ_ONLY:
                # Who only reads would never notice, and be told of the past.
                self._watch.leave()
            if committing and lost:
                raise CommitUnknownError from error
            raise
        finally:
            self._watch.end(connection)

    async def _prepare(self, connection: DriverConnection) -> None:
        """Prepares the statements, as far as that can be done now: not while somebody has locked one of their tables.

        The others must not wait for that table. What is left is tried again before the next transaction.
        """
        with suppress(asyncpg.LockNotAvailableError):
            for statement in self._statements[self._prepared :]:
                await statement.prepare(connection)
                self._prepared += 1

    async def discard(self) -> None:
        """Throws the connection away; the next use opens another."""
        pooled, self._pooled, self._driver = self._pooled, None, None
        if pooled is not None:
            self._lost = True
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
