"""Two services in network namespaces of their own call a server in the production profile over a network."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.authority import Authority
from tests.support.client import client_of
from tests.support.processes import PROJECT, Processes, environment, free_port
from tests.support.provider import Provider

needs_namespaces = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None, reason="network namespaces need root and the command `ip`"
)
PORTAL = "spiffe://example.org/portal"


async def ip(*arguments: str) -> None:
    process = await asyncio.create_subprocess_exec("ip", *arguments, stderr=subprocess.PIPE)
    _, problem = await process.communicate()
    if process.returncode:
        raise OSError(problem.decode())


class Network:
    """A namespace that is joined to ours by a pair of interfaces: ours has `server`, the one inside has another."""

    def __init__(self, number: int) -> None:
        self.name = f"enroll-{secrets.token_hex(3)}"
        self.server = f"10.203.{number}.1"
        self.client = f"10.203.{number}.2"

    async def create(self) -> None:
        await ip("netns", "add", self.name)
        await ip("link", "add", self.name, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        await ip("address", "add", f"{self.server}/30", "dev", self.name)
        await ip("link", "set", self.name, "up")
        await ip("-n", self.name, "address", "add", f"{self.client}/30", "dev", "eth0")
        await ip("-n", self.name, "link", "set", "eth0", "up")

    async def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs the command `call` inside."""
        inside = ["ip", "netns", "exec", self.name, sys.executable, "-m", "enrollment_service", "call", *arguments]
        return await asyncio.to_thread(
            subprocess.run, inside, cwd=PROJECT, env=environment(), capture_output=True, text=True, timeout=40
        )


@asynccontextmanager
async def networks(count: int) -> AsyncIterator[list[Network]]:
    made = [Network(200 + number) for number in range(count)]
    try:
        for network in made:
            try:
                await network.create()
            except OSError as error:
                pytest.skip(f"no network namespace could be made here: {error}")
        yield made
    finally:
        for network in made:
            # The pair of interfaces goes with it.
            await asyncio.to_thread(subprocess.run, ["ip", "netns", "delete", network.name], stderr=subprocess.DEVNULL)


@pytest.mark.long
@needs_namespaces
async def test_one_is_known_by_its_certificate_and_the_other_by_its_token(processes: Processes, tmp_path: Path) -> None:
    authority, provider = Authority(tmp_path), Provider(tmp_path)
    portal = authority.issue("portal", uri=[PORTAL])
    catalog = authority.issue("catalog", uri=["spiffe://example.org/catalog"])
    token, roles = tmp_path / "token", tmp_path / "roles.toml"
    token.write_text(provider.token("reader", subject="catalog"))
    roles.write_text(f'[uri]\n"{PORTAL}" = ["registrar"]\n')
    async with networks(2) as (first, second):
        server = authority.issue("server", dns=["localhost"], ip=[first.server, second.server])
        port = free_port()
        process = processes.spawn(
            port=port, PROFILE="production", AUTH="jwt,mtls", MTLS_ROLES=f"{roles}", LISTEN=f"0.0.0.0:{port}",
            TLS_CERT=f"{server.cert}", TLS_KEY=f"{server.key}", TLS_CLIENT_CA=f"{authority.file}",
            JWT_ISSUER=provider.settings["jwt_issuer"], JWT_AUDIENCE=provider.settings["jwt_audience"],
            JWT_JWKS=f"{provider.file}",
        )  # fmt: skip
        async with client_of(f"localhost:{port}", credentials=authority.credentials(portal)) as client:
            await process.wait_serving(client)
        ca = ["--ca", f"{authority.file}"]
        as_portal = [*ca, "--cert", f"{portal.cert}", "--key", f"{portal.key}", "--address", f"{first.server}:{port}"]
        as_catalog = [*ca, "--cert", f"{catalog.cert}", "--key", f"{catalog.key}"]
        as_catalog += ["--address", f"{second.server}:{port}"]
        course = '{"course": {"code": "ART-1", "title": "Drawing"}}'
        created = await first.call("CreateCourse", course, *as_portal)
        assert created.returncode == 0, created.stderr
        denied = await second.call("ListCourses", *as_catalog)
        assert (denied.returncode, '"PERMISSION_DENIED"' in denied.stderr) == (1, True)
        listed = await second.call("ListCourses", *as_catalog, "--token-file", f"{token}")
        assert (listed.returncode, '"ART-1"' in listed.stdout) == (0, True), listed.stderr
        denied = await second.call("CreateCourse", course, *as_catalog, "--token-file", f"{token}")
        assert (denied.returncode, '"PERMISSION_DENIED"' in denied.stderr) == (1, True)
        bare = await first.call("ListCourses", "--address", f"{first.server}:{port}", "--timeout", "3")
        assert bare.returncode == 3
    assert await process.stop() == 0
    peers = {line["peer"].partition(":")[2].rpartition(":")[0] for line in process.log if line["event"] == "call"}
    assert peers == {network.client for network in (first, second)}
