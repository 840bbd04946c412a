"""Tokens that name a student by another key than our id: whom they mean is read, and remembered for a moment."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from grpc.aio import ServicerContext

from enrollment_service.api.auth.credentials import Credentials
from enrollment_service.domain.caller import Caller, Role, StudentKey
from enrollment_service.domain.errors import Reason, Refusal
from enrollment_service.domain.queries import StudentQuery
from enrollment_service.engine.reader import Reader
from enrollment_service.telemetry.tracing import Metadata

# An address may be given to somebody else.
MAX_SECONDS = 30.0
MAX_REMEMBERED = 10_000


class Holders:
    """Credentials whose callers are students of ours, wherever the key in their token is that of one."""

    def __init__(self, credentials: Credentials, reader: Reader, clock: Callable[[], float] = time.monotonic) -> None:
        self._credentials = credentials
        self._reader = reader
        self._clock = clock
        # The id, and until when it may be relied on; the oldest first.
        self._remembered: dict[StudentKey, tuple[int, float]] = {}

    async def caller_of(self, metadata: Metadata, context: ServicerContext[Any, Any]) -> Caller:
        """Who makes a call, with the id of the student that it is.

        Raises:
            Unauthenticated: nobody knows.
            ServiceError: whom the key means could not be read.
        """
        caller = await self._credentials.caller_of(metadata, context)
        if caller.student_key is None or Role.STUDENT not in caller.roles:
            return caller
        return caller._replace(student_id=await self._student_id(caller.student_key))

    async def start(self) -> None:
        """Fetches the keys."""
        await self._credentials.start()

    async def stop(self) -> None:
        """Fetches them no more."""
        await self._credentials.stop()

    async def _student_id(self, key: StudentKey) -> int | None:
        found, until = self._remembered.get(key, (0, 0.0))
        if until > self._clock():
            return found
        # From before it is read: what is read may be outdated by the time it arrives.
        until = self._clock() + MAX_SECONDS
        self._remembered.pop(key, None)
        try:
            student = await self._reader.student(_query(key))
        except Refusal as refusal:
            if refusal.reason is Reason.STUDENT_NOT_FOUND:
                return None
            raise
        if len(self._remembered) >= MAX_REMEMBERED:
            del self._remembered[next(iter(self._remembered))]
        self._remembered[key] = student.student_id, until
        return student.student_id


def _query(key: StudentKey) -> StudentQuery:
    return StudentQuery(email=key.value) if key.field == "email" else StudentQuery(external_id=key.value)
