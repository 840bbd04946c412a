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


def test_the_port_check_knows_a_stranger() -> None:
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        assert check(f"127.0.0.1:{stranger.getsockname()[1]}", 0.3) == 1
