"""`python -m benchmarks.watchers ADDRESS STUDENTS COURSES TOKEN`: a crowd that watches the feed and takes orders.

A process of its own, and a cheap one: while it records, it keeps what arrives and when, and looks into it afterwards.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, TypeAlias

import grpc
import uvloop

from enrollment_service.v1 import enrollment_pb2 as pb

CONNECTIONS = 10
OF_ALL, OF_ONE_COURSE, OF_ONE_STUDENT = 2, 98, 900
WATCHERS = OF_ALL + OF_ONE_COURSE + OF_ONE_STUDENT
_METHOD = "/enrollment.v1.EnrollmentService/WatchEnrollmentEvents"
_PATIENCE = 120.0

Report: TypeAlias = "dict[str, float]"
Arrived: TypeAlias = "list[tuple[float, bytes]]"


class Watcher:
    """One stream, opened as often as it is asked to, each time from where it was."""

    def __init__(self, channel: grpc.aio.Channel, arrived: Arrived, scope: pb.WatchEnrollmentEventsRequest) -> None:
        self._stub: Any = channel.unary_stream(_METHOD)
        self._arrived = arrived
        self._request = scope
        self._request.follow = True
        self._reading: asyncio.Task[None] | None = None
        self._last = b""

    @property
    def token(self) -> str:
        """Where it is."""
        return pb.WatchEnrollmentEventsResponse.FromString(self._last).resume_token

    async def open(self) -> None:
        """Returns once it has caught up."""
        call = self._stub(self._request.SerializeToString())
        message = pb.WatchEnrollmentEventsResponse()
        while not message.caught_up:
            self._last = await call.read()
            message = pb.WatchEnrollmentEventsResponse.FromString(self._last)
        self._reading = asyncio.create_task(self._read(call))

    async def close(self) -> None:
        """Ends it, and remembers where it was."""
        if self._reading is not None:
            ended = self._reading.done()
            self._reading.cancel()
            (outcome,) = await asyncio.gather(self._reading, return_exceptions=True)
            if ended:
                raise RuntimeError(f"a stream has ended: {outcome!r}")
        self._request.resume_token = self.token

    async def _read(self, call: Any) -> None:
        try:
            while (data := await call.read()) is not grpc.aio.EOF:
                self._last = data
                self._arrived.append((time.time(), data))
        finally:
            call.cancel()


class Crowd:
    """All of them, each with somebody else to watch."""

    def __init__(self, channels: list[grpc.aio.Channel], students: int, courses: int, token: str) -> None:
        chance = random.Random(11)
        scope = pb.WatchEnrollmentEventsRequest
        scopes = [scope(resume_token=token) for _ in range(OF_ALL)]
        scopes += [scope(course_id=one) for one in chance.sample(range(1, courses + 1), OF_ONE_COURSE)]
        scopes += [scope(student_id=one) for one in chance.sample(range(1, students + 1), OF_ONE_STUDENT)]
        self._arrived: Arrived = []
        self._watchers = [Watcher(channels[n % len(channels)], self._arrived, scope) for n, scope in enumerate(scopes)]

    async def open(self) -> Report:
        """Everybody begins to watch, and has caught up."""
        began = time.perf_counter()
        async with asyncio.timeout(_PATIENCE):
            await asyncio.gather(*(watcher.open() for watcher in self._watchers))
        return {"seconds": time.perf_counter() - began}

    async def record(self) -> Report:
        """Forgets what has arrived."""
        self._arrived.clear()
        return {}

    async def report(self) -> Report:
        """How long events took from their time, which is before their commit, to this process."""
        arrived = self._arrived.copy()
        ages = sorted(
            at - event.event_time.ToNanoseconds() / 1e9
            for at, data in arrived
            for event in pb.WatchEnrollmentEventsResponse.FromString(data).events
        )
        if not ages:
            return {"events": 0, "p50_ms": 0, "p99_ms": 0}
        p50, p99 = (ages[int(len(ages) * share)] * 1e3 for share in (0.5, 0.99))
        return {"events": len(ages), "p50_ms": p50, "p99_ms": p99}

    async def close(self) -> Report:
        """Everybody leaves, to go on from there the next time."""
        await asyncio.gather(*(watcher.close() for watcher in self._watchers))
        return {}


async def main(address: str, students: int, courses: int, token: str) -> None:
    """Does what it is told until there is nobody to tell."""
    async with AsyncExitStack() as stack:
        # Otherwise channels to one address share a connection.
        own = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
        channels = [grpc.aio.insecure_channel(address, own) for _ in range(CONNECTIONS)]
        for channel in channels:
            await stack.enter_async_context(channel)
        crowd = Crowd(channels, students, courses, token)
        orders: dict[str, Callable[[], Awaitable[Report]]] = {
            "open": crowd.open,
            "record": crowd.record,
            "report": crowd.report,
            "close": crowd.close,
        }
        while order := (await asyncio.to_thread(sys.stdin.readline)).strip():
            print(json.dumps(await orders[order]()), flush=True)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]))
