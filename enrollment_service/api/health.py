"""The standard health service (grpc.health.v1), made fit for a drain."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from typing import Any

from grpc.aio import ServicerContext
from grpc_health.v1 import health_pb2
from grpc_health.v1._async import HealthServicer

# grpc_health waits for its watchers, and one that reads nothing would hold up the shutdown.
TIMEOUT_SECONDS = 1.0
# How long a watcher has to read that the server stops before its stream is ended.
LAST_WORD_SECONDS = 0.1


class Health(HealthServicer):
    """Health whose watchers can be sent away: they never go by themselves, and a drain would wait for them."""

    def __init__(self) -> None:
        super().__init__()
        self._ending = asyncio.Event()

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: ServicerContext[Any, Any]) -> None:  # noqa: N802
        """Tells every change until `end_watches`."""
        watch = asyncio.create_task(super().Watch(request, context))
        ending = asyncio.create_task(self._ending.wait())
        try:
            await asyncio.wait([watch, ending], return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait([watch], timeout=LAST_WORD_SECONDS)
        finally:
            watch.cancel()
            ending.cancel()
            await asyncio.gather(watch, ending, return_exceptions=True)

    async def serving(self, names: Iterable[str]) -> None:
        """Reports SERVING for these services."""
        for name in names:
            await self.set(name, health_pb2.HealthCheckResponse.SERVING)

    async def stopping(self) -> None:
        """Reports NOT_SERVING for all services, from now on and whatever happens."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.enter_graceful_shutdown(), TIMEOUT_SECONDS)

    def end_watches(self) -> None:
        """Ends all streams of watchers, in a moment."""
        self._ending.set()
