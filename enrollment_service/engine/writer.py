"""The one write path, seen from outside: commands go in, answers come back once their batch is durable.

The steps of a batch stand in `batch.py`, the rules in `rules.py`. Here it is decided what becomes of a batch that
failed: again where it certainly did not happen, one by one so that only the guilty fails, unknown where it is unknown.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.sql.expression import ColumnElement

from enrollment_service.domain.commands import Answer, Command, UpdateCourse, UpdateStudent
from enrollment_service.domain.errors import DatabaseUnavailable, code_taken, email_taken
from enrollment_service.domain.footprint import rounds
from enrollment_service.engine.batch import run_batch
from enrollment_service.engine.batcher import Batcher
from enrollment_service.engine.loading import StaleFootprintError
from enrollment_service.settings import Settings
from enrollment_service.store.courses import CourseMemory, code_owners
from enrollment_service.store.database import CommitUnknownError, Fault, Lane, constraint_of, fault_of
from enrollment_service.store.students import email_owner

MOST_TRIES = 5
PAUSE = 0.01  # seconds, times the number of tries so far, at random

Outcome = Answer | Exception


class Writer:
    """Takes commands from many callers; one transaction is under way at a time."""

    def __init__(
        self,
        engine: AsyncEngine,
        settings: Settings,
        memory: CourseMemory,
        clock: ColumnElement[datetime] | None = None,
    ) -> None:
        self._lane = Lane(engine)
        self._memory = memory
        self._clock: ColumnElement[datetime] = func.clock_timestamp() if clock is None else clock
        self._batcher: Batcher[Command, Answer] = Batcher(
            self._run, most=settings.max_batch, max_waiting=settings.max_waiting, weigh=lambda command: command.weight
        )

    async def submit(self, command: Command) -> Answer:
        """The answer to a command; what it says is durable.

        Raises:
            EnrollmentError: the command was refused, or could not be done.
        """
        return await self._batcher.submit(command)

    async def close(self) -> None:
        """Answers everybody who waits, then gives the connection back."""
        await self._batcher.close()
        await self._lane.close()

    async def _run(self, commands: Sequence[Command]) -> Sequence[Outcome]:
        outcomes: dict[int, Outcome] = {}
        for group in rounds(commands):
            outcomes.update(zip(group, await self._attempt([commands[index] for index in group]), strict=True))
        return [outcomes[index] for index in range(len(commands))]

    async def _attempt(self, commands: Sequence[Command]) -> Sequence[Outcome]:
        try:
            return await self._with_retries(commands)
        except CommitUnknownError:
            return [DatabaseUnavailable()] * len(commands)
        except Exception as error:  # noqa: BLE001 - each caller is told what became of its command
            if fault_of(error) is Fault.GONE:
                return [DatabaseUnavailable()] * len(commands)
            if len(commands) == 1:
                return [await self._explained(error, commands[0])]
        return [(await self._attempt([command]))[0] for command in commands]

    async def _with_retries(self, commands: Sequence[Command]) -> Sequence[Outcome]:
        tries = 0
        while True:
            try:
                async with self._lane.transaction() as connection:
                    return await run_batch(connection, commands, self._memory, self._clock)
            except CommitUnknownError:
                raise
            except Exception as error:
                tries += 1
                if tries >= MOST_TRIES or not _worth_a_retry(error, tries, len(commands)):
                    raise
            await asyncio.sleep(random.uniform(0, PAUSE * tries))

    async def _explained(self, error: Exception, command: Command) -> Exception:
        """What the caller of a command that fails by itself is told."""
        fault = fault_of(error)
        if fault is Fault.DUPLICATE:
            return await self._key_taken(error, command)
        if fault is Fault.OTHER and not isinstance(error, StaleFootprintError):
            return error
        return DatabaseUnavailable()

    async def _key_taken(self, error: Exception, command: Command) -> Exception:
        connection = await self._lane.connection()
        constraint = constraint_of(error)
        if constraint == "uq_students_email" and isinstance(command, UpdateStudent):
            return email_taken(await email_owner(connection, command.changes["email"]))
        if constraint == "uq_courses_code" and isinstance(command, UpdateCourse):
            code = command.changes["code"]
            return code_taken((await code_owners(connection, [code])).get(code))
        return error


def _worth_a_retry(error: Exception, tries: int, size: int) -> bool:
    """Only after errors that say for certain that nothing was committed."""
    fault = fault_of(error)
    if fault is Fault.GONE:
        # A fresh connection may well work; if not, waiting is the caller's choice.
        return tries == 1
    if fault is Fault.RACED:
        return size == 1
    return fault is Fault.RETRY or isinstance(error, StaleFootprintError)
