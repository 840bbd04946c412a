"""Watches the health of a service, and remembers everything that was told."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support.client import PATIENCE, client_of


class Statuses:
    """What a watcher has been told, in order."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self._told = asyncio.Condition()

    async def add(self, status: int) -> None:
        """Remembers a status."""
        async with self._told:
            self.seen.append(status)
            self._told.notify_all()

    async def become(self, status: int) -> None:
        """Returns once this is the latest."""
        async with asyncio.timeout(PATIENCE), self._told:
            await self._told.wait_for(lambda: self.seen[-1:] == [status])


@asynccontextmanager
async def statuses_of(address: str, service: str) -> AsyncIterator[Statuses]:
    """What is told of a service while the block lasts, on a connection of its own."""
    statuses = Statuses()

    async def watch(stub: Any) -> None:
        with contextlib.suppress(grpc.aio.AioRpcError):
            async for told in stub.Watch(health_pb2.HealthCheckRequest(service=service)):
                await statuses.add(int(told.status))

    async with client_of(address) as client:
        watching = asyncio.create_task(watch(health_pb2_grpc.HealthStub(client.channel)))
        try:
            yield statuses
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
