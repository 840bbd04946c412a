"""Old events are forgotten: what the present and later pasts rest on stays, and whoever misses something is told."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import asyncpg
import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from enrollment_service.engine import housekeeping
from enrollment_service.engine.housekeeping import forget_events
from enrollment_service.store import retention
from enrollment_service.store.database import Database
from enrollment_service.v1 import enrollment_pb2 as pb
from tests.conftest import StartService
from tests.support.client import PATIENCE, Client
from tests.support.databases import Connection, PostgresServer, connected
from tests.support.processes import run_command
from tests.support.refusals import refused
from tests.support.services import settings_for
from tests.support.verification import wrong_in
from tests.support.watching import events_of, history, watching

EXPIRED = ("OUT_OF_RANGE", "RESUME_TOKEN_EXPIRED")
DAY = timedelta(days=1)
# The log as if one of its events had happened every four hours, and the last of them just now; and the rows with it.
SPREAD = """
UPDATE enrollment_events v SET event_time = clock_timestamp() - (n.last - n.rank) * interval '4 hours' FROM (
    SELECT course_id, sequence, row_number() OVER (ORDER BY event_time, course_id, sequence) AS rank,
        count(*) OVER () AS last FROM enrollment_events) n
WHERE (v.course_id, v.sequence) = (n.course_id, n.sequence);
UPDATE course_seats s SET last_event_time = (
    SELECT event_time FROM enrollment_events v WHERE (v.course_id, v.sequence) = (s.course_id, s.last_sequence));
UPDATE student_courses e SET
    enroll_time = (SELECT event_time FROM enrollment_events v
        WHERE (v.course_id, v.sequence) = (e.course_id, e.sequence)),
    create_time = (SELECT event_time FROM enrollment_events v
        WHERE (v.course_id, v.student_id, v.previous_state) = (e.course_id, e.student_id, 0)
        ORDER BY sequence DESC LIMIT 1);
UPDATE log_horizon SET since = (SELECT min(event_time) FROM enrollment_events)
"""


async def old_log(client: Client, connection: Connection, turns: int = 250) -> tuple[list[int], list[int]]:
    """Students and courses with a long past: people come, wait, leave, come back, are promoted and deleted."""
    students = await client.students(14)
    courses = [*await client.courses(2, capacity=3, waitlist_capacity=4), *await client.courses(2)]
    chance = random.Random(7)
    for turn in range(turns):
        student, course = chance.choice(students), chance.choice(courses)
        with suppress(grpc.aio.AioRpcError):
            if turn == turns // 3:
                await client.call("DeleteStudent", student_id=students[0], force=True)
            elif turn == turns // 2:
                await client.call("DeleteCourse", course_id=courses[-1], force=True)
            elif chance.random() < 0.5:
                await client.enroll(student, course, on_full=pb.ON_FULL_WAITLIST)
            else:
                await client.unenroll(student, course)
    await connection.execute(SPREAD)
    return students, courses


def as_of(moment: datetime) -> Timestamp:
    made = Timestamp()
    made.FromDatetime(moment)
    return made


async def lists(client: Client, students: list[int], courses: list[int], **fields: Any) -> list[Any]:
    """All rows of all lists; a student of whom nothing is known is one without rows."""
    found = []
    for method, name, ids in (
        ("ListStudentCourses", "student_id", students),
        ("ListCourseStudents", "course_id", courses),
    ):
        for one in ids:
            rows: list[Any] = []
            with suppress(grpc.aio.AioRpcError):
                rows = list((await client.call(method, page_size=1000, **{name: one}, **fields)).enrollments)
            for row in rows:
                row.ClearField("course")
            found.append(rows)
    return found


async def since(connection: Connection) -> datetime:
    moment: datetime = await connection.fetchval("SELECT since FROM log_horizon")
    return moment


async def events_in(connection: Connection) -> int:
    count: int = await connection.fetchval("SELECT count(*) FROM enrollment_events")
    return count


@pytest.mark.long
@pytest.mark.timeout(180)
async def test_the_present_and_every_later_past_stay_as_they_are(
    client: Client, connection: Connection, database: Database, database_url: str
) -> None:
    """Also while only a part has been deleted."""
    students, courses = await old_log(client, connection)
    assert await wrong_in(database_url) == []
    now = await connection.fetchval("SELECT clock_timestamp()")
    present = await lists(client, students, courses)
    began = await since(connection)
    days = (now - began).days
    assert days > 10
    pasts = {}
    for age in range(days):
        moment = (now - age * DAY).replace(microsecond=age)
        pasts[moment] = await lists(client, students, courses, as_of=as_of(moment))
    held = database.hold()
    for kept in range(days - 2, 0, -3):
        before = await events_in(connection)
        assert await held.transact(partial(retention.advance, retention=kept * DAY))
        assert not await held.transact(partial(retention.advance, retention=kept * DAY))
        horizon = await since(connection)
        assert horizon == (now - kept * DAY).replace(hour=0, minute=0, second=0, microsecond=0)
        reached: retention.Reached | None = retention.START
        while reached is not None:
            reached, _ = await held.transact(partial(retention.purge, after=reached, most=37))
            assert await wrong_in(database_url) == []
        assert await events_in(connection) < before
        for moment, shown in pasts.items():
            if moment >= horizon:
                assert await lists(client, students, courses, as_of=as_of(moment)) == shown
        assert await lists(client, students, courses) == present
    await held.close()
    await client.enroll((await client.students(1))[0], courses[2])
    assert await wrong_in(database_url) == []


async def test_without_what_stays_neither_the_past_nor_the_log_would_be_right(
    client: Client, connection: Connection, database_url: str
) -> None:
    """The control: all that is old is deleted."""
    students, courses = await old_log(client, connection, turns=120)
    present = await lists(client, students, courses)
    now = as_of(await connection.fetchval("SELECT clock_timestamp()"))
    assert await lists(client, students, courses, as_of=now) == present
    await connection.execute("UPDATE log_horizon SET since = now() - interval '3 days', purged_xid = '3'")
    await connection.execute("DELETE FROM enrollment_events WHERE event_time < (SELECT since FROM log_horizon)")
    assert await lists(client, students, courses, as_of=now) != present
    assert {one.check.name for one in await wrong_in(database_url)} >= {"rows are the log", "sequences", "event counts"}


async def test_what_is_forgotten_and_what_stays(client: Client, connection: Connection, database: Database) -> None:
    (course, other), (ann, bo, cy) = await client.courses(2, capacity=1, waitlist_capacity=3), await client.students(3)
    for student in (ann, bo, cy):
        await client.enroll(student, course, on_full=pb.ON_FULL_WAITLIST)
    for _ in range(3):
        await client.enroll(ann, other)
        await client.unenroll(ann, other)
    await client.unenroll(ann, course)  # Bo is promoted
    await client.call("DeleteCourse", course_id=other)
    await client.courses(1)
    await connection.execute("UPDATE enrollment_events SET event_time = event_time - interval '40 days'")
    await connection.execute("UPDATE log_horizon SET since = since - interval '40 days'")
    assert await forget_events(database, 30 * DAY) > 0
    left = await connection.fetch("SELECT course_id, sequence, student_id, state FROM enrollment_events ORDER BY 1, 2")
    assert [tuple(row) for row in left if row[0] in (course, other)] == [
        # Bo's place in line and Bo's seat, the latter the course's newest; and Cy's place.
        (course, 3, bo, 2),
        (course, 4, cy, 2),
        (course, 6, bo, 1),
        # That there was such a course.
        (other, 8, None, 0),
    ]


async def test_whoever_misses_something_is_told(
    client: Client, connection: Connection, database: Database, database_url: str
) -> None:
    (course,), students = await client.courses(1), await client.students(3)
    begun = (await history(client))[-1].resume_token
    for student in students:
        await client.enroll(student, course)
        await client.unenroll(student, course)
    listed = await client.call("ListCourseStudents", course_id=course)
    end = (await history(client))[-1].resume_token
    moment = as_of(await connection.fetchval("SELECT clock_timestamp() - interval '40 days'"))
    await connection.execute("UPDATE enrollment_events SET event_time = event_time - interval '40 days'")
    await connection.execute("UPDATE log_horizon SET since = since - interval '40 days'")
    await client.enroll(students[0], course)
    async with watching(client, resume_token=end) as watcher:
        assert await forget_events(database, 30 * DAY) > 0
        asked: list[dict[str, Any]] = [{}, {"course_id": course}, {"student_id": students[0]}]
        for fields in asked:
            with refused(*EXPIRED, metadata={"field": "resume_token"}):
                await history(client, **fields)
        with refused(*EXPIRED, metadata={"field": "resume_token"}):
            await history(client, resume_token=begun)
        with refused("OUT_OF_RANGE", "INVALID_FIELD", fields=["as_of"]):
            await client.call("ListCourseStudents", course_id=course, as_of=moment)
        # Whoever has seen what was forgotten misses nothing: also who is there already.
        seen: list[dict[str, Any]] = [
            {"resume_token": end},
            {"resume_token": listed.resume_token, "course_id": course},
        ]
        for fields in seen:
            assert [event.sequence for event in await events_of(client, **fields)] == [8]
        await client.unenroll(students[0], course)
        await watcher.until(lambda one: [event.sequence for event in one.events] == [8, 9])
    # List, then watch.
    anew = await client.call("ListCourseStudents", course_id=course)
    await client.enroll(students[1], course)
    rest = await events_of(client, course_id=course, resume_token=anew.resume_token)
    assert [event.sequence for event in rest] == [anew.sequence + 1]
    # A new epoch does not bring back what is forgotten.
    result = await run_command("new-epoch", DATABASE_URL=database_url)
    assert result.returncode == 0, result.stderr
    with refused(*EXPIRED):
        await history(client)
    anew = await client.call("ListCourseStudents", course_id=course)
    assert await events_of(client, course_id=course, resume_token=anew.resume_token) == []


async def test_a_token_is_honest_whatever_was_the_newest_event(
    client: Client, connection: Connection, database: Database
) -> None:
    """The newest event of all stays, though its course is gone and all its events are old."""
    (course, other), (student,) = await client.courses(2), await client.students(1)
    await client.enroll(student, other)
    await client.enroll(student, course)
    # As if the transaction that wrote last had begun after one whose event in the same course came later.
    await connection.execute(
        "UPDATE enrollment_events SET xid = pg_current_xact_id() WHERE (course_id, sequence) = ($1, 1)", course
    )
    token = (await client.call("ListCourseStudents", course_id=course)).resume_token
    await connection.execute("UPDATE enrollment_events SET event_time = event_time - interval '40 days'")
    await connection.execute("UPDATE log_horizon SET since = since - interval '40 days'")
    assert await forget_events(database, 30 * DAY) > 0
    assert await events_of(client, course_id=course, resume_token=token) == []


async def test_a_long_transaction_puts_off_what_is_forgotten_and_no_token_expires_early(
    client: Client, connection: Connection, database: Database, postgres_server: PostgresServer
) -> None:
    async with connected(postgres_server.url) as elsewhere:
        await elsewhere.execute("BEGIN")
        await elsewhere.fetchval("SELECT pg_current_xact_id()::text")
        (course, other), (student,) = await client.courses(2), await client.students(1)
        await client.enroll(student, course)
        await client.unenroll(student, course)
        await client.enroll(student, other)
        await connection.execute("UPDATE enrollment_events SET event_time = event_time - interval '40 days'")
        await connection.execute("UPDATE log_horizon SET since = since - interval '40 days'")
        assert await forget_events(database, 30 * DAY) == 0
        token = (await client.call("ListCourseStudents", course_id=course)).resume_token
        assert await events_of(client, course_id=course, resume_token=token) == []
        assert len(await events_of(client)) == 5
    assert await forget_events(database, 29 * DAY) > 0


async def test_several_servers_do_no_harm_to_each_other(
    client: Client, connection: Connection, app_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "EVENTS_STEP", 5)
    await old_log(client, connection, turns=120)
    before = await events_in(connection)
    databases = [Database(settings_for(app_url)) for _ in range(3)]
    try:
        counts = await asyncio.gather(*(forget_events(one, DAY) for one in databases))
    finally:
        for one in databases:
            await one.close()
    assert sorted(count > 0 for count in counts) == [False, False, True]
    assert await events_in(connection) == before - sum(counts)
    assert await wrong_in(database_url) == []


@pytest.fixture
async def served(start_service: StartService) -> Client:
    """A client of a service that keeps events for 30 days."""
    return (await start_service(event_retention_days=30, purge_interval=0.05)).client


async def test_a_server_forgets_by_itself(served: Client, connection: Connection) -> None:
    (course,), (student,) = await served.courses(1), await served.students(1)
    for _ in range(5):
        await served.enroll(student, course)
        await served.unenroll(student, course)
    assert await events_in(connection) == 11
    await connection.execute("UPDATE log_horizon SET since = since - interval '40 days'")
    await connection.execute("UPDATE enrollment_events SET event_time = event_time - interval '40 days'")
    async with asyncio.timeout(PATIENCE):
        while await events_in(connection) > 2:  # noqa: ASYNC110 - the server announces nothing
            await asyncio.sleep(0.02)


async def test_without_the_setting_everything_stays(start_service: StartService, connection: Connection) -> None:
    client = (await start_service(purge_interval=0.01)).client
    await client.courses(2)
    await connection.execute("UPDATE log_horizon SET since = since - interval '4000 days'")
    await connection.execute("UPDATE enrollment_events SET event_time = event_time - interval '4000 days'")
    await asyncio.sleep(0.3)
    assert await events_in(connection) == 2
    assert len(await events_of(client)) == 2


async def test_the_service_may_forget_what_is_old_and_nothing_else(connection: Connection, app_url: str) -> None:
    async with connected(app_url) as own:
        with pytest.raises(asyncpg.PostgresError) as refusal:
            await own.fetchval("SELECT advance_log_horizon($1)", datetime.now(UTC) - timedelta(hours=23))
        assert refusal.value.sqlstate == "22023"
        for statement in ("UPDATE log_horizon SET since = now()", "DELETE FROM enrollment_events"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await own.execute(statement)
    assert await connection.fetchval("SELECT purged_xid IS NULL FROM log_horizon")
