"""The service config for clients in other languages: it names every method, and gRPC does what it says."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from enrollment_service.client import EnrollmentClient
from enrollment_service.client.methods import METHODS, SERVICE
from tests.support.processes import PROJECT
from tests.support.scripted import ScriptedServer, fails

FILE = PROJECT / "protos" / "enrollment" / "v1" / "service_config.json"
CONFIG: dict[str, Any] = json.loads(FILE.read_text())
ENTRIES = {name["method"]: entry for entry in CONFIG["methodConfig"] for name in entry["name"]}
UNARY = [method for method in METHODS.values() if not method.streams_requests and not method.streams_responses]
# They read, or take effect once because they are sent with a request_id.
SAFE = {method.name for method in UNARY}


@pytest.fixture
async def channel(scripted: ScriptedServer) -> AsyncIterator[grpc.aio.Channel]:
    """A channel as another client opens it: the file, and nothing of ours."""
    options = [("grpc.service_config", FILE.read_text()), ("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(scripted.address, options=options) as channel:
        yield channel


async def sent(channel: grpc.aio.Channel, name: str, **options: Any) -> None:
    """Sends an empty request as a client without retries of its own does."""
    method = METHODS[name]
    call: Any = channel.unary_unary(
        method.path, lambda message: message.SerializeToString(), method.response_type.FromString
    )
    await call(method.request_type(), **options)


def test_every_method_is_named_once() -> None:
    names = [name for entry in CONFIG["methodConfig"] for name in entry["name"]]
    assert {name["service"] for name in names} == {SERVICE.full_name}
    assert sorted(name["method"] for name in names) == sorted(METHODS)


def test_only_what_is_safe_is_retried() -> None:
    retried = {name for name, entry in ENTRIES.items() if "retryPolicy" in entry}
    assert retried == SAFE
    codes = {code for name in retried for code in ENTRIES[name]["retryPolicy"]["retryableStatusCodes"]}
    assert codes == {"UNAVAILABLE"}


def test_all_but_streams_have_a_deadline() -> None:
    assert {name for name, entry in ENTRIES.items() if "timeout" in entry} == {method.name for method in UNARY}


@pytest.mark.parametrize("name", sorted(SAFE))
async def test_grpc_retries_what_is_safe(scripted: ScriptedServer, channel: grpc.aio.Channel, name: str) -> None:
    scripted.script.extend([fails(grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN", retry_delay=1)] * 2)
    await sent(channel, name)
    assert scripted.called == [name] * 3


async def test_grpc_does_not_retry_what_says_when_to_come_back(
    scripted: ScriptedServer, channel: grpc.aio.Channel
) -> None:
    scripted.script.append(fails(grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", retry_delay=1))
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await sent(channel, "GetStudent")
    assert failure.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_the_client_in_python_needs_no_such_file(scripted: ScriptedServer, caller: EnrollmentClient) -> None:
    scripted.script.extend([fails(grpc.StatusCode.UNAVAILABLE)] * 9)
    await caller.get_student(1)
    assert len(scripted.called) == 10
