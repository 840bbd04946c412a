"""The event log as an outbox: what a reader by logical replication gets of it, and how it proves that it has all."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta

import pytest

from dev.postgres import EmbeddedPostgres
from dev.programs import EmbeddedPostgresError
from enrollment_service.engine.housekeeping import forget_events
from enrollment_service.store.database import Database
from tests.support.client import Client
from tests.support.databases import Connection, connected, destroyed, migrate, temporary_folder
from tests.support.outbox import Outbox, Row
from tests.support.services import service_on, settings_for
from tests.support.traffic import ADDRESS, BIOLOGY, NAME, traffic

PUBLICATION = "enrollment_events"
LOGGED = "SELECT course_id, sequence FROM enrollment_events ORDER BY course_id, sequence"
ENROLLED, WAITLISTED = "1", "2"


@pytest.fixture(scope="module")
def logical_url() -> Iterator[str]:
    """A migrated database on a server that writes enough for logical replication."""
    with temporary_folder() as folder, destroyed(EmbeddedPostgres(folder / "postgres")) as postgres:
        try:
            postgres.ensure_running()
        except EmbeddedPostgresError as error:
            pytest.skip(f"no PostgreSQL of the test's own: {error}")
        postgres.psql("ALTER SYSTEM SET wal_level = logical")
        postgres.stop()
        migrate(postgres.ensure_running())
        yield postgres.url


@pytest.fixture
async def outbox(logical_url: str) -> AsyncIterator[Outbox]:
    """A reader that is there before anything happens."""
    async with connected(logical_url) as connection:
        made = Outbox(connection, PUBLICATION, "outbox")
        await made.open()
        yield made
        await made.close()


@pytest.fixture
async def writer(logical_url: str) -> AsyncIterator[Client]:
    """A client of a service on it."""
    async with service_on(logical_url) as service:
        yield service.client


@pytest.fixture
async def owner(logical_url: str) -> AsyncIterator[Connection]:
    """The owner of the tables."""
    async with connected(logical_url) as connection:
        yield connection


def prove(events: list[Row]) -> None:
    """What a consumer checks: dense sequences from the creation on, and counts that are those of the transitions."""
    last: defaultdict[str | None, int] = defaultdict(int)
    counts: defaultdict[str | None, list[int]] = defaultdict(lambda: [0, 0])
    for event in events:
        course = event["course_id"]
        last[course] += 1
        assert event["sequence"] == str(last[course])
        for place, state in enumerate((ENROLLED, WAITLISTED)):
            counts[course][place] += (event["state"] == state) - (event["previous_state"] == state)
        assert [event["enrolled_count"], event["waitlisted_count"]] == list(map(str, counts[course]))


async def test_a_reader_by_logical_replication_gets_every_event_once_and_in_order(
    outbox: Outbox, writer: Client, owner: Connection, logical_url: str
) -> None:
    await traffic(writer)
    changes = await outbox.new()
    assert {table for table, _ in changes} == {"enrollment_events"}
    events = [row for _, row in changes]
    prove(events)
    logged = [tuple(map(str, row)) for row in await owner.fetch(LOGGED)]
    assert sorted((event["course_id"], event["sequence"]) for event in events) == sorted(logged)
    # Nothing personal is on its way.
    everything = b"".join(outbox.messages)
    assert NAME.encode() not in everything
    assert ADDRESS.encode() not in everything
    # The control: with one event less it is noticed.
    with pytest.raises(AssertionError):
        prove(events[:7] + events[8:])

    # What is forgotten, and a new epoch, are no news.
    await owner.execute("UPDATE enrollment_events SET event_time = event_time - interval '40 days'")
    await owner.execute("UPDATE log_horizon SET since = since - interval '40 days'")
    database = Database(settings_for(logical_url))
    try:
        assert await forget_events(database, timedelta(days=30)) > 0
        await database.give_new_epoch()
    finally:
        await database.close()
    assert await outbox.new() == []
    (student,) = await writer.students(1)
    await writer.enroll(student, BIOLOGY)
    events += [row for _, row in await outbox.new()]
    prove(events)
    assert events[-1]["student_id"] == str(student)


async def test_another_database_can_subscribe(writer: Client, owner: Connection, logical_url: str) -> None:
    """PostgreSQL's own reader: it copies what there is, then follows."""
    (course,), (ann, bo) = await writer.courses(1), await writer.students(2)
    await writer.enroll(ann, course)
    await owner.execute("CREATE DATABASE reader")
    url = f"{logical_url.rpartition('/')[0]}/reader"
    try:
        async with connected(url) as reader:
            await reader.execute(COPY_OF_THE_TABLE)
            # On one server the slot must be made apart, or both would wait for each other.
            await owner.execute("SELECT pg_create_logical_replication_slot('reader', 'pgoutput')")
            await reader.execute(
                f"CREATE SUBSCRIPTION reader CONNECTION '{logical_url}' PUBLICATION {PUBLICATION} "
                "WITH (create_slot = false, slot_name = 'reader')"
            )
            await until_equal(owner, reader)
            await writer.enroll(bo, course)
            await until_equal(owner, reader)
            await reader.execute("ALTER SUBSCRIPTION reader DISABLE")
            await reader.execute("ALTER SUBSCRIPTION reader SET (slot_name = NONE)")
            await reader.execute("DROP SUBSCRIPTION reader")
    finally:
        await owner.execute("DROP DATABASE reader WITH (FORCE)")
        await owner.execute("SELECT pg_drop_replication_slot('reader')")


# Without what only the service needs: types and names are what counts.
COPY_OF_THE_TABLE = """
CREATE TABLE enrollment_events (
    course_id bigint, sequence bigint, kind smallint, student_id bigint, previous_state smallint, state smallint,
    waitlist_position integer, enrolled_count integer, waitlisted_count integer, capacity integer,
    changed_fields text[], event_time timestamptz, request_id uuid, actor text, reason text, xid text,
    swap_from_course_id bigint, waived_reasons text[], waiver_expire_time timestamptz, waiver_revoked boolean,
    PRIMARY KEY (course_id, sequence))
"""


async def until_equal(one: Connection, other: Connection) -> None:
    """Returns once both have the same events."""
    async with asyncio.timeout(60):
        while await one.fetch(LOGGED) != await other.fetch(LOGGED):  # noqa: ASYNC110 - the database announces nothing
            await asyncio.sleep(0.05)
