"""`verify` finds nothing after ordinary traffic, and each of many hand-made corruptions."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from alembic import command
from alembic.config import Config

from enrollment_service.store.checks import CHECKS, MAX_EXAMPLES, verify
from enrollment_service.store.database import Database
from tests.support.databases import connected, migrate
from tests.support.processes import PROJECT
from tests.support.services import settings_for
from tests.support.traffic import ANN, ART, BIOLOGY, BO, CY, DANCE, DI, EM
from tests.support.verification import wrong_in


async def found_in(url: str) -> dict[str, list[dict[str, object]]]:
    """The names of the checks that find something, each with its examples."""
    return {one.check.name: [dict(row) for row in one.examples] for one in await wrong_in(url)}


async def test_nothing_is_wrong_after_ordinary_traffic(copy_url: str) -> None:
    assert await found_in(copy_url) == {}
    async with connected(copy_url) as connection:
        assert await connection.fetchval("SELECT count(*) FROM enrollment_events") > 25


async def test_nothing_is_wrong_in_an_empty_database(database_url: str) -> None:
    assert await found_in(database_url) == {}


@pytest.mark.parametrize("revision", ["0003", "0002"])
async def test_nothing_is_wrong_after_a_downgrade_and_an_upgrade(copy_url: str, revision: str) -> None:
    """0003 forgets the log, 0002 seats and waiters too; the way up begins a new log with what is left."""
    await asyncio.to_thread(downgrade, copy_url, revision)
    await asyncio.to_thread(migrate, copy_url)
    assert await found_in(copy_url) == {}
    async with connected(copy_url) as connection:
        left = await connection.fetch("SELECT course_id, count(*) FROM student_courses GROUP BY 1 ORDER BY 1")
    waiters = {"0003": [(ART, 5), (BIOLOGY, 5), (DANCE, 1)], "0002": [(ART, 2), (BIOLOGY, 5)]}
    assert [tuple(row) for row in left] == waiters[revision]


def downgrade(url: str, revision: str) -> None:
    config = Config(PROJECT / "alembic.ini")
    config.attributes["database_url"] = url
    command.downgrade(config, revision)


# What is done to the database, and exactly which checks find it. The events of Art are: 1 it is created; 2, 3 Ann and
# Bo enter; 4, 5, 6 Cy, Di and Em wait; 7 Ann leaves; 8 Cy is promoted; 9 Ann waits.
CORRUPTIONS = {
    "the last event is missing": (
        "DELETE FROM enrollment_events WHERE course_id = 1 AND sequence = 9",
        {"rows are the log", "last events", "beginnings"},
    ),
    "an event in between is missing": (
        "DELETE FROM enrollment_events WHERE course_id = 1 AND sequence = 3",
        {"rows are the log", "sequences", "event counts"},
    ),
    "a transition in between is missing": (
        "DELETE FROM enrollment_events WHERE course_id = 1 AND sequence = 7",
        {"sequences", "transitions", "event counts"},
    ),
    "the log of a deleted course has a hole": (
        "DELETE FROM enrollment_events WHERE course_id = 3 AND sequence IN (2, 3)",
        {"sequences"},
    ),
    "too few are counted": (
        "UPDATE course_seats SET enrolled_count = 1 WHERE course_id = 1",
        {"counts", "last events"},
    ),
    "too many waiters are counted": (
        "UPDATE course_seats SET waitlisted_count = 4 WHERE course_id = 1",
        {"counts", "last events"},
    ),
    "a course is oversold": (
        (
            "ALTER TABLE course_seats DROP CONSTRAINT ck_course_seats_enrolled_within_capacity;"
            "UPDATE course_seats SET capacity = 1 WHERE course_id = 1"
        ),
        {"capacity", "last events"},
    ),
    "two tickets are exchanged": (
        "UPDATE student_courses SET sequence = 11 - sequence WHERE course_id = 1 AND student_id IN (4, 5)",
        {"rows are the log"},
    ),
    "a state is flipped": (
        "UPDATE student_courses SET state = 1 WHERE course_id = 1 AND student_id = 4",
        {"rows are the log", "counts", "capacity"},
    ),
    "an enroll time is another": (
        "UPDATE student_courses SET enroll_time = enroll_time + interval '1 s' WHERE course_id = 1 AND student_id = 4",
        {"rows are the log"},
    ),
    "a create time is another": (
        "UPDATE student_courses SET create_time = create_time - interval '1 s' WHERE course_id = 1 AND student_id = 3",
        {"beginnings"},
    ),
    "somebody waits beside a free seat": (
        "UPDATE course_seats SET capacity = 3 WHERE course_id = 1",
        {"free seats", "last events"},
    ),
    "a closed course is opened and nobody promoted": (
        "UPDATE course_seats SET enroll_close_time = NULL WHERE course_id = 4",
        {"free seats"},
    ),
    "time runs backwards": (
        "UPDATE enrollment_events SET event_time = event_time - interval '1 h' WHERE course_id = 1 AND sequence = 7",
        {"event times"},
    ),
    "somebody is enrolled without an event": (
        "INSERT INTO student_courses (student_id, course_id, state, sequence, enroll_time) VALUES (1, 4, 1, 9, now())",
        {"rows are the log", "counts", "beginnings"},
    ),
    "somebody is gone without an event": (
        "DELETE FROM student_courses WHERE student_id = 4 AND course_id = 1",
        {"rows are the log", "counts"},
    ),
    "the last sequence is wrong": (
        "UPDATE course_seats SET last_sequence = 8 WHERE course_id = 1",
        {"last events"},
    ),
    "the time of the last event is wrong": (
        "UPDATE course_seats SET last_event_time = now() WHERE course_id = 1",
        {"last events"},
    ),
    "the second waiter was promoted before the first": (
        # Rows and log agree: Di came before Cy, but it was Cy who was promoted.
        (
            "UPDATE enrollment_events SET student_id = 7 - student_id WHERE course_id = 1 AND sequence IN (4, 5);"
            "UPDATE student_courses r SET create_time = e.event_time FROM enrollment_events e"
            " WHERE e.course_id = 1 AND e.state = 2 AND (r.student_id, r.course_id) = (e.student_id, e.course_id);"
            "UPDATE student_courses SET sequence = 4, enroll_time = create_time WHERE course_id = 1 AND student_id = 4"
        ),
        {"first come"},
    ),
    "a newcomer passed the queue": (
        # Rows, counts and log agree: Ann got a seat, one more than there were, while Di and Em waited.
        (
            "UPDATE enrollment_events SET state = 1, waitlist_position = 0, enrolled_count = 3,"
            " waitlisted_count = 2, capacity = 3 WHERE course_id = 1 AND sequence = 9;"
            "UPDATE enrollment_events SET capacity = 3 WHERE course_id = 1;"
            "UPDATE student_courses SET state = 1 WHERE course_id = 1 AND student_id = 1;"
            "UPDATE course_seats SET capacity = 3, enrolled_count = 3, waitlisted_count = 2 WHERE course_id = 1"
        ),
        {"no passing"},
    ),
    "a position in the log is wrong": (
        "UPDATE enrollment_events SET waitlist_position = 1 WHERE course_id = 1 AND sequence = 5",
        {"positions"},
    ),
    "a transition that does not exist": (
        "UPDATE enrollment_events SET previous_state = 1 WHERE course_id = 1 AND sequence = 2",
        {"transitions", "event counts"},
    ),
    "the creation of a course is missing": (
        "DELETE FROM enrollment_events WHERE course_id = 1 AND sequence = 1",
        {"sequences", "courses are the log"},
    ),
    "a course was created twice": (
        (
            "UPDATE enrollment_events SET kind = 2, changed_fields = NULL"
            " WHERE course_id = 4 AND changed_fields IS NOT NULL"
        ),
        {"courses are the log"},
    ),
    "a course is gone, but not in the log": (
        "DELETE FROM enrollment_events WHERE course_id = 3 AND kind = 4",
        {"courses are the log"},
    ),
    "a course is there, but not in the log": (
        (
            "UPDATE course_seats SET last_sequence = last_sequence + 1 WHERE course_id = 4;"
            "INSERT INTO enrollment_events (course_id, sequence, kind, previous_state, state, enrolled_count,"
            " waitlisted_count, capacity, event_time) SELECT course_id, last_sequence, 4, 0, 0, enrolled_count,"
            " waitlisted_count, capacity, last_event_time FROM course_seats WHERE course_id = 4"
        ),
        {"courses are the log"},
    ),
    "something happened after the end of a course": (
        (
            "UPDATE enrollment_events SET kind = 4, changed_fields = NULL"
            " WHERE course_id = 4 AND changed_fields IS NOT NULL"
        ),
        {"courses are the log"},
    ),
    "a course without any event": (
        (
            "INSERT INTO courses (id, code, title) VALUES (99, 'C-99', 'Cooking');"
            "INSERT INTO course_seats (course_id) VALUES (99)"
        ),
        {"courses are the log", "last events"},
    ),
    "an event counts wrong": (
        "UPDATE enrollment_events SET waitlisted_count = 9 WHERE course_id = 1 AND sequence = 5",
        {"event counts"},
    ),
    "a capacity changed without a word": (
        "UPDATE enrollment_events SET capacity = 9 WHERE course_id = 1 AND sequence = 5",
        {"event capacities"},
    ),
    "the log says that a capacity changed that did not": (
        "UPDATE enrollment_events SET changed_fields = '{capacity}' WHERE changed_fields IS NOT NULL AND course_id = 4",
        {"event capacities"},
    ),
    "a course was oversold for a while": (
        # Everything else agrees: two sat in it, and only then it was given the second seat.
        (
            "UPDATE enrollment_events SET capacity = 1 WHERE course_id = 1;"
            "UPDATE course_seats SET last_sequence = 10 WHERE course_id = 1;"
            "INSERT INTO enrollment_events (course_id, sequence, kind, previous_state, state, enrolled_count,"
            " waitlisted_count, capacity, changed_fields, event_time) SELECT course_id, 10, 3, 0, 0, enrolled_count,"
            " waitlisted_count, capacity, '{capacity}', last_event_time FROM course_seats WHERE course_id = 1"
        ),
        {"capacity"},
    ),
    "a waiver is there, but not in the log": (
        (
            "INSERT INTO waivers (course_id, student_id, reason, create_time, actor, sequence)"
            " SELECT course_id, 1, reason, create_time, actor, sequence FROM waivers LIMIT 1"
        ),
        {"waivers are the log"},
    ),
    "a waiver is in the log, but not there": (
        "DELETE FROM waivers WHERE student_id = 2",
        {"waivers are the log"},
    ),
    "a waiver was revoked, and is there": (
        (
            "INSERT INTO waivers (course_id, student_id, reason, create_time, actor, sequence)"
            " SELECT course_id, student_id, 'PERMIT_REQUIRED', event_time, actor, sequence"
            " FROM enrollment_events WHERE waiver_revoked"
        ),
        {"waivers are the log"},
    ),
    "a waiver expires at another time": (
        "UPDATE waivers SET expire_time = now() WHERE student_id = 2",
        {"waivers are the log"},
    ),
    "somebody keeps a course that the log does not know": (
        "UPDATE student_courses SET swap_from_course_id = 2 WHERE course_id = 1 AND student_id = 4",
        {"swaps are the log", "counts"},
    ),
    "who waits to swap is not counted": (
        "UPDATE course_seats SET swap_count = 1 WHERE course_id = 1",
        {"counts"},
    ),
    "a request has no outcome": (
        "UPDATE requests SET outcome = NULL WHERE request_id = (SELECT request_id FROM requests LIMIT 1)",
        {"requests"},
    ),
    "a seat row is missing": (
        "DELETE FROM course_seats WHERE course_id = 4",
        {"seat rows"},
    ),
    "a seat row is left over": (
        (
            "ALTER TABLE course_seats DROP CONSTRAINT fk_course_seats_course_id_courses;"
            "INSERT INTO course_seats (course_id) VALUES (99)"
        ),
        {"seat rows", "last events"},
    ),
    "a student is gone, but not the enrollments": (
        (
            "ALTER TABLE student_courses DROP CONSTRAINT fk_student_courses_student_id_students;"
            "DELETE FROM students WHERE id = 4"
        ),
        {"references"},
    ),
}


@pytest.mark.parametrize("corruption", CORRUPTIONS)
async def test_a_corruption_is_found(copy_url: str, corruption: str) -> None:
    statements, expected = CORRUPTIONS[corruption]
    async with connected(copy_url) as connection:
        await connection.execute(statements)
    found = await found_in(copy_url)
    assert found.keys() == expected
    assert all(0 < len(examples) <= MAX_EXAMPLES for examples in found.values())


def test_every_check_finds_something() -> None:
    assert {check.name for check in CHECKS} == {name for _, names in CORRUPTIONS.values() for name in names}


async def test_a_finding_names_the_ids(copy_url: str) -> None:
    async with connected(copy_url) as connection:
        await connection.execute("DELETE FROM student_courses WHERE course_id = 2")
    found = await found_in(copy_url)
    assert found["counts"] == [{"course_id": BIOLOGY}]
    students = [one["student_id"] for one in found["rows are the log"]]
    assert sorted(map(int, map(str, students))) == [ANN, BO, CY, DI, EM]


async def test_the_time_may_be_given(copy_url: str) -> None:
    """Bo waits for Dance beside a free seat; whether that is right depends on the time."""
    database = Database(settings_for(copy_url))
    try:
        (finding,) = await verify(database, datetime.now(UTC) - timedelta(days=2))
    finally:
        await database.close()
    assert (finding.check.name, finding.count, str(finding)) == ("free seats", 1, "1 wrong: course_id=4")
