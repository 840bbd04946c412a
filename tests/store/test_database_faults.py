"""The database goes away, in the middle and in between: what callers are told, and that it all comes back."""

from __future__ import annotations

import asyncio
import os
import pwd
import secrets
import subprocess
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from dev.postgres import EmbeddedPostgres
from dev.programs import EmbeddedPostgresError
from tests.conftest import StartService
from tests.support.client import Client
from tests.support.databases import Connection, PostgresServer, destroyed, kill, migrate, temporary_folder
from tests.support.locks import until, until_waiting
from tests.support.processes import Processes, processes_on
from tests.support.proxy import Proxy, proxied
from tests.support.refusals import outcome_of, refused
from tests.support.services import service_on
from tests.support.thoroughness import mostly_long
from tests.support.verification import wrong_in

REQUEST_ID = "123e4567-e89b-12d3-a456-426614174000"
OTHERS = "datname = current_database() AND pid <> pg_backend_pid()"


@pytest.fixture
async def broken(app_url: str) -> AsyncIterator[tuple[Proxy, Client]]:
    """A service whose connections to the database can be broken."""
    async with proxied(app_url) as (proxy, url), service_on(url) as service:
        yield proxy, service.client


async def use_every_path(client: Client) -> None:
    """Each of the connections that a service holds, and the pool."""
    student, course = await client.create_student(), await client.create_course()
    await client.enroll(student.student_id, course.course_id)
    assert await client.courses_of(student.student_id) == [course.course_id]
    assert await client.roster(course.course_id) == [student.student_id]
    assert (await client.call("ListStudents")).students


async def test_killed_backends_are_replaced_before_a_caller_notices(client: Client, connection: Connection) -> None:
    for _ in range(3):
        await use_every_path(client)
        await connection.fetch(f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE {OTHERS}")
    await use_every_path(client)


async def test_while_the_database_is_away_callers_are_told_so_and_afterwards_it_works(
    broken: tuple[Proxy, Client],
) -> None:
    proxy, client = broken
    await use_every_path(client)
    proxy.refuse()
    calls: list[tuple[str, dict[str, Any]]] = [
        ("CreateStudent", {"student": {"full_name": "Ann", "email": "ann@example.org"}}),
        ("CreateCourse", {"course": {"code": "ART-1", "title": "Drawing"}}),
        ("EnrollStudent", {"student_id": 1, "course_ids": [1]}),
        ("GetStudent", {"student_id": 1}),
        ("ListStudentCourses", {"student_id": 1}),
        ("ListStudents", {}),
        ("ListCourseStudents", {"course_id": 1}),
    ]
    for method, fields in calls:
        with refused("UNAVAILABLE", "DATABASE_UNAVAILABLE", metadata={}) as refusal:
            await client.call(method, **fields)
        assert refusal.retry_delay == 1
    proxy.refusing = False
    await use_every_path(client)


async def test_a_connection_lost_before_the_commit_was_sent_is_retried(
    broken: tuple[Proxy, Client], connection: Connection
) -> None:
    proxy, client = broken
    (student_id,), (course_id,) = await client.students(1), await client.courses(1)
    await client.enroll(student_id, course_id)
    await client.unenroll(student_id, course_id)
    proxy.cut_before = b"BEGIN"
    await client.enroll(student_id, course_id)
    assert proxy.cuts == 1
    assert await connection.fetchval("SELECT count(*) FROM enrollment_events WHERE kind = 1") == 3


@pytest.mark.parametrize("committed", [True, False])
async def test_if_the_answer_to_a_commit_is_lost_the_outcome_is_unknown_and_a_retry_is_safe(
    broken: tuple[Proxy, Client], connection: Connection, committed: bool
) -> None:
    proxy, client = broken
    (student_id,), (course_id,) = await client.students(1), await client.courses(1)
    if committed:
        proxy.cut_after = b"COMMIT"
    else:
        proxy.cut_before = b"COMMIT"
    with refused("UNAVAILABLE", "DATABASE_UNAVAILABLE", metadata={}):
        await client.enroll(student_id, course_id, request_id=REQUEST_ID)
    assert proxy.cuts == 1
    if committed:
        async with asyncio.timeout(20):
            while await connection.fetchval("SELECT count(*) FROM student_courses") == 0:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    (enrolled,) = await client.enroll(student_id, course_id, request_id=REQUEST_ID)
    assert (enrolled.student_id, enrolled.course_id) == (student_id, course_id)
    assert await connection.fetchval("SELECT count(*) FROM enrollment_events WHERE kind = 1") == 1


@pytest.mark.parametrize("method", ["CreateStudent", "CreateCourse"])
async def test_a_create_whose_commit_is_unknown_says_so(broken: tuple[Proxy, Client], method: str) -> None:
    proxy, client = broken
    proxy.cut_before = b"COMMIT"
    create = client.create_student if method == "CreateStudent" else client.create_course
    with refused("UNAVAILABLE", "DATABASE_UNAVAILABLE"):
        await create()
    await create()


async def test_a_database_that_became_read_only_is_unavailable_for_writes_and_left_behind(
    client: Client, connection: Connection
) -> None:
    """As after a failover: the old connections lead to a server that may only be read."""
    await use_every_path(client)
    name = await connection.fetchval("SELECT current_database()")
    await connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    await connection.fetch(f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE {OTHERS}")
    with refused("UNAVAILABLE", "DATABASE_UNAVAILABLE"):
        await client.create_student()
    with refused("UNAVAILABLE", "DATABASE_UNAVAILABLE"):
        await client.enroll(1, 1)
    assert (await client.call("GetStudent", student_id=1)).student.student_id == 1
    await connection.execute("SET default_transaction_read_only = off")
    await connection.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    await use_every_path(client)


async def test_columns_that_are_added_meanwhile_do_no_harm(client: Client, connection: Connection) -> None:
    await use_every_path(client)
    await connection.execute("ALTER TABLE students ADD COLUMN nickname text")
    await connection.execute("ALTER TABLE course_seats ADD COLUMN room text")
    await connection.execute("ALTER TABLE student_courses ALTER COLUMN create_time SET DEFAULT clock_timestamp()")
    await use_every_path(client)


async def test_a_deadlock_with_a_stranger_is_retried(client: Client, connection: Connection) -> None:
    """Somebody else locks the rows in another order; PostgreSQL ends one of the two."""
    (student_id,), (first, second) = await client.students(1), await client.courses(2)
    await connection.execute("SET deadlock_timeout = '30s'")
    lock = "SELECT FROM course_seats WHERE course_id = $1 FOR UPDATE"
    async with connection.transaction():
        await connection.fetch(lock, second)
        call = asyncio.create_task(client.enroll(student_id, first, second))
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        async with asyncio.timeout(20):
            while not await connection.fetchval(waiting):  # noqa: ASYNC110 - the database announces no locks
                await asyncio.sleep(0.005)
        # The service's own deadlock check ends its transaction, which lets this one go on.
        await connection.fetch(lock, first)
    assert len(await call) == 2
    assert await client.courses_of(student_id) == [first, second]


@pytest.fixture
def mortal() -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL of the test's own with a migrated database; as durable as it is outside of tests."""
    with temporary_folder() as folder, destroyed(EmbeddedPostgres(folder / "postgres")) as postgres:
        try:
            migrate(postgres.ensure_running())
        except EmbeddedPostgresError as error:
            pytest.skip(f"no PostgreSQL of the test's own: {error}")
        yield postgres


@pytest.mark.parametrize("rows", mostly_long([1, 30], [1]))  # as many as there are workers that wait, and more
async def test_whoever_waits_for_a_row_of_a_server_that_crashes_is_answered(
    mortal: EmbeddedPostgres, tmp_path: Path, rows: int
) -> None:
    """Long before the deadline, and before the lock timeout."""
    async with processes_on(mortal.url, tmp_path) as processes:
        process, client = await processes.start(LOCK_TIMEOUT_MS="60000", MAX_STREAMS="1000")
        (held, leaving, *students), stuck = await client.students(rows + 3), await client.courses(rows)
        await client.enroll(leaving, *stuck)
        observer, holder = [await asyncpg.connect(mortal.url) for _ in range(2)]
        await holder.execute(f"BEGIN; SELECT FROM course_seats WHERE course_id = ANY(ARRAY{stuck}) FOR UPDATE")
        await holder.execute(f"SELECT FROM students WHERE id = {held} FOR UPDATE")
        changes: list[tuple[str, dict[str, Any]]] = [
            *(("EnrollStudent", {"student_id": one, "course_ids": stuck}) for one in students),
            *(("EnrollStudent", {"student_id": students[0], "course_ids": [one]}) for one in stuck),
            (
                "UpdateStudent",
                {"student": {"student_id": held, "full_name": "Bo"}, "update_mask": {"paths": ["full_name"]}},
            ),
            ("DeleteStudent", {"student_id": leaving, "force": True}),
            ("ReconcileRoster", {"course_id": stuck[0], "student_ids": students, "max_removals": 9}),
        ]
        calls = [asyncio.create_task(outcome_of(client.call(method, **fields))) for method, fields in changes]
        await client.health()  # what was sent before it has arrived
        await until_waiting(observer)
        assert not any(call.done() for call in calls)
        kill(mortal)
        async with asyncio.timeout(5):
            assert set(await asyncio.gather(*calls)) == {"UNAVAILABLE DATABASE_UNAVAILABLE"}
        for connection in (observer, holder):
            connection.terminate()
        await asyncio.to_thread(mortal.ensure_running)
        async with asyncio.timeout(10):
            for student_id in students:
                await client.enroll(student_id, *stuck)
            await use_every_path(client)
        assert await wrong_in(mortal.url) == []
        assert await process.stop() == 0


# --- no fault of the database is one of ours --------------------------------------------------------------------

KILL = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {OTHERS}"


@pytest.mark.usefixtures("verified")
async def test_backends_killed_under_load_are_unavailable_and_nothing_worse(
    processes: Processes, connection: Connection
) -> None:
    """Some die while the driver reads half a message, or while it connects."""
    process, client = await processes.start()
    students, (course_id,) = await client.students(12), await client.courses(1)
    outcomes: Counter[str] = Counter()
    over = False

    async def call_for_ever(student_id: int) -> None:
        place = {"student_id": student_id, "course_id": course_id}
        while not over:
            for call in (
                client.enroll(student_id, course_id),
                client.courses_of(student_id),
                client.create_student(),
                client.roster(course_id),
                client.call("UnenrollStudent", **place, allow_missing=True),
            ):
                outcomes[await outcome_of(call)] += 1

    callers = [asyncio.create_task(call_for_ever(student_id)) for student_id in students]
    while outcomes["UNAVAILABLE DATABASE_UNAVAILABLE"] < 150:
        await connection.fetch(KILL)
        answered = outcomes.total()
        await until(lambda answered=answered: outcomes.total() > answered)  # type: ignore[misc]
    over = True
    await asyncio.gather(*callers)
    await use_every_path(client)
    # An enrollment whose commit was unknown is there when it is asked for again.
    assert outcomes.keys() <= {"OK", "UNAVAILABLE DATABASE_UNAVAILABLE", "ALREADY_EXISTS ALREADY_ENROLLED"}
    assert await process.stop() == 0


FAIL = """
    CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{state}'; END $$;
    CREATE CONSTRAINT TRIGGER fail AFTER INSERT ON students DEFERRABLE INITIALLY {when}
        FOR EACH ROW EXECUTE FUNCTION fail();
    CREATE CONSTRAINT TRIGGER fail AFTER INSERT ON student_courses DEFERRABLE INITIALLY {when}
        FOR EACH ROW EXECUTE FUNCTION fail();
"""


@pytest.mark.parametrize("state", ["53000", "53100", "53200", "53400", "58030"])
@pytest.mark.parametrize("when", ["IMMEDIATE", "DEFERRED"])  # within the transaction, and at its COMMIT
async def test_a_database_without_room_is_unavailable(
    processes: Processes, connection: Connection, state: str, when: str
) -> None:
    _, client = await processes.start()
    students, (course_id,) = await client.students(5), await client.courses(1)
    await connection.execute(FAIL.format(state=state, when=when))
    with refused("UNAVAILABLE", "DATABASE_UNAVAILABLE"):
        await client.create_student()
    calls = (outcome_of(client.enroll(student_id, course_id)) for student_id in students)
    assert set(await asyncio.gather(*calls)) == {"UNAVAILABLE DATABASE_UNAVAILABLE"}
    await connection.execute("DROP FUNCTION fail CASCADE")
    await use_every_path(client)


async def test_a_full_disk_is_unavailable_until_there_is_room_again(
    processes: Processes, postgres_server: PostgresServer, connection: Connection
) -> None:
    process, client = await processes.start()
    (course_id,) = await client.courses(1)
    space = f"small_{secrets.token_hex(6)}"
    with small_disk(postgres_server) as disk:
        await postgres_server.execute(f"CREATE TABLESPACE {space} LOCATION '{disk}'")
        await connection.execute(f"ALTER TABLE students SET TABLESPACE {space}")
        fill(disk / "ballast")
        outcomes: Counter[str] = Counter()
        while outcomes["UNAVAILABLE DATABASE_UNAVAILABLE"] < 5:
            outcomes[await outcome_of(client.create_student())] += 1
        assert await client.roster(course_id) == []  # reading needs no room
        (disk / "ballast").unlink()
        await use_every_path(client)
        await connection.execute("ALTER TABLE students SET TABLESPACE pg_default")
        await postgres_server.execute(f"DROP TABLESPACE {space}")
    assert outcomes.keys() <= {"OK", "UNAVAILABLE DATABASE_UNAVAILABLE"}
    assert await process.stop() == 0


def fill(file: Path) -> None:
    """Takes all the room that is left on a disk."""
    with file.open("wb", buffering=0) as ballast, suppress(OSError):
        while ballast.write(bytes(4096)):
            pass


@contextmanager
def small_disk(server: PostgresServer) -> Iterator[Path]:
    """A disk of a few megabytes that belongs to the PostgreSQL of the tests; made by root, or the test is skipped."""
    if os.geteuid() != 0 or server.log_file is None:
        pytest.skip("needs root, to mount a small disk, and the embedded PostgreSQL")
    folder = Path(tempfile.mkdtemp(prefix="enrollment-small-"))
    user = pwd.getpwnam("nobody")
    mount = [
        "mount",
        "-t",
        "tmpfs",
        "-o",
        f"size=8m,mode=700,uid={user.pw_uid},gid={user.pw_gid}",
        "tmpfs",
        str(folder),
    ]
    try:
        if subprocess.run(mount, capture_output=True).returncode != 0:
            pytest.skip("root may not mount anything here")
        try:
            yield folder
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)
    finally:
        folder.rmdir()


async def test_a_list_that_takes_too_long_is_unavailable(start_service: StartService, connection: Connection) -> None:
    service = await start_service(lock_timeout_ms=100)
    async with connection.transaction():
        await connection.execute("LOCK TABLE students")
        with refused("UNAVAILABLE", "DATABASE_UNAVAILABLE"):
            await service.client.call("ListStudents")
