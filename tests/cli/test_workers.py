"""Several processes on one port: real ones, watched by a parent that never serves itself."""

from __future__ import annotations

import asyncio
import signal
import socket

import psutil
import pytest

from tests.support.client import Client, client_of
from tests.support.databases import Connection
from tests.support.processes import EAGER, STARTUP, Processes, ServerProcess, free_port

pytestmark = pytest.mark.long


async def workers_of(process: ServerProcess, count: int, *, without: int = 0) -> list[psutil.Process]:
    """The workers, once so many listen on the port."""
    parent = psutil.Process(process.pid)
    async with asyncio.timeout(STARTUP):
        while True:
            workers = [one for one in parent.children() if one.pid != without and _listens(one, process.port)]
            if len(workers) == count:
                return workers
            await asyncio.sleep(0.02)


def _listens(process: psutil.Process, port: int) -> bool:
    try:
        sockets = process.net_connections(kind="tcp")
    except psutil.Error:  # it ended while we looked
        return False
    return any(one.status == psutil.CONN_LISTEN and one.laddr.port == port for one in sockets)


async def enroll_on_many_connections(
    process: ServerProcess, students: list[int], course: int
) -> list[Exception | None]:
    """Enrolls each student over a connection of its own, so that the kernel spreads them over the workers."""

    async def enroll(student: int) -> None:
        async with client_of(process.address, EAGER) as client:
            await client.enroll(student, course)

    outcomes = await asyncio.gather(*(enroll(one) for one in students), return_exceptions=True)
    return [outcome if isinstance(outcome, Exception) else None for outcome in outcomes]


async def started(processes: Processes) -> tuple[ServerProcess, Client, list[psutil.Process]]:
    """Two workers that serve."""
    process, client = await processes.start(WORKERS="2")
    return process, client, await workers_of(process, 2)


async def test_workers_share_the_port_and_the_seats_exactly(processes: Processes) -> None:
    process, client, workers = await started(processes)
    students = await client.students(40)
    course = (await client.create_course(capacity=30)).course_id

    outcomes = await enroll_on_many_connections(process, students, course)

    assert outcomes.count(None) == 30
    assert len(await client.roster(course)) == 30
    assert await process.stop() == 0
    served = [line["peer"] for line in process.log if line["event"] == "call" and line["method"] == "EnrollStudent"]
    assert len(served) == 40
    assert [one for one in workers if one.is_running() and one.status() != psutil.STATUS_ZOMBIE] == []


async def test_a_worker_that_dies_is_replaced(processes: Processes) -> None:
    process, client, workers = await started(processes)
    (student,) = await client.students(1)

    workers[0].kill()

    await workers_of(process, 2, without=workers[0].pid)
    async with client_of(process.address, EAGER) as fresh:
        await fresh.create_course()
        assert await fresh.courses_of(student) == []
    assert await process.stop() == 0
    (died,) = [line for line in process.log if line["event"] == "worker died"]
    assert died["status"] == -signal.SIGKILL


async def test_workers_do_not_outlive_their_parent(processes: Processes) -> None:
    process, _, workers = await started(processes)
    process.process.kill()
    _, alive = await asyncio.to_thread(psutil.wait_procs, workers, STARTUP)
    assert alive == []


async def test_a_second_signal_does_not_cut_the_drain_short(processes: Processes) -> None:
    process, _, _ = await started(processes)
    process.signal(signal.SIGTERM)
    process.signal(signal.SIGTERM)
    assert await process.ended() == 0
    assert [line["event"] for line in process.log if line["event"] != "serving"].count("stopped") == 2


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_port_that_is_taken_is_an_error(processes: Processes, workers: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        process = processes.spawn(WORKERS=workers, LISTEN=address)
        assert await process.ended() == 1
    assert f"cannot serve on {address}" in process.errors


async def test_workers_that_can_never_serve_end_the_parent(processes: Processes, connection: Connection) -> None:
    await connection.execute("UPDATE alembic_version SET version_num = '0001'")
    process = processes.spawn(WORKERS="2")
    assert await process.ended() == 78
    assert "migrate" in process.errors


async def test_workers_without_a_password_end_the_parent(processes: Processes, database_url: str) -> None:
    process = processes.spawn(WORKERS="2", DATABASE_URL=database_url.replace("@", "x@"))
    assert await process.ended() == 78
    assert "SQLSTATE 28P01" in process.errors


async def workers_started(process: ServerProcess, count: int) -> None:
    """Returns once so many workers run, whatever they are at."""
    async with asyncio.timeout(STARTUP):
        while len(psutil.Process(process.pid).children()) < count:  # noqa: ASYNC110 - other processes
            await asyncio.sleep(0.01)


async def test_workers_told_to_stop_while_they_start_end_well(processes: Processes) -> None:
    process = processes.spawn(WORKERS="2")
    await workers_started(process, 2)
    process.signal(signal.SIGTERM)
    assert await process.ended() == 0
    assert process.errors == ""


async def test_workers_told_to_stop_while_they_wait_end_well(processes: Processes) -> None:
    process = processes.spawn(WORKERS="2", DATABASE_URL=f"postgresql://127.0.0.1:{free_port()}/enrollment")
    async with asyncio.timeout(STARTUP):
        while sum(line["event"] == "waiting for the database" for line in process.log) < 2:  # noqa: ASYNC110 - a file
            await asyncio.sleep(0.02)
    process.signal(signal.SIGTERM)
    assert await process.ended() == 0
    assert process.errors == ""
