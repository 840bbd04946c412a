"""The one write path, seen from outside: commands go in, answers come back once their batch is durable.

The steps of a batch stand in `batch.py`, the rules in `domain/rules.py`. Here it is decided what becomes of a batch
that failed: unknown where it is unknown, otherwise one by one, so that only the guilty fails.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any, TypeAlias, cast

from enrollment_service.domain.commands import A, Answer, Command, UpdateCourse, UpdateStudent
from enrollment_service.domain.errors import DatabaseUnavailable, code_taken, email_taken
from enrollment_service.domain.footprint import rounds
from enrollment_service.engine.batch import run_batch
from enrollment_service.engine.batcher import Batcher
from enrollment_service.settings import Settings
from enrollment_service.store.courses import code_owners
from enrollment_service.store.database import Database
from enrollment_service.store.faults import Fault, constraint_of, fault_of
from enrollment_service.store.students import email_owner
from enrollment_service.store.transactions import told

Outcomes: TypeAlias = dict[Command[Any], Answer | Exception]


class Writer:
    """Takes commands from many callers; one transaction is under way at a time."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._held = database.hold()
        self._batcher: Batcher[Command[Any], Answer] = Batcher(
            self._run, max_weight=settings.max_batch, max_waiting=settings.max_waiting, weigh=attrgetter("weight")
        )

    async def submit(self, command: Command[A]) -> A:
        """The answer to a command; what it says is durable.

        Raises:
            ServiceError: the command was refused, or could not be done.
        """
        return cast(A, await self._batcher.submit(command))

    async def close(self) -> None:
        """Answers everybody who waits, then gives the connection back."""
        await self._batcher.close()
        await self._held.close()

    async def _run(self, commands: Sequence[Command[Any]]) -> Sequence[Answer | Exception]:
        outcomes: Outcomes = {}
        for group in rounds(commands):
            outcomes.update(await self._attempt(group))
        return [outcomes[command] for command in commands]

    async def _attempt(self, commands: Sequence[Command[Any]]) -> Outcomes:
        try:
            return dict(await self._held.transact(lambda connection: run_batch(connection, commands, self._database)))
        except DatabaseUnavailable as error:
            return dict.fromkeys(commands, error)
        except Exception as error:  # noqa: BLE001 - each caller is told what became of its command
            if len(commands) == 1:
                return {commands[0]: await self._explained(error, commands[0])}
        outcomes: Outcomes = {}
        for command in commands:
            outcomes.update(await self._attempt([command]))
        return outcomes

    async def _explained(self, error: Exception, command: Command[Any]) -> Exception:
        """What the caller of a command that fails by itself is told."""
        return await self._key_taken(error, command) if fault_of(error) is Fault.DUPLICATE else told(error)

    async def _key_taken(self, error: Exception, command: Command[Any]) -> Exception:
        connection = await self._held.connection()
        constraint = constraint_of(error)
        if constraint == "uq_students_email" and isinstance(command, UpdateStudent):
            return email_taken(await email_owner(connection, command.changes["email"]))
        if constraint == "uq_courses_code" and isinstance(command, UpdateCourse):
            code = command.changes["code"]
            return code_taken((await code_owners(connection, [code])).get(code))
        return error
