"""Asks the database whether it can be written, on a connection of its own: nobody waits for a turn to find out."""

from __future__ import annotations

import asyncio
from enum import Enum

import asyncpg

from enrollment_service.store.transactions import HeldConnection

# Reads nothing but what is in memory anyway, and leaves no trace, not even in the write-ahead log.
QUESTION = """
SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::boolean AS read_only,
       (SELECT version_num FROM alembic_version) AS revision
"""
_UNDEFINED_TABLE = "42P01"
# With the question still unanswered, or the door still closed, after so long, it is asked anew on a new connection.
ANSWER_SECONDS = 1.0
CONNECT_SECONDS = 2.0


class State(Enum):
    """What the database answered; the value says it to the log."""

    WRITABLE = "writable"
    READ_ONLY = "read only"
    WRONG_SCHEMA = "wrong schema"


class Probe:
    """One connection, used for the question alone."""

    def __init__(self, held: HeldConnection, revision: str) -> None:
        """Nothing is opened before the first question.

        Args:
            held: the connection.
            revision: the oldest schema revision that this code can write.
        """
        self._held = held
        self._revision = revision

    async def ask(self) -> State:
        """The state of the database.

        Raises:
            Exception: it did not answer, or broke the connection.
        """
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                connection = await self._held.connection()
            async with asyncio.timeout(ANSWER_SECONDS):
                row = await connection.fetchrow(QUESTION)
        except asyncpg.PostgresError as error:
            await self._held.discard()
            if error.sqlstate == _UNDEFINED_TABLE:
                return State.WRONG_SCHEMA
            raise
        except BaseException:
            await self._held.discard()
            raise
        assert row is not None  # noqa: S101 - for the type checker
        if row["read_only"]:
            # The next question may lead to another server, after a failover.
            await self._held.discard()
            return State.READ_ONLY
        return State.WRITABLE if self._is_known(row["revision"]) else State.WRONG_SCHEMA

    def _is_known(self, revision: str | None) -> bool:
        """Whether a schema is ours or newer: a release migrates first, and servers of the one before go on serving."""
        return revision is not None and revision.isdigit() and revision >= self._revision

    async def close(self) -> None:
        """Throws the connection away: to say goodbye might take long, and nothing is under way there."""
        await self._held.discard()
