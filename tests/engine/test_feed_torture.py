"""The feed under a storm: many writers on two servers, watchers that are killed and resumed, and nothing is missing."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from contextlib import suppress
from itertools import count
from typing import Any

import grpc
import pytest

from enrollment_service.v1 import enrollment_pb2 as pb
from tests.support.client import Client, client_of
from tests.support.databases import PostgresServer, connected
from tests.support.processes import Processes
from tests.support.watching import Key, Watcher, check_order, events_of, key_of

pytestmark = pytest.mark.usefixtures("verified")

WRITERS, RESUMES = 16, 50
Fields = dict[str, int]


class Storm:
    """Writers that go on until they are told to stop."""

    def __init__(self, clients: list[Client], students: list[int], courses: list[int]) -> None:
        self._clients = clients
        self._students = students
        self._courses = courses
        self._over = False

    async def write(self, number: int) -> None:
        """One writer, with students of its own: single changes, large ones, and imports."""
        client, mine = self._clients[number % 2], self._students[number::WRITERS]
        for turn in count():
            if self._over:
                return
            some = random.sample(self._courses, random.choice([1, 1, 1, 5, len(self._courses)]))
            with suppress(grpc.aio.AioRpcError):
                await self._change(client, random.choice(mine), mine, some, turn)

    async def _change(self, client: Client, student: int, mine: list[int], some: list[int], turn: int) -> None:
        if turn % 20 == 0:
            chunk = pb.ImportEnrollmentsRequest(
                student_ids=mine * len(some),
                course_ids=[course for course in some for _ in mine],
                on_full=pb.ON_FULL_WAITLIST,
            )
            _ = [answer async for answer in client.stub.ImportEnrollments(iter([chunk]))]
        elif turn % 30 == 7:
            larger = pb.Course(course_id=some[0], capacity=random.randint(60, 90))
            await client.call("UpdateCourse", course=larger, update_mask={"paths": ["capacity"]})
        elif turn % 2:
            await client.enroll(student, *some, on_full=pb.ON_FULL_WAITLIST)
        else:
            for course in some:
                with suppress(grpc.aio.AioRpcError):
                    await client.unenroll(student, course)

    def stop(self) -> None:
        """Lets the writers end."""
        self._over = True


async def follow(addresses: list[str], fields: Fields) -> tuple[list[pb.EnrollmentEvent], str]:
    """What a watcher has got who was killed and resumed again and again, on either server, and its last token."""
    got: list[pb.EnrollmentEvent] = []
    token = ""
    for _ in range(RESUMES):
        async with client_of(random.choice(addresses)) as client:
            watcher = Watcher(client, resume_token=token, **fields)
            await watcher.caught_up()
            await asyncio.sleep(random.uniform(0, 0.3))
            await watcher.stop()
            # What was read since the last token that was stored comes again: at least once.
            stored = random.randrange(len(watcher.messages))
            got += [event for message in watcher.messages[: stored + 1] for event in message.events]
            token = watcher.messages[stored].resume_token
    return got, token


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_whoever_resumes_from_tokens_misses_nothing_in_a_storm(
    processes: Processes, postgres_server: PostgresServer, database_url: str
) -> None:
    (one, here), (other, there) = await processes.start_several(2)
    students = await here.students(4 * WRITERS)
    courses = await here.courses(12, capacity=50, waitlist_capacity=100)
    storm = Storm([here, there], students, courses)
    watched: list[Fields] = [{}, {"course_id": courses[0]}, {"student_id": students[0]}, {}]
    async with connected(postgres_server.url) as elsewhere, connected(database_url) as naive:
        await elsewhere.execute("BEGIN")
        await elsewhere.fetchval("SELECT pg_current_xact_id()::text")
        writers = [asyncio.create_task(storm.write(number)) for number in range(WRITERS)]
        control = asyncio.create_task(read_by_number(naive, writers))
        addresses = [one.address, other.address]
        followed = await asyncio.gather(*(follow(addresses, fields) for fields in watched))
        storm.stop()
        await asyncio.gather(*writers)
        by_number = await control
    everything = await events_of(here)
    check_order(everything)
    assert len(everything) > 1_000
    for fields, (got, token) in zip(watched, followed, strict=True):
        rest = await events_of(there, resume_token=token, **fields)
        wanted = [event for event in everything if all(getattr(event, name) == fields[name] for name in fields)]
        assert per_course([*got, *rest]) == per_course(wanted), fields
    # The control: whoever goes on behind the largest number misses some of it.
    assert by_number < {key_of(event) for event in everything}
    await check_replay(here, courses, everything)


def per_course(events: list[pb.EnrollmentEvent]) -> dict[int, list[int]]:
    """The sequences of each course in the order in which they came."""
    found: defaultdict[int, list[int]] = defaultdict(list)
    for event in events:
        found[event.course_id].append(event.sequence)
    return found


async def read_by_number(connection: Any, writers: list[asyncio.Task[None]]) -> set[Key]:
    """What a reader finds that takes the largest xid that it has seen for its place, until the writers are done."""
    found: set[Key] = set()
    largest = "0"
    while True:
        over = all(writer.done() for writer in writers)
        rows = await connection.fetch(
            "SELECT course_id, sequence, xid::text AS xid FROM enrollment_events WHERE xid > $1::text::xid8", largest
        )
        found |= {(row["course_id"], row["sequence"]) for row in rows}
        largest = str(max([int(largest), *(int(row["xid"]) for row in rows)]))
        if over:
            return found
        await asyncio.sleep(0.001)


async def check_replay(client: Client, courses: list[int], events: list[pb.EnrollmentEvent]) -> None:
    """Folding the events gives what the lists show."""
    rows: defaultdict[int, dict[int, int]] = defaultdict(dict)
    for event in events:
        if event.kind == pb.EVENT_KIND_ENROLLMENT:
            theirs = rows[event.course_id]
            if event.state == pb.ENROLLMENT_STATE_DROPPED:
                del theirs[event.student_id]
            else:
                theirs[event.student_id] = event.state
    for course in courses:
        listed = await client.call("ListCourseStudents", course_id=course, page_size=1000)
        assert {one.student_id: one.state for one in listed.enrollments} == rows[course]
        assert listed.sequence == max(event.sequence for event in events if event.course_id == course)
