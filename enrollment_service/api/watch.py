"""The stream of a watcher: batches of events become messages of a bounded size, each with a token to go on from."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing

from enrollment_service.api import resume
from enrollment_service.api.messages import event_message
from enrollment_service.api.wire import field
from enrollment_service.domain.feed import Mark, Scope
from enrollment_service.domain.records import LoggedEvent
from enrollment_service.engine.feed import Batch
from enrollment_service.v1 import enrollment_pb2 as pb

# A message ends before it becomes larger, well below what clients accept (4 MB by default).
MAX_MESSAGE_BYTES = 1_000_000
# So many events are encoded before others have a turn: some milliseconds' work.
PIECE = 500


async def watch_messages(batches: AsyncGenerator[Batch, None], scope: Scope) -> AsyncGenerator[bytes, None]:
    """The messages of a stream, encoded: the batches that the watcher of a scope is to get."""
    async with aclosing(batches):
        async for batch in batches:
            for message in _messages(batch, scope):
                if message:
                    yield message
                else:
                    await asyncio.sleep(0)


def _messages(batch: Batch, scope: Scope) -> Iterator[bytes]:
    """The messages of a batch, with nothing in between wherever others should have a turn."""
    events: list[bytes] = []
    size = 0
    for number, event in enumerate(batch.events):
        encoded = _encoded(event)
        if events and size + len(encoded) > MAX_MESSAGE_BYTES:
            before = batch.events[number - 1]
            yield _message(events, scope, Mark(batch.place, batch.seen, (before.course_id, before.sequence)))
            events, size = [], 0
        events.append(encoded)
        size += len(encoded)
        if number % PIECE == PIECE - 1:
            yield b""
    mark = Mark(batch.place) if batch.upto is None else Mark(batch.place, batch.seen, batch.upto)
    yield _message(events, scope, mark)


def _message(events: list[bytes], scope: Scope, mark: Mark) -> bytes:
    head = pb.WatchEnrollmentEventsResponse(resume_token=resume.encode(scope, mark), caught_up=mark.after is None)
    return b"".join([*events, head.SerializeToString()])


def _encoded(event: LoggedEvent) -> bytes:
    """An event as a field of the answer; encoded once for all its watchers."""
    if event.encoded is None:
        event.encoded = field(pb.WatchEnrollmentEventsResponse, "events", event_message(event).SerializeToString())
    return event.encoded
