"""What the door does with more calls than the servers can do in time: it turns them away, at once and in due form."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
import pytest
import yaml
from google.protobuf import json_format
from google.rpc import error_details_pb2

from dev.door import EDGE
from enrollment_service.api.status import status_of
from enrollment_service.domain.errors import Overloaded
from enrollment_service.settings import Settings
from enrollment_service.v1 import enrollment_pb2 as pb
from tests.conftest import StartService
from tests.support.client import Client, client_of
from tests.support.door import Door, door_to
from tests.support.locks import held, until
from tests.support.refusals import refusal_of, refused
from tests.support.services import Service
from tests.support.watching import history

# Importing it tells protobuf's JSON mapping what may be packed into a status.
assert error_details_pb2.ErrorInfo

TEXT = (EDGE / "envoy.yaml").read_text()
MANAGER = yaml.safe_load(TEXT)["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
FILTERS = {one["name"]: one["typed_config"] for one in MANAGER["http_filters"]}
LIMIT = FILTERS["envoy.filters.http.adaptive_concurrency"]["gradient_controller_config"]
LEAST = LIMIT["min_rtt_calc_params"]["min_concurrency"]
MOST = LIMIT["concurrency_limit_params"]["max_concurrency_limit"]
CONNECTION = MANAGER["http2_protocol_options"]["max_concurrent_streams"]
ROUTES = {route["name"]: route for route in MANAGER["route_config"]["virtual_hosts"][0]["routes"]}


@pytest.fixture
async def service(start_service: StartService) -> Service:
    """A service in which no call that waits for a row gives up."""
    return await start_service(lock_timeout_ms=20_000)


@asynccontextmanager
async def too_many(service: Service, database_url: str) -> AsyncIterator[tuple[Door, Client, list[asyncio.Task[Any]]]]:
    """A door behind which as many calls wait for a row as may be under way, and those that it turned away meanwhile."""
    students, (course,) = await service.client.students(LEAST + 20), await service.client.courses(1)
    async with door_to(service.address) as door, client_of(door.address) as through, AsyncExitStack() as stack:
        # A connection may have so many calls at a time.
        count = -(-len(students) // CONNECTION)
        callers = [await stack.enter_async_context(client_of(door.address)) for _ in range(count)]
        async with held(database_url, course):
            calls = [asyncio.create_task(callers[n % count].enroll(one, course)) for n, one in enumerate(students)]
            await until(lambda: sum(call.done() for call in calls) == len(students) - LEAST)
            yield door, through, [call for call in calls if call.done()]
        await asyncio.gather(*calls, return_exceptions=True)
        assert sorted(await service.client.roster(course)) == sorted(
            student for student, call in zip(students, calls, strict=True) if call.exception() is None
        )
        assert sum(call.exception() is None for call in calls) == LEAST


async def test_what_is_too_much_is_told_so_as_the_service_itself_would(service: Service, database_url: str) -> None:
    async with too_many(service, database_url) as (_, through, turned_away):
        (_, message, status) = status_of(Overloaded())
        for call in turned_away:
            error = call.exception()
            assert isinstance(error, grpc.aio.AioRpcError)
            refusal = refusal_of(error)
            assert (refusal.code, refusal.reason) == ("RESOURCE_EXHAUSTED", "OVERLOADED")
            assert (refusal.message, refusal.retry_delay) == (message, 1.0)
            assert refusal.status == status
        with refused("RESOURCE_EXHAUSTED", "OVERLOADED", metadata={}):
            await through.call("ListCourses")


async def test_over_rest_it_is_429_with_the_same_details(service: Service, database_url: str) -> None:
    async with too_many(service, database_url) as (door, _, _):
        answer = await door.ask("GET", "/v1/courses")
        _, _, status = status_of(Overloaded())
        assert (answer.status, json_format.ParseDict(answer.json, type(status)())) == (429, status)


async def test_streams_pages_and_health_are_not_counted(service: Service, database_url: str) -> None:
    async with too_many(service, database_url) as (door, through, _):
        assert len(await history(through)) == 1
        assert (await door.ask("GET", "/v1/events")).status == 200
        assert (await door.ask("GET", "/docs")).status == 200
        assert await through.health() == 1


def test_the_status_in_the_configuration_is_that_of_the_service() -> None:
    (encoded,) = re.findall(r'value: "(\w{40,})"', TEXT)
    _, _, status = status_of(Overloaded())
    assert base64.b64decode(encoded + "=" * (-len(encoded) % 4)) == status.SerializeToString()


def test_the_routes_of_streams_are_those_of_the_contract() -> None:
    methods = pb.DESCRIPTOR.services_by_name["EnrollmentService"].methods
    pattern = ROUTES["grpc-streams"]["match"]["safe_regex"]["regex"]
    streams = {method.name for method in methods if method.server_streaming or method.client_streaming}
    found = {m.name for m in methods if re.fullmatch(pattern, f"/{m.containing_service.full_name}/{m.name}")}
    assert found == streams
    assert re.fullmatch(pattern, "/grpc.health.v1.Health/Watch")


def test_a_connection_carries_as_many_calls_as_a_server_takes() -> None:
    (cluster,) = yaml.safe_load(TEXT)["static_resources"]["clusters"]
    (options,) = cluster["typed_extension_protocol_options"].values()
    http2 = options["explicit_http_config"]["http2_protocol_options"]
    assert http2["max_concurrent_streams"] == Settings.model_fields["max_streams"].default


def test_the_limit_leaves_every_server_enough_to_do() -> None:
    """A server gives its best with 64 calls under way: three must have as many even where the limit is lowest."""
    assert 3 * 64 <= LEAST < MOST
