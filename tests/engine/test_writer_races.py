"""Races over two server processes on one database.

Each race checks itself, ending with `verify`. It runs once on real servers, which must pass, and once on servers with
a safeguard taken out, which must not: otherwise the race would not tell anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

import asyncpg
import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from enrollment_service.v1 import enrollment_pb2 as pb
from tests.support.broken import DROP_CONSTRAINTS
from tests.support.client import Client
from tests.support.databases import Connection, connected
from tests.support.locks import until_waiting
from tests.support.processes import SERVE, Processes, ServerProcess
from tests.support.refusals import refusal_of
from tests.support.verification import wrong_in
from tests.support.wire import row_of

pytestmark = pytest.mark.timeout(120)

WAIT = {"on_full": pb.ON_FULL_WAITLIST}
OK = "OK"


async def outcome(call: Awaitable[Any]) -> tuple[str, Any]:
    """OK and the answer, or the reason of a refusal and all about it; the code where there is no reason."""
    try:
        return OK, await call
    except grpc.aio.AioRpcError as error:
        refusal = refusal_of(error)
        return refusal.reason or refusal.code, refusal


@dataclass
class Arena:
    """Two servers, a client of each, and their database."""

    processes: list[ServerProcess]
    clients: list[Client]
    connection: Connection
    url: str

    def client(self, number: int) -> Client:
        """Turn and turn about."""
        return self.clients[number % len(self.clients)]

    async def fetch(self, statement: str, *arguments: Any) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in await self.connection.fetch(statement, *arguments)]

    async def at_once(self, calls: Iterable[Awaitable[Any]]) -> list[tuple[str, Any]]:
        """What becomes of calls that are all made at once.

        Nobody can write before a batch of each server wants to, so the servers surely meet.
        """
        async with connected(self.url) as holder, holder.transaction():
            await holder.execute("LOCK TABLE student_courses IN SHARE MODE")
            tasks = [asyncio.ensure_future(outcome(call)) for call in calls]
            # One waits for the table, the other for the table or for what the first has locked.
            await until_waiting(self.connection, 2)
        return await asyncio.gather(*tasks)

    async def deadlocks(self) -> int:
        """How many there have been; servers are stopped for it, because a connection reports its own when it ends."""
        await asyncio.gather(*(process.stop() for process in self.processes))
        counted = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        return int(await self.connection.fetchval(counted))

    async def events(self, course_id: int) -> int:
        return int(
            await self.connection.fetchval(
                "SELECT count(*) FROM enrollment_events WHERE course_id = $1 AND kind = 1", course_id
            )
        )


def tally(found: Iterable[tuple[str, Any]]) -> dict[str, int]:
    return dict(Counter(reason for reason, _ in found))


def edit(course_id: int, **fields: Any) -> dict[str, Any]:
    """The fields of an UpdateCourse request."""
    return {"course": pb.Course(course_id=course_id, **fields), "update_mask": FieldMask(paths=list(fields))}


class Sampler:
    """Lists the students of a course again and again while a block runs; no list may show a free seat and a waiter."""

    def __init__(self, arena: Arena, course_id: int) -> None:
        self._arena = arena
        self._course_id = course_id
        self._over = asyncio.Event()
        self.samples = 0

    async def __aenter__(self) -> Sampler:
        self._tasks = [asyncio.create_task(self._sample(client)) for client in self._arena.clients]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._over.set()
        await asyncio.gather(*self._tasks)
        assert self.samples >= 4

    async def _sample(self, client: Client) -> None:
        while not self._over.is_set():
            answer = await client.call("ListCourseStudents", course_id=self._course_id, page_size=1000)
            states = Counter(one.state for one in answer.enrollments)
            seated, waiting = states[pb.ENROLLMENT_STATE_ENROLLED], states[pb.ENROLLMENT_STATE_WAITLISTED]
            assert seated <= answer.course.capacity
            assert not waiting or seated == answer.course.capacity
            assert (answer.course.enrolled_count, answer.course.waitlisted_count) == (seated, waiting)
            positions = [one.waitlist_position for one in answer.enrollments if one.waitlist_position]
            assert positions == list(range(1, waiting + 1))
            self.samples += 1


# --- the races ----------------------------------------------------------------------------------------------------


async def stampede(arena: Arena) -> None:
    """500 callers want 30 seats."""
    (course_id,) = await arena.client(0).courses(1, capacity=30)
    students = await arena.client(0).students(500)
    found = await arena.at_once(arena.client(one).enroll(one, course_id) for one in students)
    assert tally(found) == {OK: 30, "COURSE_FULL": 470}
    assert await arena.events(course_id) == 30
    assert len(await arena.client(1).roster(course_id)) == 30


async def stampede_with_a_waitlist(arena: Arena) -> None:
    """200 callers want 30 seats, and 50 may wait: positions 1 to 50, each once."""
    (course_id,) = await arena.client(0).courses(1, capacity=30, waitlist_capacity=50)
    students = await arena.client(0).students(200)
    found = await arena.at_once(arena.client(one).enroll(one, course_id, **WAIT) for one in students)
    assert tally(found) == {OK: 80, "WAITLIST_FULL": 120}
    positions = sorted(answer[0].waitlist_position for reason, answer in found if reason == OK)
    assert positions == [0] * 30 + list(range(1, 51))


async def one_pair_under_many_request_ids(arena: Arena) -> None:
    (student_id,), (course_id,) = await arena.client(0).students(1), await arena.client(0).courses(1)
    found = await arena.at_once(
        arena.client(number).enroll(student_id, course_id, request_id=str(uuid.uuid4())) for number in range(100)
    )
    assert tally(found) == {OK: 1, "ALREADY_ENROLLED": 99}
    assert await arena.events(course_id) == 1


async def one_pair_under_one_request_id(arena: Arena) -> None:
    (student_id,), (course_id,) = await arena.client(0).students(1), await arena.client(0).courses(1)
    request_id = str(uuid.uuid4())
    found = await arena.at_once(
        arena.client(number).enroll(student_id, course_id, request_id=request_id) for number in range(100)
    )
    assert tally(found) == {OK: 100}
    assert len({row_of(answer[0]) for _, answer in found}) == 1
    assert await arena.events(course_id) == 1


WEAVE_REFUSALS = {
    "ALREADY_ENROLLED", "ALREADY_WAITLISTED", "COURSE_FULL", "WAITLIST_FULL", "NOT_ENROLLED", "STUDENT_NOT_FOUND",
    "COURSE_NOT_FOUND", "CAPACITY_BELOW_ENROLLED",
}  # fmt: skip


async def deadlock_weave(arena: Arena) -> None:
    """2,000 calls that lock the same courses in every order; each does all of what it is to do or nothing."""
    rng = random.Random(7)
    students = await arena.client(0).students(80)
    a, b, c = await arena.client(0).courses(3, capacity=20, waitlist_capacity=5)
    expected: dict[str, int] = {}

    def call(number: int) -> Awaitable[Any]:
        client, student_id, request_id = arena.client(number), rng.choice(students), str(uuid.uuid4())
        known = {"student_id": student_id, "request_id": request_id}
        kind = rng.choices(["enroll", "swap", "leave", "capacity", "student", "course"], [40, 25, 25, 9, 1, 0.1])[0]
        if kind == "enroll":
            courses = rng.choice([[a, b], [b, a, c], [c, a], [b]])
            expected[request_id] = len(courses)
            return client.call("EnrollStudent", course_ids=courses, on_full=rng.choice([1, 2]), **known)
        if kind == "swap":
            leave, enter = rng.choice([(a, b), (b, a), (c, a), (b, c)])
            expected[request_id] = 2
            return client.call("SwapEnrollment", from_course_id=leave, to_course_id=enter, **known)
        if kind == "leave":
            expected[request_id] = 1
            return client.call("UnenrollStudent", course_id=rng.choice([a, b, c]), **known)
        if kind == "capacity":
            return client.call("UpdateCourse", **edit(rng.choice([a, b, c]), capacity=rng.randint(15, 25)))
        if kind == "student":
            return client.call("DeleteStudent", student_id=student_id, force=True)
        return client.call("DeleteCourse", course_id=c, force=True)

    calls = [call(number) for number in range(2_000)]
    sent = list(expected.items())
    found = await arena.at_once(calls)
    assert tally(found).keys() <= WEAVE_REFUSALS | {OK}
    assert tally(found)[OK] > 200
    logged = dict(
        await arena.fetch(
            "SELECT request_id::text, count(*) FROM enrollment_events"
            " WHERE request_id IS NOT NULL AND reason <> 'waitlist_promotion' GROUP BY 1"
        )
    )
    done = {request_id for request_id, _ in await arena.fetch("SELECT request_id::text, 1 FROM requests")}
    assert logged == {request_id: count for request_id, count in sent if request_id in done}
    # Nobody would see them: a batch that lost one is run again.
    assert await arena.deadlocks() == 0


async def fifo_under_churn(arena: Arena) -> None:
    """Ten leave while fifty newcomers press in: it is the ten who have waited longest who get the seats, in order."""
    (course_id,) = await arena.client(0).courses(1, capacity=10, waitlist_capacity=200)
    students = await arena.client(0).students(80)
    seated, waiters, newcomers = students[:10], students[10:30], students[30:]
    for student_id in seated + waiters:
        await arena.client(0).enroll(student_id, course_id, **WAIT)
    calls = [arena.client(one).unenroll(one, course_id) for one in seated]
    calls += [arena.client(one).enroll(one, course_id, **WAIT) for one in newcomers]  # type: ignore[misc]
    random.Random(7).shuffle(calls)
    async with Sampler(arena, course_id):
        found = await arena.at_once(calls)
    assert tally(found) == {OK: 60}
    promoted = await arena.fetch(
        "SELECT student_id FROM enrollment_events WHERE course_id = $1 AND (previous_state, state) = (2, 1)"
        " ORDER BY sequence",
        course_id,
    )
    assert [student_id for (student_id,) in promoted] == waiters[:10]
    assert sorted((await arena.client(1).roster(course_id))[:10]) == waiters[:10]


async def capacity_edits_under_drops(arena: Arena) -> None:
    """Seats are added and taken away while students leave; nobody waits beside a free one, ever."""
    (course_id,) = await arena.client(0).courses(1, capacity=20, waitlist_capacity=200)
    students = await arena.client(0).students(80)
    await asyncio.gather(*(arena.client(one).enroll(one, course_id, **WAIT) for one in students))
    rng = random.Random(7)
    calls: list[Awaitable[Any]] = [arena.client(one).unenroll(one, course_id) for one in students[:40]]
    for number in range(60):
        request = edit(course_id, capacity=rng.randint(5, 40))
        calls.append(arena.client(number).call("UpdateCourse", **request))
    rng.shuffle(calls)
    async with Sampler(arena, course_id):
        found = await arena.at_once(calls)
    assert tally(found).keys() <= {OK, "CAPACITY_BELOW_ENROLLED"}
    assert sum(count for reason, count in tally(found).items() if reason == OK) >= 40
    course = (await arena.client(0).call("GetCourse", course_id=course_id)).course
    assert course.enrolled_count + course.waitlisted_count == 40
    assert course.enrolled_count == min(course.capacity, 40)


async def kill_in_a_burst(arena: Arena) -> None:
    """A server dies in the middle of 200 calls; everybody asks the other one again."""
    (course_id,) = await arena.client(0).courses(1, capacity=120, waitlist_capacity=200)
    students = await arena.client(1).students(200)
    ids = {student_id: str(uuid.uuid4()) for student_id in students}

    async def enroll(client: Client, student_id: int) -> Any:
        return row_of((await client.enroll(student_id, course_id, **WAIT, request_id=ids[student_id]))[0])

    async with connected(arena.url) as holder, holder.transaction():
        # So it gets no further than to the batch that this student is in.
        await holder.execute("SELECT FROM students WHERE id = $1 FOR UPDATE", students[100])
        tasks = [asyncio.create_task(outcome(enroll(arena.clients[0], one))) for one in students]
        await until_waiting(arena.connection)
        arena.processes[0].signal(signal.SIGKILL)
    first = dict(zip(students, await asyncio.gather(*tasks), strict=True))
    assert tally(first.values()).keys() == {OK, "UNAVAILABLE"}
    retries = asyncio.gather(*(outcome(enroll(arena.clients[1], one)) for one in students))
    again = dict(zip(students, await retries, strict=True))
    assert tally(again.values()) == {OK: 200}
    assert all(again[one] == answer for one, answer in first.items() if answer[0] == OK)
    logged = await arena.fetch("SELECT request_id::text, count(*) FROM enrollment_events WHERE kind = 1 GROUP BY 1")
    assert dict(logged) == dict.fromkeys(ids.values(), 1)


async def unknown_ids(arena: Arena) -> None:
    """Every unknown id is named and nobody enrolled anywhere, even where a course is deleted under the callers."""
    first, *students = await arena.client(0).students(61)
    stays, goes = await arena.client(0).courses(2)
    await arena.client(0).enroll(first, goes)  # so the delete has something to write, and waits with the others
    unknown, nobody = [9_000_001, 9_000_002], 9_000_000
    named = [f"students/{nobody}", *(f"courses/{course_id}" for course_id in unknown)]
    calls: list[Awaitable[Any]] = [arena.client(one).enroll(one, stays, goes) for one in students]
    calls += [arena.client(number).enroll(nobody, stays, *unknown) for number in range(50)]
    calls += [arena.client(0).call("DeleteCourse", course_id=goes, force=True)]
    random.Random(7).shuffle(calls)
    found = await arena.at_once(calls)
    assert tally(found).keys() <= {OK, "STUDENT_NOT_FOUND", "COURSE_NOT_FOUND"}
    refused = [refusal.resources for reason, refusal in found if reason != OK]
    assert refused.count(named) == 50
    late = refused.count([f"courses/{goes}"])
    assert len(refused) == 50 + late
    assert len(await arena.client(1).roster(stays)) == 60 - late


# Each race with a safeguard that it is about.
RACES: list[tuple[Callable[[Arena], Awaitable[None]], str]] = [
    (stampede, "unlocked"),
    (stampede_with_a_waitlist, "unlocked"),
    (one_pair_under_many_request_ids, "unlocked"),
    (one_pair_under_one_request_id, "unclaimed"),
    (deadlock_weave, "unordered"),
    (fifo_under_churn, "unlocked"),
    (capacity_edits_under_drops, "unlocked"),
    (kill_in_a_burst, "unclaimed"),
    (unknown_ids, "forgetful"),
]

# Those of `make test`; the others are `long`.
QUICK = [RACES[0], RACES[3], RACES[5]]
CASES = [pytest.param(*case, marks=[] if case in QUICK else pytest.mark.long) for case in RACES]

# A server is to be killed between two batches, and batches are to cross each other often.
SMALL_BATCHES = {"MAX_BATCH": "8"}


async def run(
    race: Callable[[Arena], Awaitable[None]], processes: Processes, connection: Connection, url: str, *python: str
) -> None:
    variables = SMALL_BATCHES if race in (kill_in_a_burst, deadlock_weave) else {}
    started = await processes.start_several(2, python or SERVE, **variables)
    arena = Arena([process for process, _ in started], [client for _, client in started], connection, url)
    await asyncio.gather(*(client.warm_up() for client in arena.clients))
    await race(arena)
    assert await wrong_in(url) == []


@pytest.mark.parametrize(("race", "_"), CASES, ids=lambda part: getattr(part, "__name__", ""))
async def test_race(
    race: Callable[[Arena], Awaitable[None]], _: str, processes: Processes, connection: Connection, database_url: str
) -> None:
    await run(race, processes, connection, database_url)


@pytest.mark.parametrize(("race", "fault"), CASES, ids=lambda part: getattr(part, "__name__", part))
async def test_a_race_is_lost_without_its_safeguard(
    race: Callable[[Arena], Awaitable[None]],
    fault: str,
    processes: Processes,
    connection: Connection,
    database_url: str,
) -> None:
    if fault == "unlocked":
        await connection.execute(DROP_CONSTRAINTS)
    if fault == "unordered":
        await find_deadlocks_quickly(connection)
    with pytest.raises(AssertionError):
        await run(race, processes, connection, database_url, "-m", "tests.support.broken", fault)


async def find_deadlocks_quickly(connection: Connection) -> None:
    """Where the role may say so; otherwise each takes a second."""
    name = await connection.fetchval("SELECT current_database()")
    with contextlib.suppress(asyncpg.InsufficientPrivilegeError):
        await connection.execute(f"ALTER DATABASE {name} SET deadlock_timeout = '10ms'")
