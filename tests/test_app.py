"""Around the methods: health, and reflection by profile."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2, health_pb2_grpc

from enrollment_service.api.health import READY
from enrollment_service.cli.health import check
from tests.conftest import StartService
from tests.support.client import PATIENCE, SERVICE, Client
from tests.support.processes import Processes
from tests.support.reflection import REFLECTIONS, ask


@pytest.mark.parametrize("name", ["", SERVICE, READY])
async def test_the_server_and_its_service_are_healthy(client: Client, name: str) -> None:
    assert await client.health(name) == health_pb2.HealthCheckResponse.SERVING


async def test_an_unknown_service_has_no_health(client: Client) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await client.health("enrollment.v1.Other")
    assert failure.value.code() is grpc.StatusCode.NOT_FOUND


async def test_who_watches_the_health_is_told_of_the_shutdown(processes: Processes) -> None:
    process, client = await processes.start(SHUTDOWN_GRACE="30")
    stub: Any = health_pb2_grpc.HealthStub(client.channel)
    watch = stub.Watch(health_pb2.HealthCheckRequest(service=SERVICE), timeout=PATIENCE)
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    assert await asyncio.to_thread(check, process.address, PATIENCE) == 0
    process.signal(signal.SIGTERM)
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
    # Well within the grace period: who only watches does not hold up the shutdown.
    async with asyncio.timeout(10):
        assert await watch.read() is grpc.aio.EOF
        assert await process.ended() == 0
    assert await asyncio.to_thread(check, process.address, 1.0) == 1


@pytest.mark.parametrize("reflection", REFLECTIONS)
async def test_reflection_tells_what_a_client_without_the_proto_needs(client: Client, reflection: str) -> None:
    listed = await ask(client, reflection, list_services="")
    assert {SERVICE, "grpc.health.v1.Health"} <= {one.name for one in listed.list_services_response.service}
    found = await ask(client, reflection, file_containing_symbol=SERVICE)
    names = [FileDescriptorProto.FromString(data).name for data in found.file_descriptor_response.file_descriptor_proto]
    assert "enrollment_service/v1/enrollment.proto" in names


@pytest.mark.parametrize("reflection", REFLECTIONS)
async def test_in_production_there_is_no_reflection(start_service: StartService, reflection: str) -> None:
    service = await start_service(profile="production")
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await ask(service.client, reflection, list_services="")
    assert failure.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert (await service.client.create_student()).student_id


async def test_reflection_may_be_switched_on_in_production(start_service: StartService) -> None:
    service = await start_service(profile="production", reflection=True)
    assert (await ask(service.client, REFLECTIONS[0], list_services="")).list_services_response.service
