"""What callers prove themselves with: tokens, certificates, or both."""

from __future__ import annotations

from typing import Any

from grpc.aio import ServicerContext

from enrollment_service.api.auth.keys import Keys, reader_of
from enrollment_service.api.auth.peers import Peers
from enrollment_service.api.auth.tokens import Tokens
from enrollment_service.domain.caller import Caller
from enrollment_service.domain.errors import Unauthenticated
from enrollment_service.settings import Settings
from enrollment_service.telemetry.tracing import Metadata

HEADER = "authorization"
SCHEME = "bearer"


class Credentials:
    """Tokens, certificates, or both; where there is a token, it alone decides."""

    def __init__(self, keys: Keys | None, tokens: Tokens | None, peers: Peers | None) -> None:
        self._keys = keys
        self._tokens = tokens
        self._peers = peers

    async def caller_of(self, metadata: Metadata, context: ServicerContext[Any, Any]) -> Caller:
        """Whom the token names, or else the certificate."""
        if self._tokens is not None:
            token = _token_in(metadata)
            if token is not None:
                return await self._tokens.caller_of(token)
        if self._peers is not None:
            return self._peers.caller_of(context.auth_context())  # type: ignore[arg-type]
        raise Unauthenticated("no token")

    async def start(self) -> None:
        """Fetches the keys."""
        if self._keys is not None:
            await self._keys.start()

    async def stop(self) -> None:
        """Fetches them no more."""
        if self._keys is not None:
            await self._keys.stop()


def credentials_of(settings: Settings) -> Credentials:
    """Those that the settings ask for.

    Raises:
        UnusableFileError: the file of roles is of no use.
    """
    keys = tokens = peers = None
    if "jwt" in settings.auth_kinds:
        keys = Keys(reader_of(settings.jwt_jwks), settings.jwt_refresh_interval, settings.jwt_refresh_cool_down)
        tokens = Tokens(
            keys,
            settings.jwt_issuer,
            settings.jwt_audience,
            settings.jwt_roles_claim,
            settings.jwt_student_claim,
            settings.jwt_student_key,
        )
    if "mtls" in settings.auth_kinds:
        peers = Peers(settings.mtls_roles)
    return Credentials(keys, tokens, peers)


def _token_in(metadata: Metadata) -> str | None:
    """The bearer token of a call; None where it carries no credentials of this kind.

    Raises:
        Unauthenticated: it carries several, or something else.
    """
    found = [value for key, value in metadata if key == HEADER]
    if not found:
        return None
    if len(found) > 1:
        raise Unauthenticated("several tokens")
    scheme, _, token = (found[0] if isinstance(found[0], str) else "").partition(" ")
    if scheme.lower() != SCHEME or not token.strip():
        raise Unauthenticated("no bearer token")
    return token.strip()
