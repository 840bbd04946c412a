"""Stopping a server process: whoever is being served is served to the end, whatever signals come meanwhile."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import psutil
import pytest
from grpc_reflection.v1alpha import reflection_pb2

from enrollment_service.v1 import enrollment_pb2 as pb
from tests.support.client import PATIENCE, SERVICE, Client
from tests.support.databases import Connection, PostgresServer
from tests.support.frozen import frozen
from tests.support.locks import held, until, until_waiting
from tests.support.processes import Processes
from tests.support.proxy import proxied
from tests.support.reflection import REFLECTIONS
from tests.support.refusals import refusal_of, refused


async def enroll_until_refused(client: Client, student_ids: list[int], course_id: int) -> tuple[list[int], list[str]]:
    """One call after the other; the students that were enrolled, and the codes of the calls that failed."""
    enrolled, failed = [], []
    for student_id in student_ids:
        try:
            await client.enroll(student_id, course_id)
            enrolled.append(student_id)
        except grpc.aio.AioRpcError as error:
            failed.append(error.code().name)
    return enrolled, failed


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_server_under_load_stops_without_losing_an_answer(
    processes: Processes, connection: Connection, number: signal.Signals
) -> None:
    process, client = await processes.start()
    course_id = (await client.create_course()).course_id
    students = await client.students(400)
    callers = [asyncio.create_task(enroll_until_refused(client, students[index::8], course_id)) for index in range(8)]
    seated = "SELECT count(*) FROM student_courses"
    while await connection.fetchval(seated) < 30:  # noqa: ASYNC110 - another process
        await asyncio.sleep(0.002)
    process.signal(number)
    results = await asyncio.gather(*callers)
    assert await process.ended() == 0

    enrolled = {student_id for some, _ in results for student_id in some}
    stored = {row["student_id"] for row in await connection.fetch("SELECT student_id FROM student_courses")}
    assert enrolled <= stored
    failures = [code for _, some in results for code in some]
    assert failures, "the load ended before the signal"
    # CANCELLED: it arrived while the connection was being closed, and gRPC never gave it to a method.
    assert set(failures) <= {"UNAVAILABLE", "CANCELLED"}
    begun = [line["code"] for line in process.log if line.get("method") == "EnrollStudent"]
    assert begun == ["OK"] * len(enrolled)
    assert [line["event"] for line in process.log if line["event"] != "call"][-2:] == ["draining", "stopped"]
    assert process.errors == ""


async def test_a_second_signal_does_not_cut_the_drain_short(
    processes: Processes, database_url: str, connection: Connection
) -> None:
    process, client = await processes.start()
    (student_id,), (course_id,) = await client.students(1), await client.courses(1)
    async with held(database_url, course_id) as observer:
        under_way = asyncio.create_task(client.enroll(student_id, course_id))
        await until_waiting(observer)
        process.signal(signal.SIGTERM)
        await refuses_newcomers(await processes.client(process))
        process.signal(signal.SIGTERM)
        process.signal(signal.SIGINT)
        # Time enough to die of it; that it does not cannot be waited for.
        await asyncio.sleep(0.3)
        assert process.process.poll() is None
    (enrolled,) = await under_way
    assert enrolled.student_id == student_id
    assert await process.ended() == 0
    assert await connection.fetchval("SELECT count(*) FROM student_courses") == 1


async def refuses_newcomers(client: Client) -> None:
    """Returns once a new connection is no longer served."""
    async with asyncio.timeout(20):
        while True:
            try:
                await client.health(SERVICE, patience=0.5)
            except grpc.aio.AioRpcError:
                return
            await asyncio.sleep(0.01)


async def test_a_drain_does_not_wait_longer_than_the_grace(processes: Processes, database_url: str) -> None:
    process, client = await processes.start(SHUTDOWN_GRACE="0.2", LOCK_TIMEOUT_MS="1500")
    (student_id,), (course_id,) = await client.students(1), await client.courses(1)
    async with held(database_url, course_id) as observer:
        under_way = asyncio.create_task(client.enroll(student_id, course_id))
        await until_waiting(observer)
        process.signal(signal.SIGTERM)
        with refused("UNAVAILABLE", "SHUTTING_DOWN"):
            await under_way
        assert await process.ended() == 0


async def test_a_server_says_that_it_stops_before_it_refuses_calls(processes: Processes) -> None:
    process, client = await processes.start(SHUTDOWN_DELAY="1")
    process.signal(signal.SIGTERM)
    async with asyncio.timeout(20):
        while await client.health(SERVICE) == 1:  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.01)
    assert (await client.create_student()).student_id
    assert await process.ended() == 0


async def test_after_the_drain_a_caller_is_told_to_go_elsewhere(processes: Processes) -> None:
    process, client = await processes.start()
    assert await process.stop() == 0
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await client.create_student()
    assert refusal_of(failure.value).code == "UNAVAILABLE"


# --- streams ----------------------------------------------------------------------------------------------------

LONG_GRACE_SECONDS = 60  # what a drain that waits for streams would take
QUICK_SECONDS = 10


async def test_an_import_stream_is_answered_and_then_sent_away(processes: Processes, database_url: str) -> None:
    process, client = await processes.start(SHUTDOWN_GRACE=f"{LONG_GRACE_SECONDS}")
    (student_id,), (course_id,) = await client.students(1), await client.courses(1)
    idle: Any = client.stub.ImportEnrollments()
    await idle.write(pb.ImportEnrollmentsRequest(chunk_id=1, student_ids=[student_id], course_ids=[2**40]))
    assert (await idle.read()).chunk_id == 1
    busy: Any = client.stub.ImportEnrollments()
    async with held(database_url, course_id) as observer:
        await busy.write(pb.ImportEnrollmentsRequest(chunk_id=2, student_ids=[student_id], course_ids=[course_id]))
        await until_waiting(observer)
        process.signal(signal.SIGTERM)
        async with asyncio.timeout(QUICK_SECONDS):
            with refused("UNAVAILABLE", "SHUTTING_DOWN"):
                await idle.read()
    async with asyncio.timeout(QUICK_SECONDS):
        answer = await busy.read()
        assert (answer.chunk_id, answer.enrolled) == (2, 1)
        with refused("UNAVAILABLE", "SHUTTING_DOWN"):
            await busy.read()
        assert await process.ended() == 0
    assert process.errors == ""


@pytest.mark.long
async def test_a_client_that_reads_nothing_does_not_hold_up_the_drain(processes: Processes) -> None:
    process, client = await processes.start(SHUTDOWN_GRACE=f"{LONG_GRACE_SECONDS}")
    (course_id,) = await client.courses(1)
    row_count, sent = 2_000, 0

    async def endless() -> AsyncIterator[pb.ImportEnrollmentsRequest]:
        nonlocal sent
        while True:
            sent += 1
            unknown = [2**40 + sent] * row_count
            yield pb.ImportEnrollmentsRequest(chunk_id=sent, student_ids=unknown, course_ids=[course_id] * row_count)

    call = client.stub.ImportEnrollments(endless())
    before = -1
    async with asyncio.timeout(40):
        while before != sent:  # until it is held back
            before = sent
            await asyncio.sleep(1)
    process.signal(signal.SIGTERM)
    async with asyncio.timeout(QUICK_SECONDS):
        assert await process.ended() == 0
    assert process.errors == ""
    call.cancel()


@pytest.mark.parametrize("reflection", REFLECTIONS)
async def test_a_reflection_stream_does_not_hold_up_the_drain(processes: Processes, reflection: str) -> None:
    process, client = await processes.start(SHUTDOWN_GRACE=f"{LONG_GRACE_SECONDS}")
    method: Any = client.channel.stream_stream(
        f"/{reflection}/ServerReflectionInfo",
        reflection_pb2.ServerReflectionRequest.SerializeToString,
        reflection_pb2.ServerReflectionResponse.FromString,
    )
    call = method(timeout=PATIENCE)
    await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    assert (await call.read()).list_services_response.service
    process.signal(signal.SIGTERM)
    async with asyncio.timeout(QUICK_SECONDS):
        with refused("UNAVAILABLE", "SHUTTING_DOWN"):
            await call.read()
        assert await process.ended() == 0
    assert process.errors == ""


# --- a database that answers nothing ----------------------------------------------------------------------------

# What the drain may take beyond delay and grace, and a busy machine beyond that.
SPARE_SECONDS = 5.0 + 3.0


@pytest.mark.long
async def test_a_frozen_database_does_not_hold_up_the_drain(
    processes: Processes, postgres_server: PostgresServer, connection: Connection
) -> None:
    if postgres_server.log_file is None:
        pytest.skip("the server is not ours to freeze")
    grace, delay = 1.0, 0.5  # during the delay, gRPC hands over what has arrived
    process, client = await processes.start(SHUTDOWN_GRACE=f"{grace}", SHUTDOWN_DELAY=f"{delay}")
    (student_id,), (course_id,) = await client.students(1), await client.courses(1)
    backend = await connection.fetchval("SELECT pg_backend_pid()")
    with frozen(psutil.Process(backend).ppid()):
        calls = [
            asyncio.create_task(client.enroll(student_id, course_id)),
            asyncio.create_task(client.create_student()),
            asyncio.create_task(client.courses_of(student_id)),
            asyncio.create_task(client.roster(course_id)),
        ]
        started = time.monotonic()
        process.signal(signal.SIGTERM)
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert await process.ended() == 0
        assert time.monotonic() - started < delay + grace + SPARE_SECONDS
    told = [refusal_of(one) for one in outcomes if isinstance(one, grpc.aio.AioRpcError)]
    assert [(one.code, one.reason) for one in told] == [("UNAVAILABLE", "SHUTTING_DOWN")] * len(calls)
    assert process.errors == ""


async def test_a_database_that_is_frozen_at_the_start_does_not_keep_the_process(
    processes: Processes, postgres_server: PostgresServer, connection: Connection
) -> None:
    if postgres_server.log_file is None:
        pytest.skip("the server is not ours to freeze")
    backend = await connection.fetchval("SELECT pg_backend_pid()")
    with frozen(psutil.Process(backend).ppid()):
        process = processes.spawn(CONNECT_TIMEOUT="0.5")
        async with asyncio.timeout(PATIENCE):
            while "waiting for the database" not in process.log_file.read_text():  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.02)
        started = time.monotonic()
        process.signal(signal.SIGTERM)
        assert await process.ended() == 0
        assert time.monotonic() - started < SPARE_SECONDS


async def test_a_database_that_falls_silent_at_the_start_does_not_keep_the_process(
    processes: Processes, database_url: str
) -> None:
    async with proxied(database_url) as (proxy, url):
        proxy.silent_before = b"alembic_version"
        process = processes.spawn(DATABASE_URL=url)
        await until(lambda: proxy.silences == 1)
        started = time.monotonic()
        process.signal(signal.SIGTERM)
        assert await process.ended() == 0
        assert time.monotonic() - started < SPARE_SECONDS
    assert process.errors == ""
