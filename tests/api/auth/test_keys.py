"""Where the keys of tokens come from: a file or an https address, asked anew in time and never too often."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.conftest import StartService
from tests.support.authority import Authority
from tests.support.client import Client
from tests.support.locks import until
from tests.support.processes import Processes
from tests.support.provider import KeyServer, Provider, SigningKey, claims, key_server, key_set
from tests.support.refusals import refused
from tests.support.services import Service

PATIENCE = 20.0


@pytest.fixture
def provider(tmp_path: Path) -> Provider:
    return Provider(tmp_path)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "web-ca")


@pytest.fixture
async def keys(authority: Authority) -> AsyncIterator[KeyServer]:
    """The provider's web server, which serves no keys yet."""
    certificate = authority.server("web")
    async with key_server(certificate.cert, certificate.key) as server:
        yield server


async def let_in(client: Client) -> bool:
    """Whether the client's token counts."""
    try:
        await client.call("ListCourses")
    except grpc.aio.AioRpcError as error:
        with refused("UNAUTHENTICATED", "UNAUTHENTICATED", metadata={}):
            raise error from None
        return False
    return True


async def until_let_in(client: Client) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await let_in(client):  # noqa: ASYNC110 - only the server knows
            await asyncio.sleep(0.05)


async def until_refused(client: Client) -> None:
    async with asyncio.timeout(PATIENCE):
        while await let_in(client):  # noqa: ASYNC110 - only the server knows
            await asyncio.sleep(0.05)


@pytest.fixture
async def refreshing(start_service: StartService, provider: Provider) -> Service:
    """A service that reads the provider's keys every second, and when it meets an unknown one."""
    return await start_service(**provider.settings, jwt_refresh_interval=1, jwt_refresh_cool_down=0.1)


async def test_a_new_key_is_found_at_once_and_the_old_one_is_revoked(
    start_service: StartService, provider: Provider
) -> None:
    service = await start_service(**provider.settings, jwt_refresh_interval=3600, jwt_refresh_cool_down=0.1)
    old = service.client.bearing(provider.token("reader"))
    second = SigningKey("second", "EdDSA")
    new = service.client.bearing(second.sign(claims("reader")))
    assert [await let_in(old), await let_in(new)] == [True, False]
    provider.publish(second)
    await until_let_in(new)
    assert not await let_in(old)


async def test_a_key_that_was_taken_back_counts_no_more_after_the_next_refresh(
    refreshing: Service, provider: Provider
) -> None:
    old = refreshing.client.bearing(provider.token("reader"))
    assert await let_in(old)
    provider.publish(SigningKey("second"))
    await until_refused(old)


async def test_a_key_that_was_replaced_under_its_id_counts_no_more(refreshing: Service, provider: Provider) -> None:
    old = refreshing.client.bearing(provider.token("reader"))
    assert await let_in(old)
    fresh = SigningKey("first")
    provider.publish(fresh)
    await until_let_in(refreshing.client.bearing(fresh.sign(claims("reader"))))
    assert not await let_in(old)


async def test_keys_that_can_be_used_by_nobody_safely_are_left_out(
    start_service: StartService, provider: Provider
) -> None:
    private, other_use, secret = (SigningKey(name) for name in ("private", "enc", "secret"))
    weak = SigningKey("weak", "RS256")
    weak.private = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505 - on purpose
    entries = [
        weak.public(),
        private.public(d="AAAA"),
        other_use.public(use="enc"),
        {"kty": "oct", "k": "c2VjcmV0", "kid": "secret", "alg": "HS256"},
        {"kty": "EC"},
        {"kty": "RSA", "kid": "odd", "alg": ["RS256"]},
        {"kty": "RSA", "kid": "none", "alg": "none"},
        {"kty": "unknown", "kid": "x"},
        "no object",
        secret.public(kid=7),
        provider.key.public(),
    ]
    provider.file.write_text(json.dumps({"keys": entries}))
    service = await start_service(**provider.settings)
    assert await let_in(service.client.bearing(provider.token("reader")))
    with pytest.warns(UserWarning, match="bits"):
        token = weak.sign(claims("reader"))
    for other in (token, private.sign(claims("reader")), other_use.sign(claims("reader"))):
        assert not await let_in(service.client.bearing(other))


async def test_an_odd_set_does_not_end_the_refresh(refreshing: Service, provider: Provider) -> None:
    old = refreshing.client.bearing(provider.token("reader"))
    assert await let_in(old)
    for entry in ({"kty": "RSA", "alg": ["RS256"]}, {"kty": "RSA", "alg": "none"}, {"kty": ["EC"], "crv": {}}, None):
        provider.file.write_text(json.dumps({"keys": [entry]}))
        assert not await let_in(refreshing.client.bearing(SigningKey("second").sign(claims("reader"))))
        assert await let_in(old)
    provider.publish(SigningKey("second"))
    await until_refused(old)


async def test_a_set_that_cannot_be_used_any_more_leaves_what_was_known(
    refreshing: Service, provider: Provider
) -> None:
    client = refreshing.client.bearing(provider.token("reader"))
    for text in ("", "[]", "{}", '{"keys": 3}', '{"keys": []}', "\xff", '{"keys": [{"kty": "oct", "k": "x"}]}'):
        provider.file.write_text(text)
        assert not await let_in(refreshing.client.bearing(SigningKey("second").sign(claims("reader"))))
        assert await let_in(client)
    provider.file.unlink()
    assert await let_in(client)


async def test_invented_key_ids_ask_the_provider_no_oftener_than_the_cool_down(
    start_service: StartService,
    provider: Provider,
    authority: Authority,
    keys: KeyServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", f"{authority.file}")
    keys.body = key_set(provider.key).encode()
    service = await start_service(**provider.settings | {"jwt_jwks": keys.address}, jwt_refresh_cool_down=3600)
    asked = keys.asked
    stranger = SigningKey("second")
    tokens = [stranger.sign(claims("reader"), kid=f"{number}") for number in range(50)]
    answers = await asyncio.gather(*(let_in(service.client.bearing(token)) for token in tokens))
    assert not any(answers)
    assert keys.asked == asked
    assert await let_in(service.client.bearing(provider.token("reader")))


async def test_while_the_provider_is_away_known_keys_count_and_others_wait_no_longer_than_a_fetch(
    start_service: StartService,
    provider: Provider,
    authority: Authority,
    keys: KeyServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", f"{authority.file}")
    monkeypatch.setattr("enrollment_service.api.auth.keys.FETCH_SECONDS", 1.0)
    keys.body = key_set(provider.key).encode()
    service = await start_service(**provider.settings | {"jwt_jwks": keys.address}, jwt_refresh_cool_down=0.1)
    known = service.client.bearing(provider.token("reader"))
    second = SigningKey("second")
    new = service.client.bearing(second.sign(claims("reader")))
    keys.silent = True
    assert not await let_in(new)
    assert await let_in(known)
    keys.silent = False
    for keys.status, keys.body in ((503, b""), (302, b""), (200, b"x" * (2 << 20))):
        assert not await let_in(new)
        assert await let_in(known)
    keys.status, keys.body = 200, key_set(provider.key, second).encode()
    await until_let_in(new)
    assert await let_in(known)


async def test_a_server_waits_for_keys_from_an_address_and_can_be_stopped_meanwhile(
    processes: Processes, provider: Provider, keys: KeyServer
) -> None:
    variables = {name.upper(): value for name, value in provider.settings.items()}
    variables |= {"JWT_JWKS": keys.address, "PROFILE": "production"}
    waiting = processes.spawn(**variables)

    def problems() -> set[str]:
        return {line["problem"] for line in waiting.log if line["event"] == "waiting for the keys of the tokens"}

    await until(lambda: bool(problems()))
    # SSL_CERT_FILE is not set for this process.
    assert all(problem.startswith("certificate not trusted: ") for problem in problems())
    assert await waiting.stop() == 0


async def test_an_issuer_that_fails_just_when_a_server_starts_does_not_end_it(
    processes: Processes, provider: Provider, authority: Authority, keys: KeyServer
) -> None:
    keys.body = key_set(provider.key).encode()
    keys.answers = 1
    settings = provider.settings | {"jwt_jwks": keys.address, "jwt_refresh_cool_down": "0.1"}
    variables = {name.upper(): value for name, value in settings.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", f"{authority.file}")
        _, client = await processes.start(**variables)
    assert keys.asked > 1
    bearer = client.bearing(provider.token("reader"))
    assert not await let_in(bearer)
    keys.answers, keys.status = None, 200
    await until_let_in(bearer)


@pytest.mark.parametrize("text", [None, "", "{}", '{"keys": []}'])
async def test_a_key_file_that_is_of_no_use_ends_a_server_at_once(
    processes: Processes, provider: Provider, text: str | None
) -> None:
    provider.file.unlink()
    if text is not None:
        provider.file.write_text(text)
    variables = {name.upper(): value for name, value in provider.settings.items()}
    process = processes.spawn(**variables)
    assert await process.ended() == 78
    (line,) = process.errors.splitlines()
    assert line.startswith("ENROLLMENT_JWT_JWKS: ")
