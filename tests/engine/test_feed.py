"""The feed's promises where they are hard: what is under way, what is lost, who is slow, who goes away."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from enrollment_service.api.resume import decode
from enrollment_service.domain.feed import Scope, Snapshot
from enrollment_service.v1 import enrollment_pb2 as pb
from tests.conftest import StartService
from tests.support.client import PATIENCE, Client, client_of
from tests.support.databases import Connection, PostgresServer, connected
from tests.support.processes import Processes, run_command
from tests.support.proxy import proxied
from tests.support.refusals import refused
from tests.support.services import Service, service_on
from tests.support.watching import Key, Watcher, check_order, events_of, history, key_of, watching

# What a server writes, by hand.
LOGGED = """
INSERT INTO enrollment_events (course_id, sequence, kind, student_id, previous_state, state, enrolled_count,
    waitlisted_count, event_time) SELECT $1, n, 1, $2, 0, 1, 0, 0, now() FROM generate_series($3::bigint, $4) n
"""
EPOCH = "SELECT epoch FROM feed_epoch"
# A client that takes in little before its caller reads.
NARROW = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 64 * 1024)]
HISTORY = 60_000


@asynccontextmanager
async def under_way(url: str, course_id: int, sequence: int, student_id: int = 1) -> AsyncIterator[Connection]:
    """A transaction that has written an event, to be committed inside the block or given up after it."""
    async with connected(url) as connection:
        await connection.execute("BEGIN")
        await connection.execute(LOGGED, course_id, student_id, sequence, sequence)
        yield connection


async def rows_after(connection: Connection, xid: int) -> list[Key]:
    """How a reader goes on who takes the largest number that it has seen for its place."""
    rows = await connection.fetch(
        "SELECT course_id, sequence FROM enrollment_events WHERE xid > $1::text::xid8 ORDER BY xid", str(xid)
    )
    return [(row[0], row[1]) for row in rows]


async def test_what_was_under_way_when_a_token_was_made_comes_after_it(
    client: Client, database_url: str, connection: Connection
) -> None:
    first, second = await client.courses(2)
    async with under_way(database_url, first, 2) as early, watching(client, resume_token="") as watcher:
        await client.call(
            "UpdateCourse", course={"course_id": second, "title": "New"}, update_mask={"paths": ["title"]}
        )
        await watcher.until(lambda one: (second, 2) in one.keys)
        tokens = {
            "history": (await history(client))[-1].resume_token,
            "watcher": watcher.token,
        }
        listed = (await client.call("ListCourseStudents", course_id=first)).resume_token
        largest = await connection.fetchval("SELECT max(xid::text::bigint) FROM enrollment_events")
        await early.execute("COMMIT")
        await watcher.until(lambda one: (first, 2) in one.keys)
        for name, token in tokens.items():
            assert [key_of(one) for one in await events_of(client, resume_token=token)] == [(first, 2)], name
        rest = await events_of(client, course_id=first, resume_token=listed)
        assert [key_of(one) for one in rest] == [(first, 2)]
        # The control: whoever takes the largest number for a place never hears of it.
        assert await rows_after(connection, largest) == []


async def test_what_was_rolled_back_never_comes(client: Client, database_url: str) -> None:
    (course,) = await client.courses(1)
    async with watching(client) as watcher:
        async with under_way(database_url, course, 2) as given_up:
            await given_up.execute("ROLLBACK")
        (student,) = await client.students(1)
        await client.enroll(student, course)
        await watcher.until(lambda one: (course, 2) in one.keys)
        assert [event.student_id for event in watcher.events] == [0, student]


async def test_a_token_outlives_numbers_that_left_nothing(client: Client, connection: Connection) -> None:
    """After a crash the database gives the numbers of transactions again that have left nothing; a token has none."""
    await client.courses(1)
    before = (await history(client))[-1].resume_token
    for _ in range(5):
        await connection.fetchval("SELECT pg_current_xact_id()::text")
    (again,) = await history(client, resume_token=before)
    snapshots = [snapshot_in(token) for token in (before, again.resume_token)]
    assert snapshots[0] == snapshots[1]
    newest = await connection.fetchval("SELECT max(xid::text::bigint) FROM enrollment_events")
    assert snapshots[0].xmax == newest + 1


def snapshot_in(token: str) -> Snapshot:
    mark = decode(Scope(), token)
    assert mark is not None
    return mark.place.snapshot


async def test_a_long_transaction_elsewhere_holds_nothing_up(client: Client, postgres_server: PostgresServer) -> None:
    (course,) = await client.courses(1)
    async with connected(postgres_server.url) as elsewhere:
        await elsewhere.execute("BEGIN")
        await elsewhere.fetchval("SELECT pg_current_xact_id()::text")
        async with watching(client) as watcher:
            for number, student in enumerate(await client.students(3)):
                await client.enroll(student, course)
                await watcher.until(lambda one, number=number: (course, number + 2) in one.keys)  # type: ignore[misc]
            token = watcher.messages[0].resume_token
            assert len(await events_of(client, resume_token=token)) == 3


async def test_a_long_history_comes_in_pieces_that_clients_accept(client: Client, connection: Connection) -> None:
    (course,) = await client.courses(1)
    await connection.execute(LOGGED, course, 7, 2, HISTORY)
    messages = await history(client)
    assert [key_of(event) for message in messages for event in message.events] == [
        (course, sequence) for sequence in range(1, HISTORY + 1)
    ]
    assert [message.caught_up for message in messages] == [False] * (len(messages) - 1) + [True]
    assert max(message.ByteSize() for message in messages) < 1_100_000
    # From the middle of it the rest comes, and nothing twice.
    middle = len(messages) // 2
    seen = sum(len(message.events) for message in messages[: middle + 1])
    rest = await events_of(client, resume_token=messages[middle].resume_token)
    assert [rest[0].sequence, len(rest)] == [seen + 1, HISTORY - seen]


async def test_much_that_is_new_comes_at_once_to_whoever_follows(client: Client, connection: Connection) -> None:
    (course,) = await client.courses(1)
    async with watching(client) as watcher, watching(client, student_id=7) as of_student:
        start = watcher.token
        await connection.execute(LOGGED, course, 7, 2, 20_000)
        await watcher.until(lambda one: len(one.events) == 20_000)
        await of_student.until(lambda one: len(one.events) == 19_999)
        check_order(watcher.events)
        assert max(message.ByteSize() for message in watcher.messages) < 1_100_000
        # Too many to be sorted: the log is walked, and what was seen is left out.
        assert [key_of(one) for one in await events_of(client, resume_token=start)] == watcher.keys[1:]


@pytest.mark.long
async def test_who_does_not_read_is_ended_and_nobody_else_notices(
    start_service: StartService, connection: Connection
) -> None:
    service = await start_service(max_watcher_events=1_000)
    (course,) = await service.client.courses(1)
    async with client_of(service.address, NARROW) as reader, watching(service.client) as watcher:
        slow: Any = reader.stub.WatchEnrollmentEvents(pb.WatchEnrollmentEventsRequest(follow=True))
        first = await slow.read()
        assert first.caught_up
        for number in range(4):
            await connection.execute(LOGGED, course, 7, 2 + number * 20_000, 1 + (number + 1) * 20_000)
            seen = 1 + (number + 1) * 20_000
            await watcher.until(lambda one, seen=seen: len(one.events) == seen)  # type: ignore[misc]
        read = list(first.events)
        token = first.resume_token
        with refused("RESOURCE_EXHAUSTED", "WATCHER_TOO_SLOW", metadata={}) as refusal:
            async with asyncio.timeout(PATIENCE):
                while (message := await slow.read()) is not grpc.aio.EOF:
                    read += message.events
                    token = message.resume_token
        assert refusal.retry_delay == 1
        assert len(read) < len(watcher.events)
        rest = await events_of(service.client, resume_token=token)
        assert [key_of(one) for one in [*read, *rest]] == watcher.keys


async def test_two_servers_show_the_same(processes: Processes) -> None:
    (_, one), (_, other) = await processes.start_several(2)
    (course,) = await one.courses(1)
    students = await one.students(6)
    async with watching(one) as here, watching(other) as there:
        for number, student in enumerate(students):
            await (one, other)[number % 2].enroll(student, course)
        for watcher in (here, there):
            await watcher.until(lambda one: len(one.events) == 7)
            check_order(watcher.events)
        # A token is good on any server.
        for client, token in ((one, there.messages[0].resume_token), (other, here.messages[0].resume_token)):
            assert len(await events_of(client, resume_token=token)) == 6


async def test_what_a_killed_server_did_not_send_comes_from_another(processes: Processes) -> None:
    (process, one), (_, other) = await processes.start_several(2)
    (course,) = await one.courses(1)
    students = await one.students(6)
    watcher = Watcher(one)
    await watcher.caught_up()
    for student in students[:3]:
        await other.enroll(student, course)
    await watcher.until(lambda one: len(one.events) > 1)
    process.signal(signal.SIGKILL)
    with pytest.raises(grpc.aio.AioRpcError):
        await watcher.ended()
    for student in students[3:]:
        await other.enroll(student, course)
    rest = await events_of(other, resume_token=watcher.token)
    check_order([*watcher.events, *rest])
    assert len(watcher.events) + len(rest) == 7


async def test_a_drain_ends_a_watcher_with_its_token(processes: Processes) -> None:
    (process, one), (_, other) = await processes.start_several(2)
    students, (course,) = await one.students(2), await one.courses(1)
    watchers = [Watcher(one), Watcher(one, course_id=course), Watcher(one, student_id=999)]
    for watcher in watchers:
        await watcher.caught_up()
    await other.enroll(students[0], course)
    for watcher in watchers[:2]:
        await watcher.until(lambda one: len(one.events) == 2)
    messages = [len(watcher.messages) for watcher in watchers]
    process.signal(signal.SIGTERM)
    for watcher, before in zip(watchers, messages, strict=True):
        with refused("UNAVAILABLE", "SHUTTING_DOWN"):
            await watcher.ended()
        assert len(watcher.messages) == before + 1
        assert watcher.messages[-1].resume_token
        assert not watcher.messages[-1].events
    assert await process.ended() == 0
    await other.enroll(students[1], course)
    assert [one.sequence for one in await events_of(other, resume_token=watchers[0].token)] == [3]


async def test_list_then_watch_has_no_gap(client: Client) -> None:
    """Whoever lists, and then follows what happens, has at any time what a new list would show."""
    courses, students = await client.courses(2), await client.students(12)
    writing = True

    async def write(student: int) -> None:
        while writing:
            course = random.choice(courses)
            await client.enroll(student, course)
            await client.unenroll(student, course)

    writers = [asyncio.create_task(write(student)) for student in students]
    lists, theirs = [], []
    for _ in range(15):
        # Pages, between which much happens: all have the token of the first.
        first = await client.call("ListCourseStudents", course_id=courses[0], page_size=1000)
        lists.append(first)
        theirs.append(await client.call("ListStudentCourses", student_id=students[0]))
        await asyncio.sleep(0)
    writing = False
    await asyncio.gather(*writers)
    for listed in lists:
        rest = await events_of(client, course_id=courses[0], resume_token=listed.resume_token)
        assert [event.sequence for event in rest] == [*range(listed.sequence + 1, listed.sequence + 1 + len(rest))]
        seats = {one.student_id for one in listed.enrollments}
        for event in rest:
            (seats.add if event.state == pb.ENROLLMENT_STATE_ENROLLED else seats.remove)(event.student_id)
            assert event.enrolled_count == len(seats)
        assert seats == set()
    for listed in theirs:
        held = {one.course_id for one in listed.enrollments}
        for event in await events_of(client, student_id=students[0], resume_token=listed.resume_token):
            (held.add if event.state == pb.ENROLLMENT_STATE_ENROLLED else held.remove)(event.course_id)
        assert held == set()


async def test_all_pages_have_the_token_of_the_first(client: Client) -> None:
    (course, *others), students = await client.courses(3), await client.students(3)
    for student in students:
        await client.enroll(student, course, *others)
    for method, fields in (
        ("ListCourseStudents", {"course_id": course}),
        ("ListStudentCourses", {"student_id": students[2]}),
    ):
        first = await client.call(method, page_size=1, **fields)
        await client.unenroll(students[2], others.pop())
        second = await client.call(method, page_size=1, page_token=first.next_page_token, **fields)
        third = await client.call(method, page_size=1, page_token=second.next_page_token or "", **fields)
        assert first.resume_token == second.resume_token
        if second.next_page_token:
            assert third.resume_token == first.resume_token
        if method == "ListCourseStudents":
            assert (first.sequence, second.sequence) == (4, 4)


async def test_a_token_does_not_hold_in_a_copy(
    client: Client, postgres_server: PostgresServer, template: str, connection: Connection
) -> None:
    await client.courses(1)
    (told,) = await history(client)
    async with postgres_server.database(template) as copy, connected(copy) as other:
        # The same name, as in a dump; what tells them apart is which database it is.
        assert await other.fetchval(EPOCH) == await connection.fetchval(EPOCH)
        async with service_on(postgres_server.app_url(copy)) as service:
            with refused("OUT_OF_RANGE", "RESUME_TOKEN_EXPIRED", metadata={"field": "resume_token"}):
                await history(service.client, resume_token=told.resume_token)


@pytest.mark.long
async def test_a_new_epoch_lets_tokens_expire_and_foreign_events_be_seen(
    processes: Processes, database_url: str, app_url: str, connection: Connection
) -> None:
    process, client = await processes.start()
    (course,) = await client.courses(1)
    (told,) = await history(client)
    assert await process.stop() == 0
    # As a dump would bring it from a database that is far ahead.
    await connection.execute("UPDATE enrollment_events SET xid = '4000000000'")
    ended = await run_command("serve", AUTH="none", DATABASE_URL=app_url, LISTEN="127.0.0.1:0")
    assert (ended.returncode, ended.stderr.count("\n")) == (78, 1)
    assert "new-epoch" in ended.stderr
    refused_command = await run_command("new-epoch", DATABASE_URL=app_url)
    assert (refused_command.returncode, "42501" in refused_command.stderr) == (78, True)
    given = await run_command("new-epoch", DATABASE_URL=database_url)
    assert given.returncode == 0, given.stderr
    _, client = await processes.start()
    assert [key_of(one) for one in await events_of(client)] == [(course, 1)]
    with refused("OUT_OF_RANGE", "RESUME_TOKEN_EXPIRED"):
        await history(client, resume_token=told.resume_token)


OTHERS = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = $1"


async def test_a_lost_connection_costs_a_watcher_nothing(
    client: Client, connection: Connection, postgres_server: PostgresServer
) -> None:
    (course,), students = await client.courses(1), await client.students(3)
    async with watching(client) as watcher:
        for number, student in enumerate(students):
            await client.enroll(student, course)
            await connection.fetch(OTHERS, postgres_server.app_role)
            await watcher.until(lambda one, number=number: (course, number + 2) in one.keys)  # type: ignore[misc]
        check_order(watcher.events)


async def test_without_a_database_watchers_are_told_and_may_come_back(
    start_service: StartService, app_url: str
) -> None:
    async with proxied(app_url) as (proxy, url), service_on(url) as service:
        other = (await start_service()).client
        (course,) = await other.courses(1)
        watcher = Watcher(service.client)
        await watcher.caught_up()
        proxy.refuse()
        with refused("UNAVAILABLE", "DATABASE_UNAVAILABLE") as refusal:
            await watcher.ended()
        assert refusal.retry_delay == 1
        with refused("UNAVAILABLE", "DATABASE_UNAVAILABLE"):
            await history(service.client)
        (student,) = await other.students(1)
        await other.enroll(student, course)
        proxy.refusing = False
        async with watching(service.client, resume_token=watcher.token) as again:
            assert again.keys == [(course, 2)]


async def test_another_history_ends_whoever_follows(client: Client, connection: Connection) -> None:
    """A failover under a running server: the next look finds another log."""
    await client.courses(1)
    watcher = Watcher(client)
    await watcher.caught_up()
    await connection.execute("UPDATE feed_epoch SET epoch = gen_random_uuid()")
    with refused("OUT_OF_RANGE", "RESUME_TOKEN_EXPIRED"):
        await watcher.ended()
    async with watching(client) as anew:
        assert len(anew.events) == 1


async def until(fact: Callable[[], bool]) -> None:
    """Returns once something is true in this process."""
    async with asyncio.timeout(PATIENCE):
        while not fact():  # noqa: ASYNC110 - the poller's own
            await asyncio.sleep(0.01)


async def test_nobody_looks_while_nobody_watches(service: Service) -> None:
    feed = service.app._feed
    assert feed._poller is None
    for _ in range(2):
        async with watching(service.client):
            await until(lambda: feed._place is not None)
        await until(lambda: feed._place is None)
        assert not feed._by_scope
