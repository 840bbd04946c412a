"""The history of the schema: what an existing student database goes through, forth and back."""

from __future__ import annotations

import asyncio
import io
import sys
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg
import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from google.protobuf.field_mask_pb2 import FieldMask
from sqlalchemy import select
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import selectinload

from enrollment_service.store.database import SCHEMA_REVISION
from enrollment_service.store.faults import MisconfiguredError
from enrollment_service.store.models import Base, EnrollmentRow, StudentRow
from enrollment_service.v1 import enrollment_pb2 as pb
from tests.support.client import Client
from tests.support.databases import Connection, PostgresServer, connected, in_thread
from tests.support.migrated import Migrated
from tests.support.processes import PROJECT, environment
from tests.support.refusals import refused
from tests.support.services import service_on
from tests.support.verification import wrong_in

# What is stored of students and courses at revision 0001, down to where each row lies.
STUDENTS = "SELECT ctid, id, full_name, email, create_time, update_time FROM students ORDER BY id"
COURSES = "SELECT ctid, id, code, title, description, create_time, update_time FROM courses ORDER BY id"
REVISION_0005 = (PROJECT / "tests" / "store" / "revision_0005.sql").read_text()
START = datetime(2024, 9, 1, 8, tzinfo=UTC)


async def fill(connection: Connection) -> None:
    """Students and courses as an existing system has them; ids with gaps, letters of all kinds."""
    await connection.executemany(
        "INSERT INTO students (full_name, email, create_time, update_time) VALUES ($1, $2, $3, $4)",
        [
            (name, f"Student{index}@Example.org", START + timedelta(days=index), START + timedelta(days=2 * index))
            for index, name in enumerate(
                ["Ann Lee", "Zoë Ō'Brien", "李小龍", "\U0001f600" * 200, " padded ", "deleted"]
            )
        ],
    )
    await connection.executemany(
        "INSERT INTO courses (code, title, description) VALUES ($1, $2, $3)",
        [(f"C-{index}", f"Title {index}", "Line\nbreak\t" * index) for index in range(5)],
    )
    await connection.execute("DELETE FROM students WHERE full_name = 'deleted'")


async def test_an_existing_database_keeps_every_byte(empty: Migrated) -> None:
    empty.upgrade("0001")
    await fill(empty.connection)
    before = await empty.rows(STUDENTS), await empty.rows(COURSES)
    schema = await empty.schema()

    empty.upgrade()
    assert (await empty.rows(STUDENTS), await empty.rows(COURSES)) == before
    empty.downgrade("0001")
    assert (await empty.rows(STUDENTS), await empty.rows(COURSES)) == before
    assert await empty.schema() == schema
    next_id = "SELECT nextval(pg_get_serial_sequence('students', 'id'))"
    assert await empty.connection.fetchval(next_id) == 7


async def test_the_join_tables_downgrade_drops_it_and_nothing_else(empty: Migrated) -> None:
    empty.upgrade("0001")
    before = set(await empty.schema())
    empty.upgrade("0002")
    added = set(await empty.schema()) - before
    assert before <= set(await empty.schema())
    assert all("student_courses" in text for _, text in added)
    empty.downgrade("0001")
    assert set(await empty.schema()) == before


async def test_every_step_forth_and_back_ends_where_it_began(empty: Migrated) -> None:
    schemas = [await empty.schema()]
    revisions = [
        "base",
        *(one.revision for one in reversed([*ScriptDirectory.from_config(empty.config()).walk_revisions()])),
    ]
    for revision in revisions[1:]:
        empty.upgrade(revision)
        schemas.append(await empty.schema())
    for revision, schema in zip(reversed(revisions[:-1]), reversed(schemas[:-1]), strict=True):
        empty.downgrade(revision)
        assert await empty.schema() == schema, revision
    empty.upgrade()
    assert await empty.schema() == schemas[-1]


async def test_migrations_equal_the_models(empty: Migrated, postgres_server: PostgresServer) -> None:
    empty.upgrade()
    empty.run(command.check)  # warnings, which `make check` would print, are errors here
    # It compares neither check constraints nor operator classes; what follows does.
    async with postgres_server.database() as url, connected(url) as connection:
        engine = create_async_engine("postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(url))
        async with engine.begin() as created:
            await created.run_sync(Base.metadata.create_all)
        await engine.dispose()
        assert await empty.schema() == await Migrated(url, connection).schema()


async def test_all_constraints_and_indexes_have_names_of_ours(empty: Migrated) -> None:
    empty.upgrade()
    names = await empty.rows(
        "SELECT conname FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND contype <> 'n'"
    )
    names += await empty.rows("SELECT indexname FROM pg_indexes WHERE schemaname = 'public'")
    ours = [name for (name,) in names if not name.startswith("alembic_version")]
    assert [name for name in ours if name.split("_")[0] not in {"pk", "fk", "ck", "uq", "ix"}] == []


async def test_ids_are_bigint_and_times_have_a_zone(empty: Migrated) -> None:
    empty.upgrade()
    columns = {text.split(" ")[0]: text for kind, text in await empty.schema() if kind == "column"}
    not_ours = ("request_id", "external_id")
    assert [
        name
        for name, text in columns.items()
        if name.endswith("id") and not name.endswith(not_ours) and "bigint" not in text
    ] == ["enrollment_events.xid", "log_horizon.purged_xid"]
    assert [name for name, text in columns.items() if name.endswith("_time") and "with time zone" not in text] == []


async def test_codes_that_clash_stop_the_migration_and_are_named(empty: Migrated) -> None:
    empty.upgrade("0007")
    for code in ("ART 1", " art  1", "BIO-1", "MAT-1", "mat-1", "ART1"):
        await empty.connection.execute("INSERT INTO courses (code, title) VALUES ($1, 'Title')", code)
    before = await empty.schema(), await empty.rows(COURSES)
    with pytest.raises(MisconfiguredError) as refusal:
        empty.upgrade()
    assert str(refusal.value).endswith('courses/1 "ART 1" = courses/2 " art  1"; courses/4 "MAT-1" = courses/5 "mat-1"')
    assert (await empty.schema(), await empty.rows(COURSES)) == before
    await empty.connection.execute("UPDATE courses SET code = 'ART 1 B' WHERE id = 2")
    await empty.connection.execute("DELETE FROM courses WHERE id = 5")
    empty.upgrade()
    with pytest.raises(asyncpg.UniqueViolationError):
        await empty.connection.execute("INSERT INTO courses (code, title) VALUES ('bio-1 ', 'Title')")


def test_the_server_insists_on_the_newest_revision() -> None:
    assert ScriptDirectory.from_config(Config(PROJECT / "alembic.ini")).get_current_head() == SCHEMA_REVISION


async def test_three_migrators_at_once_do_no_harm(empty: Migrated, database_url: str) -> None:
    command_line = [sys.executable, "-m", "enrollment_service", "migrate"]
    variables = environment(DATABASE_URL=empty.url)
    migrators = [
        await asyncio.create_subprocess_exec(*command_line, cwd=PROJECT, env=variables, stderr=asyncio.subprocess.PIPE)
        for _ in range(3)
    ]
    outputs = await asyncio.gather(*(one.communicate() for one in migrators))
    assert [one.returncode for one in migrators] == [0, 0, 0], outputs
    async with connected(database_url) as connection:
        assert await empty.schema() == await Migrated(database_url, connection).schema()


@pytest.mark.long
async def test_a_migration_does_not_wait_long_for_a_table_that_is_in_use(empty: Migrated) -> None:
    empty.upgrade("0001")
    before = await empty.schema()
    async with connected(empty.url) as busy, busy.transaction():
        await busy.execute("LOCK TABLE students IN ACCESS SHARE MODE")
        with pytest.raises(Exception, match="lock timeout"):
            await asyncio.to_thread(empty.upgrade)
    assert await empty.schema() == before
    empty.upgrade()


async def test_the_sql_can_be_printed_instead_of_run(empty: Migrated) -> None:
    config, printed = empty.config(), io.StringIO()
    config.output_buffer = printed
    in_thread(lambda: command.upgrade(config, "head", sql=True))
    assert "CREATE TABLE student_courses" in printed.getvalue()
    assert await empty.schema() == []


# --- enrollments that were there before -------------------------------------------------------------------------


@pytest.fixture
async def populated(empty: Migrated) -> Migrated:
    """Revision 0002 with enrollments, which were not made in the order of their ids."""
    empty.upgrade("0002")
    await fill(empty.connection)
    await empty.connection.execute(
        "INSERT INTO student_courses (student_id, course_id, create_time) "
        "SELECT s.id, c.id, $1::timestamptz + interval '1 hour' * ((s.id * 7 + c.id * 3) % 5) "
        "FROM students s, courses c WHERE (s.id + c.id) % 3 > 0 AND c.id < 5",
        START,
    )
    return empty


async def test_enrollments_that_were_there_keep_their_place(populated: Migrated) -> None:
    there = "SELECT student_id, course_id, create_time FROM student_courses ORDER BY 1, 2"
    before = await populated.rows(there)
    assert len(before) > 10
    populated.upgrade()
    assert await populated.rows(there) == before

    rows = await populated.rows(
        "SELECT course_id, student_id, state, sequence, enroll_time, create_time FROM student_courses ORDER BY 1, 4"
    )
    for course_id in range(1, 5):
        of_course = [row for row in rows if row[0] == course_id]
        assert [row[3] for row in of_course] == [*range(2, len(of_course) + 2)]
        assert [(row[5], row[1]) for row in of_course] == sorted((row[5], row[1]) for row in of_course)
        assert all(row[2] == 1 and row[4] == row[5] for row in of_course)
    seats = await populated.rows(
        "SELECT s.course_id, enrolled_count, waitlisted_count, last_sequence, count(e.student_id), capacity, "
        "last_event_time = coalesce(max(e.create_time), c.create_time) FROM course_seats s "
        "JOIN courses c ON c.id = s.course_id LEFT JOIN student_courses e USING (course_id) "
        "GROUP BY s.course_id, c.create_time ORDER BY 1"
    )
    assert [row[0] for row in seats] == [1, 2, 3, 4, 5]
    assert all(row[1] == row[3] - 1 == row[4] and row[2] == 0 and row[5] is None and row[6] for row in seats)
    events = await populated.rows(
        "SELECT course_id, student_id, state, sequence, event_time, previous_state, reason "
        "FROM enrollment_events WHERE kind = 1 ORDER BY 1, 4"
    )
    assert events == [(*row[:5], 0, "migration") for row in rows]


async def test_the_past_begins_where_the_log_knows_everything(populated: Migrated) -> None:
    """Of what migrations have found, nobody knows who had left before."""
    since = "SELECT since, clock_timestamp() FROM log_horizon"
    before = await populated.connection.fetchval("SELECT clock_timestamp()")
    populated.upgrade()
    ((begun, now),) = await populated.rows(since)
    assert before < begun < now
    async with service_on(populated.url) as service:
        created = await service.client.create_course("PAST-1")
    populated.downgrade("0007")
    populated.upgrade()
    ((begun_again, _),) = await populated.rows(since)
    assert begun_again == created.create_time.ToDatetime(UTC)


async def test_the_service_goes_on_from_what_was_there(populated: Migrated) -> None:
    populated.upgrade()
    counts = dict(await populated.rows("SELECT course_id, enrolled_count FROM course_seats"))
    async with service_on(populated.url) as service:
        client: Client = service.client
        newcomer = await client.create_student(email="newcomer@example.org")
        assert newcomer.student_id == 7
        for enrolled in await client.enroll(newcomer.student_id, *range(1, 6)):
            assert enrolled.course.enrolled_count == counts[enrolled.course_id] + 1
            assert enrolled.etag == str(counts[enrolled.course_id] + 2)
        for course_id, count in counts.items():
            roster = await client.roster(course_id)
            assert len(roster) == count + 1
            for student_id in roster:
                await client.unenroll(student_id, course_id)
    assert await populated.rows("SELECT * FROM student_courses") == []
    assert (
        await populated.rows(
            "SELECT course_id FROM enrollment_events GROUP BY course_id HAVING count(*) <> max(sequence)"
        )
        == []
    )


async def test_waiters_and_dropped_numbers_enter_the_event_log_in_order(populated: Migrated) -> None:
    """A service at revision 0003 has numbered what events nobody kept."""
    populated.upgrade("0003")
    await populated.connection.execute("UPDATE student_courses SET sequence = sequence * 3")
    await populated.connection.execute(
        "UPDATE student_courses SET state = 2 WHERE course_id = 1 AND student_id IN (3, 4)"
    )
    await populated.connection.execute("UPDATE course_seats SET last_sequence = last_sequence * 3 + 2")
    await populated.connection.execute(
        "UPDATE course_seats SET waitlisted_count = w, enrolled_count = enrolled_count - w "
        "FROM (SELECT count(*) AS w FROM student_courses WHERE state = 2) n WHERE course_id = 1"
    )
    order = "SELECT course_id, student_id, state FROM student_courses ORDER BY course_id, sequence"
    before = await populated.rows(order)
    populated.upgrade()
    assert await populated.rows(order) == before
    events = "SELECT course_id, student_id, state FROM enrollment_events WHERE kind = 1 ORDER BY course_id, sequence"
    assert await populated.rows(events) == before
    assert (
        await populated.rows(
            "SELECT s.course_id FROM course_seats s LEFT JOIN enrollment_events e USING (course_id) "
            "GROUP BY s.course_id HAVING s.last_sequence <> count(e.sequence) "
            "OR s.last_sequence <> coalesce(max(sequence), 0)"
        )
        == []
    )
    positions = await populated.rows(
        "SELECT waitlist_position FROM enrollment_events WHERE state = 2 ORDER BY sequence"
    )
    assert [position for (position,) in positions] == [*range(1, len(positions) + 1)]
    assert positions


# --- a log that was there before --------------------------------------------------------------------------------

LOG = "SELECT course_id, sequence, student_id, previous_state, state, waitlist_position, event_time, reason, xid::text"
PLACES = "SELECT student_id, course_id, state, sequence, create_time, enroll_time FROM student_courses ORDER BY 1, 2"
COUNTERS = "SELECT course_id, last_sequence, last_event_time FROM course_seats ORDER BY 1"


@pytest.fixture
async def logged(empty: Migrated) -> Migrated:
    """Revision 0005 as a service of that time has left it."""
    empty.upgrade("0005")
    await empty.connection.execute(REVISION_0005)
    return empty


async def test_an_existing_log_becomes_complete(logged: Migrated) -> None:
    log = await logged.rows(f"{LOG} FROM enrollment_events ORDER BY 1, 2")
    places = await logged.rows(PLACES)
    logged.upgrade()
    assert await wrong_in(logged.url) == []

    moved = await logged.rows(f"{LOG} FROM enrollment_events WHERE kind = 1 ORDER BY 1, 2")
    assert moved == [(course_id, sequence + 1, *rest) for course_id, sequence, *rest in log]
    assert await logged.rows(PLACES) == [(*place[:3], place[3] + 1, *place[4:]) for place in places]
    of_courses = await logged.rows(
        "SELECT course_id, sequence, kind, enrolled_count, waitlisted_count, capacity, reason "
        "FROM enrollment_events WHERE kind <> 1 ORDER BY 1, 2"
    )
    # Of course 7 nothing had been left but a gap between the ids.
    assert of_courses == [
        (1, 1, 2, 0, 0, 3, "migration"),
        (2, 1, 2, 0, 0, None, "migration"),
        (3, 1, 2, 0, 0, None, "migration"),
        (3, 10, 4, 0, 0, None, "migration"),
        (4, 1, 2, 0, 0, 1, "migration"),
        (5, 1, 2, 0, 0, 7, "migration"),
        (6, 1, 2, 0, 0, None, "migration"),
        (6, 4, 4, 0, 0, None, "migration"),
        (8, 1, 2, 0, 0, 9, "migration"),
    ]
    counts = await logged.rows(
        "SELECT enrolled_count, waitlisted_count FROM enrollment_events WHERE course_id = 1 ORDER BY sequence"
    )
    assert counts == [(0, 0), (1, 0), (2, 0), (2, 1), (2, 2), (2, 3), (1, 3), (2, 2), (2, 3), (3, 2), (3, 1)]
    began = await logged.rows(
        "SELECT course_id FROM enrollment_events v LEFT JOIN courses c ON c.id = course_id "
        "WHERE kind = 2 AND event_time = create_time ORDER BY 1"
    )
    assert began == [(1,), (2,), (4,), (5,), (8,)]


async def test_a_course_that_is_younger_than_its_log_begins_with_it(logged: Migrated) -> None:
    """As in a database that was adopted: whoever filled it did not care for times."""
    await logged.connection.execute("UPDATE courses SET create_time = now()")
    logged.upgrade()
    assert await wrong_in(logged.url) == []
    first = await logged.rows(
        "SELECT min(event_time) = max(event_time) FROM enrollment_events WHERE course_id = 1 AND sequence < 3"
    )
    assert first == [(True,)]


async def test_the_way_down_leaves_the_log_of_enrollments(logged: Migrated) -> None:
    """Also where courses were changed in between: their events had numbers, which are taken out again."""
    before = [await logged.rows(f"{LOG} FROM enrollment_events ORDER BY 1, 2"), await logged.rows(COUNTERS)]
    before.append(await logged.rows(PLACES))
    logged.upgrade()
    async with service_on(logged.url) as service:
        for capacity in (4, 5):
            course = pb.Course(course_id=1, capacity=capacity)
            await service.client.call("UpdateCourse", course=course, update_mask=FieldMask(paths=["capacity"]))
        (entered,) = await service.client.enroll(6, 1)
    assert entered.etag == "15"  # the log had 11 events, and two changes and a promotion came before
    assert await wrong_in(logged.url) == []
    logged.downgrade("0005")
    after = await logged.rows(f"{LOG} FROM enrollment_events ORDER BY 1, 2")
    assert [line for line in after if line in before[0]] == before[0]
    assert [line[:5] for line in after if line not in before[0]] == [(1, 11, 1, 2, 1), (1, 12, 6, 0, 1)]
    assert await logged.rows("SELECT sequence FROM student_courses WHERE (student_id, course_id) = (6, 1)") == [(12,)]
    logged.upgrade()
    assert await wrong_in(logged.url) == []


async def test_answers_that_were_kept_are_still_given(logged: Migrated) -> None:
    """Calls from before are sent again: each is known, has no second effect, and shows the etags of today."""
    logged.upgrade()
    log = await logged.rows(f"{LOG} FROM enrollment_events ORDER BY 1, 2")
    async with service_on(logged.url) as service:
        client: Client = service.client
        wait = {"on_full": pb.ON_FULL_WAITLIST}
        (waited,) = await client.enroll(4, 1, **wait, reason="first_round", request_id=str(UUID(int=4)))
        assert (waited.waitlist_position, waited.etag) == (2, "5")
        waits, sits = await client.enroll(1, 1, 2, **wait, request_id=str(UUID(int=12)))
        for one in (waits, sits):
            present = (await client.call("GetEnrollment", student_id=1, course_id=one.course_id)).enrollment
            assert one.etag == present.etag
        left = await client.unenroll(1, 1, reason="moved", request_id=str(UUID(int=11)))
        assert left.etag == "7"
        swap = {"student_id": 2, "from_course_id": 3, "to_course_id": 2, "request_id": str(UUID(int=22))}
        swapped = await client.call("SwapEnrollment", **swap)
        assert (swapped.dropped.etag, swapped.enrolled.etag) == ("3", "3")
        nobody = await client.unenroll(6, 5, allow_missing=True, request_id=str(UUID(int=30)))
        assert nobody.etag == ""
        chunk = pb.ImportEnrollmentsRequest(student_ids=[1, 2, 3, 99], course_ids=[8] * 4, request_id=str(UUID(int=31)))
        (imported,) = [answer async for answer in client.stub.ImportEnrollments([chunk])]
        assert (imported.enrolled, imported.rejected) == (3, 1)
        with refused("INVALID_ARGUMENT", "REQUEST_ID_REUSED"):
            await client.enroll(2, 4, request_id=str(UUID(int=33)))
        (again,) = await client.enroll(2, 4, **wait, request_id=str(UUID(int=33)))
        assert again.waitlist_position == 1
    assert await logged.rows(f"{LOG} FROM enrollment_events ORDER BY 1, 2") == log


async def test_up_and_down_again_changes_nothing(logged: Migrated) -> None:
    looks = (f"{LOG} FROM enrollment_events ORDER BY 1, 2", COUNTERS, PLACES)
    before = [await logged.rows(look) for look in looks]
    logged.upgrade()
    logged.downgrade("0005")
    assert [await logged.rows(look) for look in looks] == before


async def test_the_models_relationships_load_when_asked_and_never_by_accident(populated: Migrated) -> None:
    populated.upgrade()
    engine = create_async_engine("postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(populated.url))
    async with AsyncSession(engine) as session:
        statement = select(StudentRow).order_by(StudentRow.id).limit(1)
        eager = statement.options(selectinload(StudentRow.enrollments).joinedload(EnrollmentRow.course))
        student = (await session.scalars(eager)).one()
        assert student.enrollments
        assert all(one.course.title.startswith("Title") for one in student.enrollments)
        session.expunge_all()
        with pytest.raises(InvalidRequestError, match="raise"):
            _ = (await session.scalars(statement)).one().enrollments
    await engine.dispose()
