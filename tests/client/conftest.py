"""A scripted server and a client of it whose pauses take no time."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from enrollment_service.client import EnrollmentClient
from tests.support.scripted import ScriptedServer, Time, scripted_server


@pytest.fixture
async def scripted() -> AsyncIterator[ScriptedServer]:
    """A server that fails as told."""
    async with scripted_server() as server:
        yield server


@pytest.fixture
def time() -> Time:
    """The clock by which `caller` pauses."""
    return Time()


@pytest.fixture
async def caller(scripted: ScriptedServer, time: Time) -> AsyncIterator[EnrollmentClient]:
    """A client of `scripted`."""
    async with EnrollmentClient(scripted.address, timeout=10, pauses=time.for_client) as client:
        yield client
