"""The answer to calls that are one too many: ready-made, and counted in the log rather than told one by one.

Whoever is overloaded has no time for those it cannot serve.
"""

from __future__ import annotations

import asyncio
from typing import Any, NoReturn

import structlog
from grpc.aio import ServicerContext

from enrollment_service.api.status import metadata_of, status_of
from enrollment_service.domain.errors import Overloaded

log = structlog.get_logger()

TELL_SECONDS = 1.0

_code, _message, _status = status_of(Overloaded())
_metadata = metadata_of(_status)


class Shedding:
    """Refuses calls with OVERLOADED, and says once a second how many."""

    def __init__(self) -> None:
        self._count = 0

    async def refuse(self, context: ServicerContext[Any, Any]) -> NoReturn:
        """Answers a call that had no effect."""
        if self._count == 0:
            asyncio.get_running_loop().call_later(TELL_SECONDS, self._tell)
        self._count += 1
        await context.abort(_code, _message, _metadata)

    def _tell(self) -> None:
        log.warning("overloaded", refused=self._count, seconds=TELL_SECONDS)
        self._count = 0
