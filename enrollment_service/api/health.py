"""The standard health service (grpc.health.v1), made fit for a drain.

Written here, because in grpc_health's own one watcher that reads nothing keeps all others from being told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import grpc
from grpc.aio import ServicerContext
from grpc_health.v1 import health_pb2, health_pb2_grpc

# The name under which it is told whether the database can be written. The others say whether this process takes calls.
READY = "ready"
# How long a watcher has to read that the server stops before its stream is ended.
LAST_WORD_SECONDS = 0.1

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Health(health_pb2_grpc.HealthServicer):
    """Whether services serve. Watchers can be sent away: a drain would wait for them, and they never go."""

    def __init__(self) -> None:
        self._serving: dict[str, bool] = {}
        self._stopping = False
        # Set, and replaced, at every change.
        self._changed = asyncio.Event()
        self._ending = asyncio.Event()

    def set(self, names: Iterable[str], *, serving: bool = True) -> None:
        """Reports SERVING for these services, or NOT_SERVING; once the server stops, it changes nothing."""
        if not self._stopping:
            self._serving |= dict.fromkeys(names, serving)
            self._tell()

    def stopping(self) -> None:
        """Reports NOT_SERVING for all services, from now on and whatever happens."""
        self._stopping = True
        self._serving = dict.fromkeys(self._serving, False)
        self._tell()

    def end_watches(self) -> None:
        """Ends all streams of watchers, in a moment."""
        self._ending.set()

    async def Check(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: ServicerContext[Any, Any]
    ) -> health_pb2.HealthCheckResponse:
        """Tells whether a service serves."""
        if request.service not in self._serving:
            await context.abort(grpc.StatusCode.NOT_FOUND, "There is no such service.")
        return health_pb2.HealthCheckResponse(status=self._status(request.service))

    async def List(self, _: Any, __: ServicerContext[Any, Any]) -> Any:  # noqa: N802
        """Tells of all services."""
        statuses = {name: health_pb2.HealthCheckResponse(status=self._status(name)) for name in self._serving}
        return health_pb2.HealthListResponse(statuses=statuses)  # type: ignore[attr-defined] # not in the types yet

    async def Watch(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: ServicerContext[Any, Any]
    ) -> None:
        """Tells every change until `end_watches`."""
        watch = asyncio.create_task(self._watch(request.service, context))
        ending = asyncio.create_task(self._ending.wait())
        try:
            await asyncio.wait([watch, ending], return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait([watch], timeout=LAST_WORD_SECONDS)
        finally:
            watch.cancel()
            ending.cancel()
            await asyncio.gather(watch, ending, return_exceptions=True)

    async def _watch(self, name: str, context: ServicerContext[Any, Any]) -> None:
        told = None
        while True:
            changed = self._changed
            status = self._status(name)
            if status != told:
                await context.write(health_pb2.HealthCheckResponse(status=status))
                told = status
            await changed.wait()

    def _status(self, name: str) -> Any:
        serving = self._serving.get(name)
        return _SERVICE_UNKNOWN if serving is None else _SERVING if serving else _NOT_SERVING

    def _tell(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
