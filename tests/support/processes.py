"""Server processes: real ones, started as an operator would, waited for by their health, ended by their pid."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2

from tests.support.client import SERVICE, Client, client_of

PROJECT = Path(__file__).parents[2]
STARTUP = 30.0  # seconds
SERVE = ("-m", "enrollment_service", "serve")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def lasting_port() -> int:
    """A port to come back to: below those that outgoing connections are given, which would take it meanwhile."""
    for port in random.sample(range(20_000, 32_000), 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError("no port is free")


def environment(**variables: str) -> dict[str, str]:
    """This process's environment without its settings, and with the given ones (`LISTEN`, `PROFILE`, ...)."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ENROLLMENT_")}
    return inherited | {f"ENROLLMENT_{name}": value for name, value in variables.items()}


def run(*python: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs Python in the project to its end, with the given settings only."""
    return subprocess.run(
        [sys.executable, *python],
        cwd=PROJECT,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=40,
    )


async def run_command(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs a command of the service as a user does; the event loop goes on meanwhile."""
    return await asyncio.to_thread(run, "-m", "enrollment_service", *arguments, **variables)


class ServerProcess:
    """One server process. Its log is in a file of its own; lines are there at the latest when it has ended."""

    def __init__(
        self, database_url: str, folder: Path, python: Sequence[str] = SERVE, port: int = 0, **variables: str
    ) -> None:
        self.port = port or free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.log_file = folder / f"server-{self.port}.log"
        self._error_file = folder / f"server-{self.port}.err"
        chosen = {"PROFILE": "dev", "LISTEN": self.address, "DATABASE_URL": database_url, "SHUTDOWN_DELAY": "0"}
        chosen |= variables
        with self.log_file.open("wb") as log, self._error_file.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, *python], cwd=PROJECT, env=environment(**chosen), stdout=log, stderr=errors
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    @property
    def log(self) -> list[dict[str, Any]]:
        """Its log so far, line by line."""
        return [json.loads(line) for line in self.log_file.read_text().splitlines()]

    @property
    def errors(self) -> str:
        """What it wrote to standard error."""
        return self._error_file.read_text()

    def signal(self, number: signal.Signals) -> None:
        """Sends it a signal."""
        self.process.send_signal(number)

    async def ended(self) -> int:
        """Its exit status, once it has ended."""
        return await asyncio.to_thread(self.process.wait, STARTUP)

    async def wait_serving(self, client: Client) -> None:
        """Returns once it says that it serves."""
        async with asyncio.timeout(STARTUP):
            while not await self._serves(client):
                assert self.process.poll() is None, f"the server ended: {self.errors}{self.log_file.read_text()}"
                await asyncio.sleep(0.02)

    async def _serves(self, client: Client) -> bool:
        try:
            return await client.health(SERVICE, patience=1) == health_pb2.HealthCheckResponse.SERVING
        except grpc.aio.AioRpcError:
            return False

    async def stop(self) -> int:
        """Ends it in good order, or else by force; its exit status."""
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
        try:
            return await self.ended()
        except subprocess.TimeoutExpired:
            self.process.kill()
            return await self.ended()


# A client of a server that is not up yet must not wait long between two tries.
EAGER = (
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 100),
)


class Processes:
    """Starts server processes on the test's database and ends those that still run when the test is over."""

    def __init__(self, database_url: str, folder: Path) -> None:
        self._database_url = database_url
        self._folder = folder
        self._stack = AsyncExitStack()
        self._started: list[ServerProcess] = []

    def spawn(self, python: Sequence[str] = SERVE, port: int = 0, **variables: str) -> ServerProcess:
        """A process that was just started and may not serve yet, or never will; on any free port if none is given."""
        process = ServerProcess(self._database_url, self._folder, python, port, **variables)
        self._started.append(process)
        return process

    async def client(self, process: ServerProcess) -> Client:
        """A client of a process, open until the test is over."""
        return await self._stack.enter_async_context(client_of(process.address, EAGER))

    async def start_lasting(self, **variables: str) -> tuple[ServerProcess, Client]:
        """A process that serves on a port to restart on, and a client of it."""
        process = self.spawn(port=lasting_port(), **variables)
        client = await self.client(process)
        await process.wait_serving(client)
        return process, client

    async def start(self, python: Sequence[str] = SERVE, **variables: str) -> tuple[ServerProcess, Client]:
        """A process that serves, and a client of it."""
        ((process, client),) = await self.start_several(1, python, **variables)
        return process, client

    async def start_several(
        self, count: int, python: Sequence[str] = SERVE, **variables: str
    ) -> list[tuple[ServerProcess, Client]]:
        """Several processes on one database, all serving, each with a client."""
        processes = [self.spawn(python, 0, **variables) for _ in range(count)]
        clients = [await self.client(process) for process in processes]
        await asyncio.gather(
            *(process.wait_serving(client) for process, client in zip(processes, clients, strict=True))
        )
        return list(zip(processes, clients, strict=True))

    async def close(self) -> None:
        """Ends them all."""
        await self._stack.aclose()
        await asyncio.gather(*(process.stop() for process in self._started))


@asynccontextmanager
async def processes_on(database_url: str, folder: Path) -> AsyncIterator[Processes]:
    """A place to start server processes from; they end with the block."""
    processes = Processes(database_url, folder)
    try:
        yield processes
    finally:
        await processes.close()
