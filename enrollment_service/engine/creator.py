"""Creates students and courses, many at a time: one set-based insert serves everybody who asks at that moment."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from enrollment_service.domain.errors import code_taken, email_taken
from enrollment_service.domain.records import Course, NewCourse, NewStudent, Student
from enrollment_service.engine.batcher import Batcher
from enrollment_service.settings import Settings
from enrollment_service.store.courses import create_courses
from enrollment_service.store.database import Database
from enrollment_service.store.faults import Fault, fault_of
from enrollment_service.store.locks import MAX_WAIT_HOLDING_MS
from enrollment_service.store.students import create_students
from enrollment_service.store.transactions import DriverConnection, told
from enrollment_service.telemetry import metrics, tracing

New = TypeVar("New")
Created = TypeVar("Created")
Insert = Callable[[DriverConnection, Sequence[New]], Awaitable[Sequence[Created | Exception]]]


class Creator(Generic[New, Created]):
    """Creates one kind of thing; one transaction is under way at a time."""

    def __init__(
        self, database: Database, settings: Settings, insert: Insert[New, Created], lane: metrics.Lane
    ) -> None:
        self._held = database.hold(MAX_WAIT_HOLDING_MS)
        self._insert = insert
        self._batcher: Batcher[New, Created] = Batcher(
            self._serve,
            max_weight=settings.max_batch,
            max_waiting=settings.max_waiting,
            served=metrics.batches(lane),
        )
        self._lane = lane

    async def submit(self, new: New, deadline: float | None = None) -> Created:
        """What was created, wanted until then by the event loop's clock; it is durable when this returns.

        Raises:
            ServiceError: its unique key is taken, or it could not be created.
        """
        with tracing.waiting(new):
            return await self._batcher.submit(new, deadline)

    def samples(self) -> list[metrics.Sample]:
        """What can be seen from outside."""
        return [(metrics.queue_depth(self._lane), lambda: self._batcher.waiting)]

    async def close(self) -> None:
        """Answers everybody who waits, then gives the connection back."""
        await self._batcher.close()
        await self._held.close()

    async def _serve(self, batch: Sequence[New]) -> Sequence[Created | Exception]:
        with tracing.batch(self._lane) as serves:
            serves(batch)
            return await self._run(batch)

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
    return Creator(database, settings, _insert_students, "students")


def course_creator(database: Database, settings: Settings) -> Creator[NewCourse, Course]:
    """Creates courses; refuses with CODE_TAKEN."""
    return Creator(database, settings, _insert_courses, "courses")


async def _insert_students(connection: DriverConnection, batch: Sequence[NewStudent]) -> Sequence[Student | Exception]:
    created, owners = await create_students(connection, batch)
    return [created.get(index) or email_taken(owners.get(index)) for index in range(len(batch))]


async def _insert_courses(connection: DriverConnection, batch: Sequence[NewCourse]) -> Sequence[Course | Exception]:
    created, owners = await create_courses(connection, batch)
    return [created.get(index) or code_taken(owners.get(new.code)) for index, new in enumerate(batch)]
