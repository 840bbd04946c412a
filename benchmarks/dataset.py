"""The data set: students, courses and enrollments, made by SQL in sets, in an order that looks random.

Student s holds the courses 1 + (s * 7919 + offset) % courses for the offsets k * stride, k < per_student. All other
offsets are free, and divided, so that nobody draws a pair that somebody else enrolled (load/pairs.go knows this too):

    k * stride + 1 ... k * stride + stride - 3   the load generator
    k * stride + stride - 2                      pgbench
    k * stride + stride - 1                      warming (k < 5) and the imports (k from 5 on)

The courses above number `courses` are empty: each measure of a hot course takes one of its own.
"""

from __future__ import annotations

import random

import asyncpg

from benchmarks.scale import HOT_COURSES, Scale

SPREAD = 7919
CAPACITY = 10_000_000  # a limit is checked, but never reached
_BIG_TABLES = ("student_courses", "enrollment_events")

_STUDENTS = """
    INSERT INTO students (id, full_name, email)
    SELECT s, 'Student Number ' || s, 'student.' || s || '@example.org' FROM generate_series(1, {students}) s
"""
_COURSES = """
    INSERT INTO courses (id, code, title, description)
    SELECT c, 'C-' || c, 'Course number ' || c, repeat('What this course is about. ', 4)
    FROM generate_series(1, {courses} + {hot}) c
"""
_PAIRS = """
    CREATE UNLOGGED TABLE bench_pairs AS
    SELECT student_id, course_id, 1 + row_number() OVER (PARTITION BY course_id ORDER BY place) AS sequence, place
    FROM (
        SELECT s AS student_id, 1 + (s * {spread} + k * {stride}) % {courses} AS course_id, random() AS place
        FROM generate_series(1::bigint, {students}) s, generate_series(0, {per_student} - 1) k
    ) pairs
"""
_SEATS = """
    INSERT INTO course_seats (course_id, capacity, enrolled_count, last_sequence, last_event_time)
    SELECT c.id, {capacity}, coalesce(p.seats, 0), 1 + coalesce(p.seats, 0), now()
    FROM courses c LEFT JOIN (SELECT course_id, count(*) AS seats FROM bench_pairs GROUP BY 1) p ON p.course_id = c.id
"""
_ENROLLMENTS = """
    INSERT INTO student_courses (student_id, course_id, create_time, state, sequence, enroll_time)
    SELECT student_id, course_id, now(), 1, sequence, now() FROM bench_pairs ORDER BY place
"""
# The first event of a course created it, and nobody waits or leaves: so an event counts one less than its number.
_EVENTS = """
    INSERT INTO enrollment_events (course_id, sequence, kind, student_id, previous_state, state, enrolled_count,
        waitlisted_count, capacity, event_time)
    SELECT id, 1, 2, NULL, 0, 0, 0, 0, {capacity}, now() FROM courses
    UNION ALL (
        SELECT course_id, sequence, 1, student_id, 0, 1, sequence - 1, 0, {capacity}, now()
        FROM bench_pairs ORDER BY place
    )
"""
_INDEXES = """
    SELECT i.indrelid::regclass AS table, i.indexrelid::regclass AS index, c.conname AS constraint,
        coalesce(pg_get_constraintdef(c.oid), pg_get_indexdef(i.indexrelid)) AS definition
    FROM pg_index i LEFT JOIN pg_constraint c ON c.conindid = i.indexrelid AND c.contype = 'p'
    WHERE i.indrelid = ANY ($1::regclass[])
"""
# Every page of every index is touched once, so that nobody is first to pay for cold or freshly checkpointed pages.
_WARM = """
    WITH pairs AS (
        SELECT s AS student_id, 1 + (s * {spread} + (s % 5) * {stride} + {stride} - 1) % {courses} AS course_id
        FROM generate_series(1::bigint, {students}) s WHERE s % 2 = 0 ORDER BY random()
    ),
    numbered AS (
        SELECT p.*, s.last_sequence + row_number() OVER (PARTITION BY p.course_id) AS sequence
        FROM pairs p JOIN course_seats s USING (course_id)
    ),
    enrolled AS (
        INSERT INTO student_courses (student_id, course_id, create_time, state, sequence, enroll_time)
        SELECT student_id, course_id, now(), 1, sequence, now() FROM numbered
    ),
    logged AS (
        INSERT INTO enrollment_events (course_id, sequence, kind, student_id, previous_state, state, enrolled_count,
            waitlisted_count, capacity, event_time)
        SELECT course_id, sequence, 1, student_id, 0, 1, sequence - 1, 0, {capacity}, now() FROM numbered
    )
    UPDATE course_seats s SET enrolled_count = enrolled_count + n, last_sequence = last, last_event_time = now()
    FROM (SELECT course_id, count(*) AS n, max(sequence) AS last FROM numbered GROUP BY 1) added
    WHERE s.course_id = added.course_id
"""
_BOOKS = """
    SELECT count(*) FROM course_seats s
    LEFT JOIN (SELECT course_id, count(*) AS n FROM student_courses GROUP BY 1) rows USING (course_id)
    LEFT JOIN (SELECT course_id, count(*) AS n, max(sequence) AS last FROM enrollment_events GROUP BY 1) events
        USING (course_id)
    WHERE (s.enrolled_count, s.last_sequence, s.last_sequence)
        IS DISTINCT FROM (coalesce(rows.n, 0), coalesce(events.n, 0), coalesce(events.last, 0))
"""


def _filled(statement: str, scale: Scale) -> str:
    return statement.format(
        students=scale.students,
        courses=scale.courses,
        per_student=scale.per_student,
        stride=scale.stride,
        spread=SPREAD,
        hot=HOT_COURSES,
        capacity=CAPACITY,
    )


async def load(connection: asyncpg.Connection, scale: Scale) -> None:
    """Fill a freshly migrated database; needs a superuser, because the foreign keys are not checked row by row."""
    await connection.execute("SET session_replication_role = replica; SET maintenance_work_mem = '512MB'")
    await connection.execute("SET work_mem = '256MB'; SELECT setseed(0.5)")
    indexes = await connection.fetch(_INDEXES, _BIG_TABLES)
    for row in indexes:
        drop = f"ALTER TABLE {row['table']} DROP CONSTRAINT {row['constraint']}"
        await connection.execute(drop if row["constraint"] else f"DROP INDEX {row['index']}")
    for statement in (_STUDENTS, _COURSES, _PAIRS, _SEATS, _ENROLLMENTS, _EVENTS):
        await connection.execute(_filled(statement, scale))
    for row in indexes:
        add = f"ALTER TABLE {row['table']} ADD CONSTRAINT {row['constraint']} {row['definition']}"
        await connection.execute(add if row["constraint"] else row["definition"])
    await connection.execute("DROP TABLE bench_pairs")
    for table in ("students", "courses"):
        await connection.execute(
            f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), (SELECT max(id) FROM {table}))"
        )
    await connection.execute("VACUUM (FREEZE, ANALYZE)")
    await connection.execute("CHECKPOINT")


async def warm(connection: asyncpg.Connection, scale: Scale) -> None:
    """Touch what the measures will touch; adds one enrollment for every second student."""
    await connection.execute("SELECT sum(length(full_name)) FROM students")
    await connection.execute(_filled(_WARM, scale))


def import_pairs(scale: Scale, *, each: int = 2) -> list[tuple[int, int]]:
    """The pairs to import, so many for each student (5 at most), in a random order that is the same every time."""
    pairs = [
        (student, 1 + (student * SPREAD + k * scale.stride + scale.stride - 1) % scale.courses)
        for student in range(1, scale.students + 1)
        for k in range(5, 5 + each)
    ]
    random.Random(5).shuffle(pairs)
    return pairs


async def last_sequences(connection: asyncpg.Connection) -> dict[int, int]:
    """The number of the last event of each course."""
    rows = await connection.fetch("SELECT course_id, last_sequence FROM course_seats")
    return {row["course_id"]: row["last_sequence"] for row in rows}


async def courses_out_of_balance(connection: asyncpg.Connection) -> int:
    """How many courses have counts that their rows and events do not bear out: must be 0 after any load."""
    return int(await connection.fetchval(_BOOKS))
