"""The hot statements find their rows by key on a large table, whatever the parameters: no scan ever returns."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import orjson
import pytest
from sqlalchemy import func

from enrollment_service.store import courses, enrollments, events, history, requests, seats, students
from enrollment_service.store.database import PLANNER_SETTINGS
from enrollment_service.store.statements import Prepared
from tests.support.databases import Connection, PostgresServer, connected

STUDENTS, COURSES, EACH, EVENTS = 20_000, 1_000, 10, 50

FILL = f"""
    INSERT INTO students (full_name, email, external_id)
        SELECT 'S ' || i, 's' || i || '@x.org', 'E-' || i FROM generate_series(1, {STUDENTS}) i;
    INSERT INTO courses (code, title) SELECT 'C-' || i, 'Course' FROM generate_series(1, {COURSES}) i;
    INSERT INTO course_seats (course_id) SELECT id FROM courses;
    INSERT INTO student_courses (student_id, course_id, state, sequence, enroll_time)
        SELECT s.id, 1 + (s.id * 7 + k * 97) % {COURSES}, CASE WHEN s.id % 50 = 0 THEN 2 ELSE 1 END,
            s.id * 10 + k, now()
        FROM students s, generate_series(1, {EACH}) k;
    INSERT INTO requests (actor, request_id, fingerprint)
        SELECT '', gen_random_uuid(), ''::bytea FROM generate_series(1, 20000);
    INSERT INTO enrollment_events (course_id, sequence, kind, student_id, previous_state, state, enrolled_count,
            waitlisted_count, event_time)
        SELECT c, n, 1, 1 + (c * 7 + n) % {STUDENTS}, 0, 1, 0, 0, now() + (c + n) * interval '1 second'
        FROM generate_series(1, {COURSES}) c, generate_series(1, {EVENTS}) n;
"""

# Tables so large in this test that a scan of one would be seen; what is scanned otherwise is a handful of parameters.
LARGE = {"students", "student_courses", "requests", "enrollment_events"}
STATEMENTS: dict[str, Prepared] = {
    "lock and load": seats._lock_and_load(func.clock_timestamp(), True),
    "wait, lock and load": seats._lock_and_load(func.clock_timestamp(), False),
    "load pairs": seats._load_pairs,
    "load waiters": seats._load_waiters,
    "apply": seats._apply_statement(("insert", "update", "delete", "count", "log")),
    "student courses": enrollments._read_student_courses,
    "pairs": enrollments._read_pairs,
    "students": students._read,
    "students by keys": students._read_by_keys,
    "owners of keys of students": students._read_owners,
    "courses": courses._read,
    "claimed requests": requests._claim_ids,
    "recorded requests": requests._read_recorded,
    "record outcomes": requests._record_outcomes,
    "place in the log": events._place,
    "foreign events": events._foreign,
    "new events": events._read_new,
    "end of a piece of the log": events._end_of_log,
    "piece of the log": events._piece_of_log,
    "end of a piece of a student's events": events._end_of_student,
    "piece of a student's events": events._piece_of_student,
    "end of the past": history._horizon(func.clock_timestamp()),
    "out of order": history._lowest_after,
    "past of a course": history._of_course,
    "past of a queue": history._of_queue,
    "past of a student": history._of_student,
    "any past of a student": history._student_known,
}


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every node of a plan."""
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


def scanned(plan: dict[str, Any]) -> list[str]:
    """The large tables that a plan reads from end to end."""
    scans = [node["Relation Name"] for node in nodes(plan) if node["Node Type"] == "Seq Scan"]
    return [name for name in scans if name in LARGE]


async def generic_plan(connection: Connection, statement: Prepared) -> dict[str, Any]:
    """The plan that the server keeps for a prepared statement, made without looking at any parameter."""
    for name, value in PLANNER_SETTINGS.items():
        await connection.execute(f"SET {name} = '{value}'")
    await connection.execute(f"PREPARE hot AS {statement.sql}")
    parameters = await connection.fetchval(
        "SELECT cardinality(parameter_types) FROM pg_prepared_statements WHERE name = 'hot'"
    )
    nothing = f"({', '.join(['NULL'] * parameters)})" if parameters else ""
    explained = await connection.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE hot {nothing}")
    await connection.execute("DEALLOCATE hot")
    plan: dict[str, Any] = orjson.loads(explained)[0]["Plan"]
    return plan


@pytest.fixture(scope="module")
def filled(postgres_server: PostgresServer, template: str) -> Iterator[str]:
    """The name of a database with large tables, to clone."""
    with postgres_server.filled(template, FILL + "ANALYZE") as name:
        yield name


@pytest.fixture
async def large(postgres_server: PostgresServer, filled: str) -> AsyncIterator[Connection]:
    """A connection to a database with large tables of the test's own."""
    async with postgres_server.database(filled) as url, connected(url) as connection:
        yield connection


async def test_hot_statements_never_scan_a_large_table(large: Connection) -> None:
    for name, statement in STATEMENTS.items():
        assert scanned(await generic_plan(large, statement)) == [], name


async def test_waiters_are_found_by_their_own_index(large: Connection) -> None:
    plan = await generic_plan(large, STATEMENTS["load waiters"])
    indexes = {node.get("Index Name") for node in nodes(plan)}
    assert "ix_student_courses_waiters" in indexes


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("place in the log", "ix_enrollment_events_xid"),
        ("foreign events", "ix_enrollment_events_xid"),
        ("new events", "ix_enrollment_events_xid"),
        ("end of a piece of the log", "pk_enrollment_events"),
        ("piece of the log", "pk_enrollment_events"),
        ("end of a piece of a student's events", "ix_enrollment_events_student"),
        ("piece of a student's events", "ix_enrollment_events_student"),
        ("past of a course", "pk_enrollment_events"),
        ("past of a queue", "pk_enrollment_events"),
        ("past of a student", "ix_enrollment_events_student"),
        ("any past of a student", "ix_enrollment_events_student"),
    ],
)
async def test_the_log_is_read_by_the_index_made_for_it(large: Connection, name: str, index: str) -> None:
    found = [node for node in nodes(await generic_plan(large, STATEMENTS[name])) if "Index Name" in node]
    ours = {node["Index Name"] for node in found if "enrollment_events" in node["Index Name"]}
    assert ours == {index}


async def test_the_end_of_the_past_is_found_by_its_time(large: Connection) -> None:
    for name, wanted in (
        ("end of the past", {"ix_enrollment_events_event_time"}),
        ("out of order", {"ix_enrollment_events_event_time", "ix_enrollment_events_xid"}),
    ):
        indexes = {node.get("Index Name") for node in nodes(await generic_plan(large, STATEMENTS[name]))}
        assert wanted <= indexes, name


async def test_the_check_sees_a_scan(large: Connection) -> None:
    """The negative control: without its indexes the same look finds a scan."""
    await large.execute("ALTER TABLE student_courses DROP CONSTRAINT pk_student_courses")
    await large.execute("DROP INDEX ix_student_courses_course_id_student_id")
    assert scanned(await generic_plan(large, STATEMENTS["student courses"])) == ["student_courses"]
