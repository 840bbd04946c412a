"""The door for open networks: TLS, and no call without a good token gets as far as a server."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import re
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from cryptography import x509

from dev.door import CREDENTIALS, EDGE, FOLDER, configured, envoy_program, furnish, secured
from enrollment_service.api.status import status_of
from enrollment_service.domain.errors import Unauthenticated
from tests.conftest import StartService
from tests.deploy.test_compose import Merged
from tests.support.authority import Authority
from tests.support.client import PATIENCE, Client, client_of
from tests.support.door import door_to, require_envoy
from tests.support.processes import PROJECT
from tests.support.provider import Provider, SigningKey, claims
from tests.support.refusals import refused
from tests.support.services import Service, ServiceLog

OVERLAY = (EDGE / "secure.yaml").read_text()
(FILTER,) = (one["typed_config"] for one in yaml.safe_load(OVERLAY)["http_filters"])
LOGIN = FILTER["providers"]["login"]
ISSUER = LOGIN["issuer"]


@dataclass
class Secure:
    """The door, the service behind it, and who issues what callers need."""

    address: str
    service: Service
    provider: Provider
    authority: Authority
    through: Client

    def token(self, *roles: str, **others: Any) -> str:
        """A token of the issuer that the door knows."""
        return self.provider.token(*roles, iss=ISSUER, **others)

    async def ask(self, path: str, token: str = "") -> tuple[int, bytes]:
        """Status and body of an answer over HTTPS."""
        return await asyncio.to_thread(self._ask, path, {"authorization": f"Bearer {token}"} if token else {})

    def _ask(self, path: str, headers: dict[str, str]) -> tuple[int, bytes]:
        context = ssl.create_default_context(cadata=self.authority.pem.decode())
        connection = http.client.HTTPSConnection(self.address, timeout=PATIENCE, context=context)
        try:
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def serial(self) -> int:
        """Of the certificate that the door shows."""
        context = ssl.create_default_context(cadata=self.authority.pem.decode())
        host, _, port = self.address.partition(":")
        with (
            socket.create_connection((host, int(port)), PATIENCE) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as secure,
        ):
            shown = secure.getpeercert(binary_form=True)
        assert shown is not None
        return x509.load_der_x509_certificate(shown).serial_number


@pytest.fixture
async def secure(start_service: StartService, tmp_path: Path) -> AsyncIterator[Secure]:
    """All of it, as `deploy/compose.secure.yml` has it, but for addresses and folders."""
    authority, provider = Authority(tmp_path), Provider(tmp_path)
    authority.server()
    service = await start_service(**provider.settings | {"jwt_issuer": ISSUER, "tls": "proxy"})
    async with door_to(service.address, credentials=tmp_path) as door:
        address = f"localhost:{door.address.rpartition(':')[2]}"
        async with client_of(address, credentials=authority.credentials()) as through:
            yield Secure(address, service, provider, authority, through)


async def test_who_has_a_good_token_gets_in_and_may_do_what_its_roles_say(secure: Secure) -> None:
    registrar = secure.through.bearing(secure.token("registrar"))
    student = await registrar.create_student()
    reader = secure.through.bearing(secure.token("reader"))
    assert (await reader.call("GetStudent", student_id=student.student_id)).student == student
    with refused("PERMISSION_DENIED", "PERMISSION_DENIED"):
        await reader.create_student()
    status, body = await secure.ask("/v1/students", secure.token("reader"))
    assert (status, b"Ann Lee" in body) == (200, True)


@pytest.mark.parametrize("wrong", ["none", "forged", "expired", "eternal", "of another issuer", "for somebody else"])
async def test_all_others_are_told_what_the_service_would_tell_them_and_it_never_hears_of_them(
    secure: Secure, service_log: ServiceLog, wrong: str
) -> None:
    tokens = {
        "none": "",
        "forged": SigningKey("first").sign(claims("registrar", iss=ISSUER)),
        "expired": secure.token("registrar", exp=1),
        "eternal": secure.token("registrar", exp=None),
        "of another issuer": secure.provider.token("registrar", iss="login.example.com"),
        "for somebody else": secure.token("registrar", aud="payroll"),
    }
    token = tokens[wrong]
    caller = secure.through.bearing(token) if token else secure.through
    with refused("UNAUTHENTICATED", "UNAUTHENTICATED", metadata={}) as refusal:
        await caller.call("ListStudents")
    assert refusal.message == status_of(Unauthenticated(""))[1]
    status, body = await secure.ask("/v1/students", token)
    assert (status, b'"reason":"UNAUTHENTICATED"' in body) == (401, True)
    assert [line for line in service_log.lines if line.get("event") == "call"] == []


async def test_health_and_the_reference_need_no_token(secure: Secure) -> None:
    assert await secure.through.health() == 1
    for path in ("/docs", "/docs/redoc.standalone.js", "/openapi.json"):
        assert (await secure.ask(path))[0] == 200


async def test_nobody_is_served_without_tls(secure: Secure) -> None:
    async with client_of(secure.address) as plain:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await plain.bearing(secure.token("registrar")).call("ListStudents")
    assert failed.value.code() == grpc.StatusCode.UNAVAILABLE


async def test_a_certificate_that_is_replaced_is_shown_to_new_connections(secure: Secure) -> None:
    before = await asyncio.to_thread(secure.serial)
    fresh = secure.authority.server()
    async with asyncio.timeout(PATIENCE):
        while (shown := await asyncio.to_thread(secure.serial)) == before:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.05)
    assert shown == fresh.serial
    assert await secure.through.health() == 1


def test_the_status_in_the_configuration_is_that_of_the_service() -> None:
    (encoded,) = re.findall(r'value: "(\w{40,})"', OVERLAY)
    _, message, status = status_of(Unauthenticated(""))
    assert base64.b64decode(encoded + "=" * (-len(encoded) % 4)) == status.SerializeToString()
    assert OVERLAY.count(message) == 2


async def test_envoy_takes_it_without_a_warning(tmp_path: Path) -> None:
    require_envoy()
    Authority(tmp_path).server()
    Provider(tmp_path)
    folder = tmp_path / "edge"
    folder.mkdir()
    furnish(folder)
    configuration = secured(configured("127.0.0.1:1", ["127.0.0.1:2"], folder), folder, tmp_path)
    (folder / "envoy.json").write_text(json.dumps(configuration))
    command = [f"{envoy_program()}", "--mode", "validate", "--log-level", "warning", "-c", f"{folder}/envoy.json"]
    checked = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_compose_gives_the_door_and_the_servers_what_each_looks_for() -> None:
    laid_over = yaml.load((PROJECT / "deploy/compose.secure.yml").read_text(), Merged)["services"]  # noqa: S506 - safe
    server, edge = laid_over["server"], laid_over["edge"]
    settings = server["environment"]
    assert (settings["ENROLLMENT_AUTH"], settings["ENROLLMENT_TLS"]) == ("jwt", "proxy")
    assert settings["ENROLLMENT_PROFILE"] == "production"
    assert [settings["ENROLLMENT_JWT_ISSUER"]] == [ISSUER]
    assert [settings["ENROLLMENT_JWT_AUDIENCE"]] == LOGIN["audiences"]
    assert settings["ENROLLMENT_JWT_JWKS"] == LOGIN["local_jwks"]["filename"]
    for one in (server, edge):
        assert f"credentials:{CREDENTIALS}:ro" in one["volumes"]
    assert edge["entrypoint"][:3] == ["envoy", "-c", f"{FOLDER}/secure.json"]
    makes = (PROJECT / "deploy/production/credentials.py").read_text()
    assert f'ISSUER = "{ISSUER}"' in makes


def test_nothing_is_lost_of_what_it_is_laid_over() -> None:
    plain = yaml.safe_load((EDGE / "envoy.yaml").read_text())
    laid_over = secured(yaml.safe_load((EDGE / "envoy.yaml").read_text()))
    (before,), (after,) = (one["static_resources"]["listeners"] for one in (plain, laid_over))
    (chain,) = after["filter_chains"]
    manager = chain["filters"][0]["typed_config"]
    old = before["filter_chains"][0]["filters"][0]["typed_config"]
    assert manager["http_filters"][1:] == old["http_filters"]
    assert manager["local_reply_config"]["mappers"][2:] == old["local_reply_config"]["mappers"]
    assert manager["route_config"] == old["route_config"]
    assert chain["transport_socket"]["name"] == "envoy.transport_sockets.tls"
