"""The stage `authenticate`: how this server wants its callers to prove who they are, and who they turn out to be."""

from __future__ import annotations

from typing import Any, Protocol

from grpc.aio import ServicerContext

from enrollment_service.domain.caller import ANONYMOUS, Caller
from enrollment_service.engine.reader import Reader
from enrollment_service.settings import Settings
from enrollment_service.telemetry.tracing import Metadata


class Authentication(Protocol):
    """A way to find out who calls."""

    async def caller_of(self, metadata: Metadata, context: ServicerContext[Any, Any]) -> Caller:
        """Who makes a call that came with this metadata.

        Raises:
            Unauthenticated: nobody knows.
        """

    async def start(self) -> None:
        """Gets ready, as far as that can be done now."""

    async def stop(self) -> None:
        """Lets go of what it holds."""


class Anybody:
    """Nobody is asked."""

    async def caller_of(self, _: Metadata, __: ServicerContext[Any, Any]) -> Caller:
        """Somebody who may do everything."""
        return ANONYMOUS

    async def start(self) -> None:
        """Nothing to do."""

    async def stop(self) -> None:
        """Nothing to do."""


def authentication_of(settings: Settings, reader: Reader) -> Authentication:
    """What the settings ask for; students are looked up by the reader. What that takes is loaded only where it is used.

    Raises:
        UnusableFileError: the file of roles is of no use.
    """
    if not settings.auth_kinds:
        return Anybody()
    from enrollment_service.api.auth.credentials import credentials_of

    if settings.jwt_student_key == "student_id":
        return credentials_of(settings)
    from enrollment_service.api.auth.holders import Holders

    return Holders(credentials_of(settings), reader)
