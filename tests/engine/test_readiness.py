"""Whether the database can be written, as callers and load balancers are told: `ready` in grpc.health.v1."""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from enrollment_service.api.health import READY
from enrollment_service.store.database import SCHEMA_REVISION
from enrollment_service.telemetry.metrics import REGISTRY
from tests.support.client import SERVICE, Client
from tests.support.databases import Connection, joined
from tests.support.locks import held, until
from tests.support.proxy import Proxy, proxied
from tests.support.services import Service, ServiceLog, service_on
from tests.support.statuses import Statuses, statuses_of

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
# About two seconds are promised; a busy machine may take some more.
SOON = 2.0 + 2.0


@asynccontextmanager
async def behind_proxy(database_url: str) -> AsyncIterator[tuple[Proxy, Service, Statuses]]:
    """A service whose way to the database can be broken, and what is told of `ready`."""
    async with (
        proxied(database_url) as (proxy, url),
        service_on(url) as service,
        statuses_of(service.address, READY) as told,
    ):
        await told.become(SERVING)
        yield proxy, service, told


async def turns(told: Statuses, status: int) -> None:
    began = time.monotonic()
    await told.become(status)
    assert time.monotonic() - began < SOON


async def is_alive(client: Client) -> None:
    assert [await client.health(name) for name in ("", SERVICE)] == [SERVING, SERVING]


async def test_a_database_that_cannot_be_reached_is_told_and_so_is_its_return(
    database_url: str, service_log: ServiceLog
) -> None:
    async with behind_proxy(database_url) as (proxy, service, told):
        proxy.refuse()
        await turns(told, NOT_SERVING)
        assert await service.client.health(READY) == NOT_SERVING
        assert REGISTRY.get_sample_value("enrollment_ready") == 0
        await is_alive(service.client)
        proxy.refusing = False
        await turns(told, SERVING)
        assert await service.client.health(READY) == SERVING
        assert REGISTRY.get_sample_value("enrollment_ready") == 1
    lines = [(line["event"], line.get("database")) for line in service_log.lines if "ready" in line["event"]]
    assert lines == [("not ready", "no answer"), ("ready again", None)]


async def test_a_database_that_answers_nothing_is_told_and_so_is_its_return(database_url: str) -> None:
    async with behind_proxy(database_url) as (proxy, service, told):
        proxy.freeze()
        await turns(told, NOT_SERVING)
        await is_alive(service.client)
        proxy.thaw()
        await turns(told, SERVING)


async def test_a_database_that_may_only_be_read_is_told_and_so_is_its_return(
    database_url: str, service: Service, connection: Connection, service_log: ServiceLog
) -> None:
    name = urlsplit(database_url).path.removeprefix("/")
    async with statuses_of(service.address, READY) as told:
        await told.become(SERVING)
        await connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        await end_all_others(connection)
        await turns(told, NOT_SERVING)
        await is_alive(service.client)
        await connection.execute("SET default_transaction_read_only = off")
        await connection.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
        await turns(told, SERVING)
    assert [line["database"] for line in service_log.lines if line["event"] == "not ready"] == ["read only"]


@pytest.mark.parametrize(
    "change", ["UPDATE alembic_version SET version_num = '0001'", "ALTER TABLE alembic_version RENAME TO other"]
)
async def test_an_older_schema_is_told_and_so_is_its_return(
    service: Service, connection: Connection, service_log: ServiceLog, change: str
) -> None:
    async with statuses_of(service.address, READY) as told:
        await told.become(SERVING)
        await connection.execute(change)
        await turns(told, NOT_SERVING)
        if "RENAME" in change:
            await connection.execute("ALTER TABLE other RENAME TO alembic_version")
        await connection.execute(f"UPDATE alembic_version SET version_num = '{SCHEMA_REVISION}'")
        await turns(told, SERVING)
    assert [line["database"] for line in service_log.lines if line["event"] == "not ready"] == ["wrong schema"]


async def test_servers_go_on_while_a_release_migrates(service: Service, connection: Connection) -> None:
    """Otherwise there would be nobody from the migration until the new servers are up."""
    async with statuses_of(service.address, READY) as told:
        await connection.execute("UPDATE alembic_version SET version_num = '9999'")
        await asyncio.sleep(1.5)  # three looks; that nothing changes cannot be waited for
        assert told.seen == [SERVING]


@pytest.mark.long
async def test_with_several_hosts_a_frozen_one_is_left_though_nobody_calls(database_url: str) -> None:
    async with (
        proxied(database_url) as (proxy, first),
        service_on(joined(first, database_url)) as service,
        statuses_of(service.address, READY) as told,
    ):
        await told.become(SERVING)
        proxy.freeze()
        await asyncio.sleep(2.5)  # by then a single host would have been given up
        await turns(told, SERVING)
        assert (await service.client.create_student()).student_id


async def end_all_others(connection: Connection) -> None:
    await connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )


async def test_lost_connections_alone_are_no_reason(service: Service, connection: Connection) -> None:
    async with statuses_of(service.address, READY) as told:
        await told.become(SERVING)
        for _ in range(3):
            await end_all_others(connection)
            await asyncio.sleep(0.7)  # beyond the next look, which fails or finds a new connection
        assert told.seen == [SERVING]
        assert (await service.client.create_student()).student_id


@pytest.mark.long
async def test_a_locked_row_is_no_reason(service: Service, database_url: str) -> None:
    student, course = (await service.client.students(1))[0], (await service.client.courses(1))[0]
    async with statuses_of(service.address, READY) as told:
        async with held(database_url, course):
            enrolling = asyncio.create_task(service.client.enroll(student, course))
            await asyncio.sleep(2.5)  # longer than a silent database would be taken for ready
        await enrolling
        assert told.seen == [SERVING]


@pytest.mark.long
async def test_while_changes_are_committed_nothing_is_asked(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = service.app._readiness._probe
    ask, asked = probe.ask, 0

    async def counted() -> Any:
        nonlocal asked
        asked += 1
        return await ask()

    monkeypatch.setattr(probe, "ask", counted)
    student, course = (await service.client.students(1))[0], (await service.client.courses(1))[0]
    busy_until = time.monotonic() + 3.0
    before = asked
    while time.monotonic() < busy_until:
        await service.client.enroll(student, course)
        await service.client.unenroll(student, course)
    assert asked - before <= 1  # the look that was due when it began
    await until(lambda: asked - before > 1)


async def test_a_watcher_that_reads_nothing_keeps_nobody_from_being_told(database_url: str) -> None:
    async with behind_proxy(database_url) as (proxy, service, told):
        # The server may send it no message at all.
        reader, writer = await asyncio.open_connection("127.0.0.1", service.app.port)
        writer.write(watch_frames(READY, window=0))
        await reader.readexactly(9)
        proxy.refuse()
        await turns(told, NOT_SERVING)
        proxy.refusing = False
        await turns(told, SERVING)
        writer.close()


def watch_frames(service: str, window: int) -> bytes:
    """What a peer sends in HTTP/2 to watch a service, with so many bytes that it is ready to receive."""
    headers = {
        ":method": "POST", ":scheme": "http", ":path": "/grpc.health.v1.Health/Watch", ":authority": "x",
        "te": "trailers", "content-type": "application/grpc",
    }  # fmt: skip
    block = b"".join(b"\x00" + _text(name) + _text(value) for name, value in headers.items())
    message = health_pb2.HealthCheckRequest(service=service).SerializeToString()
    return (
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        + _frame(0x4, 0, 0, struct.pack(">HI", 0x4, window))
        + _frame(0x1, 0x4, 1, block)
        + _frame(0x0, 0x1, 1, struct.pack(">BI", 0, len(message)) + message)
    )


def _text(text: str) -> bytes:
    return bytes([len(text)]) + text.encode()


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


async def test_all_names_are_listed(service: Service) -> None:
    stub: Any = health_pb2_grpc.HealthStub(service.client.channel)
    listed = await stub.List(health_pb2.HealthListRequest())  # type: ignore[attr-defined]
    assert {name: one.status for name, one in listed.statuses.items()} == dict.fromkeys(["", SERVICE, READY], SERVING)


async def test_at_a_drain_nobody_is_ready(database_url: str) -> None:
    async with service_on(database_url, shutdown_delay=1.0) as service:
        draining = asyncio.create_task(service.app.drain())
        await asyncio.sleep(0)
        for name in ("", SERVICE, READY):
            assert await service.client.health(name) == NOT_SERVING
        await draining
        with pytest.raises(grpc.aio.AioRpcError):
            await service.client.health()
