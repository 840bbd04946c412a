"""A server that stands still in the middle of a batch holds others up for two seconds at most, wherever it stands.

Its rows are locked. Between two statements PostgreSQL takes the session for idle, and ends it in time. Not so while the
driver prepares a statement, so that is not done in a transaction that locks rows; nor during the COPY of an import, so
there others end the session.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from itertools import count
from typing import Any

import pytest

from enrollment_service.store.database import MAX_IDLE_IN_TRANSACTION_MS
from enrollment_service.v1 import enrollment_pb2 as pb
from tests.support.client import PATIENCE, Client
from tests.support.databases import Connection
from tests.support.locks import until
from tests.support.messages import PARSE, QUERY, Messages
from tests.support.processes import Processes, ServerProcess
from tests.support.proxy import proxied
from tests.support.refusals import outcome_of, refused
from tests.support.services import service_on
from tests.support.traffic import traffic

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("verified")]

# Two seconds, and the call itself: on a busy machine its first one takes a while.
MAX_WAIT = MAX_IDLE_IN_TRANSACTION_MS / 1000 + 1.0
MANY = 30  # students, one for each moment
LARGE = 600  # rows, more than are written without COPY


async def import_all(client: Client, students: Sequence[int], *courses: int) -> None:
    """Everybody into every course, in one chunk."""
    chunk = pb.ImportEnrollmentsRequest(
        student_ids=[student_id for student_id in students for _ in courses], course_ids=list(courses) * len(students)
    )
    stream: Any = client.stub.ImportEnrollments([chunk], timeout=PATIENCE)
    await stream.read()


async def test_at_any_moment_of_a_batch(processes: Processes, connection: Connection) -> None:
    (frozen, first), (_, second) = await processes.start_several(2)
    students, (course,) = await first.students(21), await first.courses(1)
    in_transaction = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'"
    locked = "SELECT count(*) FROM (SELECT FROM course_seats WHERE course_id = $1 FOR UPDATE SKIP LOCKED) AS free"
    calls: list[asyncio.Task[str]] = []
    try:
        async with asyncio.timeout(30):
            for _ in range(1_000):
                student_id = students[len(calls) % 20]
                calls.append(asyncio.create_task(outcome_of(first.enroll(student_id, course))))
                await asyncio.sleep(random.uniform(0, 0.002))
                frozen.signal(signal.SIGSTOP)
                if await connection.fetchval(in_transaction) and not await connection.fetchval(locked, course):
                    break
                frozen.signal(signal.SIGCONT)
            else:
                pytest.skip("could not freeze the server in the middle of a batch")
        await enroll_within(MAX_WAIT, second, students[-1], course)
    finally:
        frozen.signal(signal.SIGCONT)
    await asyncio.gather(*calls)


# What the driver's connection sends first if its transactions may lock rows.
LOCKING = b"SET lock_timeout"


class FreezeAfter:
    """Lets a server stand still as soon as it has sent so many packets of its first transaction that may lock rows."""

    def __init__(self, server: ServerProcess, packets: int) -> None:
        self._server = server
        self._left = packets
        self._locking: set[object] = set()
        self._connection: object = None
        self.done = False

    def __call__(self, connection: object, data: bytes) -> None:
        if LOCKING in data:
            self._locking.add(connection)
        if self._connection is None and b"BEGIN" in data and connection in self._locking:
            self._connection = connection
        if connection is self._connection and not self.done:
            self._left -= 1
            if self._left == 0:
                self._server.signal(signal.SIGSTOP)
                self.done = True


@pytest.mark.long
@pytest.mark.parametrize("kind", ["enroll", "delete"])
async def test_at_every_moment_of_its_first_transaction(processes: Processes, database_url: str, kind: str) -> None:
    """When nothing has been prepared before."""
    _, second = await processes.start()
    students = await second.students(MANY)
    other = students[0]
    async with proxied(database_url) as (proxy, url):
        for packets in count(1):
            course = (await second.create_course(waitlist_capacity=9)).course_id
            if kind == "delete":
                await second.enroll(students[-1], course)
            server, first = await processes.start(DATABASE_URL=url)
            proxy.sent = freeze = FreezeAfter(server, packets)
            call: Any = {
                "enroll": lambda: first.enroll(students[1], course),  # noqa: B023 - awaited in the same turn
                "delete": lambda: first.call("DeleteStudent", student_id=students.pop(), force=True),  # noqa: B023
            }[kind]
            under_way = asyncio.create_task(outcome_of(call()))
            await until(lambda: freeze.done or under_way.done())  # noqa: B023
            try:
                await enroll_within(MAX_WAIT, second, other, course)
            finally:
                proxy.sent = None
                server.signal(signal.SIGCONT)
            await under_way
            await server.stop()
            if not freeze.done:
                break
    assert packets > 3


@pytest.mark.parametrize(
    "packet",
    [pytest.param('FROM "student_courses" LIMIT 1', marks=pytest.mark.long), 'COPY "student_courses"'],
)
async def test_while_an_import_sends_its_rows(processes: Processes, app_url: str, packet: str) -> None:
    """By COPY, for which the driver prepares a statement of its own: whoever waits for the rows ends the session."""
    _, second = await processes.start()
    await second.warm_up()
    (other, *students), (course,) = await second.students(LARGE), await second.courses(1)
    async with proxied(app_url) as (proxy, url):
        server, first = await processes.start(DATABASE_URL=url)
        frozen = asyncio.Event()

        def freeze(_: object, data: bytes) -> None:
            if packet.encode() in data:
                server.signal(signal.SIGSTOP)
                frozen.set()

        proxy.sent = freeze
        under_way = asyncio.create_task(outcome_of(import_all(first, students, course)))
        await frozen.wait()
        try:
            await enroll_within(MAX_WAIT, second, other, course)
        finally:
            proxy.sent = None
            server.signal(signal.SIGCONT)
        await under_way
        # It notices, and imports the chunk once more.
        assert len(await second.roster(course)) == LARGE


async def enroll_within(seconds: float, client: Client, student_id: int, course_id: int) -> None:
    """A call that must be answered in time."""
    began = time.monotonic()
    assert await outcome_of(client.enroll(student_id, course_id)) == "OK"
    assert time.monotonic() - began < seconds


class Prepared:
    """Finds what is prepared in transactions that may lock rows."""

    def __init__(self) -> None:
        self._messages: defaultdict[object, Messages] = defaultdict(Messages)
        self._locking: set[object] = set()
        self._inside: set[object] = set()
        self.transactions = 0
        self.found: list[bytes] = []

    def __call__(self, connection: object, data: bytes) -> None:
        for kind, text in self._messages[connection].read(data):
            if kind == PARSE and connection in self._inside:
                self.found.append(text)
            elif kind == QUERY and text.startswith(LOCKING):
                self._locking.add(connection)
            elif kind == QUERY and text.startswith(b"BEGIN") and connection in self._locking:
                self._inside.add(connection)
                self.transactions += 1
            elif kind == QUERY and text.startswith((b"COMMIT", b"ROLLBACK")):
                self._inside.discard(connection)


@pytest.fixture
async def watched(database_url: str) -> AsyncIterator[tuple[Client, Prepared]]:
    """A client of a service whose connections to the database are watched."""
    async with proxied(database_url) as (proxy, url), service_on(url) as service:
        proxy.sent = prepared = Prepared()
        yield service.client, prepared


async def test_nothing_is_prepared_while_rows_are_locked(watched: tuple[Client, Prepared]) -> None:
    client, prepared = watched
    await traffic(client)
    students, (course,) = await client.students(3), await client.courses(1, capacity=1, waitlist_capacity=9)
    await import_all(client, students, course)
    await client.call("ReconcileRoster", course_id=course, student_ids=students[2:], max_removals=9)
    await client.call(
        "UpdateStudent", student={"student_id": 1, "full_name": "Bo"}, update_mask={"paths": ["full_name"]}
    )
    for changes in ({"title": "New"}, {"capacity": 5}, {"code": "NEW", "description": "New", "waitlist_capacity": 8}):
        await client.call("UpdateCourse", course={"course_id": course, **changes}, update_mask={"paths": list(changes)})
    with refused("ALREADY_EXISTS", "CODE_TAKEN"):
        await client.create_course("NEW")
    assert prepared.transactions > 40
    assert prepared.found == []


async def test_after_a_migration_everything_is_prepared_anew(
    watched: tuple[Client, Prepared], connection: Connection
) -> None:
    """What a prepared statement returns has another type now, which PostgreSQL refuses in the middle of the batch."""
    client, prepared = watched
    (student,), (course,) = await client.students(1), await client.courses(1)
    await client.enroll(student, course)
    await client.call("GetCourse", course_id=course)
    await connection.execute("ALTER TABLE courses ALTER COLUMN title TYPE varchar(999)")
    await client.call("GetCourse", course_id=course)
    await client.call("UpdateCourse", course={"course_id": course, "title": "New"}, update_mask={"paths": ["title"]})
    await client.unenroll(student, course)
    assert prepared.found == []
