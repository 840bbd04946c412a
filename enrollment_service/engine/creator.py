"""Creates students and courses, many at a time: one set-based insert serves everybody who asks at that moment."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from sqlalchemy.ext.asyncio import AsyncEngine

from enrollment_service.domain.errors import DatabaseUnavailable, code_taken, email_taken
from enrollment_service.domain.records import Course, NewCourse, NewStudent, Student
from enrollment_service.engine.batcher import Batcher
from enrollment_service.settings import Settings
from enrollment_service.store.courses import create_courses
from enrollment_service.store.database import CommitUnknownError, DriverConnection, Fault, Lane, fault_of
from enrollment_service.store.students import create_students

New = TypeVar("New")
Created = TypeVar("Created")
Insert = Callable[[DriverConnection, Sequence[New]], Awaitable[Sequence[Created | Exception]]]

MOST_TRIES = 3


class Creator(Generic[New, Created]):
    """Creates one kind of thing; one transaction is under way at a time."""

    def __init__(self, engine: AsyncEngine, settings: Settings, insert: Insert[New, Created]) -> None:
        self._lane = Lane(engine)
        self._insert = insert
        self._batcher: Batcher[New, Created] = Batcher(
            self._run, most=settings.max_batch, max_waiting=settings.max_waiting
        )

    async def submit(self, new: New) -> Created:
        """What was created; it is durable when this returns.

        Raises:
            EnrollmentError: its unique key is taken.
        """
        return await self._batcher.submit(new)

    async def close(self) -> None:
        """Answers everybody who waits, then gives the connection back."""
        await self._batcher.close()
        await self._lane.close()

    async def _run(self, batch: Sequence[New]) -> Sequence[Created | Exception]:
        for tries_left in reversed(range(MOST_TRIES)):
            try:
                async with self._lane.transaction() as connection:
                    return await self._insert(connection, batch)
            except CommitUnknownError:
                break
            except Exception as error:
                fault = fault_of(error)
                if fault is Fault.OTHER:
                    raise
                if not tries_left or (fault is Fault.GONE and tries_left < MOST_TRIES - 1):
                    break
        return [DatabaseUnavailable()] * len(batch)


def student_creator(engine: AsyncEngine, settings: Settings) -> Creator[NewStudent, Student]:
    """Creates students; refuses with EMAIL_TAKEN."""
    return Creator(engine, settings, _insert_students)


def course_creator(engine: AsyncEngine, settings: Settings) -> Creator[NewCourse, Course]:
    """Creates courses; refuses with CODE_TAKEN."""
    return Creator(engine, settings, _insert_courses)


async def _insert_students(connection: DriverConnection, batch: Sequence[NewStudent]) -> Sequence[Student | Exception]:
    created, owners = await create_students(connection, batch)
    return [created.get(index) or email_taken(owners.get(index)) for index in range(len(batch))]


async def _insert_courses(connection: DriverConnection, batch: Sequence[NewCourse]) -> Sequence[Course | Exception]:
    created, owners = await create_courses(connection, batch)
    return [created.get(index) or code_taken(owners.get(new.code)) for index, new in enumerate(batch)]
