"""Keeps how many seats every course has left in a table of its own, up to date with the feed.

    python examples/seats_left.py 127.0.0.1:50051 postgresql://user@127.0.0.1/another_database

The resume token is stored in the transaction that counts. So every event counts once, whatever is killed: this
program, the service, a database; a constraint proves it. Where this program ends, start it again.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from contextlib import aclosing
from typing import Any

import asyncpg

from enrollment_service.client import EnrollmentClient, OutcomeUnknown, Refused
from enrollment_service.v1 import enrollment_pb2 as pb

TABLES = """
CREATE SCHEMA IF NOT EXISTS seats_left;
CREATE TABLE IF NOT EXISTS seats_left.courses (
    course_id bigint PRIMARY KEY,
    capacity integer, -- NULL: no limit
    enrolled_count integer NOT NULL,
    waitlisted_count integer NOT NULL,
    seats_left integer GENERATED ALWAYS AS (capacity - enrolled_count) STORED,
    events bigint NOT NULL, sequence bigint NOT NULL, CONSTRAINT every_event_once CHECK (events = sequence)
);
CREATE TABLE IF NOT EXISTS seats_left.progress (id integer PRIMARY KEY CHECK (id = 1), resume_token text NOT NULL);
INSERT INTO seats_left.progress VALUES (1, '') ON CONFLICT DO NOTHING;
"""
COURSE = """
MERGE INTO seats_left.courses AS known
USING (VALUES ($1::bigint, $2::bigint, $3::integer, $4::integer, $5::integer, $6::bigint, $7::boolean))
    AS new (course_id, sequence, capacity, enrolled_count, waitlisted_count, events, gone)
ON known.course_id = new.course_id
WHEN MATCHED AND new.gone THEN DELETE
WHEN MATCHED THEN UPDATE SET (sequence, capacity, enrolled_count, waitlisted_count, events)
    = (new.sequence, new.capacity, new.enrolled_count, new.waitlisted_count, known.events + new.events)
WHEN NOT MATCHED AND NOT new.gone THEN INSERT
    VALUES (new.course_id, new.capacity, new.enrolled_count, new.waitlisted_count, DEFAULT, new.events, new.sequence)
"""
PROGRESS = "UPDATE seats_left.progress SET resume_token = $2 WHERE resume_token = $1"
BEGIN_ANEW = "TRUNCATE seats_left.courses; UPDATE seats_left.progress SET resume_token = ''"
LOST = (asyncpg.InterfaceError, asyncpg.PostgresConnectionError, asyncpg.OperatorInterventionError)
PASSING = (OutcomeUnknown, OSError, *LOST)  # a service or a database that is not there comes back


def row(event: pb.EnrollmentEvent, events: int) -> tuple[int | None, ...]:
    """A course as it is after an event, which says so itself, and after how many since the last row."""
    capacity = event.capacity if event.HasField("capacity") else None
    counts = event.enrolled_count, event.waitlisted_count, events
    return event.course_id, event.sequence, capacity, *counts, event.kind == pb.EVENT_KIND_COURSE_DELETED


async def count(connection: Any, before: str, message: pb.WatchEnrollmentEventsResponse) -> None:
    """Counts a message: all of it together with the token behind it, or nothing."""
    newest = {event.course_id: event for event in message.events}
    events = Counter(event.course_id for event in message.events)
    async with connection.transaction():
        if await connection.execute(PROGRESS, before, message.resume_token) != "UPDATE 1":
            sys.exit("Another copy of this program keeps the same table.")
        await connection.executemany(COURSE, [row(event, events[course]) for course, event in newest.items()])


async def keep(client: EnrollmentClient, database_url: str) -> None:
    """Keeps the table until something breaks."""
    connection = await asyncpg.connect(database_url, timeout=10, command_timeout=10)
    try:
        await connection.execute(TABLES)
        token = await connection.fetchval("SELECT resume_token FROM seats_left.progress")
        async with aclosing(client.watch_enrollment_events(resume_token=token)) as feed:
            async for message in feed:
                await count(connection, token, message)
                token = message.resume_token
    except Refused as refusal:
        if refusal.reason != "RESUME_TOKEN_EXPIRED" or not token:
            raise
        await connection.execute(BEGIN_ANEW)  # after a restore: some of what was counted may never have happened
    finally:
        await connection.close(timeout=5)


async def main(address: str, database_url: str) -> None:
    """Keeps the table for ever."""
    async with EnrollmentClient(address) as client:
        while True:
            try:
                await keep(client, database_url)
            except PASSING as error:
                print(f"{type(error).__name__}: {error}", file=sys.stderr)
                await asyncio.sleep(0.5)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
