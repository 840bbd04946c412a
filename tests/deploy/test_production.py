"""The compose profile `production`, played with processes instead of containers: its settings, files and commands."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml

from enrollment_service.api.auth.files import LOOK_SECONDS
from tests.support.client import client_of
from tests.support.processes import PROJECT, Processes, ServerProcess, run_command
from tests.support.refusals import refused

SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((PROJECT / "docker-compose.yml").read_text())["services"]
DEPLOY = PROJECT / "deploy" / "production"


# The service's root has lost all capabilities but one, like that of the container.
AS_IN_THE_CONTAINER = ("setpriv", "--bounding-set=-all,+chown", "--inh-caps=-all")


@pytest.fixture
def credentials(tmp_path: Path) -> Path:
    """The folder that the one-shot service fills."""
    assert SERVICES["credentials"]["cap_add"] == ["CHOWN"]
    make_credentials(tmp_path)
    return tmp_path


def make_credentials(folder: Path) -> None:
    """What the one-shot service does, each time that it is started."""
    _, script = SERVICES["credentials"]["entrypoint"]
    stripped = AS_IN_THE_CONTAINER if os.geteuid() == 0 and shutil.which("setpriv") else ()
    command = [*stripped, sys.executable, script.replace("/deploy", f"{DEPLOY}"), f"{folder}"]
    made = subprocess.run(command, capture_output=True, text=True)
    assert (made.returncode, made.stdout, made.stderr) == (0, "", "")


@pytest.fixture
def production(processes: Processes, credentials: Path) -> ServerProcess:
    """A server with the settings of the service `production`, but for where it listens and its database."""
    ours = {"LISTEN", "DATABASE_URL", "DATABASE_PASSWORD_FILE"}
    settings = {name.removeprefix("ENROLLMENT_"): value for name, value in environment().items()}
    placed: dict[str, Any] = {name: here(value, credentials) for name, value in settings.items() if name not in ours}
    # Nobody starts the one-shot service twice within the usual ten seconds.
    return processes.spawn(**placed, JWT_REFRESH_COOL_DOWN="0.1")


def environment() -> dict[str, str]:
    found: dict[str, str] = SERVICES["production"]["environment"]
    return found


def here(text: str, credentials: Path) -> str:
    """A path in a container as a path of this test."""
    return text.replace("/credentials/", f"{credentials}/").replace("/deploy/", f"{DEPLOY}/")


@pytest.mark.long
async def test_both_services_are_answered(production: ServerProcess, credentials: Path) -> None:
    authority = (credentials / "ca.pem").read_bytes()
    key, chain = ((credentials / f"catalog.{kind}").read_bytes() for kind in ("key", "pem"))
    trusted = grpc.ssl_channel_credentials(authority, key, chain)
    async with client_of(f"localhost:{production.port}", credentials=trusted) as client:
        await production.wait_serving(client)
        # The catalog's certificate alone allows nothing.
        with refused("PERMISSION_DENIED", "PERMISSION_DENIED", metadata={}):
            await client.call("ListCourses")
    await call_as_services(production, credentials)
    # Started again, everything is new, and the server, which goes on, takes it.
    await asyncio.to_thread(make_credentials, credentials)
    await asyncio.sleep(LOOK_SECONDS)
    await call_as_services(production, credentials)
    _, python, _, package, *check = SERVICES["production"]["healthcheck"]["test"]
    assert (python, package) == ("python", "enrollment_service")
    tls = {name: f"{credentials}/{file}" for name, file in {"TLS_CERT": "server.pem", "TLS_KEY": "server.key"}.items()}
    asked = await run_command(*check, LISTEN=production.address, TLS_CLIENT_CA=f"{credentials}/ca.pem", **tls)
    assert asked.returncode == 0


async def call_as_services(production: ServerProcess, credentials: Path) -> None:
    for name in ("portal", "catalog"):
        command = [here(part, credentials) for part in SERVICES[name]["command"]]
        command = [part.replace("production:50051", f"localhost:{production.port}") for part in command]
        called = await run_command(*command)
        assert (called.returncode, called.stdout) == (0, "{}\n"), called.stderr


def test_the_keys_are_the_services_alone(credentials: Path) -> None:
    for file in credentials.iterdir():
        assert file.stat().st_mode & 0o077 == 0, file
