"""`make run REST=1`: the door opens and closes with the service."""

from __future__ import annotations

import os
import signal
import socket

import psutil
import pytest

from tests.support.databases import PostgresServer
from tests.support.door import Door, require_envoy
from tests.support.processes import Processes, ServerProcess, free_port, run

DEV = ("-m", "dev", "--rest")


def envoy_of(process: ServerProcess) -> psutil.Process:
    """The process of the door."""
    (envoy,) = [child for child in psutil.Process(process.pid).children() if child.name() == "envoy"]
    return envoy


async def started(processes: Processes, url: str) -> tuple[ServerProcess, Door]:
    """A service with its door, serving."""
    require_envoy()
    door = Door(f"127.0.0.1:{free_port()}")
    process = processes.spawn(DEV, DATABASE_URL=url, REST_LISTEN=door.address)
    await process.wait_serving(await processes.client(process))
    return process, door


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_they_begin_and_end_together(
    processes: Processes, postgres_server: PostgresServer, number: signal.Signals
) -> None:
    async with postgres_server.database() as url:
        process, door = await started(processes, url)
        envoy = envoy_of(process)
        student = {"full_name": "Ann Lee", "email": "ann@example.org"}
        assert (await door.ask("POST", "/v1/students", student)).json["student"]["student_id"] == "1"
        assert f"REST is on http://{door.address}" in process.errors
        process.signal(number)
        assert await process.ended() == 0
        assert not envoy.is_running()


async def test_the_door_does_not_outlive_a_killed_service(
    processes: Processes, postgres_server: PostgresServer
) -> None:
    async with postgres_server.database() as url:
        process, _ = await started(processes, url)
        envoy = envoy_of(process)
        process.signal(signal.SIGKILL)
        await process.ended()
        envoy.wait(timeout=20)


async def test_the_service_does_not_go_on_without_its_door(
    processes: Processes, postgres_server: PostgresServer
) -> None:
    async with postgres_server.database() as url:
        process, _ = await started(processes, url)
        os.kill(envoy_of(process).pid, signal.SIGKILL)
        assert await process.ended() == 1
        assert process.errors.endswith("Envoy has ended, and so does the service.\n")


@pytest.mark.parametrize("listen", ["nonsense", "127.0.0.1:", ":8080", "127.0.0.1:99999"])
def test_an_address_that_is_none_is_explained(postgres_server: PostgresServer, listen: str) -> None:
    refused = run(*DEV, DATABASE_URL=postgres_server.url, REST_LISTEN=listen)
    assert refused.returncode == 1
    assert refused.stderr.endswith("ENROLLMENT_REST_LISTEN: write HOST:PORT, for example 127.0.0.1:8080\n")


def test_an_address_that_is_taken_is_explained(postgres_server: PostgresServer) -> None:
    require_envoy()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        refused = run(*DEV, DATABASE_URL=postgres_server.url, REST_LISTEN=listen)
    assert refused.returncode == 1
    assert refused.stderr == f"cannot serve REST on {listen}: Address already in use\n"
