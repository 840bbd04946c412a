"""Whether a call that failed is sent again, and when. The only place that decides it."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import grpc

from enrollment_service.client.errors import Closed, OutcomeUnknown, ServiceError

# Nobody knows whether such a call had an effect, and another attempt may well be answered. A CANCELLED that arrives
# as a status is the server's: it stopped before it had handed the call over. Our own raises CancelledError.
_PASSING = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.UNKNOWN,
    }
)
# Answered without a look at what an earlier attempt with this request_id has done.
_UNDECIDED = frozenset(
    {
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)


@dataclass(frozen=True, slots=True)
class Pauses:
    """How long to wait between attempts, and by which clock. Times in seconds.

    The n-th pause is drawn evenly from 0 to `first * 2**n`, `longest` at the most, and the delay that the service
    asks for comes on top. So callers who failed together do not come back together.
    """

    first: float = 0.1
    longest: float = 2.0
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
    clock: Callable[[], float] = time.monotonic
    draw: Callable[[float, float], float] = random.uniform


class Attempts:
    """The attempts at one call, or at one stream since its last answer.

    Args:
        pauses: how long to wait between them.
        budget: for how long there may be new ones, in seconds from `start`, else from the first failure.
    """

    def __init__(self, pauses: Pauses, budget: float) -> None:
        self._pauses = pauses
        self._budget = budget
        self.progress()

    def progress(self) -> None:
        """Starts counting anew: there was an answer."""
        self._failed = 0
        self._internal = False
        self._unknown = False
        self._end = math.inf

    def start(self) -> None:
        """The time runs from now on."""
        self._end = self._pauses.clock() + self._budget

    @property
    def remaining(self) -> float:
        """What is left of the budget, in seconds."""
        return max(0.0, self._end - self._pauses.clock())

    async def pause_after(self, error: ServiceError) -> None:
        """Returns when it is time for the next attempt.

        Raises:
            ServiceError: there shall be none; `error`, or what it amounts to after the attempts before it.
        """
        if self._end == math.inf:
            self.start()
        self._failed += 1
        error.attempts = self._failed
        pause = self._pause(error.retry_delay or 0.0)
        if not self._helps(error) or pause >= self.remaining:
            raise self._verdict(error)
        self._unknown |= isinstance(error, OutcomeUnknown)
        self._internal |= error.code is grpc.StatusCode.INTERNAL and bool(error.reason)
        await self._pauses.sleep(pause)
        if not self.remaining:
            # Overslept; an attempt without time would only hide what the last one said.
            raise self._verdict(error)

    def _pause(self, asked: float) -> float:
        ceiling = min(self._pauses.longest, self._pauses.first * 2 ** min(self._failed - 1, 30))
        return asked + self._pauses.draw(0.0, ceiling)

    def _helps(self, error: ServiceError) -> bool:
        if isinstance(error, Closed):
            return False
        if error.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            # Rejected before any effect, by the contract; without a delay it is a message that is too large.
            return error.retry_delay is not None
        if error.code is grpc.StatusCode.INTERNAL:
            # Without a reason it is gRPC's own word for a broken stream; grpc.aio also has it for a write that failed
            # because the server had ended the call, and then forgets how (grpc#36066).
            return not (error.reason and self._internal)
        return error.code in _PASSING

    def _verdict(self, error: ServiceError) -> ServiceError:
        """The error, as unknown if an attempt before it was: OVERLOADED says nothing about those."""
        if not self._unknown or error.code not in _UNDECIDED:
            return error
        verdict = OutcomeUnknown(error.code, error.message, error.details)
        verdict.request_id, verdict.attempts = error.request_id, error.attempts
        return verdict
