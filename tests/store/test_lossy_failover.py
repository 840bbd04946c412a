"""After a failover that lost the newest changes: the same version of a course is another one now.

What a server remembers of the lost version must neither be shown nor written back. Once it is done with a real standby.
Otherwise what the failover does is done to the rows: the newest change of a course has never happened, and then another
server changes the course in its turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from enrollment_service.store.course_cache import CourseCache
from enrollment_service.v1 import enrollment_pb2 as pb
from tests.conftest import StartService
from tests.support.client import Client
from tests.support.databases import Connection, joined
from tests.support.processes import SERVE, Processes, processes_on, run_command
from tests.support.refusals import outcome_of
from tests.support.standby import primary_and_standby

pytestmark = pytest.mark.usefixtures("verified")

OTHERS = "datname = current_database() AND pid <> pg_backend_pid()"
# How a client learns the title of a course that a student is in, with another student at hand.
Look = Callable[[Client, int, int, int], Awaitable[str]]


async def update(client: Client, course_id: int, **changes: Any) -> pb.Course:
    """The course after a change."""
    course = pb.Course(course_id=course_id, **changes)
    answer = await client.call("UpdateCourse", course=course, update_mask={"paths": list(changes)})
    changed: pb.Course = answer.course
    return changed


async def title_in_list(client: Client, course_id: int, student_id: int, _: int) -> str:
    (enrollment,) = (await client.call("ListStudentCourses", student_id=student_id)).enrollments
    assert enrollment.course_id == course_id
    return str(enrollment.course.title)


async def title_after_enrolling(client: Client, course_id: int, _: int, other_id: int) -> str:
    (enrollment,) = await client.enroll(other_id, course_id)
    return enrollment.course.title


async def lose_the_title(client: Client, other: Client, connection: Connection) -> tuple[int, int, int]:
    """A course whose newest title `client` remembers and a failover has lost, and two students, one of them in it."""
    first, second = await client.students(2)
    course_id = (await client.create_course(title="Kept", capacity=9)).course_id
    await client.enroll(first, course_id)
    lost = await update(client, course_id, title="Lost")
    assert await title_in_list(client, course_id, first, second) == "Lost"
    async with connection.transaction():
        await connection.execute("UPDATE courses SET title = 'Kept' WHERE id = $1", course_id)
        await connection.execute("UPDATE course_seats SET version = version - 1 WHERE course_id = $1", course_id)
    assert (await update(other, course_id, description="New")).etag == lost.etag
    return course_id, first, second


async def test_a_lost_title_is_not_written_back(processes: Processes, connection: Connection) -> None:
    """Not even by a server that has not noticed anything: its connections are those of before."""
    (_, client), (_, other) = await processes.start_several(2)
    course_id, *_ = await lose_the_title(client, other, connection)
    answer = await update(client, course_id, capacity=10)
    assert (answer.title, answer.description, answer.capacity) == ("Kept", "New", 10)
    stored = await connection.fetchrow("SELECT title, description FROM courses WHERE id = $1", course_id)
    assert stored is not None
    assert tuple(stored) == ("Kept", "New")


async def test_a_change_writes_no_other_column(client: Client, connection: Connection) -> None:
    """What somebody else writes past the locks is not undone by a change of another field."""
    course_id = (await client.create_course(title="Read")).course_id
    await connection.execute(
        "CREATE FUNCTION written() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN "
        "UPDATE courses SET title = 'Written meanwhile'; UPDATE course_seats SET waitlist_capacity = 7; "
        "RETURN NULL; END $$;"
        "CREATE TRIGGER written AFTER INSERT ON enrollment_events FOR EACH ROW EXECUTE FUNCTION written()"
    )
    assert (await update(client, course_id, code="NEW-1", capacity=10)).title == "Read"
    (written,) = await connection.fetch(
        "SELECT title, code, waitlist_capacity, capacity FROM courses JOIN course_seats ON course_id = id"
    )
    assert tuple(written) == ("Written meanwhile", "NEW-1", 7, 10)


@pytest.mark.parametrize("look", [title_in_list, title_after_enrolling])
async def test_a_lost_title_is_forgotten_with_the_connection(
    processes: Processes, connection: Connection, look: Look
) -> None:
    (_, client), (_, other) = await processes.start_several(2)
    course_id, first, second = await lose_the_title(client, other, connection)
    await connection.fetch(f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE {OTHERS}")
    assert await look(client, course_id, first, second) == "Kept"


async def test_a_server_that_forgets_nothing_shows_the_lost_title(
    start_service: StartService, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control."""
    monkeypatch.setattr(CourseCache, "clear", lambda _: None)
    client, other = (await start_service()).client, (await start_service()).client
    course_id, first, second = await lose_the_title(client, other, connection)
    await connection.fetch(f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE {OTHERS}")
    assert await title_in_list(client, course_id, first, second) == "Lost"


@pytest.mark.long
async def test_a_standby_takes_over_that_has_missed_the_newest_changes(tmp_path: Path) -> None:
    """The service goes on without a restart. One that forgets nothing, the negative control, shows what is lost."""
    with primary_and_standby() as pair:
        url = joined(pair.primary.url, pair.standby.url)
        async with processes_on(url, tmp_path) as processes:
            (process, client), (_, unforgetting) = [
                await processes.start(python) for python in (SERVE, ("-m", "tests.support.broken", "unforgetting"))
            ]
            first, second = await client.students(2)
            course_id = (await client.create_course(title="Kept", capacity=9)).course_id
            (another,) = await client.courses(1)
            await client.enroll(first, course_id)
            await pair.part()
            lost = await update(client, course_id, title="Lost")
            for one in (client, unforgetting):
                assert await title_in_list(one, course_id, first, second) == "Lost"
            await client.enroll(second, course_id)
            await pair.fail_over()
            for one in (client, unforgetting):
                await until_it_works(one, second, another)
            # What had been answered OK is lost, too: nobody has promised more without synchronous replication.
            assert await client.roster(course_id) == [first]
            changed = await update(client, course_id, description="New")
            assert (changed.title, changed.etag) == ("Kept", lost.etag)
            assert await title_in_list(unforgetting, course_id, first, second) == "Lost"
            assert await title_in_list(client, course_id, first, second) == "Kept"
            changed = await update(client, course_id, capacity=10)
            assert (changed.title, changed.description, changed.capacity) == ("Kept", "New", 10)
            await client.enroll(second, course_id)
            assert await client.roster(course_id) == [first, second]
            verified = await run_command("verify", DATABASE_URL=url)
            assert (verified.returncode, verified.stderr) == (0, "")
            assert process.process.poll() is None


async def until_it_works(client: Client, student_id: int, course_id: int) -> None:
    """Returns once calls of every kind are answered, within ten seconds; until then callers are told why not."""
    calls: list[Callable[[], Awaitable[object]]] = [
        client.create_student,
        client.create_course,
        lambda: client.call("UnenrollStudent", student_id=student_id, course_id=course_id, allow_missing=True),
        lambda: client.call("GetStudent", student_id=student_id),
        lambda: client.roster(course_id),
    ]
    async with asyncio.timeout(10):
        for call in calls:
            while (outcome := await outcome_of(call())) != "OK":
                assert outcome == "UNAVAILABLE DATABASE_UNAVAILABLE"
