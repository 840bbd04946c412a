"""A server that speaks the service's protocol and does what a test tells it, above all fail."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from enrollment_service.client import Pauses
from enrollment_service.client.methods import METHODS, SERVICE, Method

Step = Callable[[Any, Any], Awaitable[Any]]


def fails(code: grpc.StatusCode, reason: str = "", *, retry_delay: float | None = None) -> Step:
    """A step: the call ends with this status; without a reason bare, as gRPC itself answers."""
    status = status_pb2.Status(code=code.value[0], message="As told.")
    if reason:
        status.details.add().Pack(error_details_pb2.ErrorInfo(reason=reason, domain="enrollment.v1"))
    if retry_delay is not None:
        delay = Duration(seconds=int(retry_delay), nanos=int(retry_delay % 1 * 1e9))
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    metadata = (("grpc-status-details-bin", status.SerializeToString()),) if status.details else ()

    async def step(_: Any, context: Any) -> Any:
        await context.abort(code, "As told.", metadata)

    return step


def answers(message: Message) -> Step:
    """A step: the call is answered with this."""

    async def step(*_: Any) -> Any:
        return message

    return step


async def hangs(*_: Any) -> Any:
    """A step: nothing is ever answered."""
    await asyncio.Event().wait()


class ScriptedServer:
    """Takes one step of the script for each call, and answers with an empty response when there are none left."""

    def __init__(self) -> None:
        self.script: deque[Step] = deque()
        self.received: list[Any] = []
        self.called: list[str] = []
        self.arrived = asyncio.Event()
        # What a stream does: reads chunks, yields answers, may abort.
        self.stream: Callable[[Any, Any], AsyncIterator[Any]] | None = None
        self.address = ""

    @property
    def request_ids(self) -> list[str]:
        """The request ids of the calls, in their order."""
        return [request.request_id for request in self.received]

    def handlers(self) -> grpc.GenericRpcHandler:
        """All methods of the service."""
        made = {name: self._handler(method) for name, method in METHODS.items()}
        return grpc.method_handlers_generic_handler(SERVICE.full_name, made)

    def _handler(self, method: Method) -> Any:
        coding = {
            "request_deserializer": method.request_type.FromString,
            "response_serializer": lambda message: message.SerializeToString(),
        }

        async def unary(request: Any, context: Any) -> Any:
            self.called.append(method.name)
            self.received.append(request)
            self.arrived.set()
            if self.script:
                return await self.script.popleft()(request, context)
            return method.response_type()

        async def stream(requests: Any, context: Any) -> AsyncIterator[Any]:
            self.called.append(method.name)
            self.arrived.set()
            if self.script:
                await self.script.popleft()(requests, context)
            if self.stream is not None:
                async for answer in self.stream(requests, context):
                    yield answer

        if method.streams_requests:
            return grpc.stream_stream_rpc_method_handler(stream, **coding)
        if method.streams_responses:
            return grpc.unary_stream_rpc_method_handler(stream, **coding)
        return grpc.unary_unary_rpc_method_handler(unary, **coding)


@asynccontextmanager
async def scripted_server(credentials: grpc.ServerCredentials | None = None) -> AsyncIterator[ScriptedServer]:
    """A scripted server that listens inside the block, with credentials if there are any."""
    scripted = ScriptedServer()
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((scripted.handlers(),))
    anywhere = "127.0.0.1:0"
    port = server.add_secure_port(anywhere, credentials) if credentials else server.add_insecure_port(anywhere)
    scripted.address = f"127.0.0.1:{port}"
    await server.start()
    try:
        yield scripted
    finally:
        await server.stop(None)


class Time:
    """A clock that stands still but for the pauses of a client, which take no time; and what was drawn for them."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.pauses: list[float] = []
        self.drawn: list[tuple[float, float]] = []
        self._random = random.Random(1)

    async def sleep(self, seconds: float) -> None:
        """Moves the clock on."""
        self.pauses.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)

    def draw(self, low: float, high: float) -> float:
        """A number between the two."""
        self.drawn.append((low, high))
        return self._random.uniform(low, high)

    @property
    def for_client(self) -> Pauses:
        """This clock, as a client takes it."""
        return Pauses(sleep=self.sleep, clock=lambda: self.now, draw=self.draw)
