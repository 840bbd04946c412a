"""Locks what a batch touches and loads it: from commands to a `State` that `decide` can work on.

What is to be created cannot be locked; here it is inserted, once the request ids are claimed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from enrollment_service.domain.commands import MAX_QUICK_TIES, Command, CreateCourse, CreateStudent, Upsert
from enrollment_service.domain.footprint import SEATS, STUDENTS, Footprint, Row
from enrollment_service.domain.records import WAITLISTED, Enrollment
from enrollment_service.domain.rules import MAX_TIES
from enrollment_service.domain.state import Pair, Seats, State
from enrollment_service.engine.upserting import check, insert_rows, look_up
from enrollment_service.store import courses, seats, students, waivers
from enrollment_service.store.database import Database
from enrollment_service.store.faults import StaleError
from enrollment_service.store.seats import LockedSeats
from enrollment_service.store.transactions import DriverConnection


class Locked(NamedTuple):
    """What commands can be decided on, and those that cannot be.

    Attributes:
        state: everything that the other commands may change is locked until the transaction ends.
        busy: commands that need a row which others have locked, with the row to wait for.
        tied: what such commands need beside their own courses, because it is tied to them.
        heavy: commands that need more courses than single calls may hold up, with these courses.
    """

    state: State
    busy: dict[Command[Any], Row]
    tied: dict[Command[Any], frozenset[int]]
    heavy: dict[Command[Any], frozenset[int]]


async def lock_and_load(
    connection: DriverConnection,
    commands: Sequence[Command[Any]],
    database: Database,
    *,
    skip_locked: bool = False,
    quick: bool = False,
) -> Locked:
    """The state that the commands are decided on.

    With `skip_locked` it waits for no seats: commands that need a row which others have locked cannot be decided.
    Otherwise locks are taken in the same order by everybody (seat rows, then students, each ascending). So nobody
    deadlocks. What is loaded is as it stands once the locks that it relies on are held.

    Raises:
        StaleError: a student who is to be deleted has entered another course between looking and locking, or an
            external id stands for somebody else.
    """
    await look_up(connection, commands)
    footprint = Footprint.of(commands)
    footprint.add_held(map(_pair, await seats.load_held(connection, footprint.deleted_students)))
    loaded = await seats.lock_and_load(
        connection, footprint.courses, footprint.pairs, database.clock, skip_locked=skip_locked
    )
    ties = Ties(footprint, loaded)
    if ties.may_bind:
        await ties.lock(connection, database)
    locked_students, busy_students = await students.lock_students(
        connection,
        footprint.updated_students | footprint.deleted_students,
        to_delete=bool(footprint.deleted_students),
        skip_locked=skip_locked,
    )
    await check(connection, commands)
    busy = {Row(SEATS, course_id) for course_id in ties.busy}
    busy.update(Row(STUDENTS, student_id) for student_id in busy_students)
    state = State(now=ties.now, missing_students=set(loaded.missing_students), students=locked_students)
    state.seats = await _with_details(connection, list(ties.locked.values()), database, footprint)
    _know(state, loaded.enrollments)
    state.waivers = await waivers.load_waivers(connection, footprint.waivers_needed(state.seats, state.now))
    await _load_held(connection, state, footprint)
    await _load_queues(connection, state, footprint, ties.tied)
    if ties.may_bind:
        await _load_kept(connection, state)
        for course_id in footprint.swapped_into:
            state.upstream[course_id] = await seats.load_upstream(connection, course_id, MAX_TIES)
    reached = {command: ties.reached_by(command, footprint.held) for command in commands} if ties.may_bind else {}
    heavy = {one: frozenset(ids) for one, ids in reached.items() if quick and len(ids) > MAX_QUICK_TIES}
    rows = {
        command: [*_rows_of(command, footprint.held), *(Row(SEATS, one) for one in reached.get(command, ()))]
        for command in commands
        if busy
    }
    waiting = first_busy(rows, busy)
    tied = {
        one: frozenset(reached[one])
        for one, row in waiting.items()
        if row.table == SEATS and reached.get(one, set()) - set(one.locks)
    }
    # So many are seldom free all at once: from now on they are taken in line, beginning with the first.
    waiting |= {one: Row(SEATS, min(ids.union(one.locks))) for one, ids in tied.items()}
    return Locked(state, waiting, tied, heavy)


class Ties:
    """The courses that promotions can reach from those that are locked, by waiters who leave another course for theirs.

    They are locked, too, and looked at again until no more are found. What is added is never waited for, so the order
    in which it is found does not matter: a row that is not free at once is busy.
    """

    def __init__(self, footprint: Footprint, loaded: seats.Loaded) -> None:
        self._asked = set(footprint.courses)
        self.locked = {row.course_id: row for row in loaded.seats}
        self.busy = set(loaded.busy)
        self.now = loaded.now
        self._swapped = footprint.swapped
        self._unsettled = {row.course_id for row in loaded.seats if _is_unsettled(row, loaded.now)}
        self._moving = footprint.moving | self._unsettled
        self._targets: dict[int, set[int]] = {}
        # Courses whose waiters must all be known.
        self.tied: set[int] = set()

    @property
    def may_bind(self) -> bool:
        """Whether anybody swaps into what is locked, or is about to."""
        return bool(self._swapped) or any(self.locked[one].swap_count for one in self._moving & self.locked.keys())

    async def lock(self, connection: DriverConnection, database: Database) -> None:
        """Locks what can be reached, too."""
        while True:
            unknown = [one for one, row in self.locked.items() if row.swap_count and one not in self._targets]
            self._targets |= await seats.load_targets(connection, unknown) if unknown else {}
            more = self._reached(self._moving) - self._asked
            if not more:
                break
            self._asked |= more
            loaded = await seats.lock_and_load(connection, more, (), database.clock, skip_locked=True)
            self.locked |= {row.course_id: row for row in loaded.seats}
            self.busy |= loaded.busy
            self.now = loaded.now
        await self._look_beyond(connection)
        swapped = {one for one in self._moving if self._targets.get(one)} | self._swapped
        self.tied = self._reached(swapped)

    async def _look_beyond(self, connection: DriverConnection) -> None:
        """Finds out what can be reached through busy rows, as it is now; by then it may be something else."""
        while unknown := self._reached(self._moving) & self.busy - self._targets.keys():
            self._targets |= await seats.load_targets(connection, unknown)
            self.busy |= self._reached(self._moving) - self._asked

    def reached_by(self, command: Command[Any], held: Iterable[Pair]) -> set[int]:
        """The courses that a command can make somebody move in, and that it must have locked for it."""
        footprint = Footprint.of([command])
        footprint.add_held(pair for pair in held if pair[0] in footprint.deleted_students)
        return self._reached(footprint.moving | (footprint.courses & self._unsettled))

    def _reached(self, course_ids: Iterable[int]) -> set[int]:
        reached = set(course_ids)
        pending = list(reached)
        while pending:
            new = self._targets.get(pending.pop(), set()) - reached
            reached |= new
            pending += new
        return reached


def _is_unsettled(row: seats.LockedSeats, now: datetime) -> bool:
    """As `Seats.is_unsettled`, before the details are known."""
    has_room = row.capacity is None or row.enrolled_count < row.capacity
    is_closed = row.enroll_close_time is not None and now >= row.enroll_close_time
    return row.waitlisted_count > 0 and has_room and not is_closed


async def look_up_rows(
    connection: DriverConnection, commands: Iterable[Command[Any]]
) -> dict[Command[Any], Sequence[Row]]:
    """The rows that each command needs, also those of courses that only the database knows of."""
    footprint = Footprint.of(commands)
    held = list(map(_pair, await seats.load_held(connection, footprint.deleted_students)))
    return {command: _rows_of(command, held) for command in commands}


def first_busy(rows: Mapping[Command[Any], Sequence[Row]], busy: Collection[Row]) -> dict[Command[Any], Row]:
    """For each command that needs a busy row, the first one of those that it needs."""
    first = ((command, next((row for row in needed if row in busy), None)) for command, needed in rows.items())
    return {command: row for command, row in first if row is not None}


def _rows_of(command: Command[Any], held: Iterable[Pair]) -> Sequence[Row]:
    footprint = Footprint.of([command])
    footprint.add_held(pair for pair in held if pair[0] in footprint.deleted_students)
    return footprint.rows


async def insert_new(connection: DriverConnection, state: State, commands: Sequence[Command[Any]]) -> None:
    """Inserts what the commands create, as far as its unique keys are free.

    What does not exist yet cannot be locked: to insert it is to lock its key. So a command learns only from this
    whether it may; the rules decide on what was found.
    """
    of_students = [command for command in commands if isinstance(command, CreateStudent)]
    if of_students:
        made, owners = await students.create_students(connection, [one.student for one in of_students], state.now)
        state.new_students = {of_students[index]: student for index, student in made.items()}
        state.owners |= {of_students[index]: owner for index, owner in owners.items()}
    of_courses = [command for command in commands if isinstance(command, CreateCourse)]
    if of_courses:
        opened, owners = await courses.create_courses(connection, [one.course for one in of_courses], state.now)
        state.new_courses = {of_courses[index]: course for index, course in opened.items()}
        state.owners |= {of_courses[index]: owner for index, owner in owners.items()}
    for command in commands:
        if isinstance(command, Upsert):
            await insert_rows(connection, state, command)


async def _with_details(
    connection: DriverConnection, locked: Sequence[LockedSeats], database: Database, footprint: Footprint
) -> dict[int, Seats]:
    """The locked rows with the details of their courses.

    What is about to be changed is read under its lock: a change never rests on what is only remembered.
    """
    versions = ((row.course_id, row.version) for row in locked)
    details = await courses.read_details(connection, versions, database.courses, afresh=footprint.capacities)
    return {
        row.course_id: Seats(
            row.course_id,
            details[row.course_id],
            # All fields between the id and the version are the same in both.
            *row[1:-1],
        )
        for row in locked
    }


async def _load_held(connection: DriverConnection, state: State, footprint: Footprint) -> None:
    """The enrollments of students to be deleted, read again now that nobody can add any."""
    held = await seats.load_held(connection, footprint.deleted_students)
    if not footprint.held.issuperset(map(_pair, held)):
        raise StaleError
    _know(state, held)


async def _load_kept(connection: DriverConnection, state: State) -> None:
    """The enrollments that those who wait would leave."""
    pairs = {(one.student_id, one.swap_from_course_id) for one in state.enrollments.values() if one.swap_from_course_id}
    _know(state, await seats.load_pairs(connection, sorted(pairs - state.enrollments.keys())))


async def _load_queues(connection: DriverConnection, state: State, footprint: Footprint, tied: Collection[int]) -> None:
    """As much of each waitlist as can matter."""
    async for place in seats.load_rosters(connection, footprint.rosters & state.seats.keys()):
        state.enrollments[_pair(place)] = place
        if place.state == WAITLISTED:
            state.seats[place.course_id].queue[place.student_id] = None
    for course_id, queue in (
        await seats.load_waiters(connection, footprint.waiters_needed(state.seats, state.now, tied))
    ).items():
        _know(state, queue)
        state.seats[course_id].queue = OrderedDict.fromkeys(waiter.student_id for waiter in queue)
    for row in state.seats.values():
        row.queue_whole = len(row.queue) == row.waitlisted_count


def _pair(enrollment: Enrollment) -> Pair:
    return enrollment.student_id, enrollment.course_id


def _know(state: State, enrollments: Iterable[Enrollment]) -> None:
    state.enrollments.update((_pair(enrollment), enrollment) for enrollment in enrollments)
