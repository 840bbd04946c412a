"""Limits per caller and in all: who has its share is told when to come back, and others do not notice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from enrollment_service.v1 import enrollment_pb2 as pb
from tests.conftest import StartService
from tests.support.client import PATIENCE, Client, client_of
from tests.support.databases import Connection, connected
from tests.support.locks import until_waiting
from tests.support.provider import Provider
from tests.support.refusals import Refusal, refused
from tests.support.services import Service


@pytest.fixture
def provider(tmp_path: Path) -> Provider:
    return Provider(tmp_path)


@asynccontextmanager
async def streams(client: Client, count: int) -> AsyncIterator[list[Any]]:
    """Import streams that are open and have been let in: each has had an answer."""
    opened = [client.stub.ImportEnrollments(metadata=client.metadata) for _ in range(count)]
    try:
        for call in opened:
            await call.write(pb.ImportEnrollmentsRequest(chunk_id=7, student_ids=[1], course_ids=[1]))
            assert (await call.read()).chunk_id == 7
        yield opened
    finally:
        for call in opened:
            call.cancel()


async def refusal_of_stream(client: Client, code: str, reason: str, metadata: dict[str, str]) -> Refusal:
    with refused(code, reason, metadata=metadata) as refusal:
        call: Any = client.stub.ImportEnrollments([], timeout=PATIENCE, metadata=client.metadata)
        _ = [answer async for answer in call]
    return refusal


async def test_a_caller_that_sends_too_fast_is_told_when_to_come_back(
    start_service: StartService, provider: Provider
) -> None:
    service = await start_service(**provider.settings, max_caller_rate=2, max_caller_burst=5)
    hasty, calm = (service.client.bearing(provider.token("reader", subject=name)) for name in ("hasty", "calm"))
    for _ in range(5):
        await hasty.call("ListCourses")
    with refused("RESOURCE_EXHAUSTED", "RATE_LIMITED", metadata={"limit": "rate"}) as refusal:
        for _ in range(5):
            await hasty.call("ListCourses")
    assert refusal.retry_delay is not None
    assert 0 < refusal.retry_delay <= 0.5
    await calm.call("ListCourses")
    assert await service.client.health() == 1
    # Not a moment: for as long as it was told.
    await asyncio.sleep(refusal.retry_delay)
    await hasty.call("ListCourses")


async def test_without_a_burst_a_caller_may_begin_those_of_one_second_at_once(
    start_service: StartService, provider: Provider
) -> None:
    service = await start_service(**provider.settings, max_caller_rate=3)
    client = service.client.bearing(provider.token("reader"))
    calls = [client.call("ListCourses") for _ in range(30)]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert 3 <= sum(not isinstance(answer, grpc.aio.AioRpcError) for answer in answers) < 10


async def test_a_refused_caller_has_not_used_anything_up(start_service: StartService, provider: Provider) -> None:
    service = await start_service(**provider.settings, max_caller_calls=1)
    client = service.client.bearing(provider.token("reader"))
    for _ in range(3):
        with refused("PERMISSION_DENIED", "PERMISSION_DENIED"):
            await client.create_student()
        with refused("INVALID_ARGUMENT", "INVALID_FIELD"):
            await client.call("GetStudent", student_id=0)
        await client.call("ListCourses")


async def test_a_caller_may_have_so_many_calls_under_way(
    start_service: StartService, provider: Provider, connection: Connection, database_url: str
) -> None:
    service = await start_service(**provider.settings, max_caller_calls=3)
    busy, other = (service.client.bearing(provider.token("registrar", subject=name)) for name in ("busy", "other"))
    (student_id,), (course_id,) = await busy.students(1), await busy.courses(1)
    async with connected(database_url) as holder, holder.transaction():
        await holder.execute("SELECT FROM course_seats FOR UPDATE")
        waiting = [asyncio.create_task(busy.enroll(student_id, course_id)) for _ in range(3)]
        await until_waiting(connection)
        with refused("RESOURCE_EXHAUSTED", "RATE_LIMITED", metadata={"limit": "calls"}) as refusal:
            await busy.call("ListCourses")
        assert refusal.retry_delay == 1
        await other.call("ListCourses")
        assert await service.client.health() == 1
    await asyncio.gather(*waiting, return_exceptions=True)
    await busy.call("ListCourses")


async def test_a_caller_that_goes_away_leaves_room(start_service: StartService, provider: Provider) -> None:
    service = await start_service(**provider.settings, max_caller_streams=2)
    client = service.client.bearing(provider.token("registrar"))
    async with streams(client, 2):
        refusal = await refusal_of_stream(client, "RESOURCE_EXHAUSTED", "RATE_LIMITED", {"limit": "streams"})
        assert refusal.retry_delay == 1
        await client.call("ListCourses")
        other = service.client.bearing(provider.token("registrar", subject="other"))
        async with streams(other, 2):
            pass

    async def room() -> bool:
        try:
            async with streams(client, 2):
                return True
        except grpc.aio.AioRpcError:
            return False

    async with asyncio.timeout(PATIENCE):
        while not await room():  # noqa: ASYNC110 - only the server knows
            await asyncio.sleep(0.02)


async def test_where_nobody_says_who_it_is_the_address_counts(start_service: StartService) -> None:
    service = await start_service(max_caller_streams=2)
    async with client_of(service.address) as second, streams(service.client, 1), streams(second, 1):
        await refusal_of_stream(second, "RESOURCE_EXHAUSTED", "RATE_LIMITED", {"limit": "streams"})


@pytest.mark.long
async def test_thousands_of_streams_from_one_caller_leave_others_alone(
    start_service: StartService, provider: Provider
) -> None:
    service = await start_service(**provider.settings, max_open_streams=20, max_streams=10_000)
    greedy, other = (service.client.bearing(provider.token("registrar", subject=name)) for name in ("greedy", "other"))
    async with streams(greedy, 20):
        calls = [greedy.stub.ImportEnrollments(metadata=greedy.metadata) for _ in range(10_000)]
        codes = await asyncio.gather(*(call.code() for call in calls))
        assert set(codes) == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        refusal = await refusal_of_stream(greedy, "RESOURCE_EXHAUSTED", "OVERLOADED", {})
        assert refusal.retry_delay == 1
        await other.call("ListCourses")
        assert (await other.create_student()).student_id


async def test_connections_are_ended_in_time_and_no_call_notices(service_of_age: Service) -> None:
    ports: set[int] = set()
    client = service_of_age.client
    (student_id,) = await client.students(1)
    async with asyncio.timeout(PATIENCE):
        while len(ports) < 3:
            call = client.stub.GetStudent(pb.GetStudentRequest(student_id=student_id), timeout=PATIENCE)
            assert (await call).student.student_id == student_id
            ports.add(port_of(service_of_age))


@pytest.fixture
async def service_of_age(start_service: StartService) -> Service:
    """A service whose connections live for about a second."""
    return await start_service(max_connection_age=1)


def port_of(service: Service) -> int:
    """The port that the client's present connection comes from."""
    connections = [one for one in psutil.Process().net_connections("tcp") if one.status == psutil.CONN_ESTABLISHED]
    found = [one.laddr[1] for one in connections if one.raddr[1:] == (service.app.port,)]
    return max(found, default=0)
