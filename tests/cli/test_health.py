"""The command `health`: its exit status is all that a container's health check sees."""

from __future__ import annotations

import socket

from enrollment_service.cli.health import check
from tests.support.processes import free_port, run_command
from tests.support.services import Service


async def test_the_health_command_is_for_containers(service: Service) -> None:
    """It asks on the address that the server was told to listen on, which may be all of them."""
    listen = f"0.0.0.0:{service.app.port}"
    assert (await run_command("health", LISTEN=listen, PROFILE="dev")).returncode == 0
    assert (await run_command("health", "--timeout", "1", LISTEN=f"127.0.0.1:{free_port()}")).returncode == 1


async def test_it_asks_for_one_service_by_its_name(service: Service) -> None:
    listen = f"127.0.0.1:{service.app.port}"
    assert (await run_command("health", "--service", "ready", LISTEN=listen)).returncode == 0
    service.app._health.set(["ready"], serving=False)
    assert (await run_command("health", "--service", "ready", LISTEN=listen)).returncode == 1
    assert (await run_command("health", LISTEN=listen)).returncode == 0
    assert (await run_command("health", "--service", "other", LISTEN=listen)).returncode == 1


def test_the_port_check_knows_a_stranger() -> None:
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        assert check(f"127.0.0.1:{stranger.getsockname()[1]}", 0.3) == 1
