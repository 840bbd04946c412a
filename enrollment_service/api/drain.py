"""What calls under way learn of a shutdown: streams that it begins, everybody that the grace is over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, TypeVar

from enrollment_service.domain.errors import ShuttingDown
from enrollment_service.telemetry import metrics

Request = TypeVar("Request")


class Drain:
    """The end of a server, as its calls see it."""

    def __init__(self) -> None:
        self._begun = asyncio.Event()
        self._under_way: set[asyncio.Task[Any]] = set()
        self._streams: set[asyncio.Task[Any]] = set()
        self._given_up: set[asyncio.Task[Any]] = set()
        # The streams that are handing an answer to gRPC, and the number of that answer: now, and at the last look.
        self._handing: dict[asyncio.Task[Any], int] = {}
        self._handing_before: dict[asyncio.Task[Any], int] = {}

    def samples(self) -> list[metrics.Sample]:
        """What can be seen from outside."""
        return [
            (metrics.calls_under_way, lambda: len(self._under_way) - len(self._streams)),
            (metrics.streams_under_way, lambda: len(self._streams)),
        ]

    def enter(self, task: asyncio.Task[Any], *, stream: bool = False) -> None:
        """Tells of a call."""
        self._under_way.add(task)
        if stream:
            self._streams.add(task)

    def leave(self, task: asyncio.Task[Any]) -> bool:
        """Tells that a call is over; whether it was given up."""
        self._under_way.discard(task)
        self._streams.discard(task)
        if task in self._given_up:
            self._given_up.remove(task)
            return True
        return False

    def handing(self, task: asyncio.Task[Any], answer: int) -> None:
        """Tells that a stream is handing an answer to gRPC, which takes it once its client reads."""
        self._handing[task] = answer

    def handed(self, task: asyncio.Task[Any]) -> None:
        """Tells that the answer was taken, or never will be."""
        self._handing.pop(task, None)

    def only_unread_left(self) -> bool:
        """Whether whoever is still under way has been handing over the same answer since the last look."""
        before, self._handing_before = self._handing_before, dict(self._handing)
        return all(task in before and before[task] == self._handing.get(task) for task in self._under_way)

    def begin(self) -> None:
        """Ends streams: what they have accepted is answered first."""
        self._begun.set()

    def give_up(self) -> None:
        """Cancels the calls that are still under way, so that they can tell their callers."""
        for task in self._under_way - self._given_up:
            self._given_up.add(task)
            task.cancel()

    async def until_begun(self, requests: AsyncIterator[Request]) -> AsyncIterator[Request]:
        """The requests of a stream for as long as nobody wants to stop.

        Raises:
            ShuttingDown: the drain has begun.
        """
        begun = asyncio.create_task(self._begun.wait())
        arriving: asyncio.Task[Request | None] | None = None
        try:
            while True:
                arriving = asyncio.create_task(_next(requests))
                await asyncio.wait({begun, arriving}, return_when=asyncio.FIRST_COMPLETED)
                if begun.done():
                    raise ShuttingDown
                request = arriving.result()
                if request is None:
                    return
                yield request
        finally:
            begun.cancel()
            if arriving is not None and not arriving.done():
                arriving.cancel()


async def _next(requests: AsyncIterator[Request]) -> Request | None:
    return await anext(requests, None)
