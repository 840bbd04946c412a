"""The door for HTTP in front of a service of a test: a real Envoy with the configuration of `deploy/edge`."""

from __future__ import annotations

import asyncio
import http.client
import importlib.util
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dev.door import running_envoy
from tests.support.client import PATIENCE
from tests.support.processes import free_port

JSON = {"content-type": "application/json"}


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body."""
        assert self.headers["content-type"] == "application/json", self
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        """The `data` of each server-sent event."""
        assert self.headers["content-type"] == "text/event-stream", self
        *events, rest = self.body.decode().split("\n\n")
        assert rest.strip() == ""
        return [json.loads(event.removeprefix("data: ")) for event in events]


class Door:
    """HTTP on an address."""

    def __init__(self, address: str) -> None:
        self.address = address

    async def ask(self, verb: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Answer:
        """The answer to a request; a body that is no bytes is sent as JSON, and `headers` replace what says so."""
        sent = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        chosen = ({} if body is None else JSON) if headers is None else headers
        return await asyncio.to_thread(self._ask, verb, path, sent, chosen)

    async def lines(self, path: str) -> AsyncIterator[str]:
        """The lines of an answer as they come."""
        connection = http.client.HTTPConnection(self.address, timeout=PATIENCE)
        try:
            connection.request("GET", path)
            response = await asyncio.to_thread(connection.getresponse)
            assert response.status == 200
            while line := await asyncio.to_thread(response.readline):
                yield line.decode().rstrip("\n")
        finally:
            connection.close()

    def _ask(self, verb: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Answer:
        connection = http.client.HTTPConnection(self.address, timeout=PATIENCE)
        try:
            connection.request(verb, path, body, dict(headers))
            response = connection.getresponse()
            return Answer(
                response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
            )
        finally:
            connection.close()


def require_envoy() -> None:
    """Skips the test where there is no Envoy."""
    if importlib.util.find_spec("envoy") is None:
        pytest.skip("Envoy is not installed: `make test` installs it where PyPI has one for this machine")


@asynccontextmanager
async def door_to(*servers: str, credentials: Path | None = None) -> AsyncIterator[Door]:
    """A door to the servers at addresses, whether they are there or not."""
    require_envoy()
    listen = f"127.0.0.1:{free_port()}"
    async with AsyncExitStack() as stack:
        opened = running_envoy(listen, *servers, credentials=credentials)
        await asyncio.to_thread(opened.__enter__)
        stack.push_async_callback(asyncio.to_thread, opened.__exit__, None, None, None)
        yield Door(listen)


def grpc_web_frames(body: bytes) -> Iterator[tuple[int, bytes]]:
    """The frames of a body of gRPC-Web: 0 and a message, or 128 and the trailers."""
    while body:
        kind, size = body[0], int.from_bytes(body[1:5])
        yield kind, body[5 : 5 + size]
        body = body[5 + size :]
