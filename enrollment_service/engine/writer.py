"""The one write path, seen from outside: commands go in, answers come back once their batch is durable.

The steps of a batch stand in `batch.py`, the rules in `domain/rules.py`. Here commands find their lane, and it is
decided what becomes of a batch that failed: unknown where it is unknown, otherwise one by one, so that only the guilty
fails.

- The usual lane waits for no lock: what others have locked is set aside.
- What was set aside waits in the patient lane (`patient.py`), row by row.
- Commands that may take long have a lane of their own, so that a single call never waits for more than one of them.
  So do those whose promotions may reach many courses, which only the usual lane finds out.
- Commands that create something have one too: a key that somebody else is about to take cannot be skipped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from operator import attrgetter
from typing import Any, TypeAlias, cast

from enrollment_service.domain.commands import A, Answer, Command, UpdateCourse, UpdateStudent, Upsert
from enrollment_service.domain.errors import (
    DatabaseUnavailable,
    Refusal,
    course_taken,
    external_id_taken,
    student_taken,
)
from enrollment_service.domain.footprint import SOMETHING, Footprint, Row, rounds
from enrollment_service.engine.batch import NOTHING, Busy, Heavy, run_batch
from enrollment_service.engine.batcher import Batcher, Pending
from enrollment_service.engine.loading import first_busy, look_up_rows
from enrollment_service.engine.patient import PatientLane, Results, Turn
from enrollment_service.engine.tally import count
from enrollment_service.settings import Settings
from enrollment_service.store import courses, locks, students
from enrollment_service.store.batches import batch_statements
from enrollment_service.store.database import Database
from enrollment_service.store.faults import Fault, constraint_of, fault_of
from enrollment_service.store.transactions import DriverConnection, HeldConnection, told
from enrollment_service.telemetry import metrics, tracing

# After each bulk command those who had to wait for it go first, if it takes them no longer than this, in seconds.
MAX_GIVE_WAY = 0.05
# How long batches usually hold their rows, in seconds, with something to spare.
USUAL_BATCH = 0.01
# How often an import is tried of which others take keys meanwhile.
MAX_TRIES = 5
# The unique keys that an update may break, by their indexes.
_KEYS = {
    "uq_students_email": "email",
    "uq_students_external_id": "external_id",
    "uq_courses_code": "code",
    "uq_courses_external_id": "external_id",
}

Form: TypeAlias = Callable[[], Sequence[Command[Any]]]
Answers: TypeAlias = Sequence[Answer | Exception | Pending[Answer]]


class Writer:
    """Takes commands from many callers; in each lane one transaction is under way at a time."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        hold = partial(database.hold, statements=batch_statements(database.clock))
        self._usual_held = hold(locks.MAX_WAIT_BRIEFLY_MS)
        self._bulk_held = hold(locks.MAX_WAIT_BRIEFLY_MS)
        self._creating_held = hold(locks.MAX_WAIT_HOLDING_MS)
        batcher = partial(
            Batcher[Command[Any], Answer],
            max_weight=settings.max_batch,
            max_waiting=settings.max_waiting,
            weigh=attrgetter("weight"),
        )
        self._usual = batcher(self._run_usual, served=metrics.batches("usual"))
        self._bulk = batcher(self._run_bulk, served=metrics.batches("bulk"))
        self._creating = batcher(self._run_creating, served=metrics.batches("creating"))
        self._patient = PatientLane(
            partial(hold, locks.MAX_WAIT_HOLDING_MS),
            self._run_patient,
            lock_timeout_ms=settings.lock_timeout_ms,
            max_commands=settings.max_batch,
            max_waiting=settings.max_waiting,
        )

    async def submit(self, command: Command[A], deadline: float | None = None) -> A:
        """The answer to a command, wanted until then by the event loop's clock; what it says is durable.

        Raises:
            ServiceError: the command was refused, or could not be done.
        """
        lane = self._bulk if command.bulk else self._creating if command.creates else self._usual
        with tracing.waiting(command):
            return cast(A, await lane.submit(command, deadline))

    def samples(self) -> list[metrics.Sample]:
        """What can be seen from outside."""
        return [
            (metrics.queue_depth("usual"), lambda: self._usual.waiting),
            (metrics.queue_depth("bulk"), lambda: self._bulk.waiting),
            (metrics.queue_depth("creating"), lambda: self._creating.waiting),
            *self._patient.samples(),
        ]

    async def close(self) -> None:
        """Answers everybody who waits, then gives the connections back."""
        await self._usual.close()
        await self._bulk.close()
        await self._creating.close()
        await self._patient.close()
        await self._usual_held.close()
        await self._bulk_held.close()
        await self._creating_held.close()

    # --- the lanes ----------------------------------------------------------------------------------------------

    async def _run_usual(self, commands: Sequence[Command[Any]]) -> Answers:
        with tracing.batch("usual") as serves:
            serves(commands)
            return await self._run(self._usual_held, commands)

    async def _run_bulk(self, commands: Sequence[Command[Any]]) -> Answers:
        await self._patient.until_empty(MAX_GIVE_WAY)
        with tracing.batch("bulk") as serves:
            serves(commands)
            return await self._run(self._bulk_held, commands)

    async def _run_creating(self, commands: Sequence[Command[Any]]) -> Answers:
        with tracing.batch("creating") as serves:
            serves(commands)
            return await self._run(self._creating_held, commands)

    async def _run(self, held: HeldConnection, commands: Sequence[Command[Any]]) -> Answers:
        """The answers of a batch; what was set aside goes on in the patient lane, behind those who wait there."""
        answers: dict[Command[Any], Answer | Exception | Pending[Answer]] = {}
        ready = []
        for command in commands:
            if row := self._patient.row_of(command):
                answers[command] = self._patient.add(row, command)
            else:
                ready.append(command)
        for group in rounds(ready):
            for command, result in (await self._attempt(held, partial(list, group))).items():
                if isinstance(result, Busy):
                    answers[command] = self._patient.add(result.row, command)
                elif isinstance(result, Heavy):
                    # From here on it locks all that it needs in order, and may wait for it.
                    command.tied = result.course_ids
                    answers[command] = asyncio.ensure_future(self._bulk.submit(command))
                else:
                    answers[command] = result
        return [answers[command] for command in commands]

    async def _run_patient(self, turn: Turn) -> Results:
        with tracing.batch("patient") as serves:
            results = await self._attempt(turn.held, turn.commands, first=turn)
            serves(turn.entries)
            return results

    # --- one transaction, and what becomes of it ----------------------------------------------------------------

    async def _attempt(self, held: HeldConnection, form: Form, *, first: Turn | None = None, tries: int = 1) -> Results:
        """The outcomes of commands that are decided in one transaction, if possible.

        Args:
            held: the connection to do it on.
            form: the commands, asked for when the transaction has begun.
            first: a turn of the patient lane, whose row is waited for before anything else.
            tries: how often it was tried, this time included.

        Raises:
            RowBusyError: the first row stayed locked.
        """
        commands: Sequence[Command[Any]] = ()
        decided = NOTHING

        async def work(connection: DriverConnection) -> Results:
            nonlocal commands, decided
            decided = NOTHING
            if first is not None:
                await locks.wait_for(connection, first.row, first.max_wait_ms)
            commands = form()
            # Who has waited for a row alone may then wait a little for others.
            skip = not any(_may_wait(command, first.row if first else None) for command in commands)
            if commands:
                quick = held is self._usual_held
                decided = await run_batch(connection, commands, self._database, skip_locked=skip, quick=quick)
            return dict(decided.outcomes)

        try:
            results = await held.transact(work)
        except locks.RowBusyError:
            raise
        except DatabaseUnavailable as error:
            return dict.fromkeys(commands or form(), error)
        except Exception as error:  # noqa: BLE001 - each caller is told what became of its command
            return await self._after(error, held, commands or form(), tries)
        count(decided.events, decided.fresh)
        self._database.writes += bool(decided.events)
        return results

    async def _after(
        self, error: Exception, held: HeldConnection, commands: Sequence[Command[Any]], tries: int
    ) -> Results:
        """What becomes of the commands of a transaction that certainly did not happen."""
        fault = fault_of(error)
        if fault is Fault.TIMEOUT:
            return dict.fromkeys(commands, told(error))
        if fault is Fault.LOCKED:
            return await self._aside(held, commands)
        if len(commands) == 1:
            if fault is Fault.DUPLICATE and isinstance(commands[0], Upsert) and tries < MAX_TRIES:
                # Somebody else has taken a key since it was read who has it: read again.
                return await self._attempt(held, partial(list, commands), tries=tries + 1)
            return {commands[0]: await self._explained(error, held, commands[0])}
        results: Results = {}
        for command in commands:
            results |= await self._attempt(held, partial(list, [command]))
        return results

    async def _aside(self, held: HeldConnection, commands: Sequence[Command[Any]]) -> Results:
        """Sets aside the commands whose rows others hold, and tries again without them.

        Some locks are met only on the way, where they cannot be skipped: foreign keys lock students and courses, and
        imports wait for a moment.
        """
        try:
            rows = await held.transact(lambda connection: look_up_rows(connection, commands))
            busy = await self._really_busy(held, set().union(*rows.values()))
        except Exception as error:  # noqa: BLE001 - each caller is told what became of its command
            if fault_of(error) is not Fault.LOCKED:
                return dict.fromkeys(commands, told(error))
            busy = set()  # a whole table is locked: not even looking is possible
        if not busy:
            return dict.fromkeys(commands, Busy(SOMETHING))
        # Who takes rows in line was stopped by the last of them; the ones before are held by others who were, too.
        order = {one: rows[one][::-1] if one.tied else rows[one] for one in rows}
        results: Results = {command: Busy(row) for command, row in first_busy(order, busy).items()}
        rest = [command for command in commands if command not in results]
        return results | (await self._attempt(held, partial(list, rest)) if rest else {})

    async def _really_busy(self, held: HeldConnection, rows: set[Row]) -> set[Row]:
        """Those of the rows that others hold for longer than a batch usually takes."""
        busy = await held.transact(lambda connection: locks.find_busy(connection, rows))
        if busy:
            await asyncio.sleep(USUAL_BATCH)
            busy &= await held.transact(lambda connection: locks.find_busy(connection, busy))
        return busy

    async def _explained(self, error: Exception, held: HeldConnection, command: Command[Any]) -> Exception:
        """What the caller of a command that fails by itself is told."""
        return await self._key_taken(error, held, command) if fault_of(error) is Fault.DUPLICATE else told(error)

    async def _key_taken(self, error: Exception, held: HeldConnection, command: Command[Any]) -> Exception:
        constraint = constraint_of(error) or ""
        if isinstance(command, Upsert):
            return DatabaseUnavailable()
        if not isinstance(command, UpdateStudent | UpdateCourse) or constraint not in _KEYS:
            return error
        name = _KEYS[constraint]
        # Of the other key it does not matter who has it: that may be the very one that is updated.
        external_id = command.changes[name] if name == "external_id" else ""
        natural = "" if external_id else command.changes[name]
        student = isinstance(command, UpdateStudent)
        read = students.owners_of if student else courses.owners_of
        owners = (await held.read(lambda connection: read(connection, {0: (natural, external_id)})))[0]
        if external_id:
            return Refusal([external_id_taken("student" if student else "course", owners.external_id)])
        return student_taken(owners) if student else course_taken(owners)


def _may_wait(command: Command[Any], first: Row | None) -> bool:
    """Whether a command may wait for locks, where its transaction has begun with that row, or with none.

    Only who begins with the first of all the rows that it needs takes the others in the order of all.
    """
    if first is None:
        return command.waits
    return command.bulk or (command.waits and Footprint.of([command]).rows[0] == first)
