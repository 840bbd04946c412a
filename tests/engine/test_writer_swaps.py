"""Swaps from the waitlist, raced over two server processes: chains that move, circles that close, links that go.

As in `test_writer_races.py`, each race runs on real servers, which must pass, and on broken ones, which must not.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest

from enrollment_service.v1 import enrollment_pb2 as pb
from tests.engine.test_writer_races import OK, Arena, outcome, run, tally
from tests.support.client import Client
from tests.support.databases import Connection
from tests.support.processes import SERVE, Processes
from tests.support.thoroughness import mostly_long

pytestmark = pytest.mark.timeout(240)

WAIT = pb.ON_FULL_WAITLIST
ENROLLED, WAITLISTED = pb.ENROLLMENT_STATE_ENROLLED, pb.ENROLLMENT_STATE_WAITLISTED


async def seated(client: Client, count: int) -> tuple[list[int], list[int]]:
    """Full courses with one seat each, and who sits in which."""
    students = await client.students(count)
    courses = await client.courses(count, capacity=1, waitlist_capacity=5)
    for student_id, course_id in zip(students, courses, strict=True):
        await client.enroll(student_id, course_id)
    return students, courses


def swap(client: Client, student_id: int, leave: int, enter: int) -> Awaitable[Any]:
    return client.call("SwapEnrollment", student_id=student_id, from_course_id=leave, to_course_id=enter, on_full=WAIT)


async def places(arena: Arena) -> dict[int, list[tuple[int, int]]]:
    """The courses of every student, with the states."""
    found: dict[int, list[tuple[int, int]]] = {}
    for student_id, course_id, state in await arena.fetch(
        "SELECT student_id, course_id, state FROM student_courses ORDER BY 1, 2"
    ):
        found.setdefault(student_id, []).append((course_id, state))
    return found


async def circle(arena: Arena, size: int) -> None:
    """Each wants the seat of the next one: all of them move in one transaction, whoever closes the circle."""
    students, courses = await seated(arena.client(0), size)
    wanted = [*courses[1:], courses[0]]
    calls = [
        swap(arena.client(number), *wish) for number, wish in enumerate(zip(students, courses, wanted, strict=True))
    ]
    found = await arena.at_once(calls)
    assert tally(found) == {OK: size}
    states = Counter(answer.enrolled.state for _, answer in found)
    assert states[ENROLLED] >= 1
    assert await places(arena) == {one: [(course, ENROLLED)] for one, course in zip(students, wanted, strict=True)}
    traded = await arena.fetch("SELECT state, xid::text FROM enrollment_events WHERE reason = 'trade'")
    assert Counter(state for state, _ in traded) == {1: size, 3: size}
    assert len({xid for _, xid in traded}) == 1


async def two_circles(arena: Arena) -> None:
    """Two that share nothing, closed at once by the two servers."""
    students, courses = await seated(arena.client(0), 6)
    wanted = [courses[1], courses[2], courses[0], courses[4], courses[5], courses[3]]
    wishes = list(zip(students, courses, wanted, strict=True))
    for wish in (*wishes[:2], *wishes[3:5]):
        await swap(arena.client(0), *wish)
    found = await arena.at_once([swap(arena.client(0), *wishes[2]), swap(arena.client(1), *wishes[5])])
    assert [answer.enrolled.state for _, answer in found] == [ENROLLED, ENROLLED]
    assert await places(arena) == {one: [(course, ENROLLED)] for one, course in zip(students, wanted, strict=True)}


async def not_first_in_line(arena: Arena) -> None:
    """Somebody stands before a member of the circle, and nobody is passed; once they leave it closes."""
    (ann, bo), (one, other) = await seated(arena.client(0), 2)
    (cy,) = await arena.client(0).students(1)
    await arena.client(0).enroll(cy, other, on_full=WAIT)
    found = await arena.at_once([swap(arena.client(0), ann, one, other), swap(arena.client(1), bo, other, one)])
    assert tally(found) == {OK: 2}
    waiting = {
        ann: [(one, ENROLLED), (other, WAITLISTED)], bo: [(one, WAITLISTED), (other, ENROLLED)],
        cy: [(other, WAITLISTED)],
    }  # fmt: skip
    assert await places(arena) == waiting
    await arena.client(1).unenroll(cy, other)
    assert await places(arena) == {ann: [(other, ENROLLED)], bo: [(one, ENROLLED)]}


async def chained(arena: Arena, links: int) -> tuple[list[int], list[int]]:
    """Everybody but the first waits for the seat of the one before, and keeps their own."""
    students, courses = await seated(arena.client(0), links + 1)
    for number in range(1, links + 1):
        await swap(arena.client(number), students[number], courses[number], courses[number - 1])
    return students, courses


async def chain(arena: Arena, links: int) -> None:
    """The first leaves and all others move up by one, while newcomers ask for the seats at both ends."""
    students, courses = await chained(arena, links)
    *newcomers, busy = await arena.client(0).students(21)
    (elsewhere,) = await arena.client(0).courses(1)
    # Something that the other server writes meanwhile, whatever comes first here.
    calls: list[Awaitable[Any]] = [arena.client(0).unenroll(students[0], courses[0])]
    calls += [
        arena.client(number).enroll(one, courses[-1 if number % 2 else 0]) for number, one in enumerate(newcomers)
    ]
    calls += [arena.client(1).enroll(busy, elsewhere)]
    found = await arena.at_once(calls)
    assert (found[0][0], found[-1][0]) == (OK, OK)
    held = await places(arena)
    assert students[0] not in held
    assert [held[one] for one in students[1:]] == [[(course, ENROLLED)] for course in courses[:-1]]
    # The seat at the end was free once everybody had moved, and at the most one newcomer has it.
    late = [one for one in newcomers if one in held]
    assert len(late) <= 1
    assert all(held[one] == [(courses[-1], ENROLLED)] for one in late)


async def lost_link(arena: Arena) -> None:
    """The one in the middle gives up waiting at the moment at which the first leaves: one or the other comes first."""
    students, courses = await chained(arena, 10)
    found = await arena.at_once(
        [arena.client(0).unenroll(students[0], courses[0]), arena.client(1).unenroll(students[5], courses[4])]
    )
    assert tally(found) == {OK: 2}
    held = await places(arena)
    moved = [[(courses[number - 1], ENROLLED)] for number in range(1, 5)]
    assert [held[one] for one in students[1:5]] == moved
    gave_up_first = [[(courses[number], ENROLLED)] for number in range(5, 6)]
    if students[5] in held:
        assert held[students[5]] == gave_up_first[0]
        assert held[students[6]] == [(courses[5], WAITLISTED), (courses[6], ENROLLED)]
    else:
        assert [held[one] for one in students[6:]] == [[(course, ENROLLED)] for course in courses[5:-1]]
    assert not await arena.fetch("SELECT FROM student_courses WHERE course_id = $1", courses[4])


# Each race with a safeguard that it is about.
RACES: dict[str, tuple[Callable[[Arena], Awaitable[None]], str]] = {
    "circle of 2": (partial(circle, size=2), "untraded"),
    "circle of 3": (partial(circle, size=3), "untied"),
    "circle of 50": (partial(circle, size=50), "untraded"),
    "two circles": (two_circles, "untied"),
    "not first in line": (not_first_in_line, "passing"),
    "chain of 16": (partial(chain, links=16), "untied"),
    "chain of 200": (partial(chain, links=200), "untied"),
    "lost link": (lost_link, "untied"),
}
CASES = mostly_long(RACES, ["circle of 3", "not first in line", "chain of 16"])


@pytest.mark.parametrize("race", CASES)
async def test_race(race: str, processes: Processes, connection: Connection, database_url: str) -> None:
    await run(RACES[race][0], processes, connection, database_url)


@pytest.mark.parametrize("race", CASES)
async def test_a_race_is_lost_without_its_safeguard(
    race: str, processes: Processes, connection: Connection, database_url: str
) -> None:
    played, fault = RACES[race]
    with pytest.raises(AssertionError):
        await run(played, processes, connection, database_url, "-m", "tests.support.broken", fault)


async def entangled(processes: Processes, *python: str) -> dict[str, int]:
    """How swaps among eight full courses end that callers of two servers make; soon nearly all hang together."""
    clients = [client for _, client in await processes.start_several(2, python or SERVE)]
    students = await clients[0].students(24)
    courses = await clients[0].courses(8, capacity=3, waitlist_capacity=50)
    for number, student_id in enumerate(students):
        await clients[0].enroll(student_id, courses[number % 8])

    async def caller(number: int) -> list[tuple[str, Any]]:
        client, chance, ends = clients[number % 2], random.Random(number), []
        for _ in range(20):
            student_id = chance.choice(students)
            seats = {"student_id": student_id, "states": [ENROLLED]}
            leave = (await client.call("ListStudentCourses", **seats)).enrollments[0].course_id
            enter = chance.choice([one for one in courses if one != leave])
            ends.append(await outcome(swap(client, student_id, leave, enter)))
        return ends

    found = await asyncio.gather(*map(caller, range(16)))
    return tally(end for ends in found for end in ends)


async def test_swaps_of_two_servers_do_not_keep_each_other_from_what_they_need(processes: Processes) -> None:
    ends = await entangled(processes)
    assert sum(ends.values()) == 16 * 20
    # Whoever is let in between the list and the swap has left what the swap names, and may be where it leads to.
    assert ends.keys() <= {OK, "NOT_ENROLLED", "ALREADY_ENROLLED"}


@pytest.mark.long
async def test_who_takes_what_is_free_just_now_never_has_all_of_it(processes: Processes) -> None:
    assert (await entangled(processes, "-m", "tests.support.broken", "grabbing"))["DATABASE_UNAVAILABLE"]
