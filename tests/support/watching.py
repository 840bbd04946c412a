"""Watchers for tests: streams of WatchEnrollmentEvents, what they have got so far, and what must be true of it."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import grpc

from enrollment_service.v1 import enrollment_pb2 as pb
from tests.support.client import PATIENCE, Client

Key = tuple[int, int]


def key_of(event: pb.EnrollmentEvent) -> Key:
    """What tells an event from all others."""
    return event.course_id, event.sequence


class Watcher:
    """One stream, read all the time, and everything that it has brought."""

    def __init__(self, client: Client, **fields: Any) -> None:
        self._call: Any = client.stub.WatchEnrollmentEvents(
            pb.WatchEnrollmentEventsRequest(**({"follow": True} | fields)), metadata=client.metadata
        )
        self.messages: list[pb.WatchEnrollmentEventsResponse] = []
        # All of their events.
        self.events: list[pb.EnrollmentEvent] = []
        self._news = asyncio.Condition()
        self._reading = asyncio.create_task(self._read())

    @property
    def keys(self) -> list[Key]:
        """Their keys."""
        return [key_of(event) for event in self.events]

    @property
    def token(self) -> str:
        """The last message's."""
        return self.messages[-1].resume_token

    async def until(self, fact: Callable[[Watcher], bool]) -> None:
        """Returns once something is true of what has come; raises what ended the stream before."""
        async with asyncio.timeout(PATIENCE), self._news:
            while not fact(self):
                if self._reading.done():
                    await self._reading
                    raise AssertionError(f"the stream ended after {len(self.messages)} messages")
                await self._news.wait()

    async def caught_up(self) -> None:
        """Returns once it has everything that there was when it began."""
        await self.until(lambda one: bool(one.messages) and one.messages[-1].caught_up)

    async def ended(self) -> None:
        """Returns when the stream has ended, or raises how."""
        async with asyncio.timeout(PATIENCE):
            await self._reading

    async def stop(self) -> None:
        """Ends it from this side."""
        self._call.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)

    async def _read(self) -> None:
        try:
            while (message := await self._call.read()) is not grpc.aio.EOF:
                async with self._news:
                    self.messages.append(message)
                    self.events += message.events
                    self._news.notify_all()
        finally:
            async with self._news:
                self._news.notify_all()


@asynccontextmanager
async def watching(client: Client, **fields: Any) -> AsyncIterator[Watcher]:
    """A watcher that has caught up; the fields are those of the request, which follows unless they say otherwise."""
    watcher = Watcher(client, **fields)
    try:
        await watcher.caught_up()
        yield watcher
    finally:
        await watcher.stop()


async def history(client: Client, **fields: Any) -> list[pb.WatchEnrollmentEventsResponse]:
    """What there is up to now, message by message."""
    request = pb.WatchEnrollmentEventsRequest(**fields)
    call: Any = client.stub.WatchEnrollmentEvents(request, timeout=2 * PATIENCE, metadata=client.metadata)
    return [message async for message in call]


async def events_of(client: Client, **fields: Any) -> list[pb.EnrollmentEvent]:
    """The events that there are up to now."""
    return [event for message in await history(client, **fields) for event in message.events]


def check_order(events: Iterable[pb.EnrollmentEvent]) -> None:
    """Per course 1, 2, 3, ... without holes, and times that never run backwards."""
    courses: defaultdict[int, list[pb.EnrollmentEvent]] = defaultdict(list)
    for event in events:
        courses[event.course_id].append(event)
    for theirs in courses.values():
        assert [event.sequence for event in theirs] == [*range(1, len(theirs) + 1)]
        times = [event.event_time.ToNanoseconds() for event in theirs]
        assert times == sorted(times)
