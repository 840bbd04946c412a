"""Lists as of a time: the fold of the events up to then, once nothing can happen any more that would belong to it.

A change knows its time before others can see it. So a time is settled only when everybody has ended who might have
taken an earlier one. Who that is, all who wait find out together; nobody holds a connection meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, TypeAlias, TypeVar

from enrollment_service.domain.errors import (
    BeforeTheLog,
    NotSettled,
    Refusal,
    course_not_found,
    invalid_field,
    student_not_found,
)
from enrollment_service.domain.history import Queue, Roster, Standing, Stood, moved, stood
from enrollment_service.domain.queries import (
    PastCourseStudents,
    PastCourseStudentsQuery,
    PastStudentCourses,
    PastStudentCoursesQuery,
)
from enrollment_service.domain.records import WAITLISTED
from enrollment_service.engine.turns import Turns
from enrollment_service.store import courses, history, locks, students
from enrollment_service.store.database import Database
from enrollment_service.store.history import Horizon
from enrollment_service.store.transactions import DriverConnection, snapshot

Result = TypeVar("Result")
# Who may still write, and for how long they have been under way, where that is known.
Writers: TypeAlias = dict[str, timedelta | None]

# How long a list waits for changes that are under way, in seconds: longer than most take, imports too.
MAX_WAIT = 5.0
# How long to rest between two looks at who is under way, in seconds.
LOOK_SECONDS = 0.01


class Settled(NamedTuple):
    """Before this time nothing can happen any more, in this history of the database."""

    history: tuple[str, int]
    upto: datetime


class _Waiting(NamedTuple):
    """Somebody who waits until a moment is settled."""

    moment: datetime
    settled: asyncio.Future[Settled]


class Settling:
    """Finds out up to which time nothing can happen any more, once for all who ask at the same time."""

    def __init__(self, database: Database, lists: Turns) -> None:
        self._database = database
        self._lists = lists
        self._settled: Settled | None = None
        self._waiting: list[_Waiting] = []
        self._looking: asyncio.Task[None] | None = None
        # What time it was at each look, and who of those that were under way then still is.
        self._under_way: list[tuple[Settled, set[str]]] = []

    async def until(self, moment: datetime) -> Settled:
        """Returns once nothing can happen any more at a moment or before it.

        Raises:
            Refusal: INVALID_FIELD; the moment is still to come.
            NotSettled: it takes too long, or the clock was set back and the moment may come again.
            DatabaseUnavailable: the database does not answer, or is a standby.
        """
        if self._settled is not None and moment < self._settled.upto:
            return self._settled
        waiting = _Waiting(moment, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._looking is None:
            self._looking = asyncio.create_task(self._look_on())
        try:
            async with asyncio.timeout(MAX_WAIT):
                return await waiting.settled
        except TimeoutError:
            raise NotSettled from None
        finally:
            if waiting in self._waiting:
                self._waiting.remove(waiting)

    def forget(self) -> None:
        """Nothing is known any more: this is another database, or its clock was set back."""
        self._settled = None

    async def close(self) -> None:
        """Returns when nobody looks any more; those who wait go on until they give up."""
        if self._looking is not None:
            await asyncio.wait({self._looking})

    async def _look_on(self) -> None:
        try:
            while self._waiting:
                try:
                    # Who comes while this is read is answered by the next look.
                    waiting = list(self._waiting)
                    async with self._lists.take():
                        horizon, writers = await self._database.look(self._look)
                    self._answer(waiting, horizon, self._upto(horizon, writers))
                except Exception as error:  # noqa: BLE001 - who waits is told
                    for one in waiting:
                        _tell(one, error)
                await asyncio.sleep(LOOK_SECONDS if self._waiting else 0)
        finally:
            self._looking = None
            self._under_way.clear()

    async def _look(self, connection: DriverConnection) -> tuple[Horizon, Writers]:
        """The time first: who is not among the writers then takes a later one, or is over."""
        horizon = await history.read_horizon(connection, self._database.clock)
        return horizon, await locks.writers(connection)

    def _upto(self, horizon: Horizon, writers: Writers) -> datetime | None:
        """Before which time nothing can happen any more; None if that is not known yet."""
        here = Settled(horizon.history, horizon.now)
        looks = [(seen, names & writers.keys()) for seen, names in self._under_way if seen.history == here.history]
        looks.append((here, set(writers)))
        times = [seen.upto for seen, names in looks if not names]
        ages = [age for age in writers.values() if age is not None]
        if ages and len(ages) == len(writers):
            # Nobody takes a time before they have begun.
            times.append(horizon.now - max(ages))
        upto = max(times, default=None)
        self._under_way = [(seen, names) for seen, names in looks if names and (upto is None or seen.upto > upto)]
        return upto

    def _answer(self, waiting: list[_Waiting], horizon: Horizon, upto: datetime | None) -> None:
        if horizon.stepped is not None:
            self.forget()
        elif upto is not None:
            self._settled = Settled(horizon.history, upto)
        for one in waiting:
            if refusal := _refusal(one.moment, horizon):
                _tell(one, refusal)
            elif upto is not None and one.moment < upto and not one.settled.done():
                one.settled.set_result(Settled(horizon.history, upto))
        self._waiting = [one for one in self._waiting if not one.settled.done()]


def _tell(waiting: _Waiting, error: Exception) -> None:
    if not waiting.settled.done():
        waiting.settled.set_exception(error)
        # Its caller may have gone.
        waiting.settled.exception()


def _refusal(moment: datetime, horizon: Horizon) -> Exception | None:
    """Why a list of a moment cannot be had, however long one waits."""
    if moment < horizon.since:
        return BeforeTheLog(f"{horizon.since.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}")
    if horizon.stepped is not None and horizon.stepped[0] <= moment <= horizon.stepped[1]:
        return NotSettled()
    if moment > horizon.now:
        return Refusal([invalid_field("as_of", "must not be in the future")])
    return None


class Past:
    """Answers queries about the past."""

    def __init__(self, database: Database, lists: Turns) -> None:
        self._database = database
        self._lists = lists
        self._settling = Settling(database, lists)

    async def student_courses(self, query: PastStudentCoursesQuery) -> PastStudentCourses:
        """A page of the courses that a student had at a moment.

        Raises:
            Refusal: STUDENT_NOT_FOUND, of whom nothing is known; what `Settling.until` refuses; before the log.
            NotSettled: see `Settling.until`.
        """

        async def read(connection: DriverConnection) -> PastStudentCourses:
            held = await _held(connection, query)
            ids = {one.enrollment.course_id for one in held}
            today = await courses.read_courses(connection, ids) if ids else {}
            student = (await students.read_students(connection, [query.student_id])).get(query.student_id)
            if student is None and not await history.student_known(connection, query.student_id, query.moment):
                raise Refusal([student_not_found(query.student_id)])
            return PastStudentCourses(query.student_id, student, held, today)

        return await self._read(query.moment, read)

    async def course_students(self, query: PastCourseStudentsQuery) -> PastCourseStudents:
        """A page of the students that a course had at a moment.

        Raises:
            Refusal: COURSE_NOT_FOUND, which did not exist then; what `Settling.until` refuses; before the log.
            NotSettled: see `Settling.until`.
        """

        async def read(connection: DriverConnection) -> PastCourseStudents:
            roster = Roster()
            async for step in history.steps_of_course(connection, query.course_id, query.moment):
                roster.add(step)
            if not roster.exists:
                raise Refusal([course_not_found(query.course_id)])
            page = roster.page(query.course_id, query.after, query.limit, query.states)
            ids = {one.enrollment.student_id for one in page}
            today = await students.read_students(connection, ids) if ids else {}
            course = (await courses.read_courses(connection, [query.course_id])).get(query.course_id)
            return PastCourseStudents(query.course_id, course, page, today)

        return await self._read(query.moment, read)

    async def close(self) -> None:
        """Returns when no look is under way."""
        await self._settling.close()

    async def _read(self, moment: datetime, read: Callable[[DriverConnection], Awaitable[Result]]) -> Result:
        """What is read in one snapshot, in which the moment is settled."""
        for _ in range(2):
            settled = await self._settling.until(moment)

            async def work(connection: DriverConnection, settled: Settled = settled) -> tuple[Result] | None:
                async with snapshot(connection):
                    horizon = await history.read_horizon(connection, self._database.clock)
                    if horizon.history != settled.history or horizon.now < settled.upto:
                        return None
                    if refusal := _refusal(moment, horizon):
                        raise refusal
                    return (await read(connection),)

            async with self._lists.take():
                found = await self._database.look(work)
            if found is not None:
                return found[0]
            self._settling.forget()
        raise NotSettled


async def _held(connection: DriverConnection, query: PastStudentCoursesQuery) -> list[Stood]:
    """The courses that a student had, as many as are wanted, with the places in line."""
    found: list[tuple[int, Standing]] = []
    async with aclosing(_standings(connection, query)) as standings:
        async for course_id, standing in standings:
            if standing.state & query.states:
                found.append((course_id, standing))
            if len(found) == query.limit:
                break
    return [
        stood(query.student_id, course_id, standing, await _position(connection, course_id, standing, query.moment))
        for course_id, standing in found
    ]


async def _standings(
    connection: DriverConnection, query: PastStudentCoursesQuery
) -> AsyncGenerator[tuple[int, Standing], None]:
    """The courses of a student, one after the other, and how they stood there."""
    course_id, standing = 0, None
    steps = history.steps_of_student(connection, query.student_id, query.after, query.moment)
    async with aclosing(steps):
        async for step in steps:
            if step.course_id != course_id:
                if standing is not None:
                    yield course_id, standing
                course_id, standing = step.course_id, None
            standing = moved(standing, step)
    if standing is not None:
        yield course_id, standing


async def _position(connection: DriverConnection, course_id: int, standing: Standing, moment: datetime) -> int:
    if standing.state != WAITLISTED:
        return 0
    queue = Queue()
    async for step in history.steps_of_queue(connection, course_id, moment):
        queue.add(step)
    return queue.position(standing.ticket)
