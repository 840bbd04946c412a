"""Seats left: the table is right whatever was killed meanwhile, because the token is stored with what it counted."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import pytest

from enrollment_service.client import EnrollmentClient
from enrollment_service.v1 import enrollment_pb2 as pb
from tests.support.crashes import durable, killed
from tests.support.databases import PATIENCE, Connection, PostgresServer, connected, migrate
from tests.support.examples import Storm, example, running
from tests.support.processes import PROJECT, Processes, ServerProcess, processes_on
from tests.support.services import Service

PROGRAM = "seats_left.py"
TABLE = "SELECT course_id, capacity, enrolled_count, waitlisted_count FROM seats_left.courses"
LEFT = "SELECT course_id, seats_left FROM seats_left.courses"
COUNTED = "SELECT course_id, events FROM seats_left.courses"
LOGGED = "SELECT course_id, count(*) FROM enrollment_events GROUP BY course_id"

Seats = dict[int, tuple[int | None, int, int]]


async def kept(connection: Connection) -> Seats:
    """What the program's table says."""
    if not await connection.fetchval("SELECT to_regclass('seats_left.courses') IS NOT NULL"):
        return {}
    return {row[0]: (row[1], row[2], row[3]) for row in await connection.fetch(TABLE)}


async def listed(client: EnrollmentClient) -> Seats:
    """What the service's lists say."""
    return {
        course.course_id: (
            course.capacity if course.HasField("capacity") else None,
            course.enrolled_count,
            course.waitlisted_count,
        )
        async for course in client.list_courses()
    }


async def until_kept(connection: Connection, wanted: Seats) -> None:
    """Returns once the table says what is wanted."""
    found: Seats = {}
    try:
        async with asyncio.timeout(PATIENCE):
            while (found := await kept(connection)) != wanted:  # noqa: ASYNC110 - the database announces nothing
                await asyncio.sleep(0.05)
    except TimeoutError:
        assert found == wanted


@pytest.mark.long
@pytest.mark.timeout(150)  # crash recovery, on a busy machine
async def test_it_is_right_after_everything_was_killed(tmp_path: Path) -> None:
    with durable() as postgres:
        await asyncio.to_thread(migrate, postgres.url)
        postgres.psql("CREATE DATABASE board")
        async with processes_on(postgres.url, tmp_path) as processes:
            server, _ = await processes.start_lasting()
            command = (*example(PROGRAM), server.address, postgres.url_of("board"))
            async with EnrollmentClient(server.address, budget=60) as client:
                storm = Storm(client)
                with running(*command, folder=tmp_path) as program:
                    async with storm.raging():
                        for _ in range(3):
                            await storm.go_on(40)
                            program.kill()
                            await storm.go_on(40)
                            program.start()
                        await storm.go_on(40)
                        await _killed_and_started(server, processes)
                        await storm.go_on(40)
                        await killed(postgres)
                        await asyncio.to_thread(postgres.ensure_running)
                        await storm.go_on(40)
                    wanted = await listed(client)
                    async with connected(postgres.url_of("board")) as board:
                        await until_kept(board, wanted)
                        left = {row[0]: row[1] for row in await board.fetch(LEFT)}
                        assert left == {one: (full or 0) - taken for one, (full, taken, _) in wanted.items()}
                        counted = {row[0]: row[1] for row in await board.fetch(COUNTED)}
                    async with connected(postgres.url) as log:
                        assert counted == {row[0]: row[1] for row in await log.fetch(LOGGED) if row[0] in wanted}
                    assert program.process.poll() is None, program.errors


async def _killed_and_started(server: ServerProcess, processes: Processes) -> None:
    """Kills a server, and starts another in its place."""
    server.signal(signal.SIGKILL)
    await server.ended()
    other = processes.spawn(port=server.port)
    await other.wait_serving(await processes.client(other))


# What the program is like if it is killed right behind the first token that it stores.
_STORED = 'sys.exit("Another copy of this program keeps the same table.")\n'
_DIES = "        if message.events and (LIFE := __import__('pathlib').Path(sys.argv[3])).exists():\n"
_DIES += "            LIFE.unlink()\n            __import__('os').kill(__import__('os').getpid(), 9)\n"
_TOGETHER, _APART = "async with connection.transaction():", "if connection:"


@pytest.mark.parametrize("together", [True, False], ids=["in one transaction", "one after the other"])
async def test_a_token_apart_from_what_it_counted_loses_events(
    service: Service, postgres_server: PostgresServer, tmp_path: Path, together: bool
) -> None:
    source = (PROJECT / "examples" / PROGRAM).read_text()
    assert source.count(_STORED) == source.count(_TOGETHER) == 1
    source = source.replace(_STORED, _STORED + _DIES)
    source = source if together else source.replace(_TOGETHER, _APART)
    life, script = tmp_path / "life", tmp_path / PROGRAM
    life.touch()
    script.write_text(source.replace("main(*sys.argv[1:])", "main(*sys.argv[1:3])"))
    async with postgres_server.database() as url, connected(url) as board, EnrollmentClient(service.address) as client:
        (course,) = await service.client.courses(1, capacity=3)
        (ann,) = await service.client.students(1)
        with running(sys.executable, f"{script}", service.address, url, f"{life}", folder=tmp_path) as program:
            assert await program.ended() == -signal.SIGKILL
            program.start()
            await client.enroll_student(ann, [course])
            if together:
                await until_kept(board, {course: (3, 1, 0)})
            else:
                assert await program.ended() == 1
                assert "every_event_once" in program.errors


async def test_deleted_courses_go_and_unlimited_ones_have_no_number(
    service: Service, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    async with postgres_server.database() as url, connected(url) as board, EnrollmentClient(service.address) as client:
        one, other = await service.client.courses(2)
        with running(*example(PROGRAM), service.address, url, folder=tmp_path):
            await until_kept(board, {one: (None, 0, 0), other: (None, 0, 0)})
            assert await board.fetchval("SELECT count(*) FROM seats_left.courses WHERE seats_left IS NULL") == 2
            await client.delete_course(other)
            await until_kept(board, {one: (None, 0, 0)})


async def test_it_begins_anew_after_a_restore(
    service: Service, connection: Connection, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    async with postgres_server.database() as url, connected(url) as board:
        (course,) = await service.client.courses(1, capacity=3)
        with running(*example(PROGRAM), service.address, url, folder=tmp_path) as program:
            await until_kept(board, {course: (3, 0, 0)})
            program.kill()
            await board.execute("UPDATE seats_left.courses SET enrolled_count = 2")
            await connection.execute("UPDATE feed_epoch SET epoch = gen_random_uuid()")
            program.start()
            await until_kept(board, {course: (3, 0, 0)})


async def test_a_second_copy_notices_the_first(
    service: Service, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    async with postgres_server.database() as url, connected(url) as board, EnrollmentClient(service.address) as client:
        (course,) = await service.client.courses(1, capacity=3)
        with running(*example(PROGRAM), service.address, url, folder=tmp_path) as first:
            await until_kept(board, {course: (3, 0, 0)})
            other = tmp_path / "other"
            other.mkdir()
            with running(*example(PROGRAM), service.address, url, folder=other) as second:
                capacity = 4
                while first.process.poll() is None and second.process.poll() is None:
                    await client.update_course(pb.Course(course_id=course, capacity=capacity), ["capacity"])
                    capacity += 1
                    await asyncio.sleep(0.05)
                assert {first.process.poll(), second.process.poll()} == {None, 1}
                assert "Another copy" in first.errors + second.errors
                await until_kept(board, await listed(client))
