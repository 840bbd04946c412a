"""Creates students and courses, many at a time: one set-based insert serves everybody who asks at that moment."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from enrollment_service.domain.errors import code_taken, email_taken
from enrollment_service.domain.records import Course, NewCourse, NewStudent, Student
from enrollment_service.engine.batcher import Batcher
from enrollment_service.settings import Settings
from enrollment_service.store import courses, students
from enrollment_service.store.database import Database
from enrollment_service.store.faults import Fault, fault_of
from enrollment_service.store.locks import MAX_WAIT_HOLDING_MS
from enrollment_service.store.statements import Prepared
from enrollment_service.store.transactions import DriverConnection, told

New = TypeVar("New")
Created = TypeVar("Created")
Insert = Callable[[DriverConnection, Sequence[New]], Awaitable[Sequence[Created | Exception]]]


class Creator(Generic[New, Created]):
    """Creates one kind of thing; one transaction is under way at a time."""

    def __init__(
        self, database: Database, settings: Settings, insert: Insert[New, Created], statements: Sequence[Prepared]
    ) -> None:
        """Nothing is opened before somebody creates something.

        Args:
            database: where to create.
            settings: the limits.
            insert: creates many at a time.
            statements: those that `insert` may send.
        """
        self._held = database.hold(MAX_WAIT_HOLDING_MS, statements)
        self._insert = insert
        self._batcher: Batcher[New, Created] = Batcher(
            self._run, max_weight=settings.max_batch, max_waiting=settings.max_waiting
        )

    async def submit(self, new: New, deadline: float | None = None) -> Created:
        """What was created, wanted until then by the event loop's clock; it is durable when this returns.

        Raises:
            ServiceError: its unique key is taken, or it could not be created.
        """
        return await self._batcher.submit(new, deadline)

    async def close(self) -> None:
        """Answers everybody who waits, then gives the connection back."""
        await self._batcher.close()
        await self._held.close()

    async def _run(self, batch: Sequence[New]) -> Sequence[Created | Exception]:
        try:
            return await self._held.transact(lambda connection: self._insert(connection, batch))
        except Exception as error:  # noqa: BLE001 - the callers are told
            if fault_of(error) is not Fault.LOCKED or len(batch) == 1:
                return [told(error)] * len(batch)
        # Somebody is about to take a key that one of them wants, and has not committed yet. The others need not wait.
        return [(await self._run([new]))[0] for new in batch]


def student_creator(database: Database, settings: Settings) -> Creator[NewStudent, Student]:
    """Creates students; refuses with EMAIL_TAKEN."""
    return Creator(database, settings, _insert_students, students.creation_statements())


def course_creator(database: Database, settings: Settings) -> Creator[NewCourse, Course]:
    """Creates courses; refuses with CODE_TAKEN."""
    return Creator(database, settings, _insert_courses, courses.creation_statements())


async def _insert_students(connection: DriverConnection, batch: Sequence[NewStudent]) -> Sequence[Student | Exception]:
    created, owners = await students.create_students(connection, batch)
    return [created.get(index) or email_taken(owners.get(index)) for index in range(len(batch))]


async def _insert_courses(connection: DriverConnection, batch: Sequence[NewCourse]) -> Sequence[Course | Exception]:
    created, owners = await courses.create_courses(connection, batch)
    return [created.get(index) or code_taken(owners.get(new.code)) for index, new in enumerate(batch)]
