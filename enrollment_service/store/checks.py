"""Checks on a live database that every promise about enrollments holds; the command `verify` prints what they find.

Of events that are so old that they may have been forgotten, only what must still be there is asked for.

A table of named checks, each one set-based statement that returns the rows which break it, ids only. All see the same
snapshot, lock nothing and write nothing. What may be done with what they find is left to people.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from enrollment_service.domain.records import (
    COURSE_CREATED,
    COURSE_DELETED,
    DROPPED,
    ENROLLED,
    NO_STATE,
    OF_ENROLLMENT,
    OF_WAIVER,
    WAITLISTED,
    ServiceReason,
)
from enrollment_service.store.database import Database

MAX_EXAMPLES = 5
# For the checks' own transaction: they read whole tables, which no call does, and sort them.
_LIMITS = ("SET LOCAL statement_timeout = '15min'", "SET LOCAL work_mem = '128MB'")


@dataclass(frozen=True, slots=True)
class Check:
    """A promise, and the statement that finds what breaks it. Its columns are ids."""

    name: str
    promise: str
    sql: str


@dataclass(frozen=True, slots=True)
class Finding:
    """A broken promise: how many rows break it, and the ids of a few."""

    check: Check
    count: int
    examples: tuple[Mapping[str, Any], ...]

    def __str__(self) -> str:
        rows = "; ".join(" ".join(f"{name}={value}" for name, value in row.items()) for row in self.examples)
        return f"{self.count} wrong: {rows}{'; ...' if self.count > len(self.examples) else ''}"


# In a log that a migration began, its events tell where everybody stood, not in which order they had come, and what
# the capacity was in the end, not in between.
_MIGRATED = ServiceReason.MIGRATION
_LEGAL = ", ".join(
    f"({before}, {after})"
    for before, after in (
        (NO_STATE, ENROLLED),
        (NO_STATE, WAITLISTED),
        (WAITLISTED, WAITLISTED),
        (WAITLISTED, ENROLLED),
        (ENROLLED, DROPPED),
        (WAITLISTED, DROPPED),
    )
)

# From when on the log has everything. Where nothing was deleted yet that is always.
_HORIZON = "(SELECT CASE WHEN purged_xid IS NULL THEN '-infinity' ELSE since END FROM log_horizon)"
# Those events, and of each course the last one before them, which tells the counts to begin with.
_COUNTED = f"""(
    SELECT *,
        CASE WHEN event_time < {_HORIZON} THEN enrolled_count
            ELSE (state = {ENROLLED})::int - (previous_state = {ENROLLED})::int END AS enrolled_more,
        CASE WHEN event_time < {_HORIZON} THEN waitlisted_count
            ELSE (state = {WAITLISTED})::int - (previous_state = {WAITLISTED})::int END AS waitlisted_more
    FROM (
        SELECT *, lead(event_time) OVER (PARTITION BY course_id ORDER BY sequence) AS next_time FROM enrollment_events
    ) v
    WHERE event_time >= {_HORIZON} OR coalesce(next_time >= {_HORIZON}, true)
) counted"""

CHECKS = (
    Check(
        "seat rows",
        "Every course has its seat row, and every seat row its course.",
        """
        SELECT coalesce(c.id, s.course_id) AS course_id
        FROM courses c FULL JOIN course_seats s ON s.course_id = c.id
        WHERE c.id IS NULL OR s.course_id IS NULL
        """,
    ),
    Check(
        "references",
        "Every enrollment is of a student and a course that exist.",
        """
        SELECT e.course_id, e.student_id
        FROM student_courses e
        LEFT JOIN students s ON s.id = e.student_id LEFT JOIN courses c ON c.id = e.course_id
        WHERE s.id IS NULL OR c.id IS NULL
        """,
    ),
    Check(
        "counts",
        "The counts of a course are those of its enrollments.",
        f"""
        SELECT s.course_id
        FROM course_seats s LEFT JOIN (
            SELECT course_id,
                count(*) FILTER (WHERE state = {ENROLLED}) AS enrolled,
                count(*) FILTER (WHERE state = {WAITLISTED}) AS waitlisted,
                count(swap_from_course_id) AS swapping
            FROM student_courses GROUP BY course_id
        ) n USING (course_id)
        WHERE (s.enrolled_count, s.waitlisted_count, s.swap_count)
            <> (coalesce(n.enrolled, 0), coalesce(n.waitlisted, 0), coalesce(n.swapping, 0))
        """,
    ),
    Check(
        "capacity",
        "No course has more students than seats, or ever had.",
        f"""
        SELECT s.course_id
        FROM course_seats s LEFT JOIN (
            SELECT course_id, count(*) AS enrolled FROM student_courses WHERE state = {ENROLLED} GROUP BY course_id
        ) n USING (course_id)
        WHERE s.capacity < greatest(s.enrolled_count, n.enrolled)
        UNION
        SELECT course_id
        FROM enrollment_events v
        WHERE enrolled_count > capacity AND event_time >= {_HORIZON} AND NOT EXISTS (
            SELECT FROM enrollment_events f
            WHERE (f.course_id, f.sequence, f.reason) = (v.course_id, 1, '{_MIGRATED}')
        )
        """,
    ),
    Check(
        "free seats",
        "Nobody waits beside a free seat, unless enrollment has closed.",
        f"""
        SELECT s.course_id
        FROM course_seats s JOIN (
            SELECT course_id, count(*) FILTER (WHERE state = {ENROLLED}) AS enrolled
            FROM student_courses GROUP BY course_id HAVING count(*) FILTER (WHERE state = {WAITLISTED}) > 0
        ) n USING (course_id)
        WHERE (s.capacity IS NULL OR n.enrolled < s.capacity)
            AND (s.enroll_close_time IS NULL
                OR s.enroll_close_time > coalesce(CAST(:now AS timestamptz), clock_timestamp()))
        """,
    ),
    Check(
        "rows are the log",
        "The last event of every student in a course is the row they have: state, ticket and time; or none.",
        f"""
        SELECT course_id, student_id, last.sequence
        FROM (
            SELECT DISTINCT ON (course_id, student_id) course_id, student_id, state, sequence, event_time
            FROM enrollment_events WHERE kind = {OF_ENROLLMENT} AND previous_state <> state
            ORDER BY course_id, student_id, sequence DESC
        ) last FULL JOIN student_courses e USING (course_id, student_id)
        WHERE CASE
            WHEN e.state IS NULL THEN last.state <> {DROPPED}
            ELSE (last.state, last.sequence, last.event_time) IS DISTINCT FROM (e.state, e.sequence, e.enroll_time)
        END
        """,
    ),
    Check(
        "swaps are the log",
        "The last event of every waiter names the course that they keep until promoted, and nobody else keeps one.",
        f"""
        SELECT e.course_id, e.student_id, last.sequence
        FROM student_courses e LEFT JOIN LATERAL (
            SELECT sequence, previous_state, swap_from_course_id FROM enrollment_events v
            WHERE e.state = {WAITLISTED} AND v.kind = {OF_ENROLLMENT}
                AND (v.course_id, v.student_id) = (e.course_id, e.student_id)
            ORDER BY sequence DESC LIMIT 1
        ) last ON true
        WHERE e.swap_from_course_id IS DISTINCT FROM last.swap_from_course_id
            OR e.latest_sequence IS DISTINCT FROM CASE last.previous_state WHEN {WAITLISTED} THEN last.sequence END
        """,
    ),
    Check(
        "beginnings",
        "The create time of an enrollment is the time of its first event.",
        f"""
        SELECT course_id, student_id, first.sequence
        FROM (
            SELECT DISTINCT ON (course_id, student_id) course_id, student_id, sequence, event_time, reason
            FROM enrollment_events WHERE kind = {OF_ENROLLMENT} AND previous_state = {NO_STATE}
            ORDER BY course_id, student_id, sequence DESC
        ) first JOIN student_courses e USING (course_id, student_id)
        WHERE first.event_time <> e.create_time AND first.reason <> '{_MIGRATED}'
        """,
    ),
    Check(
        "sequences",
        "The events of a course, of a deleted one too, are numbered 1, 2, 3, ... without holes.",
        f"""
        SELECT course_id, sequence
        FROM (
            SELECT course_id, sequence, event_time,
                lag(sequence, 1, 0::bigint) OVER (PARTITION BY course_id ORDER BY sequence) AS before
            FROM enrollment_events
        ) numbered
        WHERE sequence <> before + 1 AND event_time >= {_HORIZON}
        """,
    ),
    Check(
        "last events",
        "A course knows the number and the time of its last event, and has the counts and the capacity after it.",
        """
        SELECT s.course_id, last.sequence
        FROM course_seats s LEFT JOIN LATERAL (
            SELECT sequence, event_time, enrolled_count, waitlisted_count, capacity FROM enrollment_events v
            WHERE v.course_id = s.course_id ORDER BY sequence DESC LIMIT 1
        ) last ON true
        WHERE (s.last_sequence, s.last_event_time, s.enrolled_count, s.waitlisted_count, s.capacity)
            IS DISTINCT FROM
            (last.sequence, last.event_time, last.enrolled_count, last.waitlisted_count, last.capacity)
        """,
    ),
    Check(
        "courses are the log",
        "The log of a course begins with its creation, and ends with its deletion if and only if it is gone.",
        f"""
        SELECT course_id, sequence
        FROM (
            SELECT course_id, sequence, event_time, kind,
                lag(kind) OVER life AS kind_before, lead(kind) OVER life AS kind_after
            FROM enrollment_events WINDOW life AS (PARTITION BY course_id ORDER BY sequence)
        ) lives
        WHERE ((kind = {COURSE_CREATED}) <> (kind_before IS NULL) AND event_time >= {_HORIZON})
            OR (kind = {COURSE_DELETED} AND kind_after IS NOT NULL)
        UNION
        SELECT coalesce(c.id, last.course_id), last.sequence
        FROM courses c FULL JOIN (
            SELECT DISTINCT ON (course_id) course_id, sequence, kind
            FROM enrollment_events ORDER BY course_id, sequence DESC
        ) last ON last.course_id = c.id
        WHERE (c.id IS NULL) IS DISTINCT FROM (last.kind = {COURSE_DELETED})
        """,
    ),
    Check(
        "event counts",
        "The counts in an event are what all events up to it add up to.",
        f"""
        SELECT course_id, sequence
        FROM (
            SELECT course_id, sequence, enrolled_count, waitlisted_count,
                sum(enrolled_more) OVER so_far AS enrolled, sum(waitlisted_more) OVER so_far AS waitlisted
            FROM {_COUNTED}
            WINDOW so_far AS (PARTITION BY course_id ORDER BY sequence ROWS UNBOUNDED PRECEDING)
        ) folded
        WHERE (enrolled_count, waitlisted_count) <> (enrolled, waitlisted)
        """,
    ),
    Check(
        "event capacities",
        "The capacity in an event is that of the event before it, unless the event says that it was changed.",
        f"""
        SELECT course_id, sequence
        FROM (
            SELECT course_id, sequence, event_time, capacity, changed_fields, lag(kind) OVER life AS kind_before,
                lag(capacity) OVER life AS before
            FROM enrollment_events WINDOW life AS (PARTITION BY course_id ORDER BY sequence)
        ) limited
        WHERE kind_before IS NOT NULL AND event_time >= {_HORIZON}
            AND (capacity IS DISTINCT FROM before) <> coalesce('capacity' = ANY (changed_fields), false)
        """,
    ),
    Check(
        "event times",
        "The time never runs backwards in the events of a course.",
        """
        SELECT course_id, sequence
        FROM (
            SELECT course_id, sequence, event_time,
                lag(event_time) OVER (PARTITION BY course_id ORDER BY sequence) AS before
            FROM enrollment_events
        ) timed
        WHERE event_time < before
        """,
    ),
    Check(
        "transitions",
        "Every event is a transition that exists, and sets out from where the event before it led.",
        f"""
        SELECT course_id, student_id, sequence
        FROM (
            SELECT course_id, student_id, sequence, previous_state, state, event_time,
                lag(state, 1, {DROPPED}::smallint) OVER (PARTITION BY course_id, student_id ORDER BY sequence) AS before
            FROM enrollment_events WHERE kind = {OF_ENROLLMENT}
        ) chained
        WHERE (previous_state, state) NOT IN ({_LEGAL})
            OR (previous_state <> CASE before WHEN {DROPPED} THEN {NO_STATE} ELSE before END
                AND event_time >= {_HORIZON})
        """,
    ),
    Check(
        "first come",
        "Whoever was promoted had waited longest.",
        f"""
        SELECT course_id, student_id, left_at AS sequence
        FROM (
            SELECT *, max(coalesce(left_at, {2**63 - 1})) OVER (
                PARTITION BY course_id ORDER BY joined_at ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
            ) AS earlier_ones_left_at
            FROM (
                SELECT course_id, student_id, state, sequence AS joined_at,
                    lead(sequence) OVER visits AS left_at, lead(state) OVER visits AS left_for
                FROM enrollment_events
                WHERE {WAITLISTED} IN (state, previous_state) AND state <> previous_state
                WINDOW visits AS (PARTITION BY course_id, student_id ORDER BY sequence)
            ) visited
            WHERE state = {WAITLISTED}
        ) waited
        WHERE left_for = {ENROLLED} AND earlier_ones_left_at > left_at
        """,
    ),
    Check(
        "no passing",
        "No newcomer was given a seat while somebody waited.",
        f"""
        SELECT course_id, student_id, sequence
        FROM (
            SELECT course_id, student_id, sequence, previous_state, state, reason,
                sum(waitlisted_more) OVER (
                    PARTITION BY course_id ORDER BY sequence ROWS UNBOUNDED PRECEDING
                ) AS waiting
            FROM {_COUNTED}
        ) queued
        WHERE previous_state = {NO_STATE} AND state = {ENROLLED} AND waiting > 0 AND reason <> '{_MIGRATED}'
        """,
    ),
    Check(
        "positions",
        "An event that begins a wait names the tail of the queue, any other event no position.",
        f"""
        SELECT course_id, student_id, sequence
        FROM (
            SELECT course_id, student_id, sequence, previous_state, state, waitlist_position,
                sum(waitlisted_more) OVER (
                    PARTITION BY course_id ORDER BY sequence ROWS UNBOUNDED PRECEDING
                ) AS waiting
            FROM {_COUNTED}
        ) queued
        WHERE CASE
            WHEN (previous_state, state) = ({WAITLISTED}, {WAITLISTED}) THEN waitlist_position NOT BETWEEN 1 AND waiting
            WHEN state = {WAITLISTED} THEN waitlist_position <> waiting
            ELSE waitlist_position <> 0
        END
        """,
    ),
    Check(
        "waivers are the log",
        "The last event about a refusal of a student in a course is the waiver they have; or none, if it was revoked.",
        f"""
        SELECT course_id, student_id, reason, last.sequence
        FROM (
            SELECT DISTINCT ON (course_id, student_id, lifted) course_id, student_id, lifted AS reason, sequence,
                event_time, actor, waiver_expire_time, waiver_revoked
            FROM enrollment_events, unnest(waived_reasons) lifted
            WHERE kind = {OF_WAIVER} ORDER BY course_id, student_id, lifted, sequence DESC
        ) last FULL JOIN waivers w USING (course_id, student_id, reason)
        WHERE CASE
            WHEN w.sequence IS NULL THEN NOT last.waiver_revoked
                -- They end with their student and their course, and no event tells it.
                AND EXISTS (SELECT FROM students s WHERE s.id = student_id)
                AND EXISTS (SELECT FROM courses c WHERE c.id = course_id)
            ELSE (last.sequence, last.event_time, last.actor, last.waiver_expire_time, last.waiver_revoked)
                IS DISTINCT FROM (w.sequence, w.create_time, w.actor, w.expire_time, false)
        END
        """,
    ),
    Check(
        "requests",
        "Every request_id on record has its answer.",
        "SELECT request_id FROM requests WHERE outcome IS NULL",
    ),
)


async def verify(database: Database, now: datetime | None = None) -> list[Finding]:
    """The broken promises; none in a database that only the service has written.

    Args:
        database: the one to check.
        now: what time it is for enrollment windows; by default the database's.
    """
    async with aclosing(results(database, now)) as found:
        return [finding async for _, finding in found if finding is not None]


async def results(
    database: Database, now: datetime | None = None
) -> AsyncGenerator[tuple[Check, Finding | None], None]:
    """Each check with what it found, as soon as that is known; the arguments are those of `verify`."""
    async with database.engine.connect() as connection:
        await connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        for limit in _LIMITS:
            await connection.execute(text(limit))
        for check in CHECKS:
            yield check, await _find(connection, check, now)


async def _find(connection: AsyncConnection, check: Check, now: datetime | None) -> Finding | None:
    statement = text(f"SELECT *, count(*) OVER () AS in_all FROM ({check.sql}) wrong LIMIT {MAX_EXAMPLES}")
    parameters = {"now": now} if ":now" in check.sql else {}
    rows = [dict(row) for row in (await connection.execute(statement, parameters)).mappings()]
    if not rows:
        return None
    return Finding(check, max(row.pop("in_all") for row in rows), tuple(rows))
